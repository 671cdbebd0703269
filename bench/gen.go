//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/engine/upgrade"
)

// A load says what the generator does to one broker.
type load struct {
	producers, consumers int
	topics               int // producers go round them, consumers are dealt out over them
	channels             int // of each topic; consumers are dealt out over them
	body                 int // bytes of a message body
	batch                int // messages of a frame: 1 is PUB, more is MPUB
	window               int // unanswered messages of a producer
	outstanding          int // messages published and not yet finished, in all; 0: no limit
	rate                 int // messages per second, open loop; 0: closed loop
	requeue              bool
	tls, snappy, deflate bool   // what connections ask for in IDENTIFY
	deferred             bool   // DPUB, by deferMin to deferMax; stamps are due times
	timeoutMs            int    // not 0: the consumers' message time-out; each message is left to it once
	stamp                bool   // bodies carry their publish time, latencies are kept
	stampOK              bool   // latencies from a PUB to its OK are kept
	own                  bool   // producer i publishes to topic i alone
	stalled              int    // more subscribers, of topic 0, that never read
	messagesMax          uint64 // publish no more than this
}

// maxed is the number of messages at which a run without its own limit ends.
const maxed = 64 << 20

// withDefaults fills in what most rows have in common.
func (l load) withDefaults() load {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.topics, 1)
	set(&l.channels, 1)
	set(&l.body, 200)
	set(&l.batch, 1)
	set(&l.window, 1000)
	if l.consumers > 0 && !l.deferred && l.timeoutMs == 0 {
		set(&l.outstanding, 20000)
	}
	if l.messagesMax == 0 {
		l.messagesMax = maxed
	}
	return l
}

// topic names the topics, all alike in length.
func (l load) topic(i int) string {
	return fmt.Sprintf("bench_%0*d", max(3, len(strconv.Itoa(l.topics-1))), i%l.topics)
}

func (l load) channel(i int) string { return fmt.Sprintf("ch_%03d", i%l.channels) }

// A generator drives all connections of a run from one thread: a round waits
// for sockets, reads each ready one once, answers, and lets producers refill
// their windows. Nothing in it is shared, so nothing is locked.
//
// Invariant: answered <= next, and received <= next*channels when no message
// came twice.
type generator struct {
	load
	ctx  context.Context
	addr unix.SockaddrInet4
	ep   int
	base time.Time

	handlers  []handler // by the number that epoll hands back
	producers []*producer
	consumers []*consumer
	stuck     []*conn // subscribers that never read
	events    [256]unix.EpollEvent

	publishing bool
	next       uint64 // sequence number of the next message
	answered   uint64
	received   uint64     // finished by us, each message and channel once
	seen       [][]uint64 // a bitmap for each channel
	twice      uint64
	due        []int64 // with timeoutMs: when each message in flight times out
	latencies  []int64 // ns, only while keep is set
	keep       bool

	dueNs  float64 // open loop: when the next message is due, since base
	dealer int     // open loop: whose turn it is
}

// A handler serves one socket's events.
type handler interface {
	ready(events uint32) error
	socket() *conn
}

func newGenerator(ctx context.Context, addr string, l load) (*generator, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	g := &generator{load: l, ctx: ctx, ep: ep, base: time.Now(), publishing: true}
	g.addr = unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	g.seen = make([][]uint64, l.channels)
	for i := range g.seen {
		g.seen[i] = make([]uint64, l.messagesMax/64+1)
	}
	if l.timeoutMs > 0 {
		g.due = make([]int64, l.messagesMax)
	}
	if l.stamp {
		g.latencies = make([]int64, 0, 1<<20)
	}
	return g, nil
}

func (g *generator) close() {
	g.hangUp()
	_ = unix.Close(g.ep)
}

// hangUp closes all connections; others can be made after it.
func (g *generator) hangUp() {
	for _, h := range g.handlers {
		_ = unix.Close(h.socket().fd)
	}
	for _, c := range g.stuck {
		_ = unix.Close(c.fd)
	}
	g.handlers, g.producers, g.consumers, g.stuck = nil, nil, nil, nil
}

func (g *generator) nowNs() int64 { return int64(time.Since(g.base)) }

// finished is how many messages are off our hands on every channel.
func (g *generator) finished() uint64 {
	if len(g.consumers) == 0 {
		return g.answered
	}
	return g.received / uint64(g.channels)
}

// complete tells whether everything published has been answered and received.
func (g *generator) complete() bool {
	return g.answered == g.next && (len(g.consumers) == 0 || g.received >= g.next*uint64(g.channels))
}

// stallAfter bounds a run: a broker that gets nothing done for so long has lost
// something.
const stallAfter = 30 * time.Second

