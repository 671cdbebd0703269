package engine

import (
	"errors"
	"time"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/internal/wire"
)

// check is what comes before a command's body: its state, then its parameters.
func (c *conn) check(cmd *wire.Command) *wire.Error {
	if c.gated && cmd.Op != wire.OpIdentify {
		return wire.TLSRequired(cmd.Name)
	}
	switch cmd.Op {
	case wire.OpPub, wire.OpMpub, wire.OpDpub, wire.OpNop:
	case wire.OpIdentify, wire.OpAuth:
		if c.state != stateInit {
			return wire.WrongState(cmd.Op)
		}
	case wire.OpSub:
		if c.state != stateInit {
			return wire.WrongState(cmd.Op)
		}
		if c.client.HeartbeatInterval == 0 {
			return wire.ErrSubNoHeartbeats
		}
	case wire.OpRdy:
		if c.state == stateClosing {
			return nil // ignored, not even looked at
		}
		if c.state != stateSubscribed {
			return wire.WrongState(cmd.Op)
		}
	case wire.OpFin, wire.OpReq, wire.OpTouch:
		if c.state != stateSubscribed && c.state != stateClosing {
			return wire.WrongState(cmd.Op)
		}
	case wire.OpCls:
		if c.state != stateSubscribed {
			return wire.WrongState(cmd.Op)
		}
	default:
		return wire.InvalidCommand(cmd.Name)
	}
	return cmd.CheckParams(&c.h.e.limits)
}

// do carries a complete command out.
func (c *conn) do(cmd *wire.Command) *wire.Error {
	switch cmd.Op {
	case wire.OpPub:
		return c.cmdPub(cmd)
	case wire.OpFin:
		return c.cmdFin(cmd)
	case wire.OpMpub:
		return c.cmdMpub(cmd)
	case wire.OpDpub:
		return c.cmdDpub(cmd)
	case wire.OpRdy:
		if c.state == stateSubscribed && c.sub != nil {
			c.sub.SetReady(cmd.Count)
		}
	case wire.OpReq:
		return c.cmdReq(cmd)
	case wire.OpTouch:
		return c.cmdTouch(cmd)
	case wire.OpSub:
		return c.cmdSub(cmd)
	case wire.OpIdentify:
		return c.cmdIdentify(cmd)
	case wire.OpAuth:
		return c.cmdAuth(cmd)
	case wire.OpCls:
		c.state = stateClosing
		if c.sub != nil {
			c.sub.SetReady(0)
		}
		c.answer([]byte(wire.CloseWaitFrame)...)
	}
	return nil
}

// topic finds the topic of a publish; most often it is the last one's.
func (c *conn) topic(name []byte) (*broker.Topic, error) {
	if t := c.last; t != nil && t.Name() == string(name) && !t.Exiting() {
		return t, nil
	}
	t := c.h.e.broker.Find(name)
	if t == nil {
		var err error
		if t, err = c.h.e.broker.Topic(string(name)); err != nil {
			return nil, err
		}
	}
	c.last = t
	return t, nil
}

func (c *conn) cmdPub(cmd *wire.Command) *wire.Error { return c.publish(cmd, 0) }

// cmdDpub counts the delay from now, which is the message's publication.
func (c *conn) cmdDpub(cmd *wire.Command) *wire.Error {
	due := int64(0)
	if cmd.Delay > 0 {
		due = c.nc.Loop().Now() + int64(cmd.Delay)
	}
	return c.publish(cmd, due)
}

// publish puts one message into its topic's batch; dueNs is monotonic, 0 for none.
func (c *conn) publish(cmd *wire.Command, dueNs int64) *wire.Error {
	c.op = cmd.Op
	t, err := c.topic(cmd.Topic)
	if err == nil {
		err = c.h.shard.Publish(t, &c.pub, cmd.Body, dueNs)
		c.bytes += len(cmd.Body)
	}
	if err != nil {
		return wire.PublishFailed(cmd.Op, err)
	}
	c.countPubs(t, 1)
	c.ok()
	return nil
}

func (c *conn) cmdMpub(cmd *wire.Command) *wire.Error {
	c.op = wire.OpMpub
	t, err := c.topic(cmd.Topic)
	batch := cmd.Messages()
	n := 0
	for err == nil {
		body, ok := batch.Next()
		if !ok {
			break
		}
		err = c.h.shard.Publish(t, &c.pub, body, 0)
		c.bytes += len(body)
		n++
	}
	if err != nil {
		return wire.PublishFailed(wire.OpMpub, err)
	}
	c.countPubs(t, n)
	c.ok()
	return nil
}

// countPubs counts for /stats what the connection published to each topic. It looks
// from where it found the last one on, so that a producer that goes round its topics
// finds each at once.
func (c *conn) countPubs(t *broker.Topic, n int) {
	at := c.pubAt
	for range c.pubs {
		if at >= len(c.pubs) {
			at = 0
		}
		if c.pubs[at].topic == t {
			c.pubs[at].count += uint64(n)
			c.pubAt = at
			return
		}
		at++
	}
	// A list that is full is searched by name now and then only: most often the topic
	// is just one too many.
	if len(c.pubs) == pubCountsMax {
		if c.pubMisses++; c.pubMisses%pubCountsMax != 0 {
			return
		}
	}
	for i := range c.pubs {
		if c.pubs[i].topic.Name() == t.Name() { // deleted, and created again
			c.pubs[i].topic = t
			c.pubs[i].count += uint64(n)
			return
		}
	}
	if len(c.pubs) < pubCountsMax {
		c.pubs = append(c.pubs, pubCount{topic: t, count: uint64(n)})
	}
}

