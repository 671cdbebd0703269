package ring

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/zsqio/zsq/internal/invariant"
)

// A position is one word:
//
//	63                          8    7      6..0
//	┌────────────────────────────┬────────┬────────┐
//	│ block number               │ sealed │ offset │
//	└────────────────────────────┴────────┴────────┘
//
// The offset is that of the next slot, 0 to 64. A position is closed, and
// nobody may claim from it, when its offset is 64 (the block is used up) or when
// it is sealed (the ring gave the block back before it was used up). Positions
// only grow and wrap harmlessly at 2^64, because block numbers do.
const (
	offsetMask = 1<<7 - 1
	usedUp     = blockSlots // as a bit: offsets inside a block do not have it
	sealed     = 1 << 7
	closed     = usedUp | sealed
	numberMask = ^uint64(1<<8 - 1)
	numberStep = 1 << 8
)

// distance returns how many slots lie from head to tail; negative when head is
// the later one. It stands for number of values because a ring skips the rest of
// a sealed block only when empty, and moves head over it before tail.
func distance(tail, head uint64) int64 {
	blocks := int64(tail&numberMask-head&numberMask) / numberStep
	return blocks*blockSlots + int64(tail&offsetMask) - int64(head&offsetMask)
}

// Ring is a queue of at most limit values for any number of producers and
// consumers. The zero Ring is always full and always empty; Init makes it
// useful. A Ring must not be copied after Init.
//
// T should be small and free of pointers: a slot keeps its last value until it
// is overwritten.
//
// A ring holds no block before its first push. Consumers give blocks back as
// they leave them; a drained ring therefore holds one block that is partly used,
// or none, and [Ring.Trim] gives that one back. This is left to the caller
// because only it knows that a ring has been idle for a while: a ring that is
// filled and drained in every loop round would otherwise visit the pool in
// every round.
//
// Invariant: head <= tail <= head+limit, as distances.
// Either both block pointers are nil and both positions are closed, or neither
// is nil and the chain leads from headBlock to tailBlock.
type Ring[T any] struct {
	limit int64
	pool  *Pool[T]
	mu    sync.Mutex // guards linking, leaving and sealing blocks

	_         cacheLine
	tail      atomic.Uint64            // next position to push; CAS by producers while open
	tailBlock atomic.Pointer[block[T]] // tail's block; stored under mu while tail is closed
	headSeen  atomic.Uint64            // a former head, which never promises too much room; written by producers

	_         cacheLine
	head      atomic.Uint64            // next position to pop; CAS by consumers while open
	headBlock atomic.Pointer[block[T]] // head's block; stored under mu while head is closed

	_ cacheLine
}

// span is a run of slots of one block that an actor has in view, and owns once
// its claim succeeded. A span of no slots has n == 0.
type span[T any] struct {
	block *block[T]
	at    uint64 // the position of the first slot; open
	n     int    // number of slots; they do not leave the block
}

// Init makes r an empty ring of at most limit values whose blocks come from
// pool, which the ring shares and never closes. A limit of 0 makes a ring that
// is always full and never takes a block. It must be called once, before any
// other method, and panics when limit is negative.
func (r *Ring[T]) Init(limit int, pool *Pool[T]) {
	if limit < 0 {
		panic("ring: negative limit")
	}
	r.limit = int64(limit)
	r.pool = pool
	r.startAt(0)
}

// startAt closes an empty ring's positions at the start of the given block.
func (r *Ring[T]) startAt(number uint64) {
	at := number*numberStep | sealed
	r.head.Store(at)
	r.tail.Store(at)
	r.headSeen.Store(at)
}

// TryPush appends a prefix of src and returns its length, which is less than
// len(src) only when the ring was full. The values are copied; src stays the
// caller's.
//
// Values pushed by one goroutine are popped in the order in which it pushed
// them. The values of one call stand together except where they cross from one
// block into the next, at most once per 64 values: there, other producers'
// values may come between.
//
// When TryPush returns, its values are published; a caller that wakes
// consumers must do so after that, whatever it saw before.
func (r *Ring[T]) TryPush(src []T) int {
	pushed := 0
	for pushed < len(src) {
		s := r.viewTail(len(src) - pushed)
		if s.n == 0 {
			break
		}
		if r.claimTail(s) {
			s.publish(src[pushed : pushed+s.n])
			pushed += s.n
		}
	}
	return pushed
}

// TryPop moves up to len(dst) of the oldest values to dst and returns their
// number. It returns fewer when it meets the tail or a slot that was claimed but
// is not published yet; it does not wait for that producer, whose wake-up is
// still to come. Hence 0 together with Len() > 0 is possible.
func (r *Ring[T]) TryPop(dst []T) int {
	popped := 0
	for popped < len(dst) {
		s := r.viewHead(len(dst) - popped)
		if s.n == 0 {
			break
		}
		if r.claimHead(s) {
			r.read(s, dst[popped:popped+s.n])
			popped += s.n
		}
	}
	return popped
}

// Len returns the number of values held, counting those that are claimed and
// not published yet. It is exact when nobody pushes or pops and a good guess
// otherwise, always between 0 and the limit.
func (r *Ring[T]) Len() int {
	var n int64
	for range 4 {
		head := r.head.Load()
		n = distance(r.tail.Load(), head)
		if r.head.Load() == head {
			break
		}
	}
	return int(max(0, min(n, r.limit)))
}

// Mark returns a name for the place behind the values held now, for Passed.
func (r *Ring[T]) Mark() uint64 { return r.tail.Load() }

// Passed reports whether every value that was held when Mark returned mark has
// been popped. A ring that has not passed a mark which is a minute old holds a
// value as old as that. It takes no lock.
func (r *Ring[T]) Passed(mark uint64) bool { return distance(mark, r.head.Load()) <= 0 }

