package block_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/fstest"
	"unsafe"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/invariant"
)

// fill writes bytes that follow from seed alone.
func fill(b []byte, seed uint64) {
	var w [8]byte
	for i := 0; i < len(b); i += 8 {
		seed = seed*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(w[:], seed)
		copy(b[i:], w[:])
	}
}

// filled reports whether b is as fill left it.
func filled(b []byte, seed uint64) bool {
	want := make([]byte, len(b))
	fill(want, seed)
	return bytes.Equal(b, want)
}

// end checks that p is left without a holder.
func end(t *testing.T, p *block.Pool) {
	t.Helper()
	if p.Used() != 0 || p.Live() != 0 {
		t.Errorf("at the end %d bytes used, %d references, want 0", p.Used(), p.Live())
	}
	p.Check(t.Errorf)
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s did not panic", what)
		}
	}()
	f()
}

// Random stores, retains and releases agree with a map, and no message changes
// while somebody holds it.
func TestModel(t *testing.T) {
	const seed = 1
	rnd := rand.New(rand.NewPCG(seed, 1))
	type held struct {
		ref  block.Ref
		seed uint64
		refs int
	}
	var (
		p      = block.NewPool(0)
		arenas = []*block.Arena{block.NewArena(p), block.NewArena(p), block.NewArena(p)}
		drops  block.Drops
		model  []held
		size   = []int{1, 100, 300, 3000, block.MaxShared, block.MaxShared + 1, 3 * block.ChunkSize}
		steps  = 30_000
		depth  = 400
	)
	if invariant.Enabled {
		steps = 6_000 // mangling takes time
	}
	for step := range steps {
		if step%5_000 == 0 {
			depth = 1 + rnd.IntN(800) // the pool grows and shrinks
		}
		switch k := rnd.IntN(100); {
		case k == 0:
			arenas[rnd.IntN(len(arenas))].Close()
		case k == 1:
			arenas[rnd.IntN(len(arenas))].Flush()
		case k < 5:
			drops.Flush(p)
		case k < 15 && len(model) > 0:
			h := &model[rnd.IntN(len(model))]
			n := rnd.IntN(4)
			p.Retain(h.ref.Chunk, int64(n))
			h.refs += n
		case len(model) < depth && k < 60:
			n := rnd.IntN(size[min(rnd.IntN(len(size)), rnd.IntN(len(size)))] + 1)
			ref, b := arenas[rnd.IntN(len(arenas))].Alloc(n)
			if len(b) != n || cap(b) != n || int(ref.Len) != n || ref.Off%8 != 0 || ref.Chunk == 0 {
				t.Fatalf("seed %d step %d: Alloc(%d) = %+v with len %d cap %d", seed, step, n, ref, len(b), cap(b))
			}
			model = append(model, held{ref, rnd.Uint64(), 1})
			fill(b, model[len(model)-1].seed)
		case len(model) > 0:
			i := rnd.IntN(len(model))
			h := &model[i]
			if !filled(p.Bytes(h.ref), h.seed) {
				t.Fatalf("seed %d step %d: message %+v has changed", seed, step, h.ref)
			}
			drops.Add(h.ref.Chunk)
			if h.refs--; h.refs == 0 {
				model[i] = model[len(model)-1]
				model = model[:len(model)-1]
			}
		}
		if step%500 == 0 {
			p.Check(func(format string, args ...any) {
				t.Helper()
				t.Errorf("seed %d step %d:", seed, step)
				t.Fatalf(format, args...)
			})
		}
	}
	for _, h := range model {
		if !filled(p.Bytes(h.ref), h.seed) {
			t.Errorf("seed %d: message %+v has changed at the end", seed, h.ref)
		}
		for range h.refs {
			drops.Add(h.ref.Chunk)
		}
	}
	drops.Flush(p)
	for _, a := range arenas {
		a.Close()
	}
	end(t, p)
}

