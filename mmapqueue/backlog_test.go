package mmapqueue_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// small has segments of a few records, and no background syncs. Where a crash is
// played by copying files, nothing need wait for a real disk.
var small = mmapqueue.Recycling(mmapqueue.Options{
	SegmentBytesMin: 512, SegmentBytesMax: 4096, SyncEvery: -1, SyncTimeout: -1, FS: unsynced{mmapqueue.OS},
})

// unsynced is a file system that says of everything that it is on the disk.
type unsynced struct{ mmapqueue.FS }

type unsyncedFile struct{ mmapqueue.File }

func (u unsynced) Create(path string, size int64) (mmapqueue.File, error) {
	f, err := u.FS.Create(path, size)
	return unsyncedFile{f}, err
}

func (u unsynced) Open(path string, write bool) (mmapqueue.File, error) {
	f, err := u.FS.Open(path, write)
	return unsyncedFile{f}, err
}

func (unsynced) SyncDir(string) error { return nil }

func (unsyncedFile) Datasync() error { return nil }

func mustOpen(t testing.TB, dir string, o mmapqueue.Options) *mmapqueue.Backlog {
	t.Helper()
	b, err := mmapqueue.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustCursor(t testing.TB, b *mmapqueue.Backlog, name string) *mmapqueue.Cursor {
	t.Helper()
	c, err := b.Cursor(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publish returns n publish records with ids from first.
func publish(first, n int) []mmapqueue.Record {
	recs := make([]mmapqueue.Record, n)
	for i := range recs {
		id := uint64(first + i)
		recs[i] = mmapqueue.Record{
			Kind: mmapqueue.KindPublish, ID: id, Timestamp: int64(id) * 3, Due: int64(id) * 5,
			Attempts: uint16(id), Body: fmt.Appendf(nil, "body %d %s", id, bytes.Repeat([]byte("x"), int(id*7%90))),
		}
	}
	return recs
}

// drain reads what c has, at most most, finishes it, and returns it with bodies
// of its own.
func drain(t testing.TB, c *mmapqueue.Cursor, most int) []mmapqueue.Record {
	t.Helper()
	got, err := tryDrain(c, most)
	must(t, err)
	return got
}

func tryDrain(c *mmapqueue.Cursor, most int) (got []mmapqueue.Record, err error) {
	n, err := c.Read(most, func(r *mmapqueue.Record) {
		got = append(got, *r)
		got[len(got)-1].Body = bytes.Clone(r.Body)
	})
	c.Finish(sequences(got))
	if n != len(got) {
		return got, fmt.Errorf("Read says %d, handed out %d", n, len(got))
	}
	return got, err
}

func sequences(recs []mmapqueue.Record) (out []uint64) {
	for _, r := range recs {
		out = append(out, r.Sequence)
	}
	return out
}

func same(a, b mmapqueue.Record) bool {
	return a.Kind == b.Kind && a.Cursor == b.Cursor && a.ID == b.ID && a.Timestamp == b.Timestamp &&
		a.Due == b.Due && a.Attempts == b.Attempts && bytes.Equal(a.Body, b.Body)
}

func wantRecords(t testing.TB, got, want []mmapqueue.Record) {
	t.Helper()
	if !slices.EqualFunc(got, want, same) {
		t.Fatalf("read %d records, want %d:\n got %v\nwant %v", len(got), len(want), ids(got), ids(want))
	}
}

func ids(recs []mmapqueue.Record) (out []uint64) {
	for _, r := range recs {
		out = append(out, r.ID)
	}
	return out
}

// clone copies the files of a log, as a crash would leave them.
func clone(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "log")
	cloneTo(t, to, dir)
	return to
}

// cloneTo copies the files under a directory, if it is there, to another one, which
// it makes.
func cloneTo(t testing.TB, to, from string) {
	t.Helper()
	for {
		if _, err := os.Stat(from); err != nil {
			return
		}
		err := os.CopyFS(to, os.DirFS(from))
		if !errors.Is(err, fs.ErrNotExist) {
			must(t, err)
			return
		}
		// A background sync has renamed the cursor file meanwhile.
		must(t, os.RemoveAll(to))
	}
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	must(t, err)
	return names
}

// TestModel shows that a log does what slices would do, through clean stops and
// crashes.
func TestModel(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { runModel(t, seed, 250) })
	}
}

