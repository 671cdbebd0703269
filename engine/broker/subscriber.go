package broker

import (
	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/wire"
)

// Sink is what a subscriber's connection is to the broker. Its methods are
// called on the subscriber's loop.
type Sink interface {
	// Reserve returns room for a frame of n bytes in the connection's output,
	// to be written before the next call.
	Reserve(n int) []byte
	// Full reports that the connection takes no more messages now. When that
	// changes, it calls Shard.Resume.
	Full() bool
	// Kick closes the connection: its channel is gone.
	Kick()
}

// A Subscriber is a connection's side of a channel. It belongs to its loop.
//
// A ready count is a ceiling on the messages in flight, not a credit that is
// used up. Invariant: a message is sent only while inFlight < ready.
type Subscriber struct {
	shard    *Shard
	local    *channelLocal
	index    uint32
	sink     Sink
	ready    int64
	inFlight int64
	table    table
	timeout  int64 // ns
	sample   int   // 0 keeps all; else messages are kept with (sample+1) % (contract, section 1.15)
	lastSize int   // of the last frame sent
	gone     bool
	near     Near

	sent, finished, requeued uint64
}

// Counts are a subscriber's figures.
type Counts struct {
	Ready, InFlight          int64
	Sent, Finished, Requeued uint64
}

// Counts returns the subscriber's figures. Only its loop may ask.
func (sub *Subscriber) Counts() Counts {
	return Counts{sub.ready, sub.inFlight, sub.sent, sub.finished, sub.requeued}
}

// Channel returns the subscriber's channel.
func (sub *Subscriber) Channel() *Channel { return sub.local.c }

// Subscribe attaches sink to a channel with a ready count of zero. It fails
// with ErrTooManyConsumers or ErrExiting.
func (s *Shard) Subscribe(c *Channel, sink Sink, timeoutNs int64, sample int) (*Subscriber, error) {
	if c.exiting.Load() || c.topic.exiting.Load() {
		return nil, ErrExiting
	}
	n := c.clients.Add(1)
	if n <= 0 { // DeleteIfUnused was quicker
		c.clients.Add(-1)
		return nil, ErrExiting
	}
	if s.b.opts.MaxChannelConsumers > 0 && n > int64(s.b.opts.MaxChannelConsumers) {
		c.clients.Add(-1)
		return nil, ErrTooManyConsumers
	}
	sub := &Subscriber{shard: s, local: s.local(c), sink: sink, timeout: timeoutNs, sample: sample}
	if n := len(s.freeSubs); n > 0 {
		sub.index = s.freeSubs[n-1]
		s.freeSubs = s.freeSubs[:n-1]
		s.subs[sub.index] = sub
	} else {
		sub.index = uint32(len(s.subs))
		s.subs = append(s.subs, sub)
	}
	sub.local.subs = append(sub.local.subs, sub)
	return sub, nil
}

// Unsubscribe detaches a subscriber whose connection has closed. Its messages
// in flight stay so until they time out. It reports whether this was the last
// client of an ephemeral channel, which the caller then deletes.
func (s *Shard) Unsubscribe(sub *Subscriber) (deleteChannel bool) {
	if sub.gone {
		return false
	}
	l := sub.local
	s.detach(sub)
	if sub.table.count > 0 {
		l.orphans = append(l.orphans, sub)
	} else {
		s.freeSub(sub)
	}
	return l.c.ephemeral && l.c.clients.Load() == 0 && !l.c.exiting.Load()
}

// DeleteIfUnused deletes an ephemeral channel that has no client. It must not
// be called on a loop.
func (b *Broker) DeleteIfUnused(c *Channel) {
	if c.clients.CompareAndSwap(0, clientsShut) {
		b.deleteChannel(c.topic, c)
	}
}

// clientsShut is the number of clients of a channel that takes no more.
const clientsShut = -1 << 62

func (s *Shard) detach(sub *Subscriber) {
	l := sub.local
	sub.gone = true
	for i, x := range l.subs {
		if x == sub {
			l.subs = append(l.subs[:i], l.subs[i+1:]...)
			break
		}
	}
	l.c.clients.Add(-1)
	// What this one would have taken may be for another loop now.
	s.look(l)
	if len(l.subs) == 0 {
		l.c.hungry.And(^(uint64(1) << s.index))
		s.b.wake(l.c, s)
	}
}

