package engine

import (
	"errors"
	"strings"
	"time"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/engine/netloop"
	"github.com/zsqio/zsq/internal/wire"
)

// state is a connection's state; the values are those of /stats.
type state int32

const (
	stateInit       state = 0
	stateSubscribed state = 3
	stateClosing    state = 4
)

// conn is one client's connection. Its loop owns it; only the fields of type
// atomic are read elsewhere.
//
// Answers gather in oks and answers, and leave in command order. If the round has
// published something that is not accepted at its end, they are put on the list
// held, behind those of earlier rounds, and the connection is read on until that
// is long. Messages and heartbeats pass them, except that no message passes the
// answer to SUB.
type conn struct {
	h   *handler
	nc  *netloop.Conn
	seq uint32 // its place in handler.conns

	tr        *transport // nil for plain bytes
	upgrading bool       // from IDENTIFY's answer to the last OK: no command is read
	gated     bool       // TLS is required, and not there yet

	greeted    bool // the magic came
	identified bool // an IDENTIFY was accepted
	state      state
	client     wire.Identify
	connected  time.Time
	peer       string

	sub  *broker.Subscriber
	shut bool // SUB is not answered yet: no message may pass its OK
	pub  broker.Publisher
	last *broker.Topic // of the last publish
	pubs []pubCount
	auth *clientAuth // nil before AUTH
	op   wire.Op     // of the last publish or SUB, for its error

	pubAt     int   // in pubs: the one counted last
	pubMisses uint8 // publishes to topics that pubs has no room for

	oks     int    // OK frames owed for this round, before answers
	answers []byte // frames owed
	bytes   int    // published in this round
	owing   bool   // on the handler's list
	refused bool   // a publish was not accepted: nothing follows the word on that
	waiting bool   // reading is paused until publishes are accepted
	held    []owed // of earlier rounds, from heldAt on
	heldAt  int
	heldSum int  // their bytes
	stuffed bool // reading is paused until the output has drained
	asking  bool // reading is paused until the auth server has answered
	closing bool // a fatal error is among the answers
	resume  wire.BatchState
	again   *subAgain   // a SUB that waits to be tried again
	begun   bool        // a command has begun and is not complete
	watched bool        // on the handler's list for sweep
	reads   uint32      // nc.Reads when sweep last saw it move
	movedNs int64       // when that was
	stall   *wire.Error // what the client is told if the body it has begun never ends

	timer     uint32 // handle, 0 for none
	beatNs    int64  // heartbeat interval, 0 for none
	nextBeat  int64
	askedNs   int64 // when the last heartbeat was sent, or could not be
	heardNs   int64 // when the last command was complete
	blockedAt int64 // the heartbeat at which output was stuck, 0 for none
}

// owed are the answers for a round whose publishes are not accepted yet.
type owed struct {
	oks     int
	answers []byte
	bytes   int     // published, and of answers
	op      wire.Op // of the last publish, for its error
	opens   bool    // the answer to SUB is among them
	sinceNs int64
}

// What a connection may have published and not be answered for, before it is not
// read any more; answers to its other commands, which wait behind those, count too.
// A round may be larger than the bytes: it stands alone then. All connections of a
// loop together may have heldAll, and each heldLeast.
const (
	heldRounds = 64
	heldBytes  = 512 << 10
	heldLeast  = 64 << 10
	heldAll    = 64 << 20
)

type pubCount struct {
	topic *broker.Topic
	count uint64
}

// Ends of a connection that the client brought about.
var (
	errSilent = errors.New("no command within two heartbeats")
	errStuck  = errors.New("client does not read")
	errMagic  = errors.New("no protocol version in time")
	errLine   = errors.New("command line too long")
	errStall  = errors.New("client stalls")
)

// Accepted says that what the connection has published in the oldest round of
// those that wait is accepted, or why it is not. Without one it is about the round
// under way.
func (c *conn) Accepted(err error) {
	if c.h.ended || c.nc.Fd < 0 || c.refused {
		return
	}
	if c.holds() == 0 {
		if err != nil {
			c.refuse(c.op, err)
			return
		}
		c.h.accepted++
		c.flushAnswers()
		return
	}
	o := c.unhold()
	c.h.answered(&o)
	if err != nil {
		c.refuse(o.op, err)
		return
	}
	c.send(o.oks, o.answers, o.opens)
	if c.holds() == 0 && !c.owing {
		c.answered()
	}
	if c.waiting && c.holds() <= heldRounds/2 && c.heldSum <= c.heldMost()/2 {
		c.waiting = false
		c.listen()
	}
}

