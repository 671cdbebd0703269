package mmapqueue_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/mmapqueue"
)

// TestWindow shows that a window does what a map would do, also once written and
// read again.
func TestWindow(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		start := rng.Uint64N(1000)
		w := mmapqueue.NewWindow(start)
		has := map[uint64]bool{}
		floor := start
		for step := range 400 {
			at := floor + rng.Uint64N(1+uint64(rng.IntN(700)))
			switch op := rng.IntN(10); {
			case op < 6:
				if got, want := w.Add(at), at >= floor && !has[at]; got != want {
					t.Fatalf("seed %d step %d: Add(%d) = %t, want %t", seed, step, at, got, want)
				}
				has[at] = true
			case op < 8:
				to := at + rng.Uint64N(200)
				w.AddRange(at, to)
				for ; at < to; at++ {
					has[at] = true
				}
			case op == 8:
				for ; floor < at; floor++ { // the usual case: one after the other
					has[floor] = true
					w.Add(floor)
				}
			default:
				again := mmapqueue.NewWindow(0)
				if !again.Decode(w.Encode()) {
					t.Fatalf("seed %d step %d: Decode failed", seed, step)
				}
				w = again
			}
			for has[floor] {
				floor++
			}
			if w.Floor() != floor {
				t.Fatalf("seed %d step %d: floor %d, want %d", seed, step, w.Floor(), floor)
			}
			for at := floor; at < floor+1000; at++ {
				if w.Has(at) != has[at] {
					t.Fatalf("seed %d step %d: Has(%d) = %t", seed, step, at, !has[at])
				}
			}
		}
		maps.DeleteFunc(has, func(at uint64, _ bool) bool { return at < floor })
		if len(has) == 0 && w.Words() > 1 {
			t.Fatalf("%d words for nothing", w.Words())
		}
	}
}

// TestWindowBad shows that no bytes make a window crash or take all memory.
func TestWindowBad(t *testing.T) {
	w := mmapqueue.NewWindow(5)
	w.AddRange(70, 700)
	w.Add(1000)
	good := w.Encode()
	for cut := range good {
		mmapqueue.NewWindow(0).Decode(good[:cut])
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20000 {
		bad := slices.Clone(good)
		bad[rng.IntN(len(bad))] ^= byte(1 << rng.IntN(8))
		mmapqueue.NewWindow(0).Decode(bad)
	}
	huge := append(good[:8:8], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0)
	if mmapqueue.NewWindow(0).Decode(huge) {
		t.Fatal("a window of 2^64 words was decoded")
	}
}

// held is what the model knows of one cursor: ascending by sequence.
type held struct {
	unread, out []mmapqueue.Record
	known       map[uint64]uint64 // id → sequence of records that were once read
}

// TestFinishModel shows that what is finished never comes again after a Sync and
// a crash, and what is not always does; that it holds no more than it has to; and
// that other cursors' records change nothing.
func TestFinishModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { runFinishModel(t, seed, 300) })
	}
}

func runFinishModel(t *testing.T, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 3))
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, small)
	model := map[string]*held{"a": {known: map[uint64]uint64{}}, "b": {known: map[uint64]uint64{}}}
	for _, name := range []string{"a", "b"} {
		mustCursor(t, b, name)
	}
	restarted := func() {
		for _, h := range model {
			h.unread, h.out = append(h.out, h.unread...), nil
			slices.SortFunc(h.unread, func(x, y mmapqueue.Record) int { return int(x.ID) - int(y.ID) })
		}
	}
	nextID := 1
	for step := range steps {
		name := []string{"a", "b"}[rng.IntN(2)]
		h, c := model[name], mustCursor(t, b, name)
		switch op := rng.IntN(20); {
		case op < 6:
			recs := publish(nextID, 1+rng.IntN(30))
			nextID += len(recs)
			for i := range recs {
				r := &recs[i]
				if rng.IntN(3) == 0 {
					to := []string{"a", "b"}[rng.IntN(2)]
					r.Kind, r.Cursor = mmapqueue.KindPut, mustCursor(t, b, to).ID()
					model[to].unread = append(model[to].unread, *r)
					continue
				}
				if rng.IntN(3) == 0 {
					forSome(t, rng, b, r, []string{"a", "b"}, func(to string) { model[to].unread = append(model[to].unread, *r) })
					continue
				}
				for _, to := range model {
					to.unread = append(to.unread, *r)
				}
			}
			must(t, b.Append(recs))
		case op < 11:
			most := rng.IntN(40)
			n := min(most, len(h.unread))
			got := read(t, c, most)
			wantRecords(t, got, h.unread[:n])
			h.out = append(h.out, got...)
			h.unread = h.unread[n:]
			for _, r := range got {
				h.known[r.ID] = r.Sequence
			}
		case op < 15:
			keep := rng.IntN(4)
			h.out = finishSome(rng, c, h.out, h.known, keep)
		case op == 15: // as a start does that knows more than the cursor file
			h.unread = finishSome(rng, c, h.unread, h.known, rng.IntN(4))
		case op == 16 && rng.IntN(4) == 0:
			c.Empty() // what is out stays out: a consumer has it
			h.unread = nil
		case op == 17:
			b.Trim()
		case op == 18:
			must(t, b.Close())
			b = mustOpen(t, dir, small)
			restarted()
		case op == 19:
			must(t, b.Sync())
			crashed := clone(t, dir)
			must(t, b.Remove())
			dir = crashed
			b = mustOpen(t, dir, small)
			restarted()
		}
		for name, h := range model {
			c := mustCursor(t, b, name)
			if d, u := c.Depth(), c.Unfinished(); d != int64(len(h.unread)) || u != int64(len(h.out)) {
				t.Fatalf("step %d: cursor %q has depth %d, %d unfinished, want %d, %d", step, name, d, u, len(h.unread), len(h.out))
			}
		}
	}
	for name, h := range model {
		c := mustCursor(t, b, name)
		got := read(t, c, 1<<20)
		wantRecords(t, got, h.unread)
		must(t, b.Sync())
		c.Finish(sequences(got))
		c.Finish(sequences(h.out))
	}
	if n := len(segments(t, dir)); n > 1 {
		t.Errorf("%d segments are left with everything finished", n)
	}
	must(t, b.Close())
}

