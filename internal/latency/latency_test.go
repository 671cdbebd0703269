package latency_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/zsqio/zsq/internal/latency"
)

// TestQuantiles holds the answers against sorted samples, over all scales.
func TestQuantiles(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s, other := latency.NewSketch(1000), latency.NewSketch(1000)
		var all []int64
		for range 1 + rng.IntN(5000) {
			ns := int64(math.Exp(rng.Float64() * math.Log(1<<55)))
			all = append(all, ns)
			if rng.IntN(2) == 0 {
				s.Record(100, ns)
			} else {
				other.Record(100, ns)
			}
		}
		slices.Sort(all)
		var m, o latency.Merged
		m.Add(s, 100)
		o.Add(other, 100)
		m.Merge(&o)
		if m.Count() != uint64(len(all)) {
			t.Fatalf("seed %d: %d of %d samples", seed, m.Count(), len(all))
		}
		for _, q := range []float64{1e-9, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			want := float64(all[max(1, int(math.Ceil(q*float64(len(all)))))-1])
			got := m.Quantile(q)
			// Below the first octave a bucket is 32 ns wide.
			if diff := math.Abs(got - want); diff > want/64+16 || q == 1 && diff != 0 {
				t.Errorf("seed %d: quantile %v of %d is %v, want %v", seed, q, len(all), got, want)
			}
		}
		m.Reset()
		if m != (latency.Merged{}) || m.Quantile(0.5) != 0 {
			t.Errorf("seed %d: not empty after Reset", seed)
		}
	}
}

// TestEdges records what is no ordinary duration.
func TestEdges(t *testing.T) {
	s := latency.NewSketch(1)
	for _, ns := range []int64{math.MinInt64, -1, 0, 1, 1023, 1024, 1<<56 - 1, 1 << 56, math.MaxInt64} {
		s.Record(0, ns)
	}
	var m latency.Merged
	m.Add(s, 0)
	if m.Count() != 9 || m.Quantile(0.1) > 32 || m.Quantile(1) != math.MaxInt64 {
		t.Errorf("%d samples, %v to %v", m.Count(), m.Quantile(0.1), m.Quantile(1))
	}
}

// TestWindow shows that what is read covers between half a window and a whole
// one, whether anything is recorded meanwhile or not.
func TestWindow(t *testing.T) {
	const window = 1000
	s := latency.NewSketch(window)
	count := func(now int64) uint64 {
		var m latency.Merged
		m.Add(s, now)
		return m.Count()
	}
	for now := int64(0); now < 10*window; now++ {
		s.Record(now, now)
		got := count(now)
		if full := uint64(min(now+1, window)); got > full || got < min(full, window/2) {
			t.Fatalf("at %d: %d samples", now, got)
		}
	}
	last := int64(10*window - 1)
	for now := last; now < last+2*window; now++ {
		switch got := count(now); {
		case now <= last+window/2 && got < window/2:
			t.Fatalf("%d after the last: %d samples", now-last, got)
		case now > last+window && got != 0:
			t.Fatalf("%d after the last: %d samples", now-last, got)
		}
	}
}

// TestReadWhileRecording is for the race detector; a count never passes what was
// recorded.
func TestReadWhileRecording(t *testing.T) {
	s := latency.NewSketch(1 << 20)
	var wg sync.WaitGroup
	const total = 20_000
	wg.Go(func() {
		for i := range int64(total) {
			s.Record(i*100, i)
		}
	})
	var m latency.Merged
	for now := int64(0); now < total*100; now += 10_000 {
		m.Reset()
		m.Add(s, now)
		if m.Count() > total {
			t.Fatalf("%d samples", m.Count())
		}
		m.Quantile(0.9)
	}
	wg.Wait()
}

// TestHistogram counts around every bound.
func TestHistogram(t *testing.T) {
	var h, other latency.Histogram
	sum := int64(0)
	for i := range latency.Bounds {
		h.Record(latency.Bound(i)-1, 1)
		other.Record(latency.Bound(i), 2)
		sum += 3*latency.Bound(i) - 1
	}
	h.Record(-5, 1)
	h.Merge(&other)
	for i := range latency.Bounds {
		if got, want := h.Upto(i), uint64(2+3*i); got != want {
			t.Errorf("%d are below %d, want %d", got, latency.Bound(i), want)
		}
	}
	if n, s := h.Totals(); n != 3*latency.Bounds+1 || math.Abs(s-float64(sum)/1e9) > 1e-9*s {
		t.Errorf("%d, sum %g s, want %d ns", n, s, sum)
	}
}

// Many long durations are too much for a sum in nanoseconds.
func TestHistogramLong(t *testing.T) {
	var h, all latency.Histogram
	const hour = 3600
	for range 1000 {
		h.Record(hour*1e9, 1_000_000)
		h.Record(1, 1)
	}
	for range 20 {
		all.Merge(&h)
	}
	if _, s := all.Totals(); math.Abs(s/(20*1000*1_000_000*hour)-1) > 1e-9 {
		t.Errorf("sum %g s", s)
	}
}

func BenchmarkRecord(b *testing.B) {
	s := latency.NewSketch(1 << 40)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Record(int64(i), 100_000+int64(i&1023))
	}
}