// refuse tells of a publish that was not accepted. The OKs that are owed with it
// cover refused messages as well, and nothing later is answered.
func (c *conn) refuse(op wire.Op, err error) {
	c.refused, c.closing, c.waiting = true, true, false
	c.oks, c.answers = 0, nil
	c.held, c.heldAt, c.heldSum = nil, 0, 0
	werr := wire.PublishFailed(op, err)
	if op == wire.OpSub {
		werr = wire.SubFailed(err.Error())
	}
	c.send(0, wire.AppendError(nil, werr), c.shut)
	c.answered()
}

// hold puts this round's answers on the list. It pauses the connection when that
// is long.
func (c *conn) hold(now int64) {
	bytes := c.bytes + len(c.answers)
	if n := c.holds(); c.pub.Pending() == n {
		// Nothing was published: these follow the last ones.
		last := &c.held[len(c.held)-1]
		for ; c.oks > 0 && len(last.answers) > 0; c.oks-- {
			last.answers = append(last.answers, wire.OKFrame...)
			bytes += len(wire.OKFrame)
		}
		last.oks += c.oks
		last.answers = append(last.answers, c.answers...)
		last.bytes += bytes
		last.opens = last.opens || c.shut
	} else {
		if c.heldAt > 0 && len(c.held) == cap(c.held) {
			clear(c.held[copy(c.held, c.held[c.heldAt:]):])
			c.held, c.heldAt = c.held[:n], 0
		}
		c.held = append(c.held, owed{c.oks, c.answers, bytes, c.op, c.shut, now})
	}
	c.heldSum += bytes
	c.oks, c.answers, c.bytes = 0, nil, 0
	if !c.waiting && (c.holds() >= heldRounds || c.heldSum >= c.heldMost()) {
		c.waiting = true
		c.nc.PauseRead()
	}
}

// holds returns how many rounds wait.
func (c *conn) holds() int { return len(c.held) - c.heldAt }

// unhold takes the oldest round off the list.
func (c *conn) unhold() owed {
	o := c.held[c.heldAt]
	c.held[c.heldAt] = owed{}
	c.heldSum -= o.bytes
	if c.heldAt++; c.heldAt == len(c.held) {
		c.held, c.heldAt = c.held[:0], 0
	}
	return o
}

func (c *conn) heldMost() int {
	return min(heldBytes, max(heldLeast, heldAll/len(c.h.conns)))
}

// deaf reports whether reading is paused, for whatever reason.
func (c *conn) deaf() bool {
	return c.waiting || c.stuffed || c.asking || c.again != nil || c.upgrading && c.tr.hs == nil
}

// answer queues a frame behind the OKs owed.
func (c *conn) answer(frame ...byte) {
	c.spellOKs()
	c.answers = append(c.answers, frame...)
	c.owe()
}

func (c *conn) ok() {
	if len(c.answers) > 0 {
		c.answers = append(c.answers, wire.OKFrame...)
	} else {
		c.oks++
	}
	c.owe()
}

func (c *conn) spellOKs() {
	for ; c.oks > 0; c.oks-- {
		c.answers = append(c.answers, wire.OKFrame...)
	}
}

func (c *conn) owe() {
	if !c.owing {
		c.owing = true
		c.h.owing = append(c.h.owing, c)
	}
}

// fail queues an error frame; a fatal one ends the connection after it.
func (c *conn) fail(e *wire.Error) {
	c.spellOKs()
	c.answers = wire.AppendError(c.answers, e)
	c.closing = c.closing || e.Fatal
	c.owe()
	level := LogDebug // a client can bring about as many as it likes
	if e.Fatal {
		level = LogError
	}
	if !c.h.e.log.enabled(level) {
		return
	}
	if e.Cause != nil && !strings.HasSuffix(e.Desc, e.Cause.Error()) {
		c.h.e.log.printf(level, "[%s] - %s - %v", c.peerAddr(), e, e.Cause)
		return
	}
	c.h.e.log.printf(level, "[%s] - %s", c.peerAddr(), e)
}