func runModel(t *testing.T, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, small)
	pending := map[string][]mmapqueue.Record{}
	names := []string{"", "a", "b", "c"}
	nextID := 1
	reopened := func() {
		idle := true
		for _, p := range pending {
			idle = idle && len(p) == 0
		}
		got := b.Names()
		if idle { // then names may be gone
			for name := range pending {
				if !slices.Contains(got, name) {
					delete(pending, name)
				}
			}
		}
		if len(got) != len(pending) {
			t.Fatalf("cursors %q, want those of %v", got, pending)
		}
	}
	for step := range steps {
		name := names[rng.IntN(len(names))]
		_, exists := pending[name]
		switch op := rng.IntN(20); {
		case op < 7:
			recs := publish(nextID, 1+rng.IntN(20))
			nextID += len(recs)
			for i := range recs {
				r := &recs[i]
				if to := names[rng.IntN(len(names))]; rng.IntN(3) == 0 && pending[to] != nil {
					r.Kind, r.Cursor = mmapqueue.KindPut, mustCursor(t, b, to).ID()
					pending[to] = append(pending[to], *r)
					continue
				}
				if len(pending) > 0 && rng.IntN(3) == 0 {
					forSome(t, rng, b, r, slices.Collect(maps.Keys(pending)), func(to string) { pending[to] = append(pending[to], *r) })
					continue
				}
				for to := range pending {
					pending[to] = append(pending[to], *r)
				}
			}
			must(t, b.Append(recs))
		case op < 13 && exists:
			most := rng.IntN(40)
			want := pending[name][:min(most, len(pending[name]))]
			wantRecords(t, drain(t, mustCursor(t, b, name), most), want)
			pending[name] = pending[name][len(want):]
		case op == 13 && !exists:
			mustCursor(t, b, name)
			pending[name] = []mmapqueue.Record{}
		case op == 14 && exists:
			mustCursor(t, b, name).Empty()
			pending[name] = []mmapqueue.Record{}
		case op == 15 && exists && rng.IntN(2) == 0:
			must(t, mustCursor(t, b, name).Delete())
			delete(pending, name)
		case op == 16 && exists:
			if to := names[rng.IntN(len(names))]; pending[to] == nil {
				must(t, mustCursor(t, b, name).Rename(to))
				pending[to] = pending[name]
				delete(pending, name)
			}
		case op == 17:
			b.Trim()
		case op == 18:
			must(t, b.Close())
			b = mustOpen(t, dir, small)
			reopened()
		case op == 19:
			must(t, b.Sync())
			crashed := clone(t, dir)
			must(t, b.Remove())
			dir = crashed
			b = mustOpen(t, dir, small)
			reopened()
		}
		for name, p := range pending {
			if d := mustCursor(t, b, name).Depth(); d != int64(len(p)) {
				t.Fatalf("step %d: cursor %q has depth %d, want %d", step, name, d, len(p))
			}
		}
	}
	for name, p := range pending {
		wantRecords(t, drain(t, mustCursor(t, b, name), 1<<20), p)
	}
	if n := len(segments(t, dir)); n > 1 {
		t.Errorf("%d segments are left with nothing to read", n)
	}
	must(t, b.Close())
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty log leaves its directory: %v", err)
	}
}

// forSome makes r a message for some of the cursors, and calls add for each.
func forSome(t *testing.T, rng *rand.Rand, b *mmapqueue.Backlog, r *mmapqueue.Record, names []string, add func(to string)) {
	t.Helper()
	slices.Sort(names)
	rng.Shuffle(len(names), func(i, k int) { names[i], names[k] = names[k], names[i] })
	names = names[:1+rng.IntN(len(names))]
	r.Kind = mmapqueue.KindSome
	for _, name := range names {
		r.To = append(r.To, mustCursor(t, b, name).ID())
	}
	for _, name := range names {
		add(name)
	}
}

