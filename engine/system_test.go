package engine

import (
	"io"
	"os"
	"time"

	"github.com/zsqio/zsq/mmapqueue"
)

// NewOn is New on another disk, nil for the system's, and by another clock.
func NewOn(disk mmapqueue.FS, wall func() time.Time, o *Options, logOut io.Writer) (*Engine, error) {
	return newOn(system{disk, wall, shutdownFlush, shutdownFlush}, o, logOut)
}

// NewPatient is New for a stop that waits for so long for clients over HTTP, and for
// those over TCP.
func NewPatient(http, tcp time.Duration, o *Options, logOut io.Writer) (*Engine, error) {
	return newOn(system{wall: time.Now, flushHTTP: http, flushTCP: tcp}, o, logOut)
}

// OnLoop runs f on the only loop, which does nothing else meanwhile, and waits for it.
func (e *Engine) OnLoop(f func()) {
	done := make(chan struct{})
	e.group.Loops()[0].Do(func() { f(); close(done) })
	<-done
}

// Lock is the directory that holds the data path's lock.
func (e *Engine) Lock() *os.File { return e.lock }

// CertificatesChanged reports what a look at the TLS files now and then would find.
func (e *Engine) CertificatesChanged() bool { return e.certs.changed() }