func (s *Shard) freeSub(sub *Subscriber) {
	s.subs[sub.index] = nil
	s.freeSubs = append(s.freeSubs, sub.index)
}

// SetReady sets the ceiling of messages in flight.
func (sub *Subscriber) SetReady(n int64) {
	sub.ready = n
	sub.shard.look(sub.local)
	sub.shard.touch(sub.local)
}

// Resume says that the sink is no longer full.
func (sub *Subscriber) Resume() { sub.shard.look(sub.local) }

// InFlight returns how many messages the subscriber holds.
func (sub *Subscriber) InFlight() int64 { return sub.inFlight }

// take removes a message from the subscriber's hands.
func (s *Shard) take(sub *Subscriber, id uint64) (uint32, error) {
	i := sub.table.remove(id)
	if i == 0 {
		return 0, s.missing(sub, id)
	}
	s.wheel.remove(i)
	s.settled(sub)
	return i, nil
}

// missing tells the two reasons for a miss apart, as far as this loop can see:
// a message in flight on another loop is told as not in flight.
func (s *Shard) missing(sub *Subscriber, id uint64) error {
	for _, subs := range [][]*Subscriber{sub.local.subs, sub.local.orphans} {
		for _, other := range subs {
			if other != sub && other.table.get(id) != 0 {
				return ErrNotOwner
			}
		}
	}
	return ErrNotInFlight
}

// settled counts one message less in flight.
func (s *Shard) settled(sub *Subscriber) {
	l := sub.local
	l.inFlightCount--
	sub.inFlight--
	s.touch(l)
	if !sub.gone {
		s.look(l)
		return
	}
	if sub.table.count == 0 {
		for i, x := range l.orphans {
			if x == sub {
				l.orphans = append(l.orphans[:i], l.orphans[i+1:]...)
				break
			}
		}
		s.freeSub(sub)
	}
}

// Finish ends a message. It fails with ErrNotInFlight or ErrNotOwner; that race
// with a time-out is normal.
func (s *Shard) Finish(sub *Subscriber, id uint64) error {
	i, err := s.take(sub, id)
	if err != nil {
		return err
	}
	e := &s.wheel.slab[i]
	r := e.ref
	s.endToEnd(sub.local, s.wallNs-e.born())
	s.wheel.release(i)
	s.done(sub.local, r, id)
	s.drops.Add(r.Chunk)
	sub.finished++
	return nil
}

// Requeue makes a message available again after delayNs; zero means at the
// queue's tail at once. It fails as Finish does.
func (s *Shard) Requeue(sub *Subscriber, id uint64, delayNs int64) error {
	i, err := s.take(sub, id)
	if err != nil {
		return err
	}
	l := sub.local
	r := s.wheel.slab[i].ref
	s.wheel.release(i)
	sub.requeued++
	l.requeues++
	if delayNs <= 0 {
		s.giveBack(l, s.updated(l, r, id))
		return nil
	}
	// Copied out, so that a long delay does not pin a chunk of short-lived ones.
	kept := s.journalPut(l.c, copyTo(s.cold, s.b.pool, r), s.wallNs+delayNs)
	s.drops.Add(r.Chunk)
	s.deferUntil(l.c, kept, s.nowNs+delayNs)
	return nil
}

// Touch restarts a message's time-out, but never past the limit counted from
// its delivery. It fails as Finish does.
func (s *Shard) Touch(sub *Subscriber, id uint64) error {
	i := sub.table.get(id)
	if i == 0 {
		return s.missing(sub, id)
	}
	e := &s.wheel.slab[i]
	s.wheel.remove(i)
	e.dueNs = min(s.nowNs+sub.timeout, e.sentNs+s.b.opts.MaxMsgTimeout)
	s.wheel.add(i)
	return nil
}

// quantum is how many messages a subscriber gets before it is the next one's
// turn.
const quantum = 32

// quantumBytes bounds a batch by the length of the subscriber's last message.
const quantumBytes = 64 << 10

// deliverAll serves the round's channels.
func (s *Shard) deliverAll() {
	s.share = 0
	if s.bound > 0 {
		s.share = max(1, s.bound/max(1, len(s.looks)))
	}
	for i := 0; i < len(s.looks); i++ {
		l := s.looks[i]
		l.looking = false
		if !l.closed {
			s.deliver(l)
		}
	}
	clear(s.looks)
	s.looks = append(s.looks[:0], s.later...)
	clear(s.later)
	s.later = s.later[:0]
}