// TestTornBatch shows that a crash in the middle of a write keeps every earlier
// batch, and of the torn one some records from its front.
func TestTornBatch(t *testing.T) {
	o := small
	o.SegmentBytesMin = 4096
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, o)
	mustCursor(t, b, "ch")
	first, last := publish(1, 5), publish(6, 4)
	must(t, b.Append(first))
	before, err := os.ReadFile(segments(t, dir)[0])
	must(t, err)
	must(t, b.Append(last))
	after, err := os.ReadFile(segments(t, dir)[0])
	must(t, err)
	defer b.Remove()

	start, end := 0, 0
	for i := range before {
		if before[i] != after[i] {
			if start == 0 {
				start = i &^ 7
			}
			end = i + 1
		}
	}
	all := append(slices.Clone(first), last...)
	f := func(image []byte) {
		t.Helper()
		crashed := clone(t, dir)
		must(t, os.WriteFile(segments(t, crashed)[0], image, 0o600))
		b := mustOpen(t, crashed, o)
		c := mustCursor(t, b, "ch")
		depth := c.Depth()
		got := drain(t, c, 100)
		if len(got) < len(first) || depth != int64(len(got)) {
			t.Fatalf("depth %d, read %d records of at least %d", depth, len(got), len(first))
		}
		wantRecords(t, got, all[:len(got)])
		must(t, b.Append(last)) // and the log works on
		wantRecords(t, drain(t, c, 100), last)
		must(t, b.Close())
	}
	for cut := start; cut <= end; cut++ {
		if cut%7 != 0 && cut-start > 20 && end-cut > 20 {
			continue // every byte near both ends, every seventh between: time
		}
		f(slices.Concat(after[:cut], before[cut:])) // the rest was never written
		f(after[:cut])                              // the file was cut
	}
}

// TestDamagedCursorFile shows that a log whose cursor file is damaged or gone
// opens, with every cursor that lived and under its name, and that each reads all
// that is its own: nothing is hidden. The damaged file is kept.
func TestDamagedCursorFile(t *testing.T) {
	f := func(what string, spoil func(path string) error) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "log")
		b := mustOpen(t, dir, small)
		a, gone := mustCursor(t, b, "a"), mustCursor(t, b, "gone")
		want := publish(1, 90)
		must(t, b.Append(want[:30]))
		late := mustCursor(t, b, "late") // in the middle of a segment
		for i := range want[30:60] {
			want[30+i].Kind, want[30+i].Cursor = mmapqueue.KindPut, []uint32{a.ID(), late.ID()}[i%2]
		}
		must(t, b.Append(want[30:60]))
		must(t, gone.Delete())
		must(t, a.Rename("new name"))
		must(t, b.Append(want[60:]))
		drain(t, late, 7)
		of := func(id uint32) (own []mmapqueue.Record) {
			for _, r := range want {
				if r.Kind == mmapqueue.KindPublish || r.Cursor == id {
					own = append(own, r)
				}
			}
			return own
		}
		must(t, b.Close())
		path := filepath.Join(dir, "cursors")
		must(t, spoil(path))
		_, err := os.Stat(path)
		missing := err != nil
		b = mustOpen(t, dir, small)
		defer b.Remove()
		if _, err := os.Stat(path + ".bad"); err != nil && !missing {
			t.Errorf("%s: the damaged file was not kept: %v", what, err)
		}
		names := b.Names()
		slices.Sort(names)
		if !slices.Equal(names, []string{"late", "new name"}) {
			t.Fatalf("%s: cursors %q", what, names)
		}
		wantRecords(t, drain(t, mustCursor(t, b, "new name"), 100), of(a.ID()))
		wantRecords(t, drain(t, mustCursor(t, b, "late"), 100), of(late.ID()))
		if id := mustCursor(t, b, "another").ID(); id <= late.ID() {
			t.Errorf("%s: the number %d is used again", what, id)
		}
	}
	f("removed", os.Remove)
	f("cut", func(path string) error { return os.Truncate(path, 20) })
	f("empty", func(path string) error { return os.Truncate(path, 0) })
	f("another's", func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("cursors "), 40), 0o600) })
	for at := range 12 {
		f("flipped", func(path string) error {
			image, err := os.ReadFile(path)
			must(t, err)
			image[at*len(image)/12] ^= 0x10
			return os.WriteFile(path, image, 0o600)
		})
	}
}