// read is drain without finishing.
func read(t *testing.T, c *mmapqueue.Cursor, most int) (got []mmapqueue.Record) {
	t.Helper()
	_, err := c.Read(most, func(r *mmapqueue.Record) {
		got = append(got, *r)
		got[len(got)-1].Body = slices.Clone(r.Body)
	})
	must(t, err)
	return got
}

// finishSome finishes those of recs whose sequence is known, but for one in keep,
// in any order and some twice, and returns the others.
func finishSome(rng *rand.Rand, c *mmapqueue.Cursor, recs []mmapqueue.Record, known map[uint64]uint64, keep int) (rest []mmapqueue.Record) {
	var done []uint64
	for _, r := range recs {
		sequence, ok := known[r.ID]
		if !ok || keep > 0 && rng.IntN(keep+1) == 0 {
			rest = append(rest, r)
			continue
		}
		done = append(done, sequence)
	}
	rng.Shuffle(len(done), func(i, j int) { done[i], done[j] = done[j], done[i] })
	c.Finish(done)
	c.Finish(done[:len(done)/2])
	return rest
}

// TestUnfinishedHoldsSegments shows that one unfinished record keeps its segment
// and those behind it, and that finishing it lets them go.
func TestUnfinishedHoldsSegments(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, small)
	defer b.Remove()
	c := mustCursor(t, b, "ch")
	must(t, b.Append(publish(1, 300)))
	must(t, b.Append(publish(301, 300)))
	got := read(t, c, 600)
	c.Finish(sequences(got[1:]))
	if n := len(segments(t, dir)); n < 2 {
		t.Fatalf("%d segments while the first record is unfinished", n)
	}
	must(t, b.Sync())
	crashed := mustOpen(t, clone(t, dir), small)
	defer crashed.Remove()
	wantRecords(t, drain(t, mustCursor(t, crashed, "ch"), 1000), got[:1])
	c.Finish(sequences(got[:1]))
	b.Trim()
	if n := len(segments(t, dir)); n != 0 {
		t.Fatalf("%d segments after everything was finished", n)
	}
}

// TestFinishAllocations shows that a window which moves on costs no allocation.
func TestFinishAllocations(t *testing.T) {
	if invariant.Enabled {
		t.Skip("the checks allocate")
	}
	b := mustOpen(t, filepath.Join(t.TempDir(), "log"), mmapqueue.Options{SegmentBytesMin: 64 << 20, SyncEvery: -1, SyncTimeout: -1})
	defer b.Remove()
	c := mustCursor(t, b, "ch")
	recs := publish(1, 1000)
	for range 20 {
		must(t, b.Append(recs))
	}
	seqs := make([]uint64, 0, 100)
	step := func() {
		seqs = seqs[:0]
		if _, err := c.Read(100, func(r *mmapqueue.Record) { seqs = append(seqs, r.Sequence) }); err != nil {
			t.Fatal(err)
		}
		slices.Reverse(seqs[1:])
		c.Finish(seqs[1:])
		c.Finish(seqs[:1])
	}
	step()
	if n := testing.AllocsPerRun(100, step); n > 8 { // a batch of 100; none is for a record
		t.Fatalf("%.0f allocations for a batch", n)
	}
}

// BenchmarkFinish reads and finishes batches of 500; one op is one record.
func BenchmarkFinish(b *testing.B) {
	const total, each = 200_000, 500
	log := mustOpen(b, filepath.Join(b.TempDir(), "log"), mmapqueue.Options{SyncEvery: -1, SyncTimeout: -1})
	defer log.Remove()
	recs := bodies(1000)
	c := mustCursor(b, log, "reader")
	seqs := make([]uint64, 0, each)
	b.ReportAllocs()
	for done := 0; b.Loop(); done++ {
		if done%each != 0 {
			continue
		}
		if c.Depth() == 0 {
			b.StopTimer()
			for range total / 1000 {
				must(b, log.Append(recs))
			}
			b.StartTimer()
		}
		seqs = seqs[:0]
		if _, err := c.Read(each, func(r *mmapqueue.Record) { seqs = append(seqs, r.Sequence) }); err != nil {
			b.Fatal(err)
		}
		c.Finish(seqs)
	}
}
