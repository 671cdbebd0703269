// Command nsq_to_file writes the messages of topics to files, one line each,
// with rotation by time and size, and optional compression.
//
//	message ──► fileWriter: rotate if due, append to the output's buffer, pending
//	                 │
//	                 │  sync interval, max in flight reached, starved,
//	                 │  rotation, HUP, stop
//	                 ▼
//	            output: end the gzip member, write, fsync
//	                 │
//	                 ▼
//	            FIN for everything that was pending
//
// A message is finished only after fsync has returned for the file that holds
// its line and for the directory that holds the file. What a crash may do:
//
//   - No line is lost: what was not synced was not finished, and comes again.
//   - Lines that were written and not yet finished come again too, at most
//     --max-in-flight a topic. A plain file shows them twice, before and after.
//     A gzip file does so only if the crash fell between a write and the FINs
//     that follow it, because a member reaches the file when it is complete
//     (one over a megabyte goes in pieces).
//   - A plain file that ends inside a line, which takes a power failure, gets a
//     line feed before more is appended.
//   - With --work-dir a file of the killed process stays in the work directory.
//     A plain one is continued by the next process; a gzip one is left as it is.
package main

import (
	"syscall"

	"github.com/zsqio/zsq/internal/tool"
)

func main() { tool.Main("nsq_to_file", run, syscall.SIGHUP) }