// TestFileGone shows that a file cut or removed behind the log's back is an
// error of that log, once, and that the log goes on behind it.
func TestFileGone(t *testing.T) {
	f := func(name string, mapped bool, spoil func(path string) error) {
		t.Helper()
		o := mmapqueue.Options{SegmentBytesMin: 64 << 10, SegmentBytesMax: 64 << 10, SyncEvery: -1, SyncTimeout: -1}
		b := mustOpen(t, filepath.Join(t.TempDir(), "log"), o)
		defer b.Remove()
		c := mustCursor(t, b, "ch")
		recs := publish(1, 300)
		must(t, b.Append(recs))
		if mapped {
			wantRecords(t, drain(t, c, 1), recs[:1])
		}
		must(t, spoil(b.Dir()))
		got, err := tryDrain(c, 1000)
		if mapped && err == nil && len(got) == 299 {
			// A removed file lives on under its mapping: nothing is lost.
		} else if !errors.Is(err, mmapqueue.ErrCorrupt) || c.Depth() != 0 {
			t.Fatalf("%s: Read = %d records, %v, depth %d", name, len(got), err, c.Depth())
		}
		var corrupt *mmapqueue.CorruptError
		if err != nil && (!errors.As(err, &corrupt) || corrupt.Segment == "") {
			t.Fatalf("%s: %v has no place", name, err)
		}
		more := publish(1000, 50)
		must(t, b.Append(more))
		wantRecords(t, drain(t, c, 1000), more)
	}
	cut := func(size int64) func(string) error {
		return func(dir string) error { return os.Truncate(segments(t, dir)[0], size) }
	}
	remove := func(dir string) error { return os.Remove(segments(t, dir)[0]) }
	f("cut to nothing under the mapping", true, cut(0))
	f("cut in the middle under the mapping", true, cut(9000))
	f("cut before mapping", false, cut(9000))
	f("removed under the mapping", true, remove)
	f("removed before mapping", false, remove)
}

// TestIdle shows that a log holds nothing before its first record, nor after its
// last one and a Trim.
func TestIdle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	f := func(b *mmapqueue.Backlog, when string) {
		t.Helper()
		files, mappings := b.Held()
		_, err := os.Stat(dir)
		if files != 0 || mappings != 0 || b.Bytes() != 0 || !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s: %d files, %d mappings, %d bytes, directory: %v", when, files, mappings, b.Bytes(), err)
		}
	}
	b := mustOpen(t, dir, small)
	c := mustCursor(t, b, "ch")
	f(b, "new")
	must(t, b.Append(publish(1, 100)))
	if b.Bytes() == 0 {
		t.Fatal("100 records in no bytes")
	}
	wantRecords(t, drain(t, c, 100), publish(1, 100))
	if files, mappings := b.Held(); files > 1 || mappings > 1 || len(segments(t, dir)) > 1 {
		t.Fatalf("drained: %d files, %d mappings, %v", files, mappings, segments(t, dir))
	}
	b.Trim()
	f(b, "trimmed")
	must(t, b.Append(publish(1, 3)))
	wantRecords(t, drain(t, c, 100), publish(1, 3))
	must(t, b.Close())
	f(b, "closed")
	if err := b.Append(publish(1, 1)); !errors.Is(err, mmapqueue.ErrClosed) {
		t.Fatalf("Append after Close: %v", err)
	}
}

// TestRest shows that a log nobody needs anything of gives its files back by
// itself, once nothing has happened for a while.
func TestRest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, small)
	defer b.Remove()
	c := mustCursor(t, b, "ch")
	must(t, b.Append(publish(1, 100)))
	got := read(t, c, 100)
	for range 3 {
		if b.TimerRan() {
			t.Fatal("a log with unfinished records rests")
		}
	}
	c.Finish(sequences(got))
	if b.TimerRan() {
		t.Fatal("a log rests that was busy a moment ago")
	}
	if !b.TimerRan() {
		t.Fatal("the log does not rest")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a log at rest keeps its directory: %v", err)
	}
}

// segmentsMade counts the segments that are made.
type segmentsMade struct {
	mmapqueue.FS
	n atomic.Int64
}

func (d *segmentsMade) Create(path string, size int64) (mmapqueue.File, error) {
	if strings.HasSuffix(path, ".seg") {
		d.n.Add(1)
	}
	return d.FS.Create(path, size)
}

