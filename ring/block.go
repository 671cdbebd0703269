package ring

import (
	"sync"
	"sync/atomic"

	"github.com/zsqio/zsq/internal/invariant"
)

// blockSlots is the number of slots in a block: as many as ready has bits.
const blockSlots = 64

// doneAll is the count at which nobody looks at a block's slots any more: every
// slot has been read, and the chain has let go.
const doneAll = blockSlots + 1

// block is a stretch of a ring. Between pool and ring it has one owner and all
// its fields but slots are zero.
type block[T any] struct {
	// ready has bit i set when slot i has been published. Producers set bits,
	// which hands the slot to whoever claims it at the head.
	ready atomic.Uint64

	// next is the following block of the chain, guarded by the ring's mutex, or
	// of the free list, guarded by the pool's.
	next *block[T]

	_ [lineSize - 16]byte

	// done counts the slots read, and one for leaving the chain. Consumers add
	// to it; reaching doneAll makes the adder the block's only owner.
	done atomic.Int64

	_ [lineSize - 8]byte

	slots [blockSlots]T // slot i is its claimer's, before and after bit i is set
}

// Pool hands out blocks and takes them back. It is shared by many rings and
// safe for use by any number of goroutines. Blocks are ordinary Go memory; a
// pool keeps a bounded number of free ones and leaves the rest to the garbage
// collector.
type Pool[T any] struct {
	freeMax int

	_     cacheLine
	mu    sync.Mutex
	first *block[T] // free list, last in first out: the warmest block goes first
	count int       // length of the free list; count <= freeMax
	_     cacheLine
}

// NewPool returns an empty pool that keeps at most freeMax free blocks of 64
// values each; with 0 it keeps none. It panics when freeMax is negative.
func NewPool[T any](freeMax int) *Pool[T] {
	if freeMax < 0 {
		panic("ring: negative number of free blocks")
	}
	return &Pool[T]{freeMax: freeMax}
}

// get returns a block that belongs to the caller.
func (p *Pool[T]) get() *block[T] {
	p.mu.Lock()
	b := p.first
	if b == nil {
		p.mu.Unlock()
		return new(block[T])
	}
	p.first = b.next
	p.count--
	p.mu.Unlock()
	b.next = nil
	return b
}

// put takes a block from its only owner. Others may still load its atomics.
func (p *Pool[T]) put(b *block[T]) {
	b.ready.Store(0)
	b.done.Store(0)
	b.next = nil
	p.mu.Lock()
	if p.count < p.freeMax {
		b.next = p.first
		p.first = b
		p.count++
	}
	p.mu.Unlock()
}

// release records that n parts of b (slots, or the chain's hold) are done with,
// and recycles the block when they were the last.
func (p *Pool[T]) release(b *block[T], n int) {
	done := b.done.Add(int64(n))
	if invariant.Enabled {
		invariant.Check(done <= doneAll, "ring: %d parts of a block released, it has %d", done, doneAll)
	}
	if done == doneAll {
		p.put(b)
	}
}
