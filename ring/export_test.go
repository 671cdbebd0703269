package ring

// WrapNumber is the block number whose first slot is 64 slots before the place
// where positions wrap around.
const WrapNumber = 1<<56 - 1

// Span opens span to tests.
type Span[T any] = span[T]

// StartAt moves an empty ring without a block to the start of the given block,
// so that tests reach the wrap-around of positions within a few values. The
// first push opens the block after it.
func (r *Ring[T]) StartAt(number uint64) { r.startAt(number) }

// Claimed returns Len without its clamp.
func (r *Ring[T]) Claimed() int { return int(distance(r.tail.Load(), r.head.Load())) }

// Blocks returns the length of the chain.
func (r *Ring[T]) Blocks() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for b := r.headBlock.Load(); b != nil; b = b.next {
		n++
	}
	return n
}

// Free returns the number of free blocks in the pool.
func (p *Pool[T]) Free() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// Stock fills the free list, so that Free tells afterwards whether a block was
// lost (fewer) or recycled twice (the list would loop).
func (p *Pool[T]) Stock() {
	for p.Free() < p.freeMax {
		p.put(new(block[T]))
	}
}

// The steps of TryPush and TryPop, one by one.

// ViewTail is the first step of TryPush.
func (r *Ring[T]) ViewTail(want int) Span[T] { return r.viewTail(want) }

// ClaimTail is the second step of TryPush.
func (r *Ring[T]) ClaimTail(s Span[T]) bool { return r.claimTail(s) }

// HalfViewHead is ViewHead as of an actor that has loaded the position and the
// block, and is about to find slots ready in whatever the block is by then.
func (r *Ring[T]) HalfViewHead() Span[T] {
	return span[T]{block: r.headBlock.Load(), at: r.head.Load(), n: 1}
}

// Publish is the third step of TryPush.
func (s span[T]) Publish(values []T) { s.publish(values) }

// ViewHead is the first step of TryPop.
func (r *Ring[T]) ViewHead(want int) Span[T] { return r.viewHead(want) }

// ClaimHead is the second step of TryPop.
func (r *Ring[T]) ClaimHead(s Span[T]) bool { return r.claimHead(s) }

// Read is the third step of TryPop.
func (r *Ring[T]) Read(s Span[T], dst []T) { r.read(s, dst) }

// Len returns the number of slots in view.
func (s span[T]) Len() int { return s.n }
