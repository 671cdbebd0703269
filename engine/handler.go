package engine

import (
	"fmt"
	"time"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/engine/netloop"
	"github.com/zsqio/zsq/engine/upgrade"
	"github.com/zsqio/zsq/internal/wire"
)

// handler is what one event loop does with its connections: it reads commands,
// and at the end of the round lets its shard deliver.
type handler struct {
	e     *Engine
	loop  *netloop.Loop
	shard *broker.Shard
	cmd   wire.Command

	conns   []*conn // by conn.seq; nil where free
	free    []uint32
	owing   []*conn // with answers to send
	watch   []*conn // in the middle of something: see sweep
	inRound bool
	ended   bool
	timerAt int64 // when the wheel was looked at last, monotonic

	accepted uint64 // publishers answered in this round
	figures  loopFigures

	wallBase int64 // wall clock minus monotonic, ns
	wallRead int64 // when wallBase was read, monotonic
}

// wallEvery is how often a loop looks at the wall clock. Message timestamps
// follow a clock step after that time; timers never do.
const wallEvery = int64(50 * time.Millisecond)

// begin opens the round at its first event.
func (h *handler) begin(l *netloop.Loop) {
	if h.inRound {
		return
	}
	h.inRound = true
	now := l.Now()
	if now-h.wallRead > wallEvery || h.wallRead == 0 {
		h.wallBase, h.wallRead = h.e.system.wallBase(), now
	}
	h.shard.Begin(now, now+h.wallBase)
}

// Open greets a connection.
func (h *handler) Open(nc *netloop.Conn) {
	h.begin(nc.Loop())
	c := &conn{h: h, nc: nc, connected: time.Now()}
	c.pub.Waiter = c
	c.client = h.e.defaultClient
	c.gated = h.e.opts.RequireTLS() != TLSNotRequired
	nc.Ctx = c
	if n := len(h.free); n > 0 {
		c.seq = h.free[n-1]
		h.free = h.free[:n-1]
		h.conns[c.seq] = c
	} else {
		c.seq = uint32(len(h.conns))
		h.conns = append(h.conns, c)
	}
	c.timer = h.shard.AddTimer(nc.Loop().Now()+int64(h.e.opts.ReapTimeout), c.seq)
	h.e.log.printf(LogInfo, "TCP: new client(%s)", c.peerAddr())
}

// Traffic takes whole commands off the front of b.
func (h *handler) Traffic(nc *netloop.Conn, b []byte) (used int) {
	h.begin(nc.Loop())
	c := nc.Ctx.(*conn)
	if c.upgrading {
		// One piece at a time: the handshake asks for the next.
		if c.tr.hs != nil {
			c.tr.hs.Feed(b)
			nc.PauseRead()
		}
		return len(b)
	}
	if !c.greeted {
		if len(b) < len(wire.Magic) {
			return 0
		}
		if string(b[:len(wire.Magic)]) != wire.Magic {
			c.fail(wire.ErrBadProtocol.WithCause(fmt.Errorf("bad protocol magic %q", b[:len(wire.Magic)])))
			return len(b)
		}
		used = len(wire.Magic)
		c.greeted = true
		c.beatNs = int64(c.client.HeartbeatInterval)
		c.startTimer(nc.Loop().Now())
	}
	heard := false
	c.stall = nil
	for used < len(b) && !c.closing && !c.upgrading && !c.asking && c.again == nil {
		n, done := h.command(c, b[used:])
		if !done {
			break
		}
		heard = true
		used += n
	}
	if heard {
		c.heardNs = nc.Loop().Now()
	}
	if c.closing || nc.Closing() {
		return len(b)
	}
	if c.begun = used < len(b); c.begun {
		h.watchOver(c)
	}
	if nc.Full() && !c.stuffed && c.sub == nil {
		// A producer that does not read its answers is not read either.
		c.stuffed = true
		nc.PauseRead()
	}
	return used
}