// Trim gives the block of a drained ring back to the pool and reports whether
// the ring now holds none; it answers false when the ring holds values or is
// changing at this moment. It may be called by anyone at any time; calling it
// on a ring without a block costs one load.
func (r *Ring[T]) Trim() bool {
	if r.headBlock.Load() == nil {
		return true
	}
	if r.head.Load() != r.tail.Load() {
		return false
	}
	r.mu.Lock()
	b := r.headBlock.Load()
	if b == nil {
		r.mu.Unlock()
		return true
	}
	// From the CAS on nobody can claim a slot of b: producers because tail is
	// closed, consumers because head, which is not past tail, has nothing ready
	// before it. So nobody moves head but us.
	head := r.head.Load()
	if head&closed != 0 || !r.tail.CompareAndSwap(head, head|sealed) {
		r.mu.Unlock()
		return false
	}
	r.head.Store(head | sealed) // outdates every consumer's view of b
	r.headBlock.Store(nil)
	r.tailBlock.Store(nil)
	r.mu.Unlock()
	r.pool.release(b, doneAll-int(head&offsetMask)) // slots never used, and the chain
	return true
}

// viewTail returns up to want free slots at the tail, none when the ring is
// full. They lie within the limit if claimTail succeeds on them: head only
// grows, so there can only be more room by then.
func (r *Ring[T]) viewTail(want int) span[T] {
	for {
		tail := r.tail.Load()
		room := r.limit - distance(tail, r.headSeen.Load())
		if room < int64(want) || room > r.limit {
			head := r.head.Load()
			r.headSeen.Store(head)
			// Tail was loaded before head and both only grow: if there is no room
			// between the two, there was none when head was loaded.
			room = r.limit - distance(tail, head)
			if room <= 0 {
				return span[T]{}
			}
		}
		if tail&closed != 0 {
			r.link()
			continue
		}
		b := r.tailBlock.Load()
		if b == nil || room > r.limit {
			continue // tail has moved on since
		}
		n := min(int64(want), room, blockSlots-int64(tail&offsetMask))
		return span[T]{block: b, at: tail, n: int(n)}
	}
}

// claimTail makes the slots of s the caller's, who must publish them. It
// reports false when another producer was faster.
func (r *Ring[T]) claimTail(s span[T]) bool {
	return r.tail.CompareAndSwap(s.at, s.at+uint64(s.n))
}

// publish copies values into the claimed slots and hands them to the head.
// There are exactly s.n values.
func (s span[T]) publish(values []T) {
	offset := s.at & offsetMask
	copy(s.block.slots[offset:], values)
	run := ^uint64(0) >> (blockSlots - s.n)
	s.block.ready.Or(run << offset) // publishes the slots
}

// viewHead returns up to want slots at the head that are published, none when
// the ring is empty or its first slot is not published yet.
func (r *Ring[T]) viewHead(want int) span[T] {
	for {
		head := r.head.Load()
		if head&closed != 0 {
			if distance(r.tail.Load(), head) == 0 {
				return span[T]{}
			}
			r.leave()
			continue
		}
		if b := r.headBlock.Load(); b != nil {
			ready := b.ready.Load() >> (head & offsetMask)
			if n := min(want, bits.TrailingZeros64(^ready)); n > 0 {
				return span[T]{block: b, at: head, n: n}
			}
		}
		if r.head.Load() == head {
			return span[T]{}
		}
	}
}

// claimHead makes the slots of s the caller's, who must read them. It reports
// false when another consumer was faster.
func (r *Ring[T]) claimHead(s span[T]) bool {
	return r.head.CompareAndSwap(s.at, s.at+uint64(s.n))
}

// read copies the claimed slots to dst, which has room for exactly s.n, and
// frees them. Whoever reads a block's last slot makes the head leave it.
func (r *Ring[T]) read(s span[T], dst []T) {
	offset := s.at & offsetMask
	copy(dst, s.block.slots[offset:])
	r.pool.release(s.block, s.n)
	if offset+uint64(s.n) == blockSlots {
		r.leave()
	}
}

// link gives the closed tail a fresh block. It does nothing when another
// producer has done so.
func (r *Ring[T]) link() {
	fresh := r.pool.get() // before the lock: it may allocate
	r.mu.Lock()
	tail := r.tail.Load()
	if tail&closed == 0 {
		r.mu.Unlock()
		r.pool.put(fresh)
		return
	}
	start := tail&numberMask + numberStep
	if last := r.tailBlock.Load(); last != nil {
		last.next = fresh
	} else {
		// Both positions are at the same place. Head goes first, so that nobody
		// counts the slots skipped in a sealed block as values.
		r.headBlock.Store(fresh)
		r.head.Store(start)
	}
	r.tailBlock.Store(fresh)
	r.tail.Store(start) // opens the block to producers
	r.mu.Unlock()
}

// leave moves the head out of a block that is used up: into the next one, or,
// when there is none, to rest with no block. It does nothing when another
// consumer has done so.
func (r *Ring[T]) leave() {
	r.mu.Lock()
	head := r.head.Load()
	b := r.headBlock.Load()
	if head&usedUp == 0 || b == nil {
		r.mu.Unlock()
		return
	}
	next := b.next
	r.headBlock.Store(next)
	if next != nil {
		r.head.Store(head&numberMask + numberStep) // opens the block to consumers
	} else {
		if invariant.Enabled {
			invariant.Check(r.tail.Load() == head, "ring: tail %#x is not at head %#x in the last block", r.tail.Load(), head)
		}
		r.tailBlock.Store(nil)
	}
	r.mu.Unlock()
	r.pool.release(b, 1) // the chain's hold
}
