package broker

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/mmapqueue"
	"github.com/zsqio/zsq/ring"
)

// A queue is what a channel, or a topic that holds its messages back, keeps
// messages in: a memory ring, and behind it the topic's backlog.
//
//	put ──► ring ──────────────────► pop
//	  └──► writer ──► backlog ──► refiller ──► ring
//
// Overflow is sticky. outstanding counts what was handed to the writer and has
// not come back to the ring; while it is above zero every put goes that way,
// and only the refiller pushes to the ring. A producer raises outstanding
// before it lets go of the batch, so its next message cannot pass the last one:
//
//	producer                         refiller
//	outstanding += 1, m1 to writer
//	                                 m1 from backlog to ring
//	m2: outstanding > 0, to writer
//	                                 outstanding -= 1
//	                                 m2 from backlog to ring, outstanding 0
//	m3: outstanding = 0, to ring
type queue struct {
	ring        ring.Ring[block.Ref]
	limit       int  // of the ring
	direct      bool // false with --mem-queue-size=0: everything goes through the backlog
	ephemeral   bool // overflow is dropped
	outstanding atomic.Int64
	inWriter    atomic.Int64  // part of outstanding: what the writer has in hand; raised first, lowered last
	spilled     atomic.Bool   // something went to the writer, ever: there may be a cursor
	taken       atomic.Uint64 // messages that publishers have given to this queue
	gate        gate          // of a queue that a topic holds back
	refilling   atomic.Bool
	moves       atomic.Uint64           // of the refiller, from the backlog to the ring; odd while one is under way
	unreadable  atomic.Bool             // the refiller's last read failed
	draining    atomic.Bool             // aged messages are leaving the ring: nobody else pops or refills; set under mu
	parked      atomic.Bool             // they have left it: no refill before a subscriber asks
	pinned      atomic.Uint64           // records below it, in other hands for long, keep too much of the backlog; 0: none
	dead        atomic.Bool             // deleted: pushes are drained by the deleter, batches are dropped; set in the writer's order
	owner       atomic.Pointer[Channel] // whose it is; nil: a topic holds it back

	topic   *Topic                  // never changes
	journal *mmapqueue.JournalQueue // what the journal knows it by; nil without one
	known   atomic.Bool             // the journal may have something of it

	// The reader's side, under mu: only the refiller, empty and close take it.
	mu       sync.Mutex
	cursor   *mmapqueue.Cursor // nil until something went to the backlog
	left     []block.Ref       // read or given back, not yet in the ring
	suspects suspects          // what a crash may have left in the backlog and in the journal

	// The sweeper's: where the ring ended when a sweep last looked, and when.
	mark   uint64
	marked int64  // monotonic ns; 0: it was empty
	atMark uint64 // the journal's segment then
}

// memory says how much of the budget for messages is left.
type memory uint8

const (
	memoryPlenty memory = iota
	memoryShort         // long queues overflow to disk, short ones go on: who made it short waits for the disk
	memoryGone          // all queues overflow
)

// shortRing is how many messages a queue may hold in memory while that is short.
const shortRing = 256

func (b *Broker) memory() memory {
	budget, used := b.pool.Budget(), b.pool.Used()
	switch {
	case budget <= 0 || used <= budget-budget/5:
		return memoryPlenty
	case used <= budget:
		return memoryShort
	}
	return memoryGone
}

// ringWithoutMemory is how many messages may wait in memory on their way from
// the backlog with --mem-queue-size=0; they count as backlog.
const ringWithoutMemory = 1024

func (q *queue) init(b *Broker, ephemeral bool) {
	q.ephemeral = ephemeral
	q.limit, q.direct = b.opts.MemQueueSize, true
	if q.limit == 0 {
		// An ephemeral queue has no backlog to go through.
		q.limit, q.direct = ringWithoutMemory, ephemeral
	}
	q.ring.Init(q.limit, b.blocks)
}

// put takes a prefix of refs into memory and returns its length; the rest is
// already counted as outstanding and must be handed to the topic's writer,
// unless the queue is ephemeral, whose overflow is the caller's to drop.
func (q *queue) put(refs []block.Ref, m memory) int {
	n := 0
	if q.direct && q.outstanding.Load() == 0 {
		switch m {
		case memoryPlenty:
			n = q.ring.TryPush(refs)
		case memoryShort:
			n = q.ring.TryPush(refs[:min(len(refs), max(0, shortRing-q.ring.Len()))])
		}
	}
	if n < len(refs) && !q.ephemeral {
		if !q.spilled.Load() {
			q.spilled.Store(true)
		}
		q.inWriter.Add(int64(len(refs) - n))
		q.outstanding.Add(int64(len(refs) - n))
	}
	return n
}

// pop takes messages from the ring for a subscriber.
func (q *queue) pop(refs []block.Ref) int {
	if q.draining.Load() {
		return 0
	}
	return q.ring.TryPop(refs)
}

// waits reports whether pop would find something.
func (q *queue) waits() bool { return q.ring.Len() > 0 && !q.draining.Load() }

// depth returns how many messages wait, and how many of them on disk. What is just
// being moved from the one to the other is counted once.
func (q *queue) depth() (total, backend int64) {
	for {
		moves := q.moves.Load()
		total = int64(q.ring.Len()) // first: what was in flight may go from there to the other
		backend = q.outstanding.Load()
		if moves&1 == 0 && q.moves.Load() == moves {
			break
		}
		runtime.Gosched()
	}
	if !q.direct {
		backend += total
		return backend, backend
	}
	return total + backend, backend
}

