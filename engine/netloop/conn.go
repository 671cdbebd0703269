package netloop

import (
	"net/netip"
	"time"

	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/internal/invariant"
)

// A phase says how far a connection is on its way out. Phases only go forward.
type phase uint8

const (
	phaseOpen   phase = iota
	phaseFlush        // CloseAfterFlush or end of stream: output goes on, input does not
	phaseLinger       // everything is written; the peer's kernel has not got it all yet
	phaseDead         // Close was called; the end of the round tears down
	phaseClosed       // the descriptor is gone
)

// interest is what the poller watches a connection for.
type interest uint8

const (
	wantNone  interest = 0
	wantRead  interest = 1
	wantWrite interest = 2
	wantBoth           = wantRead | wantWrite
)

// A Conn is one connection. Its methods must be called on its loop, except for
// Loop and RemoteAddr.
//
// Invariant: 0 <= inOff <= len(in), 0 <= outOff <= len(out), and buffered is
// what lies in out behind outOff.
type Conn struct {
	// Ctx is the handler's to use.
	Ctx any

	// Fd is the descriptor, -1 once the connection is closed. It is for options
	// only; reading or writing it breaks the order of bytes.
	Fd int

	loop *Loop
	peer netip.AddrPort
	err  error // what Closed will be told

	in       []byte // pooled; in[inOff:] was shown or read, and not used yet
	inOff    int
	expect   int // Traffic has nothing to do before this many bytes; 0: any
	lastRead int // bytes of the last read
	reads    uint32
	bulkNs   int64 // when it last sent or took bulk or more at once

	out      []byte // pooled; out[outOff:] waits to be sent
	outOff   int
	buffered int64

	filter    *filtered // nil for a plain connection
	lingerEnd int64     // gives up at this time

	phase    phase
	interest interest // what the poller was told
	hint     uint8    // size class of the last output buffer
	unix     bool
	paused   bool
	deaf     bool // paused for good
	resumed  bool // stands in loop.resumed
	dirty    bool // stands in loop.dirty
	blocked  bool // the kernel took no more; waiting for it to be writable
	wasFull  bool // Full since the last Drained
}

// Loop returns the loop that owns the connection.
func (c *Conn) Loop() *Loop { return c.loop }

// RemoteAddr returns the peer as host:port, or "@" for a unix socket. It makes
// a new string each time.
func (c *Conn) RemoteAddr() string {
	if c.unix {
		return "@"
	}
	return c.peer.String()
}

// Buffered returns the number of bytes written and not yet taken by the kernel.
func (c *Conn) Buffered() int64 { return c.buffered }

// Full reports whether the handler should stop writing until Drained: the kernel
// takes no more, or OutputLimit bytes wait. It is true from when the connection
// was closed on, too; no Drained follows then.
func (c *Conn) Full() bool {
	if c.phase >= phaseLinger {
		return true
	}
	if c.blocked || c.buffered >= c.loop.group.opt.OutputLimit || c.buffered > 0 && c.loop.pool.full() {
		c.wasFull = true
		return true
	}
	return false
}

// Reads returns how many reads have brought bytes; it wraps. Who sees the same
// number twice knows that the peer has not moved.
func (c *Conn) Reads() uint32 { return c.reads }

// Closing reports whether the connection was asked to close, or has been.
func (c *Conn) Closing() bool { return c.phase != phaseOpen }

// Expect says that Traffic has nothing to do before total bytes are there,
// counted from the first byte that the running Traffic leaves unused. Large
// input is then read straight to its place. It holds until the next Traffic.
func (c *Conn) Expect(total int) { c.expect = total }

// PauseRead stops reading; the kernel's window then holds back the peer. Bytes
// that were read and not used are kept. While paused, and with nothing to send,
// the end of the connection is not noticed.
func (c *Conn) PauseRead() {
	c.paused = true
	c.mark()
}

// ResumeRead reads again. Bytes that were kept are shown in the next round, even
// when no new ones come.
func (c *Conn) ResumeRead() {
	if c.deaf || !c.paused {
		return
	}
	c.paused = false
	c.mark()
	c.readSoon()
}

// CloseAfterFlush reads no more, and closes when the peer's kernel has all that
// was written, or Options.Linger after ours took it. A peer that never reads
// keeps the connection open; the handler bounds that with Close.
func (c *Conn) CloseAfterFlush() {
	if c.phase == phaseOpen {
		c.phase = phaseFlush
		c.mark()
	}
}

// Close ends the connection at the end of this round. Output not yet sent is
// lost. Closed gets err, then.
func (c *Conn) Close(err error) {
	if c.phase < phaseDead {
		c.phase = phaseDead
		c.err = err
		c.mark()
	}
}

// Parted reports whether the peer may have seen the end of the connection. Closed
// follows later when the peer's kernel takes its time.
func (c *Conn) Parted() bool { return c.phase >= phaseLinger }