// TestSegmentsAreUsedAgain shows that a log which is read as fast as it is written
// makes few files, and that a start removes those that waited to be used again.
func TestSegmentsAreUsedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	o, disk := small, &segmentsMade{FS: mmapqueue.OS}
	o.FS = disk
	b := mustOpen(t, dir, o)
	c := mustCursor(t, b, "ch")
	must(t, b.Sync())
	for i := range 200 {
		must(t, b.Append(publish(1+10*i, 10)))
		wantRecords(t, drain(t, c, 100), publish(1+10*i, 10))
	}
	var last int
	_, err := fmt.Sscanf(filepath.Base(segments(t, dir)[0]), "%d.seg", &last)
	must(t, err)
	if n := int(disk.n.Load()); last < 40 || n > last/2 {
		t.Errorf("%d files were made for %d segments that were read at once", n, last)
	}
	must(t, b.Append(publish(1, 3)))
	crashed := clone(t, dir)
	must(t, b.Remove())
	spare := filepath.Join(crashed, "000000000001.seg.spare")
	must(t, os.WriteFile(spare, make([]byte, 4096), 0o600))
	b = mustOpen(t, crashed, small)
	defer b.Remove()
	if _, err := os.Stat(spare); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a start keeps a spare file: %v", err)
	}
}

// TestDiskFull shows that a failed append counts for nothing, that what came
// before it stays, and that later appends work once there is space.
func TestDiskFull(t *testing.T) {
	f := func(faults faultfs.Faults, then string) {
		t.Helper()
		files := faultfs.New()
		dir := filepath.Join(t.TempDir(), "log")
		o := small
		o.FS = files
		b := mustOpen(t, dir, o)
		c := mustCursor(t, b, "ch")
		must(t, b.Append(publish(1, 2)))
		files.Set(faults)
		if err := b.Append(publish(100, 40)); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("append on a full disk: %v", err)
		}
		if c.Depth() != 2 {
			t.Fatalf("depth %d after a failed append, want 2", c.Depth())
		}
		if then == "crash" {
			dir = clone(t, dir)
			must(t, b.Remove())
			b = mustOpen(t, dir, small)
			c = mustCursor(t, b, "ch")
		}
		files.Set(faultfs.Faults{})
		must(t, b.Append(publish(3, 40)))
		wantRecords(t, drain(t, c, 100), publish(1, 42))
		must(t, b.Remove())
	}
	for _, then := range []string{"go on", "crash"} {
		f(faultfs.Faults{Create: syscall.ENOSPC}, then)
		for _, room := range []int64{0, 1, 64, 300, 900, 2500} {
			f(faultfs.Faults{Write: syscall.ENOSPC, Room: room}, then)
		}
	}
}

// TestFailedSync shows that a segment whose sync failed takes no more records.
func TestFailedSync(t *testing.T) {
	files := faultfs.New()
	o := small
	o.FS = files
	o.SegmentBytesMin = 4096
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, o)
	defer b.Remove()
	c := mustCursor(t, b, "ch")
	must(t, b.Append(publish(1, 1)))
	files.Set(faultfs.Faults{Sync: syscall.EIO})
	if err := b.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync = %v", err)
	}
	files.Set(faultfs.Faults{})
	must(t, b.Append(publish(2, 1)))
	if n := len(segments(t, dir)); n != 2 {
		t.Fatalf("%d segments, want a new one after the failed sync", n)
	}
	wantRecords(t, drain(t, c, 10), publish(1, 2))
}

// TestOneWriteABatch shows that a batch costs one system call.
func TestOneWriteABatch(t *testing.T) {
	files := faultfs.New()
	b := mustOpen(t, filepath.Join(t.TempDir(), "log"), mmapqueue.Options{SegmentBytesMin: 1 << 20, SyncEvery: -1, SyncTimeout: -1, FS: files})
	defer b.Remove()
	must(t, b.Append(publish(1, 1)))
	files.Counts()
	must(t, b.Append(publish(2, 1000)))
	if n := files.Counts().Writes; n != 1 {
		t.Fatalf("%d writes for one batch", n)
	}
}

