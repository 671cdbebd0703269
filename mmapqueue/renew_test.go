package mmapqueue_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
)

// TestRenewKeepsLogsSmall holds a few records while thousands pass: the log keeps
// those, and not all that came behind them.
func TestRenewKeepsLogsSmall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, small)
	c, behind := mustCursor(t, b, "c"), mustCursor(t, b, "another that keeps up")
	must(t, b.Append(publish(1, 3)))
	held := read(t, c, 3)
	drain(t, behind, 3)
	most, renewed := 0, 0
	for i := range 400 {
		must(t, b.Append(publish(4+20*i, 20)))
		drain(t, c, 1<<20)
		drain(t, behind, 1<<20)
		if c.Pinned() > 0 {
			n, err := c.Renew()
			must(t, err)
			renewed += n
		}
		if c.Depth() != 0 || c.Unfinished() != 3 {
			t.Fatalf("depth %d, %d unfinished, want 0 and 3", c.Depth(), c.Unfinished())
		}
		most = max(most, len(segments(t, dir)))
	}
	if renewed < 100 || most > 8 {
		t.Errorf("%d records were renewed, the log had up to %d segments", renewed, most)
	}
	c.Finish(sequences(held[:1]))
	crashed := clone(t, dir)
	must(t, b.Sync())
	synced := clone(t, dir)
	for dir, least := range map[string]int{crashed: 2, synced: 2} {
		o := mustOpen(t, dir, small)
		got := map[uint64]int{}
		for _, r := range drain(t, mustCursor(t, o, "c"), 1<<20) {
			got[r.ID]++
		}
		if got[2] == 0 || got[3] == 0 || len(got) < least || dir == synced && (len(got) != 2 || got[2]+got[3] != 2) {
			t.Errorf("a start finds %v, want records 2 and 3", got)
		}
		must(t, o.Close())
	}
	c.Finish(sequences(held[1:])) // the sequences of long ago
	if d, u := c.Depth(), c.Unfinished(); d != 0 || u != 0 {
		t.Errorf("depth %d, %d unfinished, want none", d, u)
	}
	must(t, b.Close())
}

// TestRenewModel renews at random moments between everything else that a cursor does.
func TestRenewModel(t *testing.T) {
	renewed := 0
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { renewed += runRenewModel(t, seed, 500) })
	}
	if renewed < 20 {
		t.Errorf("%d records were renewed", renewed)
	}
}

func runRenewModel(t *testing.T, seed uint64, steps int) (renewed int) {
	rng := rand.New(rand.NewPCG(seed, 9))
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, small)
	type model struct {
		unread map[uint64]bool
		out    map[uint64]uint64 // id → sequence it was handed out with
	}
	names := []string{"a", "b"}
	models := map[string]*model{}
	for _, name := range names {
		mustCursor(t, b, name)
		models[name] = &model{map[uint64]bool{}, map[uint64]uint64{}}
	}
	restart := func(at string) {
		dir = at
		b = mustOpen(t, dir, small)
		for _, m := range models {
			for id := range m.out {
				m.unread[id] = true
			}
			clear(m.out)
		}
	}
	nextID := 1
	for step := range steps {
		name := names[rng.IntN(2)]
		m, c := models[name], mustCursor(t, b, name)
		switch op := rng.IntN(24); {
		case op < 8:
			recs := publish(nextID, 1+rng.IntN(30))
			nextID += len(recs)
			for i := range recs {
				r := &recs[i]
				if rng.IntN(4) == 0 {
					forSome(t, rng, b, r, []string{"a", "b"}, func(to string) { models[to].unread[r.ID] = true })
					continue
				}
				for _, o := range models {
					o.unread[r.ID] = true
				}
			}
			must(t, b.Append(recs))
		case op < 15:
			for _, r := range read(t, c, rng.IntN(80)) {
				if !m.unread[r.ID] {
					t.Fatalf("step %d: %s reads %d again", step, name, r.ID)
				}
				delete(m.unread, r.ID)
				m.out[r.ID] = r.Sequence
			}
		case op < 20: // all but a few
			var done []uint64
			for _, id := range slices.Sorted(maps.Keys(m.out)) { // in one order, so that a seed is one run
				if id%37 != 0 || rng.IntN(40) == 0 {
					done = append(done, m.out[id])
					delete(m.out, id)
				}
			}
			c.Finish(done)
		case op < 22:
			n, err := c.Renew()
			must(t, err)
			renewed += n
		case op == 22 && rng.IntN(4) == 0:
			c.Empty()
			clear(m.unread)
		case op == 23 && rng.IntN(3) == 0:
			must(t, b.Sync())
			crashed := clone(t, dir)
			must(t, b.Remove())
			restart(crashed)
		case op == 23 && rng.IntN(3) == 0:
			must(t, b.Close())
			restart(dir)
		}
		for name, m := range models {
			c := mustCursor(t, b, name)
			if d, u := c.Depth(), c.Unfinished(); d != int64(len(m.unread)) || u != int64(len(m.out)) {
				t.Fatalf("step %d: cursor %q has depth %d, %d unfinished, want %d, %d", step, name, d, u, len(m.unread), len(m.out))
			}
		}
	}
	for name, m := range models {
		c := mustCursor(t, b, name)
		got := read(t, c, 1<<20)
		if len(got) != len(m.unread) {
			t.Errorf("%d records are left to %s, want %d", len(got), name, len(m.unread))
		}
		c.Finish(sequences(got))
		for _, sequence := range m.out {
			c.Finish([]uint64{sequence})
		}
	}
	if n := len(segments(t, dir)); n > 1 {
		t.Errorf("%d segments are left with everything finished", n)
	}
	must(t, b.Close())
	return renewed
}
