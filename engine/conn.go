package engine

import (
	"errors"
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
// Answers wait in oks and answers until the round's publishes are accepted, and
// leave in command order. Messages and heartbeats pass them, except that no
// message passes the answer to SUB.
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
	op   wire.Op     // of the last publish, for its error

	pubAt     int   // in pubs: the one counted last
	pubMisses uint8 // publishes to topics that pubs has no room for

	oks     int    // OK frames owed, before answers
	answers []byte // frames owed
	owing   bool   // on the handler's list
	waiting bool   // reading is paused until the publishes are accepted
	stuffed bool   // reading is paused until the output has drained
	asking  bool   // reading is paused until the auth server has answered
	closing bool   // a fatal error is among the answers
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
	heardNs   int64 // when the last command was complete
	waitNs    int64 // when waiting began
	blockedAt int64 // the heartbeat at which output was stuck, 0 for none
}

type pubCount struct {
	topic *broker.Topic
	count uint64
}

// errPeer are ends of a connection that are not worth a log line.
var (
	errSilent = errors.New("no command within two heartbeats")
	errStuck  = errors.New("client does not read")
	errMagic  = errors.New("no protocol version in time")
	errLine   = errors.New("command line too long")
	errStall  = errors.New("client stalls")
)

// Accepted says that what the connection has published is accepted, or why it
// is not.
func (c *conn) Accepted(err error) {
	if c.h.ended || c.nc.Fd < 0 {
		return
	}
	if err != nil {
		// The OKs that are owed cover refused messages as well.
		c.oks, c.answers = 0, wire.AppendError(c.answers[:0], wire.PublishFailed(c.op, err))
		c.closing = true
	}
	c.flushAnswers()
	c.h.answered(c)
	if c.waiting {
		c.waiting = false
		c.listen()
	}
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
	if e.Fatal {
		c.h.e.log.printf(LogError, "[%s] - %s", c.peerAddr(), e)
	}
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

// flushAnswers moves what is owed to the output.
func (c *conn) flushAnswers() {
	for c.oks > 0 {
		n := min(c.oks, okRun)
		c.nc.Write(manyOKs[:n*len(wire.OKFrame)])
		c.oks -= n
	}
	if len(c.answers) > 0 {
		c.nc.Write(c.answers)
		c.answers = nil
	}
	switch {
	case c.closing:
		c.nc.CloseAfterFlush()
		c.h.watchOver(c) // who does not read its last bytes does not keep us
	case c.upgrading && c.tr.hs == nil:
		c.beginUpgrade()
	}
	if c.shut {
		c.shut = false
		if c.sub != nil {
			c.sub.Resume()
			c.nc.Loop().Wake() // this round's deliveries are over
		}
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
	case now >= c.heardNs+2*c.beatNs && !c.deaf():
		c.silent()
		return
	case now >= c.nextBeat:
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