// pubCountsMax bounds what a producer of many topics costs; /stats shows one.
const pubCountsMax = 64

func (c *conn) cmdFin(cmd *wire.Command) *wire.Error {
	if c.sub == nil {
		return nil
	}
	if err := c.h.shard.Finish(c.sub, idOf(cmd)); err != nil {
		return wire.FinFailed(cmd.IDText, reason(err))
	}
	return nil
}

func (c *conn) cmdReq(cmd *wire.Command) *wire.Error {
	if c.sub == nil {
		return nil
	}
	if err := c.h.shard.Requeue(c.sub, idOf(cmd), int64(cmd.Delay)); err != nil {
		return wire.ReqFailed(cmd.IDText, reason(err))
	}
	return nil
}

func (c *conn) cmdTouch(cmd *wire.Command) *wire.Error {
	if c.sub == nil {
		return nil
	}
	if err := c.h.shard.Touch(c.sub, idOf(cmd)); err != nil {
		return wire.TouchFailed(cmd.IDText, reason(err))
	}
	return nil
}

// idOf returns 0, which no message has, for sixteen bytes that are no id.
func idOf(cmd *wire.Command) uint64 {
	if !cmd.IDOK {
		return 0
	}
	return cmd.ID
}

func reason(err error) string {
	if errors.Is(err, broker.ErrNotOwner) {
		return wire.ReasonNotOwner
	}
	return wire.ReasonNotInFlight
}

// cmdSub subscribes. A topic or channel that goes with its last client may be on
// its way out at this moment: that SUB is tried again a little later.
func (c *conn) cmdSub(cmd *wire.Command) *wire.Error {
	topic, channel := string(cmd.Topic), string(cmd.Channel)
	werr, exiting := c.subscribe(topic, channel)
	if exiting && (wire.IsEphemeral(topic) || wire.IsEphemeral(channel)) {
		c.again = &subAgain{topic, channel, c.nc.Loop().Now() + int64(subAgainAfter), subAgainMost}
		c.nc.PauseRead()
		c.setTimer()
		return nil
	}
	return werr
}

// subAgain is a SUB that is to be tried again; until then the connection is not
// read.
type subAgain struct {
	topic, channel string
	dueNs          int64
	left           int // tries
}

// subAgainAfter is upstream's; upstream has one such try, and several clients that
// come and go at once can spoil it.
const (
	subAgainAfter = 100 * time.Millisecond
	subAgainMost  = 20
)

// subscribeAgain is one more try.
func (c *conn) subscribeAgain() {
	s := c.again
	werr, exiting := c.subscribe(s.topic, s.channel)
	if s.left--; exiting && s.left > 0 {
		s.dueNs = c.nc.Loop().Now() + int64(subAgainAfter)
		return // onTimer sets the timer
	}
	c.again = nil
	if exiting {
		werr = wire.ErrSubDeleted
	}
	if werr != nil {
		c.fail(werr)
		return
	}
	c.heardNs = c.nc.Loop().Now()
	c.listen()
}

// subscribe makes the connection a consumer. The error is for the client;
// exiting says that it comes from a deletion under way.
func (c *conn) subscribe(topic, channel string) (werr *wire.Error, exiting bool) {
	e := c.h.e
	var ch *broker.Channel
	var sub *broker.Subscriber
	t, err := e.broker.Topic(topic)
	if err == nil {
		ch, err = t.Channel(channel)
	}
	if err == nil {
		sub, err = c.h.shard.Subscribe(ch, c, int64(c.client.MsgTimeout), int(c.client.SampleRate))
	}
	switch {
	case errors.Is(err, broker.ErrTooManyConsumers):
		return wire.TooManyConsumers(topic, channel, e.opts.MaxChannelConsumers), false
	case err != nil:
		return wire.SubFailed(err.Error()), errors.Is(err, broker.ErrExiting)
	}
	sub.SetNear(c.near())
	c.op = wire.OpSub
	c.h.shard.AwaitBirth(&c.pub, ch)
	c.sub = sub
	c.shut = true
	c.state = stateSubscribed
	c.ok()
	return nil, false
}

func (c *conn) cmdIdentify(cmd *wire.Command) *wire.Error {
	e := c.h.e
	lim := e.identify
	lim.HeartbeatInterval = c.client.HeartbeatInterval
	lim.OutputBufferSize, lim.OutputBufferTimeout = c.client.OutputBufferSize, c.client.OutputBufferTimeout
	lim.MsgTimeout = c.client.MsgTimeout
	lim.TLS, lim.Snappy, lim.Deflate = e.certs != nil, e.opts.SnappyEnabled, e.opts.DeflateEnabled
	if c.tr != nil {
		lim.TLS, lim.Snappy, lim.Deflate = false, false, false // once is enough
	}
	id, werr := wire.ParseIdentify(cmd.Body, &lim)
	if werr != nil {
		return werr
	}
	c.client, c.identified = id, true
	c.beatNs = int64(id.HeartbeatInterval)
	c.startTimer(c.nc.Loop().Now())
	if !id.Negotiate {
		c.ok()
		return nil
	}
	c.answer(wire.AppendIdentifyResponse(nil, &id, &lim)...)
	c.plan(&id)
	return nil
}

// defaultClient is what a client is that never identifies itself.
func defaultClient(o *Options) wire.Identify {
	return wire.Identify{
		HeartbeatInterval:   wire.DefaultHeartbeatInterval,
		OutputBufferSize:    16 << 10,
		OutputBufferTimeout: o.OutputBufferTimeout,
		MsgTimeout:          within(o.MsgTimeout),
	}
}