// command parses and does one command. done is false when its bytes are not all
// there.
func (h *handler) command(c *conn, b []byte) (n int, done bool) {
	cmd := &h.cmd
	line, s := cmd.ParseLine(b)
	switch s {
	case wire.NeedMore:
		return 0, false
	case wire.LineTooLong:
		c.closing = true
		c.nc.Close(errLine)
		return len(b), true
	}
	if e := c.check(cmd); e != nil {
		c.fail(e)
		return len(b), true
	}
	if h.e.auth != nil && cmd.Op == wire.OpMpub && !c.allowed(cmd) {
		return 0, false
	}
	n = line
	if cmd.Op.HasBody() {
		cmd.Resume = c.resume
		body, s, e := cmd.ParseBody(b[line:], &h.e.limits)
		if e != nil {
			c.fail(e)
			return len(b), true
		}
		if s == wire.NeedMore {
			c.resume = cmd.Resume
			c.stall = cmd.Stalled()
			c.nc.Expect(line + cmd.Need)
			return 0, false
		}
		c.resume = wire.BatchState{}
		n += body
	}
	if h.e.auth != nil && cmd.Op != wire.OpMpub && !c.allowed(cmd) {
		return 0, false
	}
	if e := c.do(cmd); e != nil {
		c.fail(e)
		if e.Fatal {
			return len(b), true
		}
	}
	return n, true
}

// EOF answers a half-closed connection: what it sent whole, then what it lacks
// of a command.
func (h *handler) EOF(nc *netloop.Conn) {
	h.begin(nc.Loop())
	c := nc.Ctx.(*conn)
	if c.abortUpgrade(errNoMore) {
		return
	}
	c.hangUp()
}

// Drained goes on with a client that reads again.
func (h *handler) Drained(nc *netloop.Conn) {
	h.begin(nc.Loop())
	c := nc.Ctx.(*conn)
	c.blockedAt = 0
	if c.sub != nil {
		c.sub.Resume()
	}
	if c.stuffed {
		c.stuffed = false
		c.listen()
	}
}

// Closed forgets a connection. Its messages in flight wait for their time-out.
func (h *handler) Closed(nc *netloop.Conn, err error) {
	if h.ended {
		return
	}
	h.begin(nc.Loop())
	c := nc.Ctx.(*conn)
	if err != nil {
		h.e.log.printf(LogInfo, "[%s] closed: %v", c.peerAddr(), err)
	}
	if c.greeted {
		h.e.log.printf(LogInfo, "PROTOCOL(V2): [%s] exiting ioloop", c.peerAddr())
	}
	c.abortUpgrade(upgrade.ErrClosed)
	if c.timer != 0 {
		h.shard.StopTimer(c.timer)
		c.timer = 0
	}
	if c.sub != nil {
		ch := c.sub.Channel()
		if h.shard.Unsubscribe(c.sub) {
			h.e.help(func() { h.e.broker.DeleteIfUnused(ch) })
		}
		c.sub = nil
	}
	c.begun = false
	h.conns[c.seq] = nil
	h.free = append(h.free, c.seq)
}

// shortRound is how many messages a round delivers while there is light traffic,
// which would else wait for as many as the busiest consumers take: 2,500 are half a
// millisecond and more. Fewer than 256 cost more system calls and brought nothing.
const shortRound = 256

// Round ends a round: publishes are given out, messages delivered, answers sent.
func (h *handler) Round(l *netloop.Loop, now int64) {
	h.begin(l)
	if l.LightTraffic() {
		h.shard.Bound(shortRound)
	}
	if h.shard.EndRound() {
		l.Again()
	}
	h.roundEnds(now)
	for i := 0; i < len(h.owing); i++ {
		c := h.owing[i]
		c.owing = false
		switch {
		case c.nc.Fd < 0 || c.refused:
		case c.pub.Pending() == 0:
			c.flushAnswers()
		default:
			c.hold(now)
		}
	}
	clear(h.owing)
	h.owing = h.owing[:0]
	h.inRound = false
	if due := h.nextDue(); due != 0 {
		l.SetTimer(due)
	}
}

// timerSlack is the least time between two looks at the wheel. What is due now
// and then is served at its time; of a stream of due messages those of a few
// milliseconds share a round, which is what makes them cheap.
const timerSlack = int64(4 * time.Millisecond)

func (h *handler) nextDue() int64 {
	due := h.shard.NextDue()
	if due == 0 {
		return 0
	}
	return max(due, h.timerAt+timerSlack)
}

// Timer serves what is due.
func (h *handler) Timer(l *netloop.Loop, now int64) (next int64) {
	h.begin(l)
	h.timerAt = now
	if !h.shard.Advance() {
		return now + 1
	}
	return h.nextDue()
}

func (h *handler) onTimer(token uint32) {
	if token == sweepToken {
		h.sweep(h.loop.Now())
		return
	}
	if c := h.conns[token]; c != nil {
		c.onTimer(h.loop.Now())
	}
}

// Woken reads what other loops and helpers told the shard.
func (h *handler) Woken(l *netloop.Loop) {
	h.begin(l)
	h.shard.Woken()
}
