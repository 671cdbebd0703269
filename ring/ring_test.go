package ring_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/ring"
)

// item has the shape of what the broker keeps in rings.
type item struct {
	producer, seq uint64
}

func newRing[T any](limit, freeMax int) (*ring.Ring[T], *ring.Pool[T]) {
	pool := ring.NewPool[T](freeMax)
	r := new(ring.Ring[T])
	r.Init(limit, pool)
	return r, pool
}

// The oracle is a plain slice: any sequence of pushes, pops and trims must give
// the same answers on both, wherever the positions start.
func TestMatchesSlice(t *testing.T) {
	f := func(limit int, number, seed uint64) {
		t.Helper()
		const steps = 4000
		if step, complaint := runAgainstSlice(limit, number, seed, steps); complaint != "" {
			// Each step is judged as it is made, so the prefix up to the first
			// complaint is the shortest that fails with this seed.
			t.Fatalf("limit %d block %#x seed %d: step %d: %s", limit, number, seed, step, complaint)
		}
	}
	for _, limit := range []int{0, 1, 2, 63, 64, 65, 127, 128, 129, 1000, 1 << 40} {
		for _, number := range []uint64{0, ring.WrapNumber - 3, ring.WrapNumber} {
			f(limit, number, 1)
			f(limit, number, 2)
		}
	}
}

// runAgainstSlice makes steps random steps and returns the first that differs
// from a slice, and how.
func runAgainstSlice(limit int, number, seed uint64, steps int) (int, string) {
	rng := rand.New(rand.NewPCG(seed, uint64(limit)))
	r, pool := newRing[uint64](limit, 1<<20)
	r.StartAt(number)
	var want []uint64
	next, taken := uint64(0), 0
	buf := make([]uint64, 200)
	for step := range steps {
		bias := 1 + (step/200)%3 // fill and drain in turn
		n := rng.IntN(1 + rng.IntN(len(buf)))
		switch pick := rng.IntN(5); {
		case pick == 4:
			if got := r.Trim(); got && len(want) > 0 || !got && len(want) == 0 {
				return step, fmt.Sprintf("Trim = %v with %d held", got, len(want))
			}
			if len(want) == 0 && r.Blocks() != 0 {
				return step, "a block is left after Trim"
			}
		case pick < bias+1:
			src := buf[:n]
			for i := range src {
				src[i] = next + uint64(i)
			}
			room := min(n, limit-len(want))
			if got := r.TryPush(src); got != room {
				return step, fmt.Sprintf("TryPush of %d = %d with %d held", n, got, len(want))
			}
			want = append(want, src[:room]...)
			next += uint64(room)
		default:
			got := r.TryPop(buf[:n])
			if got != min(n, len(want)) || !slices.Equal(buf[:got], want[:got]) {
				return step, fmt.Sprintf("TryPop of %d = %v; held %d from %v", n, buf[:got], len(want), want[:min(1, len(want))])
			}
			want = want[got:]
		}
		if r.Len() != len(want) {
			return step, fmt.Sprintf("Len = %d, want %d", r.Len(), len(want))
		}
		if blocks := r.Blocks(); blocks > len(want)/64+2 {
			return step, fmt.Sprintf("%d blocks for %d values", blocks, len(want))
		}
		// No block is lost: taken from the pool is at most what was ever live.
		if all := pool.Free() + r.Blocks(); all < taken {
			return step, fmt.Sprintf("%d blocks exist, there were %d", all, taken)
		} else {
			taken = all
		}
	}
	return steps, ""
}

// A ring takes exactly its limit, before and after it has been used, whatever
// the size of a push.
func TestLimitIsExact(t *testing.T) {
	f := func(limit, batch int) {
		t.Helper()
		r, _ := newRing[int](limit, 4)
		buf := make([]int, batch)
		for round := range 3 {
			pushed := 0
			for {
				n := r.TryPush(buf)
				pushed += n
				if n < batch {
					break
				}
			}
			if pushed != limit || r.Len() != limit || r.TryPush(buf) != 0 {
				t.Fatalf("limit %d batch %d round %d: pushed %d, Len %d", limit, batch, round, pushed, r.Len())
			}
			popped := 0
			for n := r.TryPop(buf); n > 0; n = r.TryPop(buf) {
				popped += n
			}
			if popped != limit || r.Len() != 0 {
				t.Fatalf("limit %d batch %d round %d: popped %d, Len %d", limit, batch, round, popped, r.Len())
			}
		}
	}
	for _, limit := range []int{0, 1, 7, 63, 64, 65, 128, 1000, 10_000} {
		f(limit, 1)
		f(limit, 32)
		f(limit, 300)
	}
}

