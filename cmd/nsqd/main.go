package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/zsqio/zsq/engine"
)

func main() { os.Exit(run()) }

// run serves until a signal and returns the exit code: 0 after a clean stop, 1
// when the start failed or something could not be saved.
func run() int {
	o, code := parseFlags(os.Args[1:], os.Stdout, os.Stderr)
	if o == nil {
		return code
	}
	// The loops must not keep the helpers and the HTTP API from running. The
	// count of loops is taken first, for it follows the processors there are.
	o.Loops = o.LoopCount()
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), o.Loops+2))
	if o.ExportUpstream != "" {
		if err := engine.ExportUpstream(o, os.Stdout, os.Stderr); err != nil {
			fmt.Fprintf(os.Stderr, "[nsqd] FATAL: %s\n", err)
			return 1
		}
		return 0
	}
	// Before the listeners open, so that no early signal is fatal.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	e, err := engine.New(o, os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "[nsqd] FATAL: failed to instantiate nsqd - %s\n", err)
		return 1
	}
	e.Start()
	code = 0
	select {
	case <-signals:
	case err := <-e.Failed():
		fmt.Fprintf(os.Stderr, "[nsqd] FATAL: HTTP ended - %s\n", err)
		code = 1
	}
	if err := e.Shutdown(); err != nil {
		fmt.Fprintf(os.Stderr, "[nsqd] FATAL: not everything was saved - %s\n", err)
		return 1
	}
	return code
}
