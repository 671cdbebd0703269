package broker

import "github.com/zsqio/zsq/internal/latency"

// Figures for /stats. All of them may be read from any goroutine.

// Depth returns how many messages the topic itself keeps, and how many of those
// on disk.
func (t *Topic) Depth() (total, backend int64) {
	if v := t.view.Load(); v.hold != nil {
		return v.hold.depth()
	}
	return 0, 0
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

// Figures are a channel's counts since the process started, as of the loops'
// last rounds.
type Figures struct {
	InFlight, Deferred, Clients  int64
	Messages, Requeues, Timeouts uint64
}

// Figures returns the channel's counts.
func (c *Channel) Figures() Figures {
	return Figures{
		InFlight: max(0, c.inFlight.Load()),
		Deferred: max(0, c.deferred.Load()),
		Clients:  max(0, c.clients.Load()),
		Messages: c.q.taken.Load(),
		Requeues: c.requeues.Load(),
		Timeouts: c.timeouts.Load(),
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
