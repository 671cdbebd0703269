package engine

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/engine/netloop"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// A connection in the middle of something (a command, or its last bytes) is
// watched. Heartbeats would end it as well, after a minute; a client that has
// turned them off would stay for ever. The list is looked at now and then and
// only while there is somebody on it, so that a busy producer, whose reads end
// in mid-command nearly always, costs nothing more, and an idle loop sleeps.

// sweepToken is the timer of sweep; no connection has this place.
const sweepToken = ^uint32(0)

// sweepsPerReap is how often a connection is looked at before it is given up:
// one that stalls is gone within 1.25 times --reap-timeout.
const sweepsPerReap = 8

// watchOver puts c on the list.
func (h *handler) watchOver(c *conn) {
	if c.watched {
		return
	}
	c.watched = true
	c.reads, c.movedNs = c.nc.Reads(), h.loop.Now()
	if len(h.watch) == 0 {
		h.shard.AddTimer(c.movedNs+int64(h.e.opts.ReapTimeout/sweepsPerReap), sweepToken)
	}
	h.watch = append(h.watch, c)
}

// sweep ends the watched connections of which nothing has come for too long.
func (h *handler) sweep(now int64) {
	stay := h.watch[:0]
	for _, c := range h.watch {
		switch reads := c.nc.Reads(); {
		case c.nc.Fd < 0 || !c.begun && !c.closing:
			c.watched = false
			continue
		case reads != c.reads && !c.closing, c.deaf(), c.upgrading: // or it is we who do not read; a handshake has a deadline of its own
			c.reads, c.movedNs = reads, now
		case now-c.movedNs < int64(h.e.opts.ReapTimeout):
		case c.closing:
			c.nc.Close(errStall)
		default:
			c.hangUp() // with a word on what was missing
			c.movedNs = now
		}
		stay = append(stay, c)
	}
	clear(h.watch[len(stay):])
	h.watch = stay
	if len(stay) > 0 {
		h.shard.AddTimer(now+int64(h.e.opts.ReapTimeout/sweepsPerReap), sweepToken)
	}
}

// NoMemory ends a client whose command does not fit into what connections may
// buffer: it is told so behind the answers it is owed. Where more has come behind a
// command that is still being done, that one fails; it is not done any further.
func (h *handler) NoMemory(nc *netloop.Conn, rest []byte) {
	h.begin(nc.Loop())
	c := nc.Ctx.(*conn)
	op := wire.OpUnknown
	switch {
	case c.closing, c.upgrading && c.tr.hs != nil: // TLS has begun: no frame can come between
		nc.Close(netloop.ErrMemory)
		return
	case c.upgrading:
		op = wire.OpIdentify
	case c.asking && c.auth.perms == nil:
		op = wire.OpAuth
	case c.again != nil:
		op = wire.OpSub
	default:
		if _, s := h.cmd.ParseLine(rest); s == wire.OK {
			op = h.cmd.Op
		}
	}
	c.upgrading, c.asking, c.again = false, false, nil
	c.fail(wire.NoMemory(op, netloop.ErrMemory))
}

// filesReserved is how many descriptors are kept from clients, at least: for
// queues on disk, and for the daemon itself.
const filesReserved = 64

// httpShare is the part of the connections that HTTP may have besides.
const httpShare = 8

// ConnectionLimit is the number of TCP clients served at once: MaxConnections,
// or when that is zero what the limit of open files allows after an eighth of
// it, and at least filesReserved, is set aside for files and HTTP has its share.
func (o *Options) ConnectionLimit() int64 {
	if o.MaxConnections > 0 {
		return o.MaxConnections
	}
	files := openFiles()
	return max(1, (files-reserved(files))*httpShare/(httpShare+1))
}

// openFiles returns how many descriptors the system allows.
func openFiles() int64 {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur > 1<<30 {
		lim.Cur = 1 << 20
	}
	return int64(lim.Cur)
}

// reserved returns how many of them are kept from clients.
func reserved(files int64) int64 { return max(filesReserved, files/8) }

// mappingsKept is how many files on disk stay mapped; the system allows 65,530
// mappings unless it is told otherwise.
const mappingsKept = 4096

// backlogHandles bounds what the queues on disk keep open together: half of what is
// reserved, since those at work need more for a moment.
func backlogHandles() *mmapqueue.Handles {
	return mmapqueue.NewHandles(int(min(reserved(openFiles())/2, mappingsKept)), mappingsKept)
}

// httpConnectionLimit is the number of connections on each HTTP listener.
func (o *Options) httpConnectionLimit() int64 { return max(16, o.ConnectionLimit()/httpShare) }

// ConnectionMemory is the number of bytes that connections may buffer, and that
// bodies of HTTP requests may have besides: ConnectionMemoryLimit, or when that is
// zero a quarter of the memory for messages.
func (o *Options) ConnectionMemory() int64 {
	if o.ConnectionMemoryLimit > 0 {
		return o.ConnectionMemoryLimit
	}
	return o.MemoryBudget() / 4
}

// boundedListener accepts no more connections than it has slots for; the others
// wait in the kernel's queue. Without descriptors it looks again soon, where
// net/http would wait for up to a second.
type boundedListener struct {
	net.Listener
	slots  chan struct{} // holds one for each open connection
	closed chan struct{}
	once   sync.Once
	full   atomic.Bool // has said so
	logf   func(level LogLevel, format string, args ...any)
}

func (e *Engine) bounded(l net.Listener) net.Listener {
	return &boundedListener{
		Listener: l, logf: e.log.printf, closed: make(chan struct{}),
		slots: make(chan struct{}, e.opts.httpConnectionLimit()),
	}
}

// acceptRetry is how long an acceptor without descriptors waits.
const acceptRetry = 50 * time.Millisecond

// Accept waits for a slot, then for a connection.
func (b *boundedListener) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
		b.full.Store(false)
	default:
		b.say("the limit of %d connections is reached", cap(b.slots))
		select {
		case b.slots <- struct{}{}:
		case <-b.closed:
			return nil, net.ErrClosed
		}
	}
	for {
		c, err := b.Listener.Accept()
		switch {
		case err == nil:
			return &boundedConn{Conn: c, slots: b.slots}, nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			b.say("%v", err)
			select {
			case <-time.After(acceptRetry):
			case <-b.closed:
				return nil, net.ErrClosed
			}
		default:
			<-b.slots
			return nil, err
		}
	}
}

// say logs that clients wait, once for each time that they do.
func (b *boundedListener) say(format string, args ...any) {
	if !b.full.Swap(true) {
		b.logf(LogWarn, "HTTP: accept on %s: "+format+"; waiting for a connection to close", append([]any{b.Addr()}, args...)...)
	}
}

// Close ends Accept.
func (b *boundedListener) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

// boundedConn gives its slot back when it closes.
type boundedConn struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

// Close closes the connection.
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.slots })
	return err
}
