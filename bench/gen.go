//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
