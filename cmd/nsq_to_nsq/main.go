// Command nsq_to_nsq publishes the messages of topics again on other nsqd, the
// whole bodies or chosen fields of JSON objects. A message is finished when a
// destination has taken it.
package main

import "github.com/zsqio/zsq/internal/tool"

func main() { tool.Main("nsq_to_nsq", run) }
