// Package latency counts durations: one goroutine records, without a lock and
// without allocating, and others read.
//
// A [Sketch] answers quantiles over a moving window. Its buckets are 32 to each
// power of two, so that an answer is off by at most 1/64 of itself; the largest
// value is exact. A [Histogram] counts powers of two since its beginning, for
// whoever draws graphs.
package latency

import (
	"math"
	"math/bits"
	"sync/atomic"
)

// Durations in nanoseconds are counted in octaves, each cut into pageSize equal
// buckets. The first octave is everything below 2^baseBits (1 µs), the last
// takes what is longer than two years.
const (
	baseBits = 10
	pageBits = 5
	pageSize = 1 << pageBits
	octaves  = 47
)

// bucketOf returns the octave of ns and the bucket in it. A negative duration,
// which a clock that was set back makes, counts as none.
func bucketOf(ns int64) (octave, bucket int) {
	if ns < 1<<baseBits {
		return 0, int(max(ns, 0)) >> (baseBits - pageBits)
	}
	n := bits.Len64(uint64(ns)) // > baseBits
	octave = n - baseBits
	if octave >= octaves {
		return octaves - 1, pageSize - 1
	}
	return octave, int(ns>>(n-1-pageBits)) & (pageSize - 1)
}

// middle returns the middle of a bucket in nanoseconds.
func middle(octave, bucket int) float64 {
	if octave == 0 {
		const width = 1 << (baseBits - pageBits)
		return float64(bucket)*width + width/2
	}
	width := math.Ldexp(1, octave+baseBits-1-pageBits)
	return math.Ldexp(1, octave+baseBits-1) + (float64(bucket)+0.5)*width
}

// A Sketch counts the durations of a moving window in two halves that take
// turns: what is read covers between half a window and a whole one. Record
// belongs to one goroutine; Merged.Add may read meanwhile, and then sees some of
// what is being recorded or forgotten.
//
// A half belongs to the period, half a window long, that its tag names. Memory
// is taken for the octaves that occur: 128 bytes each.
type Sketch struct {
	periodNs int64
	halves   [2]half
}

type half struct {
	period atomic.Int64
	max    atomic.Int64
	pages  [octaves]atomic.Pointer[page]
}

type page [pageSize]atomic.Uint32

// NewSketch makes a sketch for a window of that many nanoseconds, above zero.
func NewSketch(windowNs int64) *Sketch {
	s := &Sketch{periodNs: max(1, windowNs/2)}
	for i := range s.halves {
		s.halves[i].period.Store(-2) // long ago
	}
	return s
}

// Record counts a duration of ns at the time nowNs, which is of any clock that
// does not go back.
func (s *Sketch) Record(nowNs, ns int64) {
	period := nowNs / s.periodNs
	h := &s.halves[period&1]
	if h.period.Load() != period {
		h.begin(period)
	}
	octave, bucket := bucketOf(ns)
	p := h.pages[octave].Load()
	if p == nil {
		p = new(page)
		h.pages[octave].Store(p)
	}
	c := &p[bucket]
	c.Store(c.Load() + 1) // nobody else stores
	if ns > h.max.Load() {
		h.max.Store(ns)
	}
}

// begin forgets the half's old period. The tag comes last: who still sees the
// old one leaves the half out.
func (h *half) begin(period int64) {
	for i := range h.pages {
		if p := h.pages[i].Load(); p != nil {
			for j := range p {
				p[j].Store(0)
			}
		}
	}
	h.max.Store(0)
	h.period.Store(period)
}

// Merged is what some sketches hold together. The zero value is empty.
type Merged struct {
	count  uint64
	max    int64
	pages  [octaves][pageSize]uint64
	octave [octaves]bool // has counts
}

// Reset makes m empty.
func (m *Merged) Reset() {
	for i, used := range m.octave {
		if used {
			m.pages[i] = [pageSize]uint64{}
		}
	}
	m.octave, m.count, m.max = [octaves]bool{}, 0, 0
}

// Add adds what a sketch's window holds at nowNs, a time of Record's clock.
func (m *Merged) Add(s *Sketch, nowNs int64) {
	period := nowNs / s.periodNs
	for i := range s.halves {
		h := &s.halves[i]
		// A loop's clock may be a little ahead of the reader's.
		if p := h.period.Load(); p < period-1 {
			continue
		}
		for o := range h.pages {
			p := h.pages[o].Load()
			if p == nil {
				continue
			}
			m.octave[o] = true
			for j := range p {
				n := uint64(p[j].Load())
				m.pages[o][j] += n
				m.count += n
			}
		}
		m.max = max(m.max, h.max.Load())
	}
}

// Merge adds what another one holds.
func (m *Merged) Merge(other *Merged) {
	for o, used := range other.octave {
		if !used {
			continue
		}
		m.octave[o] = true
		for j, n := range other.pages[o] {
			m.pages[o][j] += n
		}
	}
	m.count += other.count
	m.max = max(m.max, other.max)
}

// Count returns how many durations there are.
func (m *Merged) Count() uint64 { return m.count }

// Quantile returns the duration, in nanoseconds, that the fraction q of all does
// not exceed, 0 if there is none. q is in (0,1].
func (m *Merged) Quantile(q float64) float64 {
	if m.count == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(m.count)))
	if rank >= m.count {
		return float64(m.max)
	}
	seen := uint64(0)
	for o, used := range m.octave {
		if !used {
			continue
		}
		for j, n := range m.pages[o] {
			if seen += n; seen >= rank && n > 0 {
				return min(middle(o, j), float64(m.max))
			}
		}
	}
	return float64(m.max)
}

// Bounds is the number of a Histogram's bounds.
const Bounds = 20

// Bound returns the upper bound of bucket i in nanoseconds: 2^10 (about 1 µs)
// times a power of four, up to three days.
func Bound(i int) int64 { return 1 << (baseBits + 2*i) }

// A Histogram counts durations by their binary digits. It belongs to one
// goroutine, and a copy to whoever has it.
type Histogram struct {
	counts [64]uint64
	sumNs  int64 // of all, less sumS
	sumS   int64 // seconds
}

// carryNs is when seconds are carried: a million messages a second that have waited
// for an hour would be too much for sumNs after three seconds.
const carryNs = 1 << 60

// Record counts n durations of ns each, which are less than 2^62 ns together; a
// negative one counts as none.
func (h *Histogram) Record(ns int64, n uint64) {
	ns = max(ns, 0)
	h.counts[bits.Len64(uint64(ns))&63] += n
	if h.sumNs += ns * int64(n); h.sumNs >= carryNs {
		h.carry()
	}
}

func (h *Histogram) carry() {
	h.sumS += h.sumNs / 1e9
	h.sumNs %= 1e9
}

// Merge adds what another one holds.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.sumNs += other.sumNs
	h.sumS += other.sumS
	h.carry()
}

// Totals returns how many durations there are and their sum in seconds.
func (h *Histogram) Totals() (count uint64, sumS float64) {
	for _, n := range h.counts {
		count += n
	}
	return count, float64(h.sumS) + float64(h.sumNs)/1e9
}

// Upto returns how many durations are shorter than Bound(i).
func (h *Histogram) Upto(i int) (count uint64) {
	for _, n := range h.counts[:bits.Len64(uint64(Bound(i)))] {
		count += n
	}
	return count
}