// The zero Ring answers as one that is full and empty at once.
func TestZeroRing(t *testing.T) {
	var r ring.Ring[int]
	if n := r.TryPush([]int{1}); n != 0 {
		t.Errorf("TryPush = %d", n)
	}
	if n := r.TryPop(make([]int, 1)); n != 0 {
		t.Errorf("TryPop = %d", n)
	}
	if r.Len() != 0 || !r.Trim() {
		t.Errorf("Len = %d, Trim = %v", r.Len(), r.Trim())
	}
}

// Ten thousand rings that were used and are idle hold no block, and the pool
// keeps no more than it was told.
func TestIdleRingsHoldNoBlock(t *testing.T) {
	const freeMax = 16
	pool := ring.NewPool[item](freeMax)
	rings := make([]ring.Ring[item], 10_000)
	buf := make([]item, 100)
	for i := range rings {
		r := &rings[i]
		r.Init(1000, pool)
		if r.Blocks() != 0 {
			t.Fatal("an unused ring holds a block")
		}
		n := 1 + i%len(buf)
		r.TryPush(buf[:n])
		if r.Trim() {
			t.Fatalf("Trim of a ring that holds %d values", n)
		}
		if got := r.TryPop(buf); got != n {
			t.Fatalf("popped %d, want %d", got, n)
		}
		if blocks := r.Blocks(); blocks > 1 || n%64 == 0 && blocks != 0 {
			t.Fatalf("drained after %d values: %d blocks", n, blocks)
		}
	}
	for i := range rings {
		if !rings[i].Trim() || rings[i].Blocks() != 0 {
			t.Fatalf("ring %d still holds a block", i)
		}
	}
	if pool.Free() != freeMax {
		t.Fatalf("%d free blocks, want %d", pool.Free(), freeMax)
	}
}

// Producers and consumers at once, with a third party that trims: every value
// arrives once, and each consumer sees each producer's values in order.
func TestStress(t *testing.T) {
	f := func(producers, consumers, limit, batchMax int, number uint64) {
		t.Helper()
		const perProducer, stock = 20_000, 300 // blocks, more than any limit below needs
		r, pool := newRing[item](limit, stock)
		pool.Stock()
		r.StartAt(number)
		total := int64(producers * perProducer)
		var popped atomic.Int64
		var wg sync.WaitGroup
		for p := range producers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(p), uint64(limit)))
				src := make([]item, batchMax)
				for seq := uint64(0); seq < perProducer; {
					n := min(1+rng.IntN(batchMax), int(perProducer-seq))
					for i := range n {
						src[i] = item{uint64(p), seq + uint64(i)}
					}
					done := r.TryPush(src[:n])
					if done < n {
						runtime.Gosched()
					}
					seq += uint64(done)
				}
			})
		}
		seen := make([][]item, consumers)
		for c := range consumers {
			wg.Go(func() {
				dst := make([]item, batchMax)
				for popped.Load() < total {
					n := r.TryPop(dst)
					if n == 0 {
						runtime.Gosched()
						continue
					}
					seen[c] = append(seen[c], dst[:n]...)
					popped.Add(int64(n))
				}
			})
		}
		wg.Go(func() {
			for popped.Load() < total {
				r.Trim()
				if n := r.Len(); n < 0 || n > limit {
					t.Errorf("Len = %d with limit %d", n, limit)
				}
				runtime.Gosched()
			}
		})
		wg.Wait()

		count := make(map[item]int, total)
		for c := range seen {
			last := make(map[uint64]uint64)
			for _, v := range seen[c] {
				if before, ok := last[v.producer]; ok && v.seq <= before {
					t.Fatalf("%d to %d, limit %d: consumer %d got %v after seq %d", producers, consumers, limit, c, v, before)
				}
				last[v.producer] = v.seq
				count[v]++
			}
		}
		if int64(len(count)) != total || popped.Load() != total {
			t.Fatalf("%d to %d, limit %d: %d different values in %d, want %d", producers, consumers, limit, len(count), popped.Load(), total)
		}
		if !r.Trim() || r.Len() != 0 || pool.Free() != stock {
			t.Fatalf("%d to %d, limit %d: not at rest: Len %d, %d blocks, %d of %d free", producers, consumers, limit, r.Len(), r.Blocks(), pool.Free(), stock)
		}
	}
	f(1, 1, 64, 1, 0)
	f(1, 1, 1000, 32, ring.WrapNumber-10)
	f(2, 1, 3, 5, 0)
	f(2, 2, 100, 32, ring.WrapNumber-10)
	f(4, 4, 10_000, 70, 0)
	f(4, 4, 1, 2, ring.WrapNumber)
}

