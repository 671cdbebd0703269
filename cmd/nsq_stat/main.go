// Command nsq_stat prints the rates and depths of a channel, a row an interval,
// summed over all nsqd that have it. On a terminal the table stays in place; in
// a pipe it is one line after the other.
package main

import (
	"syscall"

	"github.com/zsqio/zsq/internal/tool"
)

func main() { tool.Main("nsq_stat", run, syscall.SIGHUP) }
