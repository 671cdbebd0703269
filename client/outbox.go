package nsq

import (
	"io"
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// outboxFull is when publishers begin to wait.
	outboxFull = 256 << 10
	// writeStep is the most that one write deadline stands for.
	writeStep = 256 << 10
	// outboxKept is the largest buffer that is kept between flushes.
	outboxKept = 512 << 10
)

// An outbox collects what a connection has to say and writes it, all of it with
// one write per flush.
//
// Anyone may append; no append waits for a write. One flush is under way at a
// time: it takes the buffer, writes it without the lock, and so lets the next
// batch collect. Commands leave in the order in which they were appended.
//
// Considered and left: a publisher that waits for its answer could write the batch
// itself. It spares waking the writer, but no CPU time that we could measure with 1
// or with 64 publishers.
//
// Invariant: written <= appended.
type outbox struct {
	mu   sync.Mutex
	cond sync.Cond // told when a flush ends, and when the outbox closes

	buf      []byte // appended, not taken by a flush
	spare    []byte // the buffer of the last flush
	flushing bool
	appended uint64 // bytes ever appended
	written  uint64 // bytes ever written

	woken  bool // wake has a token, or the writer will look at buf again
	ending bool // nothing is appended any more; the writer ends when all is written
	err    error

	wake chan struct{}

	w       io.Writer // the uppermost layer
	socket  net.Conn  // has the deadlines
	timeout time.Duration
}

// flusher is a layer that keeps bytes until told.
type flusher interface {
	Flush() error
}

func (o *outbox) init() {
	o.cond.L = &o.mu
	o.wake = make(chan struct{}, 1)
	o.err = ErrNotConnected // until it is open
}

// open makes the outbox write to w.
func (o *outbox) open(c *Conn, w io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.w, o.err, o.timeout = w, nil, c.config.WriteTimeout
	o.socket = c.nc
}

// layer makes the outbox write to w from now on. Nothing may be unwritten.
func (o *outbox) layer(w io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.w = w
}

// lock opens an append: the caller then appends to buf. On an error there is no
// lock to release.
func (o *outbox) lock() error {
	o.mu.Lock()
	if o.err == nil && !o.ending {
		return nil
	}
	err := o.err
	o.mu.Unlock()
	if err == nil {
		err = ErrClosing
	}
	return err
}

// unlock ends an append that made buf longer than it was, before, and wakes the
// writer.
func (o *outbox) unlock(before int) {
	o.appended += uint64(len(o.buf) - before)
	wake := !o.woken
	o.woken = o.woken || wake
	o.mu.Unlock()
	if wake {
		o.wake <- struct{}{} // there is room: no token without woken
	}
}

// append puts bytes and commands into the buffer and leaves the writing to others.
func (o *outbox) append(p []byte, cmds ...*Command) error {
	if err := o.lock(); err != nil {
		return err
	}
	defer o.mu.Unlock()
	before := len(o.buf)
	o.buf = append(o.buf, p...)
	for _, cmd := range cmds {
		o.buf = cmd.appendTo(o.buf)
	}
	o.appended += uint64(len(o.buf) - before)
	return nil
}

// flush writes, or waits for others to write, all that has been appended so far.
func (o *outbox) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for end := o.appended; o.written < end; {
		switch {
		case o.flushing:
			o.cond.Wait()
		case o.err != nil:
			return o.err
		default:
			o.flushLocked()
		}
	}
	return nil
}

// flushLocked takes what is there and writes it; meanwhile the lock is free. The
// caller has seen that no flush is under way.
func (o *outbox) flushLocked() {
	batch := o.buf
	o.buf, o.spare, o.flushing = o.spare[:0], nil, true
	o.mu.Unlock()
	err := o.write(batch)
	o.mu.Lock()
	o.flushing = false
	if err == nil {
		o.written += uint64(len(batch))
	}
	if cap(batch) <= outboxKept {
		o.spare = batch[:0]
	}
	if err != nil && o.err == nil {
		o.err = err
	}
	o.cond.Broadcast()
}

// write hands a batch to the layers and the socket.
func (o *outbox) write(b []byte) error {
	for len(b) > 0 {
		o.socket.SetWriteDeadline(time.Now().Add(o.timeout))
		n, err := o.w.Write(b[:min(len(b), writeStep)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	if f, ok := o.w.(flusher); ok {
		return f.Flush()
	}
	return nil
}

// run is the writer's goroutine: it flushes whatever others have appended. It
// ends when the outbox is closed, or finished and empty.
func (o *outbox) run(c *Conn) {
	for range o.wake {
		// Goroutines that can run may have more to say; one write then says
		// all of it. With nobody else this is no wait.
		runtime.Gosched()
		o.mu.Lock()
		for o.err == nil && len(o.buf) > 0 {
			if o.flushing {
				o.cond.Wait()
				continue
			}
			o.flushLocked()
		}
		o.woken = false
		err, ending := o.err, o.ending
		o.mu.Unlock()
		if err != nil && err != ErrNotConnected { // which is close's
			c.ioError(err)
			c.shutRead()
		}
		if err != nil || ending {
			return
		}
	}
}

// finish lets the writer end when all is written.
func (o *outbox) finish() {
	o.end(nil)
}

// close makes appends fail with err and ends the writer as soon as its write ends.
func (o *outbox) close(err error) {
	o.end(err)
}

func (o *outbox) end(err error) {
	o.mu.Lock()
	o.ending = true
	if o.err == nil {
		o.err = err
	}
	wake := !o.woken
	o.woken = true
	o.cond.Broadcast()
	o.mu.Unlock()
	if wake {
		o.wake <- struct{}{}
	}
}
