package ring_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zsqio/zsq/ring"
)

// BenchmarkSameThread pushes and pops on one goroutine; ns/op is per value.
func BenchmarkSameThread(b *testing.B) {
	for _, batch := range []int{1, 32} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			r, _ := newRing[item](8192, 16)
			buf := make([]item, batch)
			b.ReportAllocs()
			for range b.N/batch + 1 {
				r.TryPush(buf)
				r.TryPop(buf)
			}
		})
	}
}

// BenchmarkTrim is the cost of taking a block and giving it back around a pair
// of calls.
func BenchmarkTrim(b *testing.B) {
	r, _ := newRing[item](8192, 16)
	buf := make([]item, 1)
	b.ReportAllocs()
	for b.Loop() {
		r.TryPush(buf)
		r.TryPop(buf)
		r.Trim()
	}
}

func Benchmark1to1(b *testing.B) { benchmarkTopology(b, 1, 1) }
func Benchmark2to1(b *testing.B) { benchmarkTopology(b, 2, 1) }
func Benchmark2to2(b *testing.B) { benchmarkTopology(b, 2, 2) }

// benchmarkTopology moves b.N values from producers to consumers; ns/op is wall
// time per value, for both sides together.
func benchmarkTopology(b *testing.B, producers, consumers int) {
	for _, batch := range []int{1, 32} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			r, _ := newRing[item](8192, 256)
			b.ReportAllocs()
			each := b.N/producers + 1
			total := int64(each * producers)
			var popped atomic.Int64
			var wg sync.WaitGroup
			for range producers {
				wg.Go(func() { pushAll(r, each, batch) })
			}
			for range consumers {
				wg.Go(func() {
					buf := make([]item, batch)
					mine := int64(0) // counted when idle, to keep the counter out of the figure
					for {
						n := r.TryPop(buf)
						mine += int64(n)
						if n > 0 {
							continue
						}
						if popped.Add(mine) == total {
							return
						}
						mine = 0
						runtime.Gosched()
					}
				})
			}
			wg.Wait()
		})
	}
}

func pushAll(r *ring.Ring[item], count, batch int) {
	buf := make([]item, batch)
	for count > 0 {
		n := r.TryPush(buf[:min(batch, count)])
		if n == 0 {
			runtime.Gosched()
		}
		count -= n
	}
}
