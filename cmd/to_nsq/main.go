// Command to_nsq publishes what it reads on standard input, one message a
// record, to a topic on one or several nsqd.
package main

import "github.com/zsqio/zsq/internal/tool"

func main() { tool.Main("to_nsq", run) }
