package netloop

import (
	"math/bits"

	"github.com/zsqio/zsq/internal/invariant"
)

const (
	classMin      = 9       // smallest pooled buffer: 512 B, a few short commands
	classMax      = 22      // largest pooled buffer: 4 MiB; beyond it the heap serves
	poolBytesHold = 8 << 20 // what the free lists of one loop may keep
	poisonByte    = 0xCC    // fills memory whose lifetime ended, when invariants are on
)

// pool holds a loop's free buffers by size class. It belongs to one goroutine.
//
// Invariant: held <= poolBytesHold, and held is the sum of all free capacities.
// 0 <= used, which is the sum of the capacities that are out.
type pool struct {
	free  [classMax + 1][][]byte
	held  int
	used  int64
	limit int64 // 0: none
}

// full reports whether what is out has reached the limit.
func (p *pool) full() bool { return p.limit > 0 && p.used >= p.limit }

// class returns the size class that holds n bytes.
func class(n int) int {
	return max(classMin, bits.Len(uint(max(n, 1)-1)))
}

// get returns an empty buffer with room for at least n bytes. The caller owns
// it until put.
func (p *pool) get(n int) []byte {
	k := class(n)
	if k > classMax {
		p.used += int64(n)
		return make([]byte, 0, n)
	}
	p.used += 1 << k
	list := p.free[k]
	if len(list) == 0 {
		return make([]byte, 0, 1<<k)
	}
	b := list[len(list)-1]
	list[len(list)-1] = nil
	p.free[k] = list[:len(list)-1]
	p.held -= 1 << k
	return b
}

// put takes b back; nobody may use it afterwards. A nil b is fine.
func (p *pool) put(b []byte) {
	if cap(b) == 0 {
		return
	}
	p.used -= int64(cap(b))
	poison(b[:cap(b)])
	k := class(cap(b))
	if k > classMax || cap(b) != 1<<k || p.held+cap(b) > poolBytesHold {
		return // the garbage collector has it
	}
	p.free[k] = append(p.free[k], b[:0])
	p.held += 1 << k
}

// poison overwrites memory whose lifetime ended, so that a kept alias shows.
func poison(b []byte) {
	if invariant.Enabled {
		for i := range b {
			b[i] = poisonByte
		}
	}
}