const okRun = 512

// manyOKs is what a pipelining producer gets in one piece.
var manyOKs = func() []byte {
	var b []byte
	for range okRun {
		b = append(b, wire.OKFrame...)
	}
	return b
}()

// flushAnswers sends what is owed; nothing is held.
func (c *conn) flushAnswers() {
	oks, answers := c.oks, c.answers
	c.oks, c.answers, c.bytes = 0, nil, 0
	c.send(oks, answers, c.shut)
	c.answered()
}

// send moves answers to the output. opens says that the one to SUB is among them.
func (c *conn) send(oks int, answers []byte, opens bool) {
	for oks > 0 {
		n := min(oks, okRun)
		c.nc.Write(manyOKs[:n*len(wire.OKFrame)])
		oks -= n
	}
	if len(answers) > 0 {
		c.nc.Write(answers)
	}
	if opens && c.shut {
		c.shut = false
		if c.sub != nil {
			c.sub.Resume()
			c.nc.Loop().Wake() // this round's deliveries are over
		}
	}
}

// answered does what waits for the last answer.
func (c *conn) answered() {
	switch {
	case c.closing:
		c.nc.CloseAfterFlush()
		c.h.watchOver(c) // who does not read its last bytes does not keep us
	case c.upgrading && c.tr.hs == nil:
		c.beginUpgrade()
	}
}

// Reserve, Full and Kick make a conn a broker.Sink.
func (c *conn) Reserve(n int) []byte {
	b := c.nc.Reserve(n)
	c.nc.Commit(n)
	return b
}

// Full reports whether the client takes no more messages now.
func (c *conn) Full() bool { return c.closing || c.shut || c.nc.Full() }

// Kick closes the connection of a deleted channel's consumer.
func (c *conn) Kick() {
	c.sub = nil
	c.nc.Close(nil)
}

func (c *conn) peerAddr() string {
	if c.peer == "" {
		c.peer = c.nc.RemoteAddr()
	}
	return c.peer
}

// startTimer begins heartbeats and the watch over the client's silence.
func (c *conn) startTimer(now int64) {
	c.nextBeat = now + c.beatNs
	c.heardNs = now
	c.setTimer()
}

func (c *conn) setTimer() {
	s := c.h.shard
	if c.timer != 0 {
		s.StopTimer(c.timer)
		c.timer = 0
	}
	var due int64
	if c.beatNs > 0 {
		due = min(c.nextBeat, c.heardNs+2*c.beatNs)
	}
	if c.again != nil && (due == 0 || due > c.again.dueNs) {
		due = c.again.dueNs
	}
	if due != 0 {
		c.timer = s.AddTimer(due, c.seq)
	}
}

// onTimer sends a heartbeat or gives the client up.
func (c *conn) onTimer(now int64) {
	c.timer = 0
	if c.upgradeTimer(now) {
		return
	}
	switch {
	case !c.greeted:
		c.nc.Close(errMagic)
		return
	case c.again != nil && now >= c.again.dueNs:
		c.subscribeAgain()
	case c.beatNs <= 0:
	case now >= c.heardNs+2*c.beatNs && c.askedNs > c.heardNs && !c.deaf():
		c.silent()
		return
	case now >= c.nextBeat:
		if now >= c.heardNs+2*c.beatNs {
			c.heardNs = now - c.beatNs // we stood still and have not asked: it has a beat from now
		}
		c.askedNs = now
		if c.nc.Full() || c.stuffed {
			if c.blockedAt != 0 {
				c.nc.Close(errStuck)
				return
			}
			c.blockedAt = now
		} else {
			c.nc.Write([]byte(wire.HeartbeatFrame))
		}
		c.nextBeat = now + c.beatNs
	}
	if c.deaf() {
		c.heardNs = now // it is we who do not listen
	}
	c.setTimer()
}

// silent closes a client that has sent no whole command for two heartbeats. In
// the middle of a body it is told what was missing.
func (c *conn) silent() {
	if c.stall != nil {
		c.hangUp()
		return
	}
	c.nc.Close(errSilent)
}

// hangUp closes the connection behind the answers owed.
func (c *conn) hangUp() {
	if c.stall != nil {
		c.fail(c.stall)
		return
	}
	c.closing = true
	c.owe()
}
