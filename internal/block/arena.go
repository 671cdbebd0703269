package block

import "github.com/zsqio/zsq/internal/invariant"

// maxShared is the longest message that shares a chunk with others.
const maxShared = ChunkSize / 4

// An Arena stores messages for one goroutine, one after the other in a chunk of
// its own, the open one.
//
// Invariant: count of the open chunk = openBias - out + its references.
type Arena struct {
	pool *Pool
	mem  []byte // the open chunk; nil when there is none
	off  int    // where the next message goes; a multiple of 8
	out  int64  // references handed out from the open chunk
	at   *slot  // of the open chunk
	open uint32 // number of the open chunk
	mark uint64 // of its own, 0: the pool's
}

// Unmarked is the mark of chunks that hold nothing back; see Pool.SetMark.
const Unmarked = 1<<64 - 1

// NewArena returns an arena that takes its chunks from p, the first one when
// something is stored.
func NewArena(p *Pool) *Arena { return &Arena{pool: p} }

// SetMark gives what is stored from now on a mark of its own, instead of the
// pool's at the time; 0 is the pool's again. Marks need not ascend.
func (a *Arena) SetMark(mark uint64) {
	if a.mark != mark {
		a.Close()
		a.mark = mark
	}
}

// Renew lets go of the open chunk if its mark is below the given one, so that it
// does not stay for ever because there is always room in it.
func (a *Arena) Renew(below uint64) {
	if a.mem != nil && a.at.mark.Load() < below {
		a.Close()
	}
}

func (a *Arena) nextMark() uint64 {
	if a.mark != 0 {
		return a.mark
	}
	return a.pool.mark.Load()
}

// Alloc makes room for a message of n bytes, and returns its name and its bytes
// for the caller to fill; they start on an 8-byte boundary and hold anything.
// One reference to the chunk goes along with the Ref.
//
// It never fails for want of budget: callers look at Pool.Used and hold their
// clients back. It panics when the system refuses memory, and when n is not in
// [0, MaxLen].
func (a *Arena) Alloc(n int) (Ref, []byte) {
	if uint(n) > maxShared {
		return a.allocBig(n)
	}
	need := (max(n, 1) + 7) &^ 7
	if len(a.mem)-a.off < need {
		a.refill()
	}
	off := a.off
	a.off += need
	a.out++
	if invariant.Enabled {
		a.at.live.Add(1)
	}
	return Ref{Chunk: a.open, Off: uint32(off), Len: uint32(n)}, a.mem[off : off+n : off+n]
}

// Flush lets go of the open chunk if it holds no live message, and reports
// whether the arena has none now. A loop calls it when it has nothing to do.
// (A chunk with a live message is kept: it could not be used otherwise anyhow,
// and leaving its rest unused would cost a chunk each time.)
func (a *Arena) Flush() bool {
	if a.mem != nil && a.empty() {
		a.Close()
	}
	return a.mem == nil
}

// Close lets go of the open chunk; the chunk is free when its last message is.
// An arena that is used after Close takes a new chunk.
func (a *Arena) Close() {
	if a.mem == nil {
		return
	}
	chunk, s, out := a.open, a.at, a.out
	*a = Arena{pool: a.pool, mark: a.mark}
	a.pool.settle(chunk, s, out-openBias)
}

func (a *Arena) allocBig(n int) (Ref, []byte) {
	if n < 0 || n > MaxLen {
		panic("BUG: block: message length outside [0, MaxLen]")
	}
	chunk, s := a.pool.getBig(n, a.nextMark())
	s.count.Store(1)
	if invariant.Enabled {
		s.live.Add(1)
	}
	return Ref{Chunk: chunk, Len: uint32(n)}, s.mem[:n:n]
}

// refill leaves the arena with an open chunk that is empty: the same one if all
// its messages are gone (it is hot in cache), otherwise another one.
func (a *Arena) refill() {
	if a.mem != nil && a.empty() {
		if invariant.Enabled {
			mangle(a.mem)
		}
		a.at.mark.Store(a.nextMark())
		a.at.count.Store(openBias)
		a.off, a.out = 0, 0
		return
	}
	a.Close()
	a.open, a.at = a.pool.get(a.nextMark())
	a.mem = a.at.mem
	a.at.count.Store(openBias)
}

// empty reports whether no message of the open chunk has a reference left. That
// stays so until the next Alloc: only who holds a reference can add one.
func (a *Arena) empty() bool {
	return a.at.count.Load()+a.out == openBias
}
