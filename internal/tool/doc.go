// Package tool is what the command line tools share: the process they run in,
// flag types, where messages come from, the choice among destinations, status
// lines, and questions to nsqlookupd and nsqd over HTTP.
//
// A tool's main hands its run function to Main and does nothing else. run gets a
// Process instead of package os, so that tests call it with arguments, buffers
// and signals of their own:
//
//	Main ──► run(*Process) ──► exit code
//	             │
//	             ├─ p.Flags, p.Parse     2: a bad flag, 0: --help
//	             ├─ p.Fatal              1: one log line on standard error
//	             └─ p.Signals            INT and TERM end a tool with 0
//
// Only cmd imports this package. It writes nothing to standard output by itself.
package tool
