package broker

import (
	"sync/atomic"

	"github.com/zsqio/zsq/internal/latency"
)

// Figures for /stats. All of them may be read from any goroutine.

// Depth returns how many messages the topic itself keeps, and how many of those
// on disk. What is on its way to the channels is in it until they have it: who reads
// the channels' figures after it sees every message.
func (t *Topic) Depth() (total, backend int64) {
	v := t.view.Load()
	if v.hold == nil {
		return 0, 0
	}
	total, backend = v.hold.depth()
	total = max(total, v.hold.gate.count.Load())
	if !v.hold.direct {
		backend = total
	}
	return total, backend
}

// Messages returns how many messages were published, and their bodies' bytes,
// since the process started.
func (t *Topic) Messages() (count, bytes uint64) { return t.messages.Load(), t.bytes.Load() }

// Depth returns how many messages wait in the channel, and how many of those on
// disk. Messages in flight and deferred are not in it.
func (c *Channel) Depth() (total, backend int64) { return c.q.depth() }

// Damage is what was found damaged on disk since the process started. Each place, a
// record, the end of a file or a file, is counted once and has a line in the log.
type Damage struct {
	Places  int64
	Records int64 // that are lost, as far as that can be known; a few of them are no messages
}

// Damage returns what was found in the topic's backlog.
func (t *Topic) Damage() Damage {
	if log := t.writer.opened.Load(); log != nil {
		return Damage{log.Damaged(), log.Lost()}
	}
	return Damage{}
}

// Damage returns what was found in all topics' backlogs, and in the journal. Of the
// journal nobody can say whose it was.
func (b *Broker) Damage() Damage {
	d := Damage{b.gone.places.Load(), b.gone.records.Load()}
	for _, t := range b.topics.all() {
		of := t.Damage()
		d.Places += of.Places
		d.Records += of.Records
	}
	if b.journal != nil {
		d.Places += b.journal.Damaged()
		d.Records += b.journal.Lost()
	}
	return d
}

// flow counts messages that go through a place. There are came-left of them in it.
type flow struct{ came, left atomic.Int64 }

// Figures are a channel's counts: where its messages are, and what happened since the
// process started, as of the loops' last rounds.
type Figures struct {
	Depth, Backend               int64 // as Channel.Depth
	InFlight, Deferred, Clients  int64
	Messages, Requeues, Timeouts uint64
}

// Figures returns the channel's counts. Depth, InFlight and Deferred together are never
// less than the messages that the channel has. While messages move they may be more for
// a moment, for one that is just given to a consumer, or given back, may be counted in
// both places. When nothing moves all of them are exact.
func (c *Channel) Figures() Figures {
	f := Figures{
		Clients:  max(0, c.clients.Load()),
		Messages: c.q.taken.Load(),
		Requeues: c.requeues.Load(),
		Timeouts: c.timeouts.Load(),
	}
	f.places(c)
	return f
}

// looksMost is how often places looks for a moment in which nothing moves.
const looksMost = 5

// places counts the channel's messages. They go round, and the loops count what has
// come to a place before it has left the last one. So what has left is read first and
// what has come last:
//
//	places                            a loop
//	1 of 1 has left the consumers
//	                                  2nd has come to the consumers
//	                                  2nd goes from the queue to them
//	0 in the queue
//	                                  2nd goes back to the queue
//	                                  2nd has left the consumers
//	2 have come to the consumers:
//	2-1+0 there are
//
// Whatever moved meanwhile can thus be counted too often, but not too seldom. Of a few
// looks that differ the one with the fewest is the best.
func (f *Figures) places(c *Channel) {
	for look := range looksMost {
		inFlight, deferred := -c.inFlight.left.Load(), -c.deferred.left.Load()
		before := c.inFlight.came.Load() + c.deferred.came.Load()
		depth, backend := c.q.depth()
		inFlight += c.inFlight.came.Load()
		deferred += c.deferred.came.Load()
		left := c.inFlight.left.Load() + c.deferred.left.Load()
		if look == 0 || depth+inFlight+deferred < f.Depth+f.InFlight+f.Deferred {
			f.Depth, f.Backend, f.InFlight, f.Deferred = depth, backend, inFlight, deferred
		}
		if before-left == inFlight+deferred {
			return
		}
	}
}

// endToEnd counts a message that was finished ns after its publication.
func (s *Shard) endToEnd(l *channelLocal, ns int64) {
	s.e2e.Record(ns, 1)
	if s.b.opts.E2EWindow == 0 {
		return
	}
	sketch := l.e2e.Load()
	if sketch == nil {
		sketch = latency.NewSketch(s.b.opts.E2EWindow)
		l.e2e.Store(sketch)
	}
	sketch.Record(s.nowNs, ns)
}

// EndToEnd returns how long messages took from publication to FIN, on this shard
// since it started. Only its loop may ask.
func (s *Shard) EndToEnd() latency.Histogram { return s.e2e }

// EndToEnd adds to m how long the channel's messages took from publication to
// FIN in the window that Options.E2EWindow names. nowNs is monotonic.
func (c *Channel) EndToEnd(m *latency.Merged, nowNs int64) {
	for i := range c.locals {
		l := c.locals[i].Load()
		if l == nil {
			continue
		}
		if sketch := l.e2e.Load(); sketch != nil {
			m.Add(sketch, nowNs)
		}
	}
}