// wantsRefill reports whether the refiller should run: something is out and
// the ring has run low.
func (q *queue) wantsRefill(m memory) bool {
	limit, _ := q.share(m)
	return q.outstanding.Load() > 0 && q.ring.Len() <= limit/2
}

// share returns how many messages the ring may hold when the refiller brings
// them, and how many one step may bring. There is always room for some: a queue
// that is drained from disk must come to its end however short memory is.
func (q *queue) share(m memory) (limit, step int) {
	switch m {
	case memoryShort:
		return min(q.limit, shortRing), refillBatch / 8
	case memoryGone:
		return min(q.limit, shortRing/8), refillBatch / 32
	}
	return q.limit, refillBatch
}

// refillBatch bounds what one step of a refiller moves.
const refillBatch = 512

// refillPause is how long a refiller waits before it tries once more to read what it
// could not: most likely there are no descriptors left. (What is damaged is passed
// over.)
const refillPause = 50 * time.Millisecond

// refill moves messages from the backlog to the ring until it is full or
// nothing is left. It is the body of the refiller goroutine.
func (q *queue) refill(b *Broker) {
	for {
		if q.refillStep(b) > 0 {
			continue
		}
		if q.unreadable.Load() {
			if b.closing.Load() {
				q.refilling.Store(false)
				return
			}
			time.Sleep(refillPause)
		}
		q.refilling.Store(false)
		// Whoever asked between the last step and the store was turned away
		// by the flag: look once more.
		if !q.canRefill(b.memory()) || !q.refilling.CompareAndSwap(false, true) {
			return
		}
	}
}

func (q *queue) canRefill(m memory) bool {
	limit, _ := q.share(m)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead.Load() || q.draining.Load() || q.ring.Len() >= limit {
		return false
	}
	return len(q.left) > 0 || q.cursor != nil && q.cursor.Depth() > 0
}

// refillStep moves one batch, and wakes who starves for it. Whoever calls it may not
// know whose the queue is: a channel inherits it beside the pump.
func (q *queue) refillStep(b *Broker) (moved int) {
	moved = q.takeBack(b)
	if c := q.owner.Load(); c != nil && moved > 0 {
		b.wake(c, nil)
	}
	return moved
}

// takeBack is refillStep without the waking.
func (q *queue) takeBack(b *Broker) (moved int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	limit, step := q.share(b.memory())
	room := min(limit-q.ring.Len(), step)
	if room <= 0 || q.dead.Load() || q.draining.Load() {
		return 0
	}
	if len(q.left) < room && q.cursor != nil && q.cursor.Depth() > 0 {
		var again []uint64
		before := len(q.left)
		arena := b.foreign.read.take()
		_, err := q.cursor.Read(room-len(q.left), func(r *mmapqueue.Record) {
			if q.suspects.known(r) {
				again = append(again, r.Sequence)
				return
			}
			q.left = append(q.left, storeRecord(arena, r))
		})
		b.foreign.read.keep(arena)
		b.finishBelow(q, again)
		// The cursor may have found less than it had promised, for damage is found
		// by who reads, or more in upstream's files. The backlog has logged it.
		if n := q.cursor.Corrected() - int64(len(again)); n != 0 {
			q.outstanding.Add(n)
			q.gate.count.Add(n)
		}
		if err != nil {
			b.diskFailed(err)
		}
		q.unreadable.Store(err != nil)
		b.adoptRead(q, q.left[before:])
	}
	q.moves.Add(1)
	moved = q.ring.TryPush(q.left[:min(room, len(q.left))])
	if n := q.outstanding.Add(-int64(moved)); n < 0 {
		invariant.Check(false, "broker: %d messages more came back than went out", -n)
		q.outstanding.Add(-n) // a wrong figure is not worth the messages in memory
		q.gate.count.Add(-n)
	}
	q.moves.Add(1)
	if len(q.left) > 2*refillBatch {
		q.left = q.left[moved:] // what a start found: not to be moved up each time
	} else {
		q.left = append(q.left[:0], q.left[moved:]...)
		if len(q.left) == 0 && cap(q.left) > 2*refillBatch {
			q.left = nil
		}
	}
	return moved
}

// giveBack puts messages in front of what the backlog still has. They are
// outstanding already.
func (q *queue) giveBack(b *Broker, refs []block.Ref) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.dead.Load() {
		q.left = append(q.left, refs...)
		return
	}
	q.outstanding.Add(-int64(len(refs)))
	b.releaseAll(refs)
}

// empty drops everything that waits and returns how many messages went. It runs
// in the writer's order, so that no batch is appended meanwhile.
func (q *queue) empty(b *Broker) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var refs [64]block.Ref
	for {
		k := q.ring.TryPop(refs[:])
		if k == 0 {
			break
		}
		n += k
		b.finished(q, refs[:k])
		b.releaseAll(refs[:k])
	}
	gone := len(q.left)
	b.finished(q, q.left)
	b.releaseAll(q.left)
	q.left = nil
	if q.cursor != nil {
		gone += int(q.cursor.Depth())
		q.cursor.Empty()
	}
	q.outstanding.Add(-int64(gone))
	q.ring.Trim()
	return n + gone
}