// Messages stored by some goroutines are read and dropped by others.
func TestConcurrent(t *testing.T) {
	const (
		pairs = 4
		each  = 5_000
		fan   = 3
	)
	type msg struct {
		ref  block.Ref
		seed uint64
	}
	p := block.NewPool(0)
	ch := make(chan msg, 256)
	var writers, readers sync.WaitGroup
	for w := range pairs {
		writers.Go(func() {
			a := block.NewArena(p)
			defer a.Close()
			for i := range each {
				n := 8 + (i*37)%700
				if i%200 == 0 {
					n = block.MaxShared + i
				}
				m := msg{seed: uint64(w)<<32 | uint64(i)}
				var b []byte
				m.ref, b = a.Alloc(n)
				fill(b, m.seed)
				p.Retain(m.ref.Chunk, fan-1)
				for range fan {
					ch <- m
				}
			}
		})
		readers.Go(func() {
			var d block.Drops
			defer d.Flush(p)
			i := 0
			for m := range ch {
				if !filled(p.Bytes(m.ref), m.seed) {
					t.Errorf("message %+v has changed", m.ref)
				}
				d.Add(m.ref.Chunk)
				if i++; i%64 == 0 {
					d.Flush(p)
				}
			}
		})
	}
	writers.Wait()
	close(ch)
	readers.Wait()
	end(t, p)
}

// The budget counts chunks, not messages, and stops nobody.
func TestBudget(t *testing.T) {
	p := block.NewPool(2 * block.ChunkSize)
	a := block.NewArena(p)
	if p.Budget() != 2*block.ChunkSize {
		t.Fatalf("new pool: budget %d", p.Budget())
	}
	small, _ := a.Alloc(1)
	if p.Used() != block.ChunkSize {
		t.Errorf("one byte stored: used %d, want one chunk", p.Used())
	}
	big, _ := a.Alloc(block.ChunkSize + 1)
	if p.Used() != 3*block.ChunkSize {
		t.Errorf("used %d, want three chunks, more than the budget", p.Used())
	}
	p.Release(big.Chunk, 1)
	if p.Used() != block.ChunkSize {
		t.Errorf("big message gone: used %d, want one chunk", p.Used())
	}
	p.Release(small.Chunk, 1)
	if p.Used() != block.ChunkSize {
		t.Errorf("used %d with a chunk open, want one chunk", p.Used())
	}
	if !a.Flush() {
		t.Error("Flush kept a chunk without live messages")
	}
	end(t, p)
	if p := block.NewPool(-1); p.Budget() != 0 {
		t.Errorf("pool without limit: budget %d", p.Budget())
	}
}

// Bodies up to 64 MB and beyond get chunks of their own, which are used again
// and whose memory does not stay behind.
func TestBigBodies(t *testing.T) {
	p := block.NewPool(0)
	a := block.NewArena(p)
	for _, n := range []int{block.MaxShared + 1, block.ChunkSize, 1<<20 + 30, 64<<20 + 1} {
		ref, b := a.Alloc(n)
		if len(b) != n || ref.Off != 0 {
			t.Fatalf("Alloc(%d): %+v, %d bytes", n, ref, len(b))
		}
		b[0], b[n/2], b[n-1] = 1, 2, 3
		p.Retain(ref.Chunk, 1)
		p.Release(ref.Chunk, 1)
		if b := p.Bytes(ref); b[0] != 1 || b[n/2] != 2 || b[n-1] != 3 {
			t.Errorf("body of %d bytes has changed", n)
		}
		if used := p.Used(); used < int64(n) || used >= 2*int64(n)+8 {
			t.Errorf("body of %d bytes uses %d", n, used)
		}
		p.Release(ref.Chunk, 1)
		again, _ := a.Alloc(n)
		if again.Chunk != ref.Chunk {
			t.Errorf("body of %d bytes got chunk %d, want %d again", n, again.Chunk, ref.Chunk)
		}
		p.Release(again.Chunk, 1)
		if kept, _ := p.Free(); kept > block.KeepBig {
			t.Errorf("%d bytes kept, want at most %d", kept, block.KeepBig)
		}
	}
	mustPanic(t, "Alloc(-1)", func() { a.Alloc(-1) })
	mustPanic(t, "Alloc(MaxLen+1)", func() { a.Alloc(block.MaxLen + 1) })
	end(t, p)
}