// mark makes the end of the round look at the connection.
func (c *Conn) mark() {
	if !c.dirty {
		c.dirty = true
		c.loop.dirty = append(c.loop.dirty, c)
	}
}

// onEvent serves readiness. Errors and hang-ups have no branch of their own: the
// read or write that they make possible reports them.
func (c *Conn) onEvent(ev netpoll.IOEvent) {
	failed := netpoll.IsErrorEvent(ev, 0)
	if c.blocked && (ev&netpoll.WriteEvents != 0 || failed) {
		c.blocked = false
		c.send()
		c.mark()
	}
	if netpoll.IsReadEvent(ev) || failed {
		switch {
		case c.phase == phaseOpen && !c.paused:
			c.read()
		case c.phase == phaseLinger:
			c.discard()
		case failed && !c.blocked && c.phase < phaseDead:
			// Neither reads nor writes, yet the socket has failed.
			if errno, err := unix.GetsockoptInt(c.Fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
				c.Close(unix.Errno(errno))
			}
		}
	}
}

// settle brings the connection up to date at the end of a round.
func (c *Conn) settle() {
	if c.phase == phaseClosed {
		return
	}
	if c.phase < phaseDead {
		c.send()
	}
	if c.phase == phaseFlush && c.buffered == 0 {
		c.farewell()
	}
	if c.phase == phaseFlush && c.buffered == 0 {
		c.linger()
	}
	if c.phase == phaseDead {
		c.teardown()
		return
	}
	c.watch()
}

// watch tells the poller what to look for, if that has changed.
func (c *Conn) watch() {
	want := wantNone
	if c.phase == phaseOpen && !c.paused || c.phase == phaseLinger {
		want = wantRead
	}
	if c.blocked {
		want |= wantWrite
	}
	had := c.interest
	c.interest = want
	if err := c.loop.poller.change(c.Fd, had, want); err != nil {
		c.interest = wantNone
		c.Close(err)
	}
}

// linger closes when nothing is under way any more. Closing earlier could lose
// output: the kernel answers unread input with a reset, which drops what the
// peer has not acknowledged.
func (c *Conn) linger() {
	_ = unix.Shutdown(c.Fd, unix.SHUT_WR)
	c.phase = phaseLinger
	c.discard()
	if c.unacked() == 0 {
		c.Close(nil)
	}
	if c.phase != phaseLinger {
		return
	}
	l := c.loop
	c.lingerEnd = l.now + int64(l.group.opt.Linger)
	l.lingers = append(l.lingers, c)
	if l.lingerDue == 0 { // else those before it would wait for as long as others come
		l.lingerDue = l.now + int64(lingerLook)
	}
}

// lingerLook is how often lingering connections are looked at: the kernel does
// not tell when the last byte was acknowledged.
const lingerLook = 5 * time.Millisecond

// unacked is the number of bytes that the peer's kernel has not taken; a FIN
// counts as one. It is always zero for unix sockets, which have no wire.
//
// In a shutdown the FIN, which is the last, is not counted: an idle peer acknowledges
// it only some 40 ms later, and the stop would wait for that.
func (c *Conn) unacked() int {
	if c.unix {
		return 0
	}
	n, err := unix.IoctlGetInt(c.Fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	if c.loop.leaving {
		n--
	}
	return max(0, n)
}

// checkLingers closes the lingering connections that are done.
func (l *Loop) checkLingers() {
	if l.lingerDue == 0 || l.now < l.lingerDue {
		return
	}
	l.lingerDue = 0
	wait := l.lingers[:0]
	for _, c := range l.lingers {
		switch {
		case c.phase != phaseLinger:
		// In a shutdown it is the caller's context that bounds the wait.
		case c.unacked() == 0, l.now >= c.lingerEnd && !l.leaving:
			c.discard()
			c.Close(nil)
		default:
			wait = append(wait, c)
		}
	}
	clear(l.lingers[len(wait):])
	l.lingers = wait
	if len(wait) > 0 {
		l.lingerDue = l.now + int64(lingerLook)
	}
}

// teardown gives everything back and tells the handler.
func (c *Conn) teardown() {
	l := c.loop
	if invariant.Enabled {
		invariant.Check(l.table[c.Fd] == c, "netloop: descriptor %d closed twice", c.Fd)
	}
	c.phase = phaseClosed
	l.table[c.Fd] = nil
	l.count--
	_ = l.poller.change(c.Fd, c.interest, wantNone)
	_ = unix.Close(c.Fd)
	c.Fd = -1
	c.releaseIn()
	c.dropOutput()
	if c.filter != nil {
		c.filter.release(l)
		c.filter = nil
	}
	l.again = true // the handler may want a Round after Closed
	l.group.connClosed()
	l.handler.Closed(c, c.err)
}