// While published values last, every consumer gets one at each try, however the
// others move the head.
func TestNotEmptyBeforeTheLast(t *testing.T) {
	const consumers, each = 4, 50_000
	r, _ := newRing[uint64](consumers*each, 4)
	if n := r.TryPush(make([]uint64, consumers*each)); n != consumers*each {
		t.Fatalf("pushed %d", n)
	}
	var wg sync.WaitGroup
	for range consumers {
		wg.Go(func() {
			var dst [1]uint64
			for i := range each {
				if r.TryPop(dst[:]) != 1 {
					t.Errorf("nothing at try %d, with values left for all", i)
					return
				}
			}
		})
	}
	wg.Wait()
	if r.Len() != 0 || r.Blocks() != 0 {
		t.Errorf("Len %d, %d blocks", r.Len(), r.Blocks())
	}
}

func TestDoesNotAllocate(t *testing.T) {
	if invariant.Enabled {
		t.Skip("checks are compiled in, and formatting them allocates")
	}
	r, _ := newRing[item](1000, 8)
	f := func(name string, work func()) {
		t.Helper()
		work() // the first round takes blocks from the heap
		if n := testing.AllocsPerRun(1000, work); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
	buf := make([]item, 200)
	f("one", func() { r.TryPush(buf[:1]); r.TryPop(buf[:1]) })
	f("batch", func() { r.TryPush(buf[:32]); r.TryPop(buf[:32]) })
	f("several blocks", func() { r.TryPush(buf); r.TryPop(buf) })
	f("trimmed each time", func() { r.TryPush(buf); r.TryPop(buf); r.Trim() })
}

func ExampleRing() {
	pool := ring.NewPool[int](16)
	var r ring.Ring[int]
	r.Init(3, pool)
	fmt.Println(r.TryPush([]int{1, 2, 3, 4}))
	dst := make([]int, 8)
	n := r.TryPop(dst)
	fmt.Println(dst[:n], r.Len(), r.Trim())
	// Output:
	// 3
	// [1 2 3] 0 true
}

func TestMarkIsPassedWhenItsValuesAreGone(t *testing.T) {
	pool := ring.NewPool[int](8)
	var r ring.Ring[int]
	r.Init(1000, pool)
	if !r.Passed(r.Mark()) {
		t.Error("an empty ring has not passed its mark")
	}
	var buf [300]int
	next := 0
	for range 20 { // through blocks, and over the end of one
		r.TryPush(buf[:100+next%37])
		mark := r.Mark()
		held := r.Len()
		r.TryPush(buf[:50])
		for held > 0 {
			if r.Passed(mark) {
				t.Fatalf("passed with %d values held", held)
			}
			held -= r.TryPop(buf[:min(held, 33)])
		}
		if !r.Passed(mark) {
			t.Fatal("not passed though all are popped")
		}
		for r.TryPop(buf[:]) > 0 {
			next++
		}
		r.Trim()
		if !r.Passed(mark) {
			t.Fatal("not passed after Trim")
		}
	}
}
