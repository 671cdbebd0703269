package broker

import (
	"math/bits"
	"sync/atomic"
)

// Message ids count up from a mark that is kept on disk and runs ahead, so that
// none is ever used twice, whatever the clock does. Their top bit is set, which
// upstream's ids never have.
type ids struct{ next atomic.Uint64 }

const (
	idTop     = 1 << 63
	idsPerRun = 4096 // handed to a shard at a time
)

// take returns the first of n fresh ids.
func (g *ids) take(n uint64) uint64 { return (g.next.Add(n) - n) | idTop }

// idRun is a shard's own supply.
type idRun struct{ next, end uint64 }

func (r *idRun) take(g *ids) uint64 {
	if r.next == r.end {
		r.next = g.take(idsPerRun)
		r.end = r.next + idsPerRun
	}
	r.next++
	return r.next - 1
}

func trailingZeros(x uint64) int { return bits.TrailingZeros64(x) }
