package broker

import (
	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// Durability says what is safe from what. Ephemeral topics and channels are
// never more than in memory.
type Durability int

const (
	// DurabilityMemory keeps what overflowed through the death of the process,
	// and everything through a clean stop.
	DurabilityMemory Durability = iota
	// DurabilityProcess keeps every accepted message through the death of the
	// process.
	DurabilityProcess
	// DurabilityDisk keeps every accepted message through a loss of power.
	DurabilityDisk
)

// In the process and disk modes every message that is in memory stands in the
// journal of package mmapqueue as well, and what happens to it follows. Topics may
// differ in their modes and change them; so each message knows whether it stands
// there (auxJournal), and of one that does not the journal hears nothing. In memory
// mode that is so for all but those that an earlier run, or mode, has left there.
//
//	published           message, for a group of queues      before it is in a ring;
//	                                                        its OK waits for the commit
//	finished, sampled   finish                              at the end of the round
//	given back          update: attempts
//	delayed, copied     put: the whole message again, for one queue
//	pump                move: from what the topic held back to its channels
//	overflow            not in the journal, if that is clear before: it goes to the
//	                    backlog, and its OK waits for that
//	gone to the backlog finish, behind the append
//	read from there     finished, with the sequence in the backlog
//	emptied             empty, before anything is dropped: see Channel.Empty
//
// A message that a queue has read from its backlog carries its sequence until it
// is finished: it stays the backlog's, in every mode, and the journal only hears of
// its end.
//
// A journal's segment may go when nothing in memory is that old. Every chunk of
// message memory is marked with the segment that was current when it got its
// first message, so this costs nothing per message. What is old holds a segment
// back; when they take more than their budget the sweep moves it: rings to the
// backlog, the rest into younger chunks, with a put.
//
// All this is told to the journal in the order in which it happened to each
// message: a round submits what it publishes before it pushes it, and what ended
// before that. Nobody can therefore finish a message ahead of its record.

// A message that changes places stands in both for a moment. A crash then brings
// two copies, and the start has to know that they are one message. It does when one
// of them is in the journal (see suspects). So whatever goes from the backlog to
// another place in it is put into the journal first, and what goes from there to
// the journal is finished there when the journal has it.

// source is what a queue has finished of its backlog. replaced says that the
// journal has the messages instead, once it is written.
type source struct {
	q         *queue
	sequences []uint64
	replaced  bool
}

// toJournal returns the round's batch.
func (s *Shard) toJournal() *mmapqueue.JournalBatch {
	if s.batch == nil {
		s.batch = s.b.journal.Batch()
	}
	return s.batch
}

// journalRound submits what the round has published and ended. The publishers
// hear of it from a ticket, those too whose messages go to the backlog: the OK of
// a PUB answers for every FIN before it.
func (s *Shard) journalRound() {
	s.gather()
	s.room = s.room[:0]
	m := s.b.memory()
	durable := len(s.unborn) > 0
	for _, t := range s.topics {
		l := &t.locals[s.index]
		l.view, l.roomAt = nil, len(s.room)
		if t.exiting.Load() {
			continue
		}
		if t.unborn.Load() {
			s.unborn = append(s.unborn, &t.unborn)
			durable = true
		}
		l.view = t.enter(len(l.batch))
		s.room = l.view.decide(s.room, m)
		if l.view.group != nil {
			durable = true
			s.journalBatch(t, l.view, l.batch, s.room[l.roomAt:])
		}
	}
	if !durable {
		s.submit(nil)
		return
	}
	t := s.ticket()
	for _, p := range s.publishers {
		t.waiters = append(t.waiters, p.join())
	}
	if len(s.unborn) > 0 {
		t.births, s.unborn = s.unborn, nil
		s.toJournal().Flush() // the births stand before it
	}
	s.submit(t)
}

// Tickets of the journal are used again.
const (
	ticketsKept = 64
	waitersKept = 1024
)

func (s *Shard) ticket() *ticket {
	n := len(s.tickets)
	if n == 0 {
		t := &ticket{shard: s}
		t.written = t.journalWritten
		return t
	}
	t := s.tickets[n-1]
	s.tickets[n-1] = nil
	s.tickets = s.tickets[:n-1]
	return t
}

func (s *Shard) keepTicket(t *ticket) {
	if t.written != nil && len(s.tickets) < ticketsKept && cap(t.waiters) <= waitersKept {
		clear(t.waiters)
		t.waiters, t.births, t.err = t.waiters[:0], nil, nil
		s.tickets = append(s.tickets, t)
	}
}

// enter returns the view for a batch of n messages, which it counts in at the
// gate if there is one.
func (t *Topic) enter(n int) *view {
	v := t.view.Load()
	for v.hold != nil && !v.hold.gate.enter(int64(n)) {
		v = t.view.Load() // the pump has just closed the gate
	}
	return v
}

// decide appends for each queue of the view what memory a batch may take there. It
// is decided once, before the journal is written: a batch that is to go past the
// memory does so even if there is room by the time of the push.
func (v *view) decide(room []memory, m memory) []memory {
	if v.hold != nil {
		return append(room, v.hold.room(m))
	}
	for _, c := range v.channels {
		room = append(room, c.q.room(m))
	}
	return room
}

// room returns m, or memoryGone when all that is put now would go past memory.
func (q *queue) room(m memory) memory {
	if !q.direct || q.outstanding.Load() > 0 || m == memoryShort && q.ring.Len() >= shortRing {
		return memoryGone
	}
	return m
}

// journalBatch adds a topic's batch to the round's, unless it goes to the backlog
// of every queue: there it is safe.
func (s *Shard) journalBatch(t *Topic, v *view, refs []block.Ref, room []memory) {
	batch := s.toJournal()
	if v.needsJournal(refs, room) {
		s.scratch = s.b.journalMessages(batch, t, v, refs, room, s.scratch[:0])
	}
}

// needsJournal reports whether some of a batch stays in memory for a queue that
// is no ephemeral channel's.
func (v *view) needsJournal(refs []block.Ref, room []memory) bool {
	if v.hold != nil {
		return room[0] != memoryGone
	}
	for i, c := range v.channels {
		if room[i] != memoryGone && c.q.journal != nil {
			return true
		}
	}
	return hasDue(refs)
}

// syncs reports whether what is accepted for the topic has to survive a loss of
// power.
func (t *Topic) syncs() bool { return t.mode.Load() >= int32(DurabilityDisk) }

// journalMessages adds messages for all queues of v, less those that go to the
// backlog of a queue anyhow. A batch with deferred messages is written for all:
// these stay in memory, whatever the queue does. The messages are marked as the
// journal's, which for those queues nobody looks at. ids is scratch.
func (b *Broker) journalMessages(batch *mmapqueue.JournalBatch, t *Topic, v *view, refs []block.Ref, room []memory, ids []uint64) []uint64 {
	batch.Use(v.group)
	if t.syncs() {
		batch.Sync()
	}
	for i, r := range refs {
		refs[i].Aux |= auxJournal
		frame := frameOf(b.pool, r)
		id, _ := wire.FrameID(frame)
		batch.Message(v.group, id, wire.FrameTimestamp(frame), dueOf(b.pool, r), 0, wire.FrameBody(frame))
		ids = append(ids, id)
	}
	if v.hold == nil && !hasDue(refs) {
		for i, c := range v.channels {
			if room[i] == memoryGone && c.q.journal != nil {
				batch.Finish(c.q.journal, ids)
			}
		}
	}
	return ids
}

// done notes that a message of a channel is gone for good.
func (s *Shard) done(l *channelLocal, r block.Ref, id uint64) {
	switch {
	case r.Aux&auxSequence != 0:
		l.goneBelow = append(l.goneBelow, sequenceOf(s.b.pool, r))
	case r.Aux&auxJournal != 0 && l.c.q.journal != nil:
		l.gone = append(l.gone, id)
	}
}

// forgotten is done for a message whose id is not at hand.
func (s *Shard) forgotten(l *channelLocal, r block.Ref) {
	id, _ := wire.FrameID(frameOf(s.b.pool, r))
	s.done(l, r, id)
}

// updated notes the attempts of a message that is given back, and returns its
// descriptor.
func (s *Shard) updated(l *channelLocal, r block.Ref, id uint64) block.Ref {
	if r.Aux&auxJournal == 0 {
		return s.secured(l.c, r, 0)
	}
	if l.c.q.journal != nil {
		l.updates = append(l.updates, mmapqueue.JournalUpdate{ID: id, Attempts: uint16(r.Aux & auxAttempts)})
	}
	return r
}

// secured returns a message's descriptor, and writes the message if it stands
// nowhere though its topic's mode wants it to: it is older than the mode.
func (s *Shard) secured(c *Channel, r block.Ref, dueWallNs int64) block.Ref {
	if r.Aux&(auxSequence|auxJournal) == 0 && c.q.durable() {
		s.b.put(s.toJournal(), c.q, r, dueWallNs)
		r.Aux |= auxJournal
	}
	return r
}

// journalCopy writes a message that was copied into a younger chunk, if it is the
// journal's.
func (s *Shard) journalCopy(c *Channel, r block.Ref, dueWallNs int64) {
	if r.Aux&auxJournal != 0 && c.q.journal != nil {
		s.b.put(s.toJournal(), c.q, r, dueWallNs)
	}
}

// journalPut writes a message that was copied and has a new due time, and returns
// its descriptor. In the journal's modes it is the backlog's no longer: the due
// time would be lost there.
func (s *Shard) journalPut(c *Channel, r block.Ref, dueWallNs int64) block.Ref {
	if c.q.journal == nil || r.Aux&auxJournal == 0 && !c.q.durable() {
		return r
	}
	s.b.put(s.toJournal(), c.q, r, dueWallNs)
	if r.Aux&auxSequence != 0 {
		s.sources = append(s.sources, source{q: c.q, sequences: []uint64{sequenceOf(s.b.pool, r)}, replaced: true})
	}
	r = dropSequence(r)
	r.Aux |= auxJournal
	return r
}

func (b *Broker) put(batch *mmapqueue.JournalBatch, q *queue, r block.Ref, dueWallNs int64) {
	if q.topic.syncs() {
		batch.Sync() // where it stood before may go as soon as this is written
	}
	frame := frameOf(b.pool, r)
	id, _ := wire.FrameID(frame)
	batch.Put(q.journal, id, wire.FrameTimestamp(frame), dueWallNs, uint16(r.Aux&auxAttempts), wire.FrameBody(frame))
}

// gather adds to the round's batch what has ended or changed in it.
func (s *Shard) gather() {
	for _, l := range s.touched {
		q := l.c.q
		if len(l.goneBelow) > 0 {
			if q.durable() {
				s.toJournal().FinishBacklog(q.journal, l.goneBelow)
			}
			if !q.ephemeral {
				s.sources = append(s.sources, source{q: q, sequences: l.goneBelow})
			}
			l.goneBelow = nil
		}
		if len(l.updates) > 0 {
			s.toJournal().Update(q.journal, l.updates)
			l.updates = nil
		}
		if len(l.gone) > 0 {
			s.toJournal().Finish(q.journal, l.gone)
			if l.gone = l.gone[:0]; cap(l.gone) > goneKeep {
				l.gone = nil
			}
		}
	}
}

// goneKeep is the longest list of finished messages whose memory a channel keeps.
const goneKeep = 1 << 14

// submit gives the round's batch to the journal and tells t when it is written.
// What ended in the backlogs is told to them behind that. For what was replaced
// the journal is told only then, too: any part of a batch may be what a loss of
// power leaves. (A FIN of such a message can be no earlier than in the same commit.)
func (s *Shard) submit(t *ticket) {
	sources := s.sources
	s.sources = nil
	batch := s.batch
	s.batch = nil
	if batch == nil {
		for _, src := range sources {
			s.b.finishLater(src, 0)
		}
		return
	}
	segment := s.b.journal.Segment() // or one behind it
	if len(sources) == 0 {
		if t == nil {
			s.b.journal.Later(batch)
		} else {
			s.b.journal.Submit(batch, t.written)
		}
		return
	}
	s.b.journal.Submit(batch, func(err error) {
		if err == nil {
			for _, src := range sources {
				if src.replaced {
					s.b.finishInJournal(src.q, src.sequences)
				}
				s.b.finishLater(src, segment)
			}
		}
		if t != nil {
			t.journalWritten(err)
		}
	})
}

// journalFailed returns why a publish would not be safe now.
func (t *Topic) journalFailed() error {
	if !t.durable() {
		return nil
	}
	return t.b.journal.Err()
}

// durable reports whether the topic's messages stand in the journal while they are
// in memory. It is false for an ephemeral topic, and without a journal.
func (t *Topic) durable() bool { return t.mode.Load() >= int32(DurabilityProcess) }

// durable reports whether that is so for what is put into q.
func (q *queue) durable() bool { return q.journal != nil && q.topic.durable() }