// An arena whose messages have all gone by the time its chunk is full fills the
// same chunk again; with one left it takes another.
func TestRewind(t *testing.T) {
	p := block.NewPool(0)
	a := block.NewArena(p)
	first, _ := a.Alloc(1000)
	p.Release(first.Chunk, 1)
	for i := range 10_000 {
		ref, _ := a.Alloc(1000)
		if ref.Chunk != first.Chunk {
			t.Fatalf("message %d: chunk %d, want %d again", i, ref.Chunk, first.Chunk)
		}
		p.Release(ref.Chunk, 1)
	}
	pin, b := a.Alloc(8)
	fill(b, 7)
	if a.Flush() {
		t.Error("Flush let go of a chunk with a live message")
	}
	for {
		ref, b := a.Alloc(1000)
		fill(b, 8)
		p.Release(ref.Chunk, 1)
		if ref.Chunk != pin.Chunk {
			break
		}
	}
	if !filled(p.Bytes(pin), 7) {
		t.Error("pinned message has changed")
	}
	p.Release(pin.Chunk, 1)
	a.Close()
	a.Close()
	end(t, p)
	if ref, _ := a.Alloc(1); ref.Chunk != pin.Chunk && ref.Chunk != pin.Chunk+1 {
		t.Errorf("after Close the arena took chunk %d, not one just freed", ref.Chunk)
	}
}

// A pool that was large gives its memory back, and can grow again.
func TestIdleGivesBack(t *testing.T) {
	p := block.NewPool(0)
	a := block.NewArena(p)
	const large = 8 * block.KeepFree
	for range 2 {
		var refs []block.Ref
		for p.Used() < large {
			ref, b := a.Alloc(50_000)
			fill(b[:8], uint64(len(refs)))
			refs = append(refs, ref)
		}
		for i, ref := range refs {
			if !filled(p.Bytes(ref)[:8], uint64(i)) {
				t.Fatalf("message %d has changed", i)
			}
			p.Release(ref.Chunk, 1)
		}
		a.Close()
		end(t, p)
		kept, back := p.Free()
		if kept > block.KeepFree+block.RegionSize || kept+back != large {
			t.Errorf("%d bytes kept and %d given back, want at most %d and %d in all", kept, back, block.KeepFree+block.RegionSize, large)
		}
	}
}

// Chunk numbers go past the first page of the table.
func TestManyChunks(t *testing.T) {
	p := block.NewPool(0)
	a := block.NewArena(p)
	var refs []block.Ref
	for range 2100 {
		ref, b := a.Alloc(16)
		fill(b, uint64(len(refs)))
		refs = append(refs, ref)
		a.Close()
	}
	for i, ref := range refs {
		if !filled(p.Bytes(ref), uint64(i)) {
			t.Fatalf("message %d has changed", i)
		}
		p.Release(ref.Chunk, 1)
	}
	end(t, p)
}

// Drops gives up exactly what was added, whatever the order of chunks.
func TestDrops(t *testing.T) {
	p := block.NewPool(0)
	var refs []block.Ref
	for range 200 { // more than there are hints
		a := block.NewArena(p)
		ref, _ := a.Alloc(8)
		a.Close()
		p.Retain(ref.Chunk, 9)
		refs = append(refs, ref)
	}
	var d block.Drops
	d.Flush(p)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		if p.Used() != 200*block.ChunkSize {
			t.Fatalf("used %d before the last reference went", p.Used())
		}
		rnd.Shuffle(len(refs), func(i, j int) { refs[i], refs[j] = refs[j], refs[i] })
		for _, ref := range refs {
			d.Add(ref.Chunk)
		}
		d.Flush(p)
	}
	end(t, p)
}

// Misuse panics: in every build when a closed chunk's count goes below zero, and
// under the invariants tag also while the arena's bias hides it.
func TestDoubleRelease(t *testing.T) {
	p := block.NewPool(0)
	a := block.NewArena(p)
	ref, b := a.Alloc(8)
	if invariant.Enabled {
		mustPanic(t, "releasing twice in an open chunk", func() { p.Release(ref.Chunk, 2) })
		p = block.NewPool(0)
		a = block.NewArena(p)
		ref, b = a.Alloc(8)
	}
	a.Close()
	p.Release(ref.Chunk, 1)
	if invariant.Enabled {
		if b[0] != block.Mangled {
			t.Errorf("freed chunk begins with %#x, want %#x", b[0], block.Mangled)
		}
		mustPanic(t, "reading a freed message", func() { p.Bytes(ref) })
		mustPanic(t, "retaining a freed message", func() { p.Retain(ref.Chunk, 1) })
		return
	}
	mustPanic(t, "releasing twice", func() { p.Release(ref.Chunk, 1) })
}

