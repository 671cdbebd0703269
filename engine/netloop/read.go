package netloop

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/internal/invariant"
)

// read does one read and shows what there is. There are two ways:
//
//	common:  loop.rbuf   │      rest│new bytes            │   rest copied to the front
//	large:   conn.in     │rest│new bytes   │                 read straight to the tail
//
// The common way copies the rest with each read, so it is taken only when the
// last read brought at least as much: a peer that drips costs linear time.
func (c *Conn) read() {
	l := c.loop
	rest := c.in[c.inOff:]
	if len(rest) > headroom || c.expect > headroom || len(rest) > max(c.lastRead, 1<<classMin) {
		c.readTail()
		return
	}
	n, ok := c.readInto(l.rbuf[headroom:])
	if !ok {
		return
	}
	start := headroom - len(rest)
	copy(l.rbuf[start:headroom], rest)
	b := l.rbuf[start : headroom+n]
	if len(b) < c.expect {
		c.keep(b)
		return
	}
	c.expect = 0
	used := l.handler.Traffic(c, b)
	c.checkUsed(used, len(b))
	c.keep(b[used:])
	poison(b)
}

// readTail reads behind the rest, into the connection's own buffer.
func (c *Conn) readTail() {
	if !c.makeRoom() {
		c.noMemory(c.in[c.inOff:])
		c.releaseIn()
		return
	}
	end := cap(c.in)
	if c.expect > 0 {
		// Stop where the message ends, so that nothing needs to move afterwards.
		end = min(end, c.inOff+c.expect)
	}
	n, ok := c.readInto(c.in[len(c.in):end])
	if ok {
		c.in = c.in[:len(c.in)+n]
		c.present()
	}
}

// makeRoom sees to it that the buffer has space behind what it holds: as much as
// it holds, or as is expected if that is less. It reports false if that takes
// more memory than the loop's connections may have.
func (c *Conn) makeRoom() bool {
	have := len(c.in) - c.inOff
	more := max(have, 1<<classMin)
	if c.expect > have {
		more = min(more, c.expect-have)
	}
	switch {
	case cap(c.in)-len(c.in) >= (more+1)/2:
	case c.inOff > 0 && cap(c.in)-have >= more:
		c.in = c.in[:copy(c.in, c.in[c.inOff:])]
		c.inOff = 0
	case c.loop.pool.full():
		return false
	default:
		b := append(c.loop.pool.get(have+more), c.in[c.inOff:]...)
		c.releaseIn()
		c.in = b
	}
	return true
}

// readInto reads once. It returns false when there is nothing to show.
func (c *Conn) readInto(b []byte) (int, bool) {
	if c.filter != nil {
		return c.readFiltered(b)
	}
	return c.readSocket(b)
}

func (c *Conn) readSocket(b []byte) (int, bool) {
	n, err := unix.Read(c.Fd, b)
	switch {
	case n > 0:
		c.lastRead = n
		c.reads++
		c.weigh(n)
		return n, true
	case err == nil:
		c.endOfStream()
	case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
		c.Close(err)
	}
	return 0, false
}

func (c *Conn) endOfStream() {
	c.PauseRead()
	c.deaf = true
	if c.loop.eof != nil {
		c.loop.eof.EOF(c)
		return
	}
	c.CloseAfterFlush()
}

// goOn shows what was kept and reads what a filter may still have.
func (c *Conn) goOn() {
	if len(c.in) > c.inOff {
		c.present()
	}
	if c.filter != nil && c.phase == phaseOpen && !c.paused && c.filter.waiting() {
		c.read()
	}
}

// present shows the connection's own buffer to the handler.
func (c *Conn) present() {
	b := c.in[c.inOff:]
	if c.phase != phaseOpen || c.paused || len(b) == 0 || len(b) < c.expect {
		return
	}
	c.expect = 0
	used := c.loop.handler.Traffic(c, b)
	c.checkUsed(used, len(b))
	poison(b[:used])
	c.inOff += used
	if c.inOff == len(c.in) {
		c.releaseIn()
	}
}

func (c *Conn) checkUsed(used, size int) {
	if invariant.Enabled {
		invariant.Check(used >= 0 && used <= size, "netloop: handler used %d of %d bytes", used, size)
	}
}

// smallInput is what a connection may keep, in bytes, even when memory is short.
const smallInput = 1 << classMin

// keep stores b, which must not lie in the connection's own buffer, as the rest.
func (c *Conn) keep(b []byte) {
	if len(b) == 0 || c.phase != phaseOpen {
		c.releaseIn()
		return
	}
	if cap(c.in) < len(b) {
		if len(b) > smallInput && c.loop.pool.full() {
			c.releaseIn()
			c.noMemory(b)
			return
		}
		c.releaseIn()
		c.in = c.loop.pool.get(len(b))
	}
	c.in = append(c.in[:0], b...)
	c.inOff = 0
}

// noMemory ends a connection that may not keep rest, which is not shown again.
func (c *Conn) noMemory(rest []byte) {
	if c.loop.short == nil {
		c.Close(ErrMemory)
		return
	}
	c.PauseRead()
	c.deaf = true
	c.loop.short.NoMemory(c, rest)
}

func (c *Conn) releaseIn() {
	c.loop.pool.put(c.in)
	c.in, c.inOff = nil, 0
}

// discardReads bounds one discard; what a peer sends beyond it is met by a reset.
const discardReads = 8

// discard throws input away, so that closing does not reset the connection. The
// end of stream ends a connection that only lingers.
func (c *Conn) discard() {
	for range discardReads {
		n, err := unix.Read(c.Fd, c.loop.rbuf[headroom:])
		switch {
		case n > 0, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return
		default:
			// The peer sends no more, or is gone. Nothing can cause a reset now,
			// so that the kernel delivers what is left, after the close too.
			c.Close(nil)
			return
		}
	}
}