// TestConcurrent shows that cursors read everything in order while the appender
// and the background syncs are at work.
func TestConcurrent(t *testing.T) {
	const total, readers = 20000, 3
	o := mmapqueue.Options{SegmentBytesMin: 4096, SegmentBytesMax: 64 << 10, SyncEvery: 1000, Logf: t.Errorf, Handles: mmapqueue.NewHandles(1, 1)}
	b := mustOpen(t, filepath.Join(t.TempDir(), "log"), o)
	var wg sync.WaitGroup
	for i := range readers {
		c := mustCursor(t, b, fmt.Sprint(i))
		wg.Go(func() {
			for want := uint64(1); want <= total; {
				_, err := c.Read(100, func(r *mmapqueue.Record) {
					if r.ID != want {
						t.Errorf("read %d, want %d", r.ID, want)
					}
					want++
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := 1; i <= total; i += 50 {
		must(t, b.Append(publish(i, 50)))
	}
	wg.Wait()
	must(t, b.Close())
}

// TestCloseUnsynced closes logs without a sync for each, syncs once, and finds
// everything again.
func TestCloseUnsynced(t *testing.T) {
	root := t.TempDir()
	dir := func(i int) string { return filepath.Join(root, fmt.Sprint(i)) }
	for i := range 3 {
		b := mustOpen(t, dir(i), small)
		mustCursor(t, b, "c")
		must(t, b.Append(publish(1, 20+i)))
		must(t, b.CloseUnsynced())
		if err := b.Append(publish(1, 1)); !errors.Is(err, mmapqueue.ErrClosed) {
			t.Errorf("Append after CloseUnsynced: %v, want ErrClosed", err)
		}
		if err := b.CloseUnsynced(); !errors.Is(err, mmapqueue.ErrClosed) {
			t.Errorf("a second CloseUnsynced: %v, want ErrClosed", err)
		}
		if files, mappings := b.Held(); files+mappings > 0 {
			t.Errorf("%d files and %d mappings are still held", files, mappings)
		}
	}
	must(t, mmapqueue.SyncFileSystem(root))
	for i := range 3 {
		b := mustOpen(t, dir(i), small)
		wantRecords(t, drain(t, mustCursor(t, b, "c"), 100), publish(1, 20+i))
		must(t, b.Close())
	}
	if err := mmapqueue.SyncFileSystem(dir(9)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("syncing a path that is not there: %v", err)
	}
}

// TestSmallerSegments shows that a log which is opened with a smaller largest segment
// makes none that is larger: neither of the files that the run before has left, nor
// of that of a large batch.
func TestSmallerSegments(t *testing.T) {
	const largest = 2048
	o := small
	o.SegmentBytesMin, o.SegmentBytesMax = 512, 16<<10
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, o)
	mustCursor(t, b, "ch")
	for i := range 20 {
		must(t, b.Append(publish(1+i*20, 20)))
	}
	must(t, b.Close())

	o.SegmentBytesMax = largest
	b = mustOpen(t, dir, o)
	c := mustCursor(t, b, "ch")
	left := segmentSizes(t, b)
	if len(left) == 0 || slices.Max(slices.Collect(maps.Values(left))) <= 2*largest {
		t.Fatalf("the first run has left %v", left)
	}
	must(t, b.Append(publish(401, 40))) // more than a segment may have
	large := segmentSizes(t, b)
	for path := range left {
		delete(large, path)
	}
	if len(large) != 1 {
		t.Fatalf("a large batch is in %v", large)
	}
	for n := 441; n < 841; n += 5 {
		must(t, b.Append(publish(n, 5)))
		drain(t, c, 15)
		for path, size := range segmentSizes(t, b) {
			if left[path] == 0 && large[path] == 0 && size > largest {
				t.Fatalf("%s has %d bytes", path, size)
			}
		}
	}
	if c.Depth() != 0 {
		t.Errorf("%d records are left", c.Depth())
	}
	must(t, b.Close())
}

// segmentSizes returns the sizes of b's files of records, by path.
func segmentSizes(t *testing.T, b *mmapqueue.Backlog) map[string]int64 {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(b.Dir(), "*.seg*"))
	must(t, err)
	sizes := map[string]int64{}
	for _, path := range paths {
		info, err := os.Stat(path)
		must(t, err)
		sizes[path] = info.Size()
	}
	return sizes
}
