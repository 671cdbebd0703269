// Command mmapdump shows a person what lies in a backlog: segments record by
// record, and what each channel's cursor is done with; and what lies in a journal.
//
//	mmapdump [-body BYTES] [-summary] FILE|DIRECTORY…
//
// It changes nothing and may look at a directory in use. Damaged places are shown
// where they are. A file that nsqd put aside (.bad) is shown like any other.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/zsqio/zsq/mmapqueue"
)

func main() {
	body := flag.Int("body", 40, "how many bytes of a body to show")
	summary := flag.Bool("summary", false, "show counts only")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: mmapdump [flags] FILE|DIRECTORY...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 || *body < 0 {
		flag.Usage()
		os.Exit(2)
	}
	o := mmapqueue.DumpOptions{BodyMax: *body}
	if *summary {
		o.BodyMax = -1
	}
	for _, path := range flag.Args() {
		if err := mmapqueue.Dump(os.Stdout, path, o); err != nil {
			fmt.Fprintln(os.Stderr, "mmapdump:", err)
			os.Exit(1)
		}
	}
}
