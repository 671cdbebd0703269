package broker

import (
	"errors"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/mmapqueue"
)

// A chunk of message memory is free when its last message is. One that waits
// for an hour on a quiet channel keeps 256 KB, and a thousand of them a budget
// that busy topics need. When memory runs short a sweep moves what is old: out of
// the rings into the backlogs, and from a subscriber's hands into an arena of the
// old. While there is enough of it everything stays where it is.
const (
	agedNs     = 5e9  // what has waited or been in flight this long is old
	drainBatch = 4096 // messages written at a time
	copyStep   = 2000 // entries of the wheel that one round looks at
)

// Sweep moves old messages out of the way of new ones if memory runs short, or if
// always is set. It is to be called about once a second at nowNs, monotonic, by
// one goroutine that is no loop; it waits for loops and for the disk.
func (b *Broker) Sweep(nowNs int64, always bool) {
	b.trimJournal()
	keep := b.keepFrom.Load()
	pinned := false
	always = always || b.pool.Budget() > 0 && b.pool.Used() > b.pool.Budget()/2
	for _, t := range b.topics.all() {
		v := t.view.Load()
		if v.hold != nil {
			b.sweepQueue(t, v.hold, nowNs, always)
		}
		for _, c := range v.channels {
			b.sweepQueue(t, c.q, nowNs, always)
			pinned = b.unpin(t, c.q) || pinned
		}
	}
	if always || keep > 0 || pinned {
		b.foreign.renew(keep)
		for _, s := range b.shards {
			b.opts.Waker.Do(s.index, func() { s.copyAt = 1 })
		}
	}
}

// unpin has a queue's backlog let go of segments that it keeps for a few messages in
// other hands: these are written again, behind the others, or in the modes with a
// journal they become the journal's. It reports whether the loops must do that; the
// next sweep does it for what still waits in memory.
func (b *Broker) unpin(t *Topic, q *queue) (loops bool) {
	if q.ephemeral || !q.spilled.Load() || !q.mu.TryLock() {
		return false
	}
	cursor := q.cursor
	q.mu.Unlock()
	if cursor == nil {
		return false
	}
	below := cursor.Pinned()
	if q.durable() {
		q.pinned.Store(below)
		return below > 0
	}
	q.pinned.Store(0)
	if below > 0 {
		t.writer.inOrder(func(log *mmapqueue.Backlog) {
			if _, err := cursor.Renew(); err != nil && !errors.Is(err, mmapqueue.ErrClosed) {
				b.writeFailed(err, 0)
			}
		})
	}
	return false
}

func (b *Broker) sweepQueue(t *Topic, q *queue, nowNs int64, drain bool) {
	switch {
	case q.ring.Len() == 0:
		q.marked = 0
	case q.marked == 0 || q.ring.Passed(q.mark):
		q.mark, q.marked, q.atMark = q.ring.Mark(), nowNs, b.segment()
	case q.ephemeral:
	case q.direct && drain && nowNs-q.marked >= agedNs, q.atMark < b.keepFrom.Load(), q.pinned.Load() > 0:
		t.writer.inOrder(func(log *mmapqueue.Backlog) {
			if log != nil {
				t.drain(q)
			}
		})
		q.marked = 0
	}
}

// drain moves what is in a queue's ring to its backlog. It runs in the writer's
// order, so that whatever is published meanwhile comes behind it.
//
//	loop or foreign publisher          writer
//	                                   draining = true, outstanding += 1
//	(a put that saw outstanding 0)
//	m1 to ring
//	                                   every loop and publisher seen: grace
//	m2: outstanding > 0, to writer
//	                                   m1 from ring to backlog
//	                                   m2 from ring to backlog
func (t *Topic) drain(q *queue) {
	b := t.b
	q.mu.Lock() // no refill is under way
	q.draining.Store(true)
	q.mu.Unlock()
	q.inWriter.Add(1)
	// Behind what the backlog holds already the ring's messages would be late. And
	// without a memory of its own the ring has only what has just come from there,
	// or has been found in the journal by a start.
	if !q.direct || !q.outstanding.CompareAndSwap(0, 1) {
		q.inWriter.Add(-1)
		t.renew(q)
		q.draining.Store(false)
		b.pushedAgain(q)
		return
	}
	q.spilled.Store(true)
	b.onAll(func(*Shard) {}) // or no loop runs any more
	b.foreign.grace()
	q.parked.Store(true)
	refs := make([]block.Ref, drainBatch)
	for !q.dead.Load() {
		q.moves.Add(1) // as the refiller, who is not at work
		n := q.ring.TryPop(refs)
		q.inWriter.Add(int64(n))
		q.outstanding.Add(int64(n))
		q.moves.Add(1)
		if n == 0 {
			break
		}
		t.writer.do(&job{refs: refs[:n], want: []want{{q: q, journaled: true}}})
	}
	q.ring.Trim()
	q.outstanding.Add(-1)
	q.inWriter.Add(-1)
	q.draining.Store(false)
	b.pushedAgain(q)
}

// pushedAgain makes subscribers look that were told meanwhile that there is
// nothing.
func (b *Broker) pushedAgain(q *queue) {
	b.kickRefill(q)
	if c := q.owner.Load(); c != nil {
		b.wake(c, nil)
	}
}

// unpark reports whether somebody wants what was parked, and ends the parking.
// The asking shard sets its bit before it calls kickRefill; so does drain set
// parked before it ends: one of the two sees the other.
func (q *queue) unpark() bool {
	c := q.owner.Load()
	if c == nil || c.hungry.Load() == 0 {
		return false
	}
	q.parked.Store(false)
	return true
}

// copyOld moves old messages in flight into the arena of the old, some entries a
// round. It reports whether there are more to look at.
func (s *Shard) copyOld() (again bool) {
	if s.copyAt == 0 {
		return false
	}
	keep := s.b.keepFrom.Load()
	s.arena.Renew(keep)
	s.cold.Renew(keep)
	end := min(s.copyAt+copyStep, uint32(len(s.wheel.slab)))
	for ; s.copyAt < end; s.copyAt++ {
		e := &s.wheel.slab[s.copyAt]
		if e.kind != kindInFlight && e.kind != kindDeferred {
			continue
		}
		var c *Channel
		due := int64(0)
		if e.kind == kindInFlight {
			c = s.subs[e.owner].local.c
		} else {
			c, due = s.locals[e.owner].c, e.dueNs-s.nowNs+s.wallNs
		}
		if e.ref.Aux&auxSequence != 0 && sequenceOf(s.b.pool, e.ref) < c.q.pinned.Load() {
			old := e.ref.Chunk
			e.ref = s.journalPut(c, copyTo(s.cold, s.b.pool, e.ref), due)
			if e.kind == kindInFlight {
				e.ref.Aux |= auxCold
			}
			s.drops.Add(old)
			continue
		}
		aged := e.kind == kindInFlight && s.nowNs-e.sentNs >= agedNs && e.ref.Aux&auxCold == 0
		if !aged && s.b.pool.MarkOf(e.ref.Chunk) >= keep {
			continue
		}
		old := e.ref.Chunk
		e.ref = copyTo(s.cold, s.b.pool, e.ref)
		if e.kind == kindInFlight {
			e.ref.Aux |= auxCold
		}
		s.journalCopy(c, e.ref, due)
		s.drops.Add(old)
	}
	if int(s.copyAt) < len(s.wheel.slab) {
		return true
	}
	s.copyAt = 0
	return false
}
