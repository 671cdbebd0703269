// Command nsq_tail prints the messages of one or several topics.
package main

import "github.com/zsqio/zsq/internal/tool"

func main() { tool.Main("nsq_tail", run) }