// Bound makes this round deliver about n messages, shared among the channels that
// may have some; each gets a batch at least. What is left is for rounds that follow at
// once, and EndRound says so. Zero, as at each Begin, is no bound.
func (s *Shard) Bound(n int) { s.bound = n }

// spent reports whether the channel has got its share of the round. It has its turn
// again in the next one.
func (s *Shard) spent(l *channelLocal) bool {
	if s.share == 0 || s.given < s.share {
		return false
	}
	l.looking = true
	s.later = append(s.later, l)
	return true
}

// deliver gives a channel's messages to this shard's subscribers, in turns,
// while there are messages and somebody to take them.
func (s *Shard) deliver(l *channelLocal) {
	c := l.c
	bit := uint64(1) << s.index
	if c.held.Load() != 0 || len(l.subs) == 0 {
		return
	}
	s.given = 0
	if s.b.opts.Topology {
		s.deliverNear(l)
		return
	}
	idle := 0 // subscribers in a row that took nothing
	for idle < len(l.subs) {
		if s.spent(l) {
			return
		}
		if l.turn >= len(l.subs) {
			l.turn = 0
		}
		sub := l.subs[l.turn]
		l.turn++
		room := int(min(sub.ready-sub.inFlight, quantum))
		if room <= 0 || sub.sink.Full() {
			idle++
			continue
		}
		// Full is asked between batches only: of long messages, a batch is few.
		room = min(room, max(1, quantumBytes/max(1, sub.lastSize)))
		var refs [quantum]block.Ref
		n := s.pull(l, refs[:room])
		if n == 0 {
			// Say that we starve, then look once more.
			if c.hungry.Load()&bit == 0 {
				c.hungry.Or(bit)
				l.turn--
				if c.q.waits() {
					continue
				}
			}
			s.drained(l)
			return
		}
		idle = 0
		s.send(sub, refs[:n])
	}
	// Nobody here can take more: what is left is for other loops.
	if c.hungry.Load()&bit != 0 {
		c.hungry.And(^bit)
	}
	if c.q.ring.Len() > 0 {
		s.b.wake(c, s)
		s.b.kickRefill(c.q)
		return
	}
	s.drained(l)
}

// drained is called when a channel's ring has run empty.
func (s *Shard) drained(l *channelLocal) {
	s.b.kickRefill(l.c.q)
	s.trimLater(l)
}

// send puts messages in flight and their frames into the subscriber's output.
func (s *Shard) send(sub *Subscriber, refs []block.Ref) {
	l := sub.local
	s.given += len(refs)
	before := l.inFlightCount
	for _, r := range refs {
		if sub.sample > 0 && s.rng.IntN(100) > sub.sample {
			id, _ := wire.FrameID(frameOf(s.b.pool, r))
			s.done(l, r, id)
			s.drops.Add(r.Chunk) // not kept: gone for the whole channel
			continue
		}
		if r.Aux&auxDue != 0 {
			if due := dueOf(s.b.pool, r); due > s.wallNs {
				s.deferUntil(l.c, r, due-s.wallNs+s.nowNs)
				continue
			}
			r = stripDue(r)
		}
		attempts := uint16(r.Aux) + 1
		r.Aux = uint32(attempts) | r.Aux&(auxSequence|auxJournal)
		frame := frameOf(s.b.pool, r)
		out := sub.sink.Reserve(len(frame))
		copy(out, frame)
		if attempts != 1 {
			wire.PatchAttempts(out, attempts)
		}
		id, _ := wire.FrameID(out)
		i := s.wheel.alloc()
		e := &s.wheel.slab[i]
		e.kind, e.ref, e.id, e.owner = kindInFlight, r, id, sub.index
		e.sentNs, e.dueNs = s.nowNs, s.nowNs+sub.timeout
		e.setBorn(wire.FrameTimestamp(out))
		s.wheel.add(i)
		sub.table.put(id, i)
		sub.inFlight++
		sub.sent++
		sub.lastSize = len(frame)
		l.inFlightCount++
	}
	l.delivered[sub.near] += uint64(l.inFlightCount - before)
	s.touch(l)
}
