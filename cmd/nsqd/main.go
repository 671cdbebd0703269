// Old clients shake hands as upstream's defaults let them: RSA key exchange,
// 3DES, SHA-1 signatures and short RSA keys.
//
//go:debug tlsrsakex=1
//go:debug tls3des=1
//go:debug tlssha1=1
//go:debug rsa1024min=0

package main

import (
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/logbuf"
)

func main() { os.Exit(run()) }

// run serves until a signal and returns the exit code: 0 after a clean stop, 1
// when the start failed or something could not be saved.
func run() int {
	o, code := parseFlags(os.Args[1:], os.Stdout, os.Stderr)
	if o == nil {
		return code
	}
	// Shared by the daemon and us, so that the log is in order.
	log := logbuf.New(os.Stderr, o.LogPrefix, o.LogFormat)
	defer log.Flush()
	// The loops must not keep the helpers and the HTTP API from running. The
	// count of loops is taken first, for it follows the processors there are.
	o.Loops = o.LoopCount()
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), o.Loops+2))
	if o.ExportUpstream != "" {
		if err := engine.ExportUpstream(o, os.Stdout, log); err != nil {
			fatalf(log, o, "%s", err)
			return 1
		}
		return 0
	}
	// Before the listeners open, so that no early signal is fatal.
	// Hang-ups have a go-chan of their own, or one that waits would keep TERM away.
	stops, hangUps := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stops, syscall.SIGINT, syscall.SIGTERM)
	// Under nohup a hang-up stays ignored.
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(hangUps, syscall.SIGHUP)
	}
	e, err := engine.New(o, log)
	if err != nil {
		fatalf(log, o, "failed to instantiate nsqd - %s", err)
		return 1
	}
	e.Start()
	code = serve(e, o, log, stops, hangUps)
	if err := e.Shutdown(); err != nil {
		fatalf(log, o, "not everything was saved - %s", err)
		return 1
	}
	return code
}

// serve waits for the end, and reloads certificates when it is told to. It
// returns the exit code, as far as it is known by then.
func serve(e *engine.Engine, o *engine.Options, log io.Writer, stops, hangUps <-chan os.Signal) int {
	for {
		select {
		case <-stops:
			return 0
		case <-hangUps:
			_ = e.ReloadCertificates() // it has logged why not
		case err := <-e.Failed():
			fatalf(log, o, "HTTP ended - %s", err)
			return 1
		}
	}
}
