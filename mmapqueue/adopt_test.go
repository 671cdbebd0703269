package mmapqueue_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zsqio/zsq/internal/diskqueue"
	"github.com/zsqio/zsq/mmapqueue"
)

// old returns n messages as upstream keeps them, and as we read them.
func old(first, n int) (theirs []diskqueue.Message, ours []mmapqueue.Record) {
	for _, r := range publish(first, n) {
		r.Due, r.Kind = 0, mmapqueue.KindPut
		m := diskqueue.Message{Timestamp: r.Timestamp, Attempts: r.Attempts, Body: r.Body}
		copy(m.ID[:], fmt.Sprintf("%016x", r.ID))
		theirs, ours = append(theirs, m), append(ours, r)
	}
	return theirs, ours
}

func writeOld(t *testing.T, dir, channel string, theirs []diskqueue.Message, fileBytes int64) {
	t.Helper()
	w := diskqueue.NewWriter(dir, "t", channel, fileBytes)
	for _, m := range theirs {
		must(t, w.Put(m))
	}
	must(t, w.Close())
}

func adopt(t *testing.T, b *mmapqueue.Backlog, dir string) {
	t.Helper()
	queues, err := diskqueue.Find(dir)
	must(t, err)
	must(t, b.Adopt(queues))
}

func oldFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.diskqueue.*"))
	must(t, err)
	return names
}

// TestAdopt shows that upstream's queues are read in place, before what came
// later, with nothing lost or doubled through stops and crashes at any moment, and
// that their files go as they drain.
func TestAdopt(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { runAdopt(t, seed) })
	}
}

func runAdopt(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 6))
	root := t.TempDir()
	open := func() *mmapqueue.Backlog {
		b := mustOpen(t, filepath.Join(root, "zsq", "log"), small)
		adopt(t, b, root) // as every start does
		return b
	}
	want := map[string][]mmapqueue.Record{}
	nextID := 1
	for _, channel := range []string{"a", "b", ""} {
		n := 300 + rng.IntN(300)
		theirs, ours := old(nextID, n)
		writeOld(t, root, channel, theirs, int64(2000+rng.IntN(9000)))
		want[channel] = ours
		nextID += n
		base := "t:" + channel
		if channel == "" {
			base = "t"
		}
		meta := filepath.Join(root, base+".diskqueue.meta.dat")
		switch rng.IntN(4) { // what a crash leaves of a meta file
		case 0:
			must(t, os.Remove(meta))
		case 1:
			must(t, os.WriteFile(meta, []byte("7\n0,0\n1,50\n"), 0o600))
		case 2:
			must(t, os.WriteFile(meta, fmt.Appendf(nil, "%d\n0,0\n1,50\n", 3*n), 0o600))
		}
	}
	files := len(oldFiles(t, root))
	b := open()
	out := map[string][]mmapqueue.Record{}
	restarted := func() {
		for name := range want {
			want[name] = append(out[name], want[name]...)
			out[name] = nil
			slices.SortFunc(want[name], func(x, y mmapqueue.Record) int { return int(x.ID) - int(y.ID) })
		}
	}
	names := []string{"a", "b", ""}
	for range 150 {
		name := names[rng.IntN(len(names))]
		c := mustCursor(t, b, name)
		switch op := rng.IntN(12); {
		case op < 5:
			n := min(rng.IntN(60), len(want[name]))
			got := read(t, c, n)
			wantRecordsOld(t, got, want[name][:n])
			out[name] = append(out[name], got...)
			want[name] = want[name][n:]
		case op < 8:
			rng.Shuffle(len(out[name]), func(i, j int) { out[name][i], out[name][j] = out[name][j], out[name][i] })
			n := rng.IntN(len(out[name]) + 1)
			c.Finish(sequences(out[name][:n]))
			out[name] = out[name][n:]
		case op == 8:
			recs := publish(nextID, 5)
			nextID += 5
			must(t, b.Append(recs))
			for _, name := range names {
				want[name] = append(want[name], recs...)
			}
		case op == 9:
			b.Trim()
		case op == 10:
			must(t, b.Close())
			b = open()
			restarted()
		case op == 11:
			must(t, b.Sync())
			crashed := clone(t, root)
			must(t, b.Close())
			root = crashed
			b = open()
			restarted()
		}
	}
	for _, name := range names {
		c := mustCursor(t, b, name)
		got := drain(t, c, 1<<20)
		wantRecordsOld(t, got, want[name])
		c.Finish(sequences(out[name]))
		if c.Depth() != 0 {
			t.Errorf("cursor %q: depth %d with everything read", name, c.Depth())
		}
		if left := len(oldFiles(t, root)); left >= files {
			t.Errorf("%d of %d files are left after cursor %q has finished", left, files, name)
		} else {
			files = left
		}
	}
	if left := oldFiles(t, root); len(left) > 0 {
		t.Errorf("left with everything finished: %q", left)
	}
	must(t, b.Close())
	if _, err := os.Stat(filepath.Join(root, "zsq", "log")); err == nil {
		t.Error("an empty log leaves its directory")
	}
}

// wantRecordsOld is wantRecords for records whose cursor is not known here.
func wantRecordsOld(t *testing.T, got, want []mmapqueue.Record) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(a, b mmapqueue.Record) bool {
		a.Cursor, b.Cursor = 0, 0
		return same(a, b)
	}) {
		t.Fatalf("read %d records, want %d:\n got %v\nwant %v", len(got), len(want), ids(got), ids(want))
	}
}

// TestAdoptDamaged shows that a damaged file of upstream's gives what stands in
// front of the damage, is kept under another name, and hides no file behind it.
func TestAdoptDamaged(t *testing.T) {
	f := func(what string, spoil func(path string) error, least, most int) {
		t.Helper()
		root := t.TempDir()
		theirs, ours := old(1, 300)
		writeOld(t, root, "ch", theirs, 8000)
		files := oldFiles(t, root) // 000000, 000001, …, meta
		must(t, spoil(files[1]))
		b := mustOpen(t, filepath.Join(root, "zsq", "log"), small)
		defer b.Remove()
		adopt(t, b, root)
		c := mustCursor(t, b, "ch")
		var got []mmapqueue.Record
		for range 5 {
			more, _ := tryDrain(c, 1000)
			got = append(got, more...)
		}
		for _, r := range got {
			if w := ours[r.ID-1]; r.Timestamp != w.Timestamp || r.Attempts != w.Attempts || string(r.Body) != string(w.Body) {
				t.Fatalf("%s: invented %+v", what, r)
			}
		}
		if len(got) < least || len(got) > most || c.Depth() != 0 || got[len(got)-1].ID != 300 {
			t.Errorf("%s: %d of 300 records, depth %d, %d places", what, len(got), c.Depth(), b.Damaged())
		}
		if _, err := os.Stat(files[1] + ".bad"); what != "removed" && err != nil {
			t.Errorf("%s: the file was not kept: %v", what, err)
		}
		if again, err := diskqueue.Find(root); err != nil || len(again) > 0 {
			t.Errorf("%s: found again: %+v, %v", what, again, err)
		}
	}
	f("cut", func(path string) error { return os.Truncate(path, 4000) }, 250, 295)
	f("removed", func(path string) error { return os.WriteFile(path, nil, 0o600) }, 200, 299)
	f("a length changed", func(path string) error {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		defer file.Close()
		_, err = file.WriteAt([]byte{0xff}, 0)
		return err
	}, 200, 299)
}
