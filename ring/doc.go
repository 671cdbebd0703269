// Package ring provides a bounded first-in-first-out queue between goroutines,
// for any number of producers and consumers.
//
// A ring never waits for room or for values: a full one takes less than it was
// offered, an empty one gives nothing, and the caller decides what that means
// (the broker overflows to its backlog). Wake-ups are the caller's affair too.
//
// The word ring names the behaviour. The memory is a chain of blocks of 64
// slots, taken from a [Pool] when the tail enters them and given back when
// every slot has been read, so that a ring costs by what it holds and not by
// its limit:
//
//	  head                                      tail
//	   │                                         │
//	┌──▼───────────┐   ┌──────────────┐   ┌──────▼───────┐
//	│ read │ ready │──►│ ready        │──►│ ready │ free │
//	└──────────────┘   └──────────────┘   └──────────────┘
//
// A value's life in a slot:
//
//	free ─ claim (CAS tail) ─► claimed ─ publish (ready bit) ─► ready
//	     ◄─ block recycled ── done counted ◄─ read ◄─ claimed ◄─ claim (CAS head)
//
// # What is lock-free
//
// Claiming and publishing inside a block, and every answer "full" or "empty",
// take no lock. Linking a block and leaving one take the ring's mutex and the
// pool's, each for a few loads and stores, once per 64 values and side; no lock
// is held while values are copied or memory is allocated. A goroutine that is
// preempted inside those few instructions makes others wait for it at the next
// block boundary; that is the one place where they can.
//
// # Why a recycled block cannot be mistaken
//
// A position is a block number and an offset in one word. The number grows with
// each block that a ring links and never returns to an earlier value, short of
// 2^56 blocks. While a position is open (its offset is inside the block), the
// block pointer beside it does not change: closing comes first, changing the
// pointer second, opening the next position third. So a CAS that succeeds on an
// open position proves that the pointer, loaded after the position, was that
// position's block all the while. Before its CAS an actor reads only atomics of
// that block; if the block had meanwhile moved on, even to another ring, what it
// read is nonsense and the CAS fails. Plain slots are touched only after it.
//
// A block counts those done with it: one for each slot read, one for leaving
// the chain. The last one out gives it back, hence nobody still reads a block
// that has been recycled.
//
// Considered and left: one count of values beside the positions gives the exact
// limit too, but costs two more contended atomics per value when unbatched. A
// linked block installed by whoever claims the last slot (as crossbeam's
// SegQueue does) needs no mutex, but then everybody spins for that goroutine;
// and a drained ring could not give its last block back.
package ring
