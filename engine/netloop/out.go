package netloop

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/internal/invariant"
)

// Output is a buffer of copied bytes, with borrowed bodies in between. at is
// where in out a body goes:
//
//	out      │ sent │ header │ header │ frames … │
//	                ▲ outOff ▲ bigs[0].at        ▲ bigs[1].at
//
// Small messages are copied, because one write of contiguous bytes beats a
// writev of many pieces; bodies of about 2 KB and more are cheaper to borrow.

// A big is a borrowed body.
type big struct {
	b     []byte // what is left of it
	at    int
	token uint64
}

// iovMax is the kernel's limit on the pieces of one writev.
const iovMax = 1024

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

// WriteBig appends b without copying it. The bytes must not change until
// Handler.Sent is called with token, which happens exactly once, at the end of
// this round or later. It pays from about 2 KB on.
func (c *Conn) WriteBig(b []byte, token uint64) {
	if c.filter != nil {
		c.Write(b)
		b = nil
	}
	if len(b) == 0 || c.phase >= phaseLinger {
		c.loop.handler.Sent(c.loop, token)
		return
	}
	if c.bigs == nil {
		if free := c.loop.bigs; len(free) > 0 {
			c.bigs = free[len(free)-1]
			free[len(free)-1] = nil
			c.loop.bigs = free[:len(free)-1]
		}
	}
	if c.bigOff > 16 && c.bigOff*2 > len(c.bigs) {
		n := copy(c.bigs, c.bigs[c.bigOff:])
		clear(c.bigs[n:])
		c.bigs, c.bigOff = c.bigs[:n], 0
	}
	c.bigs = append(c.bigs, big{b: b, at: len(c.out), token: token})
	c.wrote(len(b))
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
	for i := c.bigOff; i < len(c.bigs); i++ {
		c.bigs[i].at -= c.outOff
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
		var (
			n, asked int
			err      error
		)
		if c.bigOff == len(c.bigs) {
			b := c.out[c.outOff:]
			asked = len(b)
			n, err = unix.Write(c.Fd, b)
		} else {
			asked = c.gather()
			n, err = writev(c.Fd, c.loop.iov)
			clear(c.loop.iov)
		}
		switch {
		case err == nil:
			c.advance(n)
			c.blocked = n < asked
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

// gather lists the pieces of the next writev in the loop's iov and returns
// their size.
func (c *Conn) gather() int {
	iov := c.loop.iov[:0]
	size, off := 0, c.outOff
	add := func(b []byte) {
		if len(b) > 0 && len(iov) < iovMax {
			v := unix.Iovec{Base: &b[0]}
			v.SetLen(len(b))
			iov = append(iov, v)
			size += len(b)
		}
	}
	for i := c.bigOff; i < len(c.bigs) && len(iov) < iovMax; i++ {
		g := &c.bigs[i]
		add(c.out[off:g.at])
		off = g.at
		add(g.b)
	}
	add(c.out[off:])
	c.loop.iov = iov
	return size
}

// advance takes n sent bytes off the output.
func (c *Conn) advance(n int) {
	c.buffered -= int64(n)
	for c.bigOff < len(c.bigs) {
		g := &c.bigs[c.bigOff]
		k := min(n, g.at-c.outOff)
		c.outOff += k
		n -= k
		if c.outOff < g.at || n < len(g.b) {
			g.b = g.b[n:]
			return
		}
		n -= len(g.b)
		token := g.token
		*g = big{}
		c.bigOff++
		c.loop.handler.Sent(c.loop, token)
	}
	c.outOff += n
	if invariant.Enabled {
		invariant.Check(c.outOff <= len(c.out), "netloop: sent %d of %d bytes", c.outOff, len(c.out))
	}
}

// releaseOut gives empty output buffers back. The next one starts as large as
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
	if c.bigs != nil {
		if cap(c.bigs) <= iovMax && len(c.loop.bigs) < 64 {
			c.loop.bigs = append(c.loop.bigs, c.bigs[:0])
		}
		c.bigs, c.bigOff = nil, 0
	}
}

// dropOutput gives back what will never be sent.
func (c *Conn) dropOutput() {
	for i := c.bigOff; i < len(c.bigs); i++ {
		token := c.bigs[i].token
		c.bigs[i] = big{}
		c.loop.handler.Sent(c.loop, token)
	}
	c.bigOff = len(c.bigs)
	c.buffered = 0
	c.releaseOut()
}
