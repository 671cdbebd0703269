package broker

import (
	"math/bits"

	"github.com/zsqio/zsq/internal/block"
)

// The wheel is a hierarchical timing wheel (Varghese and Lauck, 1987): four
// levels of 256 slots with ticks of one millisecond, so that one level's lap is
// the next level's slot, and 49 days fit.
const (
	wheelLevels = 4
	wheelBits   = 8
	wheelSlots  = 1 << wheelBits
	wheelMask   = wheelSlots - 1
	tickNs      = int64(1e6)
	tickMax     = int64(1)<<(wheelLevels*wheelBits) - 1
)

// kind says what an entry waits for.
type kind uint8

const (
	kindFree     kind = iota
	kindSentinel      // head of a slot's list
	kindInFlight      // owner is a subscriber's index
	kindDeferred      // owner is a channel's local index
	kindTimer         // owner is the caller's token
	kindTrim          // owner is a channel's local index
)

// entry is one thing with a due time: a message in flight, a deferred message
// or a connection's timer. It is one cache line, has no pointers and lives in
// the shard's slab; links are slab indexes.
type entry struct {
	ref      block.Ref
	id       uint64
	dueNs    int64  // monotonic
	sentNs   int64  // in flight: when this delivery began
	owner    uint32 // see kind
	next     uint32 // slot list
	prev     uint32
	listNext uint32 // deferred: the channel's own list; in flight: see setBorn
	listPrev uint32
	kind     kind
	_        [3]byte
}

// setBorn notes when a message in flight was published, on the wall clock. It is
// in no list, so the links have room for it.
func (e *entry) setBorn(wallNs int64) { e.listNext, e.listPrev = uint32(wallNs), uint32(wallNs>>32) }

func (e *entry) born() int64 { return int64(e.listPrev)<<32 | int64(e.listNext) }

// wheel holds the slab and the slots. The zero value is not ready; see init.
//
// Invariant: an occupied slot's bit is set; a set bit may be stale.
type wheel struct {
	slab []entry
	free uint32 // list through next; 0 ends it (index 0 is a sentinel)
	live int    // entries in use
	tick int64  // every tick up to and including this one has been served
	used [wheelLevels][wheelSlots / 64]uint64
}

func (w *wheel) init(nowNs int64) {
	w.slab = make([]entry, wheelLevels*wheelSlots, wheelLevels*wheelSlots+256)
	for i := range w.slab {
		w.slab[i].next, w.slab[i].prev, w.slab[i].kind = uint32(i), uint32(i), kindSentinel
	}
	w.tick = nowNs / tickNs
}

// alloc returns a fresh entry, not yet in a slot. Pointers into the slab are
// valid until the next alloc.
func (w *wheel) alloc() uint32 {
	w.live++
	if i := w.free; i != 0 {
		w.free = w.slab[i].next
		return i
	}
	w.slab = append(w.slab, entry{})
	return uint32(len(w.slab) - 1)
}

func (w *wheel) release(i uint32) {
	w.live--
	w.slab[i] = entry{next: w.free, kind: kindFree}
	w.free = i
}

// add puts entry i into the slot of its due time. What is due already goes into
// the next tick.
func (w *wheel) add(i uint32) {
	w.place(i, w.tick+1)
}

// place puts entry i into the slot of its due time, but not before tick first.
func (w *wheel) place(i uint32, first int64) {
	e := &w.slab[i]
	// Round up: never early, at most one tick late.
	at := max((e.dueNs+tickNs-1)/tickNs, first)
	at = min(at, w.tick+tickMax)
	level, rest := 0, at^w.tick
	for rest >= wheelSlots && level < wheelLevels-1 {
		rest >>= wheelBits
		level++
	}
	slot := uint32(at>>(level*wheelBits)) & wheelMask
	w.used[level][slot/64] |= 1 << (slot % 64)
	head := uint32(level*wheelSlots) + slot
	h := &w.slab[head]
	e.next, e.prev = head, h.prev
	w.slab[h.prev].next = i
	h.prev = i
}

// remove takes entry i out of its slot; the entry stays allocated.
func (w *wheel) remove(i uint32) {
	e := &w.slab[i]
	w.slab[e.prev].next = e.next
	w.slab[e.next].prev = e.prev
}

// nextDue returns a time, in monotonic nanoseconds, before which nothing is
// due; 0 when the wheel is empty. It may be early by up to a slot's width.
func (w *wheel) nextDue() int64 {
	if w.live == 0 {
		return 0
	}
	best := int64(0)
	for level := range wheelLevels {
		shift := level * wheelBits
		base := w.tick >> shift
		for d := int64(1); d <= wheelSlots; {
			slot := uint64(base+d) & wheelMask
			word := w.used[level][slot/64] >> (slot % 64)
			if word == 0 {
				d += int64(64 - slot%64)
				continue
			}
			skip := int64(bits.TrailingZeros64(word))
			slot = (slot + uint64(skip)) & wheelMask
			d += skip
			head := uint32(level*wheelSlots) + uint32(slot)
			if w.slab[head].next == head { // stale bit
				w.used[level][slot/64] &^= 1 << (slot % 64)
				continue
			}
			if at := (base + d) << shift; best == 0 || at < best {
				best = at
			}
			break
		}
	}
	if best == 0 {
		return 0
	}
	return best * tickNs
}

// advance moves the wheel to nowNs and calls fire for at most limit due
// entries, each already out of its slot. It reports whether it got there; if
// not, what is left is due at the next call.
func (w *wheel) advance(nowNs int64, limit int, fire func(i uint32)) bool {
	target := nowNs / tickNs
	for w.tick < target {
		if w.live == 0 {
			w.tick = target
			return true
		}
		next := w.nextDue() / tickNs
		if next == 0 || next > target {
			// Nothing in between: jumping must not pass a slot whose level
			// would need cascading, and nextDue names the first such slot.
			w.tick = target
			return true
		}
		w.tick = next
		for level := wheelLevels - 1; level > 0; level-- {
			if w.tick&(1<<(level*wheelBits)-1) == 0 {
				w.cascade(level)
			}
		}
		n := w.serve(limit, fire)
		limit -= n
		if limit <= 0 {
			w.tick-- // this tick is not finished
			return false
		}
	}
	return true
}

// cascade spreads the slot that the tick has reached over the levels below.
func (w *wheel) cascade(level int) {
	slot := uint32(w.tick>>(level*wheelBits)) & wheelMask
	head := uint32(level*wheelSlots) + slot
	w.used[level][slot/64] &^= 1 << (slot % 64)
	for i := w.slab[head].next; i != head; {
		next := w.slab[i].next
		w.remove(i)
		w.place(i, w.tick) // what is due at this very tick is served with it
		i = next
	}
}

// serve fires the current tick's slot. It takes entries out one by one, because
// fire may stop a timer that is due at the same tick.
func (w *wheel) serve(limit int, fire func(i uint32)) (n int) {
	head := uint32(w.tick) & wheelMask
	for n < limit {
		i := w.slab[head].next
		if i == head {
			w.used[0][head/64] &^= 1 << (head % 64)
			break
		}
		w.remove(i)
		fire(i)
		n++
	}
	return n
}
