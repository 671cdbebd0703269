package netloop

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/internal/invariant"
)

// Output is a buffer of copied bytes, because one write of contiguous bytes beats a
// writev of many pieces:
//
//	out      │ sent │ frame │ frame │ frame … │
//	                ▲ outOff

// Write appends a copy of b to the output, which leaves when the round ends.
func (c *Conn) Write(b []byte) {
	copy(c.Reserve(len(b)), b)
	c.Commit(len(b))
}

// Reserve returns n bytes at the end of the output, to be filled in place. They
// hold garbage, and are valid until the next call on this connection. Commit
// then says how many of them are to be sent.
func (c *Conn) Reserve(n int) []byte {
	if cap(c.out)-len(c.out) < n {
		c.grow(n)
	}
	return c.out[len(c.out) : len(c.out)+n]
}

// Commit appends the first n bytes of the last Reserve to the output.
func (c *Conn) Commit(n int) {
	if c.phase >= phaseLinger || n == 0 {
		if len(c.out) == 0 {
			c.releaseOut()
		}
		return
	}
	c.out = c.out[:len(c.out)+n]
	c.wrote(n)
}

func (c *Conn) wrote(n int) {
	c.buffered += int64(n)
	if c.buffered >= c.loop.group.opt.OutputLimit {
		c.wasFull = true
	}
	c.mark()
}

// grow makes room for n more bytes: by moving what waits to the front when at
// least half of the buffer was sent, else by a buffer twice as large. Either
// way a byte moves a constant number of times on average.
func (c *Conn) grow(n int) {
	p := &c.loop.pool
	rest := c.out[c.outOff:]
	if need := len(rest) + n; c.outOff >= len(rest) && need <= cap(c.out) {
		c.out = c.out[:copy(c.out, rest)]
	} else {
		if cap(c.out) == 0 && c.hint != 0 {
			need = max(need, 1<<c.hint)
		} else {
			need = max(need, 2*len(rest))
		}
		b := append(p.get(need), rest...)
		p.put(c.out)
		c.out = b
	}
	c.outOff = 0
}

// send writes what waits, as far as the kernel takes it.
func (c *Conn) send() {
	if c.filter != nil {
		c.sendFiltered()
		return
	}
	for c.buffered > 0 && !c.blocked && c.phase < phaseLinger {
		b := c.out[c.outOff:]
		n, err := unix.Write(c.Fd, b)
		switch {
		case err == nil:
			if n >= bulk {
				c.bulkNs = c.loop.now
			}
			c.advance(n)
			c.blocked = n < len(b)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			c.blocked = true
		default:
			c.Close(err)
			return
		}
	}
	if c.blocked {
		c.wasFull = true
		return
	}
	if c.buffered != 0 {
		return
	}
	c.releaseOut()
	c.drained()
}

// drained tells a handler that was told to wait.
func (c *Conn) drained() {
	if c.wasFull && c.phase < phaseLinger {
		c.wasFull = false
		c.loop.again = true // the handler may want a Round after Drained
		c.loop.handler.Drained(c)
	}
}

// advance takes n sent bytes off the output.
func (c *Conn) advance(n int) {
	c.buffered -= int64(n)
	c.outOff += n
	if invariant.Enabled {
		invariant.Check(c.outOff <= len(c.out), "netloop: sent %d of %d bytes", c.outOff, len(c.out))
	}
}

// releaseOut gives the empty output buffer back. The next one starts as large as
// this one grew, or smaller when little of it was used.
func (c *Conn) releaseOut() {
	if cap(c.out) > 0 {
		c.hint = uint8(min(class(cap(c.out)), 20))
		if len(c.out) < cap(c.out)/4 && c.hint > classMin {
			c.hint--
		}
		c.loop.pool.put(c.out)
		c.out, c.outOff = nil, 0
	}
}

// dropOutput gives back what will never be sent.
func (c *Conn) dropOutput() {
	c.buffered = 0
	c.releaseOut()
}