// The zero Ref has no bytes, and a Ref has the size that rings count on.
func TestZeroRef(t *testing.T) {
	if b := block.NewPool(0).Bytes(block.Ref{}); len(b) != 0 {
		t.Errorf("the zero Ref has %d bytes", len(b))
	}
	if n := unsafe.Sizeof(block.Ref{}); n != 16 {
		t.Errorf("a Ref has %d bytes, want 16", n)
	}
}

func TestNoAllocations(t *testing.T) {
	if invariant.Enabled {
		t.Skip("formatting the checks allocates")
	}
	p := block.NewPool(0)
	a := block.NewArena(p)
	var d block.Drops
	var queue [4096]block.Ref
	for i := range queue {
		queue[i], _ = a.Alloc(200)
	}
	i := 0
	got := testing.AllocsPerRun(20_000, func() {
		at := &queue[i%len(queue)]
		d.Add(at.Chunk)
		*at, _ = a.Alloc(200)
		if i++; i%64 == 0 {
			d.Flush(p)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations for a message stored and dropped, want 0", got)
	}
}

func TestDefaultBudget(t *testing.T) {
	f := func(want int64, files map[string]string) {
		t.Helper()
		root := fstest.MapFS{}
		for name, text := range files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := block.DefaultBudgetOf(root); got != want {
			t.Errorf("budget %d, want %d, with %v", got, want, files)
		}
	}
	const meminfo = "MemTotal:       8388608 kB\nMemFree:          1000 kB\n"
	f(256<<20, nil)
	f(2<<30, map[string]string{"proc/meminfo": meminfo})
	f(1<<20, map[string]string{
		"proc/meminfo":                   meminfo,
		"proc/self/cgroup":               "4:memory:/v1\n0::/a/b\n",
		"sys/fs/cgroup/a/b/memory.max":   "max\n",
		"sys/fs/cgroup/a/memory.max":     "4194304\n",
		"sys/fs/cgroup/other/memory.max": "4096\n",
		"sys/fs/cgroup/memory.max":       "8388608\n",
	})
	f(1<<20, map[string]string{
		"proc/meminfo":             meminfo,
		"proc/self/cgroup":         "0::/../..\n",
		"sys/fs/cgroup/memory.max": "4194304\n",
	})
	f(1<<20, map[string]string{
		"proc/meminfo":     meminfo,
		"proc/self/cgroup": "4:memory:/docker/a\n",
		"sys/fs/cgroup/memory/memory.limit_in_bytes": "4194304\n",
	})
	f(2<<30, map[string]string{
		"proc/meminfo": meminfo,
		"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		"sys/fs/cgroup/memory.max":                   "0\n",
	})
	if got := block.DefaultBudget(); got <= 0 {
		t.Errorf("this machine's budget is %d", got)
	}
}

// OldestMark is that of the oldest message that somebody holds; a chunk that
// stays open can be left for a new one.
func TestMarks(t *testing.T) {
	p := block.NewPool(0)
	a := block.NewArena(p)
	want := func(mark uint64) {
		t.Helper()
		if got := p.OldestMark(); got != mark {
			t.Errorf("oldest mark is %d, want %d", got, mark)
		}
	}
	p.SetMark(3)
	want(3)
	first, _ := a.Alloc(100)
	big, _ := a.Alloc(3 * block.ChunkSize)
	p.SetMark(5)
	want(3)
	a.Renew(3)
	second, _ := a.Alloc(100)
	if second.Chunk != first.Chunk {
		t.Error("a chunk was left that is not below the mark")
	}
	a.Renew(4)
	third, _ := a.Alloc(100)
	if p.MarkOf(third.Chunk) != 5 {
		t.Errorf("a new chunk has mark %d, want 5", p.MarkOf(third.Chunk))
	}
	p.Release(first.Chunk, 2)
	want(3)
	p.Release(big.Chunk, 1)
	want(5)

	p.SetMark(9)
	p.Release(third.Chunk, 1)
	want(5) // open, and nobody says that it is empty
	for range 2 * block.ChunkSize / 1000 {
		r, _ := a.Alloc(1000) // it is used again from its start, or left
		p.Release(r.Chunk, 1)
	}
	want(9)

	free := block.NewArena(p)
	free.SetMark(block.Unmarked)
	r, _ := free.Alloc(10)
	p.SetMark(12)
	a.Close()
	want(12)
	p.Release(r.Chunk, 1)
	free.Close()
	end(t, p)
}
