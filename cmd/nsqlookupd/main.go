// Command nsqlookupd is zsq's discovery daemon: nsqlookupd's flags, protocol and
// HTTP API.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/zsqio/zsq/internal/logbuf"
	"github.com/zsqio/zsq/lookupd"
)

func main() { os.Exit(run()) }

// run serves until a signal and returns the exit code: 0 after a clean stop, 1
// when the start failed or a port was lost.
func run() int {
	o, code := parseFlags(os.Args[1:], os.Stdout, os.Stderr)
	if o == nil {
		return code
	}
	// Shared by the daemon and us, so that the log is in order.
	log := logbuf.New(os.Stderr, o.LogPrefix, logbuf.Text)
	defer log.Flush()
	// Before the listeners open, so that no early signal is fatal.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	s, err := lookupd.New(o, log)
	if err != nil {
		fatal(log, "failed to instantiate nsqlookupd - %s", err)
		return 1
	}
	s.Start()
	code = 0
	select {
	case <-signals:
	case err := <-s.Failed():
		fatal(log, "%s", err)
		code = 1
	}
	s.Shutdown()
	return code
}