// runUntil runs rounds until done answers true. It fails when the broker gets
// nothing done for stallAfter, or breaks the protocol.
func (g *generator) runUntil(done func() bool) error {
	last, lastAt := uint64(0), time.Now()
	for n := 0; !done(); n++ {
		if err := g.round(10 * time.Millisecond); err != nil {
			return err
		}
		if n%64 != 0 {
			continue
		}
		if err := g.ctx.Err(); err != nil {
			return fmt.Errorf("%w: published %d, answered %d, received %d", err, g.next, g.answered, g.received)
		}
		if sum := g.answered + g.received; sum != last {
			last, lastAt = sum, time.Now()
		} else if time.Since(lastAt) > stallAfter {
			return fmt.Errorf("stalled: published %d, answered %d, received %d", g.next, g.answered, g.received)
		}
	}
	return nil
}

// runFor runs rounds for d, or until no more messages may be published.
func (g *generator) runFor(d time.Duration) error {
	end := time.Now().Add(d)
	return g.runUntil(func() bool {
		return g.next+uint64(g.batch) > g.messagesMax || !time.Now().Before(end)
	})
}

// rest runs rounds for d without expecting anything to happen.
func (g *generator) rest(d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if err := errors.Join(g.round(10*time.Millisecond), g.ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

func (g *generator) round(wait time.Duration) error {
	if g.rate > 0 && g.publishing {
		if err := g.publishDue(); err != nil {
			return err
		}
		wait = min(wait, max(0, time.Duration(g.dueNs)-time.Since(g.base)))
	}
	n, err := g.wait(wait)
	if err != nil {
		return err
	}
	for i := range g.events[:n] {
		if err := g.serve(g.handlers[g.events[i].Fd], g.events[i].Events); err != nil {
			return err
		}
	}
	if g.rate > 0 || !g.publishing {
		return nil
	}
	for _, p := range g.producers {
		if err := p.refill(); err != nil {
			return err
		}
	}
	return nil
}

// serve lets a handler work until its connection has nothing more for it.
func (g *generator) serve(h handler, events uint32) error {
	k := h.socket().codec
	if k == nil {
		return h.ready(events)
	}
	if err := k.flush(); err != nil {
		return err
	}
	for {
		if err := h.ready(events); err != nil {
			return err
		}
		if len(k.raw) == 0 && !k.more {
			return h.socket().watchOut()
		}
	}
}

// publishDue publishes what the open loop's clock asks for. A message is
// stamped with the time it was due, not with the time we got round to it, so
// that a stall counts against whoever caused it.
func (g *generator) publishDue() error {
	if g.dueNs == 0 {
		g.dueNs = float64(g.nowNs())
	}
	step := 1e9 / float64(g.rate)
	now := float64(g.nowNs())
	for g.dueNs <= now && g.next < g.messagesMax {
		p := g.producers[g.dealer%len(g.producers)]
		if !p.append1(int64(g.dueNs)) {
			break // a full window; what is due stays due
		}
		g.dealer++
		g.dueNs += step
	}
	for _, p := range g.producers {
		if err := p.flush(); err != nil {
			return err
		}
	}
	return nil
}

// wait looks first without sleeping, by a raw system call that the Go scheduler
// does not see, and sleeps only when nothing is ready.
func (g *generator) wait(d time.Duration) (int, error) {
	ev := uintptr(unsafe.Pointer(&g.events[0]))
	ts := unix.NsecToTimespec(0)
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(g.ep), ev, uintptr(len(g.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	if errno == 0 && n == 0 && d > 0 {
		ts = unix.NsecToTimespec(int64(d))
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(g.ep), ev, uintptr(len(g.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	}
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("epoll_pwait2: %w", errno)
}

// mark notes that message seq has come on a channel.
func (g *generator) mark(ch int, seq uint64) error {
	if seq >= g.next {
		return fmt.Errorf("message %d was never published", seq)
	}
	bit := uint64(1) << (seq % 64)
	word := &g.seen[ch][seq/64]
	if *word&bit != 0 {
		g.twice++
		return nil
	}
	*word |= bit
	g.received++
	return nil
}

// verify says whether every message came exactly once on every channel.
func (g *generator) verify() error {
	if g.twice > 0 {
		return fmt.Errorf("%d messages came twice", g.twice)
	}
	for ch, words := range g.seen {
		var n uint64
		for _, w := range words {
			n += uint64(bits.OnesCount64(w))
		}
		if n != g.next {
			return fmt.Errorf("channel %d: %d of %d messages came", ch, n, g.next)
		}
	}
	return nil
}

// A conn is one socket. It is blocking during the handshake and non-blocking
// from watch on.
type conn struct {
	g       *generator
	fd      int
	number  int32
	wantOut bool // epoll reports writability too
	asked   bool // the handler wants to know when it can write
	codec   *codec
}

// handshakeTimeout bounds connecting and each answer of the handshake.
const handshakeTimeout = 5 * time.Second

// dial connects, sends the magic and IDENTIFY and reads the answer.
func (g *generator) dial(heartbeatMs int) (*conn, error) {
	return g.dialAs(g.load, heartbeatMs)
}

// dialAs is dial with what another load asks for in IDENTIFY.
func (g *generator) dialAs(l load, heartbeatMs int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &conn{g: g, fd: fd}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, ptr(unix.NsecToTimeval(int64(handshakeTimeout)))),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, ptr(unix.NsecToTimeval(int64(handshakeTimeout)))),
	)
	// On Linux a second connect waits on for the first, once a signal cut it short.
	for err == nil {
		if err = unix.Connect(fd, &g.addr); !errors.Is(err, unix.EINTR) {
			break
		}
		err = nil
	}
	if err == nil {
		err = c.ask(append([]byte(magic), identify(heartbeatMs, l)...))
	}
	if err == nil {
		err = c.upgrade(l)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// upgrade takes the upgrades that IDENTIFY has asked for; each ends in an OK.
func (c *conn) upgrade(l load) error {
	if l.tls {
		if err := errors.Join(c.startTLS(), c.hear()); err != nil {
			return err
		}
	}
	switch {
	case l.snappy:
		c.compress(new(upgrade.Snappy))
	case l.deflate:
		c.compress(upgrade.NewDeflate(deflateLevel))
	default:
		return nil
	}
	return c.hear()
}

func ptr[T any](v T) *T { return &v }

// ask writes one command on a blocking socket and reads one response.
func (c *conn) ask(command []byte) error {
	if err := c.tell(command); err != nil {
		return err
	}
	return c.hear()
}

// hear reads one response on a blocking socket.
func (c *conn) hear() error {
	// One byte too many would belong to whatever comes next, so the frame is
	// read piece by piece.
	var head [frameHeader]byte
	if err := c.readFull(head[:]); err != nil {
		return err
	}
	size := int(head[2])<<8 | int(head[3])
	if size < 4 {
		return errOutOfStep
	}
	text := make([]byte, size-4)
	if err := c.readFull(text); err != nil {
		return err
	}
	if head[7] != typeResponse {
		return fmt.Errorf("broker answered: %s", text)
	}
	return nil
}

func (c *conn) tell(command []byte) error {
	for len(command) > 0 {
		n, err := c.blockingWrite(command)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		command = command[n:]
	}
	return nil
}

func (c *conn) blockingWrite(b []byte) (int, error) {
	if c.codec != nil {
		return c.codec.write(b)
	}
	return unix.Write(c.fd, b)
}

func (c *conn) blockingRead(b []byte) (int, error) {
	if c.codec != nil {
		return c.codec.read(b)
	}
	return unix.Read(c.fd, b)
}

func (c *conn) readFull(b []byte) error {
	for len(b) > 0 {
		n, err := c.blockingRead(b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 && c.codec == nil {
			return errors.New("read: broker closed the connection")
		}
		b = b[n:]
	}
	return nil
}

// watch hands the connection to the event loop.
func (c *conn) watch(h handler) error {
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return fmt.Errorf("set non-blocking: %w", err)
	}
	c.number = int32(len(c.g.handlers))
	c.g.handlers = append(c.g.handlers, h)
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.number}
	if err := unix.EpollCtl(c.g.ep, unix.EPOLL_CTL_ADD, c.fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// want asks for writability events, or not.
func (c *conn) want(out bool) error {
	c.asked = out
	return c.watchOut()
}

// watchOut tells epoll whether anybody wants writability.
func (c *conn) watchOut() error {
	out := c.asked || c.codec.pending()
	if c.wantOut == out {
		return nil
	}
	c.wantOut = out
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.number}
	if out {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(c.g.ep, unix.EPOLL_CTL_MOD, c.fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// read reads once; 0 means that nothing was there.
func (c *conn) read(b []byte) (int, error) {
	if c.codec != nil {
		return c.codec.read(b)
	}
	n, err := rawIO(unix.SYS_READ, c.fd, b)
	if n == 0 && err == nil {
		return 0, fmt.Errorf("read: %w", net.ErrClosed)
	}
	return max(n, 0), err
}

// write writes once and returns how much the socket took.
func (c *conn) write(b []byte) (int, error) {
	if c.codec != nil {
		return c.codec.write(b)
	}
	n, err := rawIO(unix.SYS_WRITE, c.fd, b)
	return max(n, 0), err
}

// rawIO reads or writes a non-blocking socket without telling the scheduler: it
// never sleeps. It returns -1 when the socket is not ready.
func rawIO(trap uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EAGAIN:
			return -1, nil
		case unix.EINTR:
			continue
		}
		return -1, os.NewSyscallError("socket", errno)
	}
}
