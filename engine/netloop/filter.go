package netloop

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// A filtered connection has one more stop in each direction:
//
//	kernel ──► raw ──► Decode ──► in ──► Traffic
//	kernel ◄── wire ◄── Encode ◄── out ◄── Write
//
// raw holds what one read brought and Decode has not used; nothing more is read
// before it is empty, so that a small input which expands hugely waits as the
// small input it is. wire holds what one Encode made; nothing more is encoded
// before the kernel has taken it.

// A Filter stands between the bytes of the wire and those that a Handler sees:
// TLS, or compression. It is called on the connection's loop only, and must not
// wait.
type Filter interface {
	// Decode takes bytes of the wire off the front of src and puts plain ones into
	// dst, which is not empty. It writes nothing only when it has used all of src
	// and needs more. Errors are final; io.EOF is the peer's orderly end.
	Decode(dst, src []byte) (wrote, used int, err error)

	// Encode appends to dst what plain becomes on the wire, behind what the filter
	// owes by itself.
	Encode(dst, plain []byte) ([]byte, error)

	// Owes reports whether Encode has something to say without plain bytes.
	Owes() bool

	// Step is the most plain bytes that one round may spend on the connection in
	// each direction.
	Step() int

	// End appends what the wire gets before the connection closes in order.
	End(dst []byte) []byte

	// Close gives back what the filter holds. It is called once, last.
	Close()
}

// filtered is what only connections with a filter have.
type filtered struct {
	Filter
	raw     []byte // pooled; raw[rawOff:] was read and is not decoded
	rawOff  int
	more    bool   // Decode may have plain bytes without further input
	wire    []byte // pooled; wire[wireOff:] is encoded and not sent
	wireOff int
	ended   bool // End went out
}

// SetFilter puts f between the connection and its handler, in place of the
// filter there is, which the caller may have wrapped into f. Bytes that the
// handler has left unused so far go through f, what was written so far does not.
// Afterwards f is the connection's, which closes it. It must not be called in
// Traffic, whose bytes have passed already: pause, and call it later in the round.
func (c *Conn) SetFilter(f Filter) {
	if c.phase >= phaseLinger {
		f.Close()
		return
	}
	old := c.filter
	next := &filtered{Filter: f, more: true}
	if old == nil {
		next.raw, next.rawOff = c.in, c.inOff
		c.in, c.inOff = nil, 0
		// What is written is as good as encoded.
		next.wire, next.wireOff = c.out, c.outOff
		c.out, c.outOff = nil, 0
	} else {
		if err := c.encode(len(c.out) - c.outOff); err != nil {
			c.Close(err)
		}
		next.raw, next.rawOff, next.wire, next.wireOff = old.raw, old.rawOff, old.wire, old.wireOff
	}
	c.filter = next
	c.mark()
	c.readSoon()
}

// readSoon has the connection read in the next round, whether or not the kernel
// has something for it.
func (c *Conn) readSoon() {
	if !c.resumed {
		c.resumed = true
		c.loop.resumed = append(c.loop.resumed, c)
	}
}

// readFiltered is readInto for a filtered connection: it fills b with plain
// bytes, from what was read before or from one read of the socket. An empty b
// has no place here, and no step is larger than the loop's buffer.
func (c *Conn) readFiltered(b []byte) (int, bool) {
	f, l := c.filter, c.loop
	b = b[:min(len(b), f.Step())]
	src := f.raw[f.rawOff:]
	if len(src) == 0 && !f.more {
		if l.wire == nil {
			l.wire = make([]byte, l.group.opt.ReadBuffer)
		}
		n, ok := c.readSocket(l.wire)
		if !ok {
			return 0, false
		}
		src = l.wire[:n]
	}
	total, err := 0, error(nil)
	for total < len(b) {
		var n, used int
		n, used, err = f.Decode(b[total:], src)
		src = src[used:]
		total += n
		if n == 0 || err != nil {
			break
		}
	}
	f.more = total == len(b)
	f.keepRaw(l, src)
	if f.Owes() {
		c.mark()
	}
	if total > 0 {
		// An error behind bytes is told by the next Decode.
		f.more = f.more || err != nil
		if f.more || len(f.raw) > 0 {
			c.readSoon()
		}
		c.lastRead = total
		return total, true
	}
	switch {
	case errors.Is(err, io.EOF):
		c.endOfStream()
	case err != nil:
		c.send() // the filter's own last word
		c.Close(err)
	}
	return 0, false
}

// keepRaw stores what Decode has left of src, which is in raw or in the loop's
// buffer.
func (f *filtered) keepRaw(l *Loop, src []byte) {
	switch {
	case len(src) == 0:
		l.pool.put(f.raw)
		f.raw, f.rawOff = nil, 0
	case len(f.raw) > 0:
		f.rawOff = len(f.raw) - len(src)
	default:
		f.raw, f.rawOff = append(l.pool.get(len(src)), src...), 0
	}
}

// waiting reports whether there may be plain bytes without a read.
func (f *filtered) waiting() bool { return f.more || len(f.raw) > 0 }

// encode moves n bytes of the output, and what the filter owes, to the wire.
func (c *Conn) encode(n int) error {
	f := c.filter
	before := len(f.wire)
	if f.wire == nil {
		f.wire = c.loop.pool.get(n + n/4 + 256)
	}
	wire, err := f.Encode(f.wire, c.out[c.outOff:c.outOff+n])
	f.wire = wire
	c.outOff += n
	c.buffered += int64(len(wire) - before - n)
	if c.outOff == len(c.out) {
		c.releaseOut()
	}
	return err
}

// sendFiltered is send for a filtered connection.
func (c *Conn) sendFiltered() {
	f := c.filter
	budget := f.Step()
	for !c.blocked && c.phase < phaseLinger {
		if f.wireOff == len(f.wire) {
			f.wire, f.wireOff = f.wire[:0], 0
			n := min(len(c.out)-c.outOff, budget)
			if n == 0 && !f.Owes() {
				break
			}
			budget -= n
			if err := c.encode(n); err != nil {
				c.Close(err)
				return
			}
			continue
		}
		b := f.wire[f.wireOff:]
		n, err := unix.Write(c.Fd, b)
		switch {
		case err == nil:
			f.wireOff += n
			c.buffered -= int64(n)
			c.blocked = n < len(b)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			c.blocked = true
		default:
			c.Close(err)
			return
		}
	}
	switch {
	case c.blocked:
		c.wasFull = true
	case c.phase >= phaseLinger:
	case c.buffered > 0:
		c.mark() // the next round goes on
	default:
		c.loop.pool.put(f.wire)
		f.wire, f.wireOff = nil, 0
		c.drained()
	}
}

// farewell puts the filter's goodbye on the wire, once all else is there.
func (c *Conn) farewell() {
	if f := c.filter; f != nil && !f.ended {
		f.ended = true
		before := len(f.wire)
		f.wire = f.End(f.wire)
		c.buffered += int64(len(f.wire) - before)
		c.send()
	}
}

// release gives everything back.
func (f *filtered) release(l *Loop) {
	f.Close()
	l.pool.put(f.raw)
	l.pool.put(f.wire)
	f.raw, f.wire = nil, nil
}
