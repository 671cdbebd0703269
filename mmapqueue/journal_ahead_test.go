package mmapqueue_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// watchedFS tells of each file that is created, and fails writes on demand.
type watchedFS struct {
	mmapqueue.FS
	created   chan error
	creates   atomic.Int64
	failWrite atomic.Int64 // the write of that number fails, counted down
}

func watch(disk mmapqueue.FS) *watchedFS {
	return &watchedFS{FS: disk, created: make(chan error, 100)}
}

func (w *watchedFS) Create(path string, size int64) (mmapqueue.File, error) {
	f, err := w.FS.Create(path, size)
	w.creates.Add(1)
	w.created <- err
	if err != nil {
		return nil, err
	}
	return watchedFile{f, w}, nil
}

type watchedFile struct {
	mmapqueue.File
	w *watchedFS
}

var errOnce = errors.New("this once")

func (f watchedFile) WriteAt(b []byte, offset int64) (int, error) {
	if f.w.failWrite.Add(-1) == 0 {
		return 0, errOnce
	}
	return f.File.WriteAt(b, offset)
}

// aheadJournal is a journal with one queue; a message is a quarter of a segment.
type aheadJournal struct {
	t    *testing.T
	j    *mmapqueue.Journal
	q    *mmapqueue.JournalQueue
	last uint64 // id
}

func openAhead(t *testing.T, dir string, disk mmapqueue.FS) *aheadJournal {
	j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{SegmentBytes: 64 << 10, FS: disk})
	j.Start()
	return &aheadJournal{t: t, j: j, q: j.NewQueue("t", "c")}
}

// put writes n messages, each with a sync of its own.
func (a *aheadJournal) put(n int) {
	a.t.Helper()
	for range n {
		a.last++
		b := a.j.Batch()
		b.Use(a.q.Alone())
		b.Message(a.q.Alone(), a.last, 1, 0, 0, make([]byte, 14<<10))
		b.Sync()
		result := make(chan error, 1)
		a.j.Submit(b, func(err error) { result <- err })
		must(a.t, <-result)
	}
}

// fill writes until another segment is begun.
func (a *aheadJournal) fill() {
	for s := a.j.Segment(); s == a.j.Segment(); {
		a.put(1)
	}
}

func (a *aheadJournal) spares(n int) {
	for a.j.Spares() != n {
		runtime.Gosched()
	}
}

// has fails unless the messages 1 to n, and no others, are in the journal.
func (a *aheadJournal) has(dir string, n uint64) {
	a.t.Helper()
	j, r := mustJournal(a.t, dir, mmapqueue.JournalOptions{})
	got := uint64(0)
	for _, q := range r.Queues {
		for _, m := range q.Messages {
			if got++; m.ID != got {
				a.t.Fatalf("message %d, want %d", m.ID, got)
			}
		}
	}
	if got != n || r.Damaged > 0 {
		a.t.Fatalf("%d messages and %d damaged places, want %d and none", got, r.Damaged, n)
	}
	must(a.t, j.Close())
}

// TestJournalAhead shows that the next segment's file is made before it is needed,
// of the size that is wanted now, and goes when the journal goes.
func TestJournalAhead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	w := watch(mmapqueue.OS)
	a := openAhead(t, dir, w)
	a.put(1)
	must(t, <-w.created)
	if n := w.creates.Load(); n != 1 {
		t.Fatalf("%d files for one message", n)
	}
	a.put(2)
	must(t, <-w.created)
	a.spares(1)
	a.fill()
	if n := w.creates.Load(); n != 2 {
		t.Errorf("%d files for two segments", n)
	}
	a.j.SetSegmentBytes(128 << 10)
	a.put(2)
	must(t, <-w.created)
	a.spares(1)
	files, err := filepath.Glob(filepath.Join(dir, "*3.journal"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("%q, want the third file", files)
	}
	info, err := os.Stat(files[0])
	must(t, err)
	if info.Size() != 128<<10 {
		t.Errorf("the file made ahead has %d bytes", info.Size())
	}
	a.has(clone(t, dir), a.last)
	must(t, a.j.Remove())
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// What cannot be made ahead is made when it is needed, and nobody hears of it.
func TestJournalAheadFails(t *testing.T) {
	dir, disk := t.TempDir(), faultfs.New()
	w := watch(disk)
	a := openAhead(t, dir, w)
	a.put(1)
	must(t, <-w.created)
	disk.Set(faultfs.Faults{Create: errOnce})
	a.put(2)
	if err := <-w.created; !errors.Is(err, errOnce) {
		t.Fatalf("created ahead with error %v", err)
	}
	disk.Set(faultfs.Faults{})
	a.fill()
	must(t, a.j.Err())
	must(t, <-w.created)
	if n := w.creates.Load(); n != 3 {
		t.Errorf("%d attempts to make two files", n)
	}
	must(t, a.j.Close())
	a.has(dir, a.last)
}

// A loss of power while the next segment's file is there, or half there, costs
// nothing, and what is left of it is used.
func TestJournalAheadPowerCut(t *testing.T) {
	root := t.TempDir()
	disk := faultfs.New()
	w := watch(disk)
	a := openAhead(t, filepath.Join(root, "journal"), w)
	a.put(1)
	must(t, <-w.created)
	a.put(2)
	must(t, <-w.created)
	there, whole := 0, 0
	for seed := range uint64(20) {
		if seed == 10 {
			a.spares(1) // its name is synced
		}
		cut := filepath.Join(root, "cut", string(rune('a'+seed)))
		must(t, disk.PowerCut(rand.New(rand.NewPCG(seed, 1)), root, cut))
		dir := filepath.Join(cut, "journal")
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		there += len(files) - 1
		half := false
		for _, path := range files {
			info, err := os.Stat(path)
			must(t, err)
			half = half || info.Size() < 64<<10
		}
		again := watch(mmapqueue.OS)
		b := openAhead(t, dir, again)
		b.last = a.last
		b.fill()
		if n := again.creates.Load(); len(files) == 2 && !half && n != 0 {
			t.Errorf("seed %d: %d files made beside the spare", seed, n)
		}
		must(t, b.j.Close())
		b.has(dir, b.last)
		whole += count(len(files) == 2 && !half)
	}
	if there < 10 || whole == 0 || whole == 20 {
		t.Errorf("the file was there %d times of 20, ten times its name was synced; %d times as it was made", there, whole)
	}
	must(t, a.j.Close())
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestJournalUsesFilesAgain shows that steady load makes no files.
func TestJournalUsesFilesAgain(t *testing.T) {
	w := watch(mmapqueue.OS)
	a := openAhead(t, t.TempDir(), w)
	for range 5 {
		a.fill()
	}
	for w.creates.Load() != int64(a.j.Slot()) { // one may still be made ahead
		runtime.Gosched()
	}
	a.j.Release(a.j.Segment())
	before := w.creates.Load()
	for range 20 {
		a.fill()
		a.j.Release(a.j.Segment())
	}
	if n := w.creates.Load() - before; n != 0 {
		t.Errorf("%d files made in 20 segments", n)
	}
	must(t, a.j.Close())
}

// TestJournalOrderOfFailures shows that what is tried again after a failure stands
// in front of what was submitted behind it: here a message would be lost.
func TestJournalOrderOfFailures(t *testing.T) {
	for _, fail := range []int64{1, 2, 3} { // the header, the first batch, the second
		dir := t.TempDir()
		w := watch(mmapqueue.OS)
		j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{SegmentBytes: 1 << 20, FS: w})
		q := j.NewQueue("t", "c")
		var mu sync.Mutex
		acked := map[uint64]bool{}
		put := func(id uint64, empty bool) {
			b := j.Batch()
			if empty {
				b.EmptyQueue(q)
			}
			b.Use(q.Alone())
			b.Message(q.Alone(), id, 1, 0, 0, make([]byte, 40<<10))
			j.Submit(b, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				acked[id] = err == nil
			})
		}
		w.failWrite.Store(fail)
		put(1, true) // before Start: one commit
		put(2, false)
		put(3, false)
		j.Start()
		if err := j.Flush(); err != nil && !errors.Is(err, errOnce) {
			t.Fatal(err)
		}
		put(4, false)
		must(t, j.Flush())
		must(t, j.Close())
		_, r := mustJournal(t, dir, mmapqueue.JournalOptions{})
		got := map[uint64]bool{}
		for _, m := range r.Queues[0].Messages {
			got[m.ID] = true
		}
		for id := uint64(1); id <= 4; id++ {
			if acked[id] && !got[id] {
				t.Errorf("write %d failed: message %d was acknowledged and is lost", fail, id)
			}
		}
		if acked[3] || !acked[4] {
			t.Errorf("write %d failed: the third is answered with %t, the fourth with %t", fail, acked[3], acked[4])
		}
	}
}

// On a disk that is nearly full no file is made ahead: it would be in the way of what
// somebody waits for.
func TestJournalAheadLeavesRoom(t *testing.T) {
	const size = 64 << 10 // of a segment
	for _, c := range []struct{ room, creates int64 }{
		{5*size + size/2, 2}, // of which the first segment takes one
		{5*size - size/2, 1},
	} {
		disk := faultfs.New()
		disk.Limit(c.room)
		w := watch(disk)
		a := openAhead(t, filepath.Join(t.TempDir(), "journal"), w)
		a.put(3) // of four
		must(t, a.j.Close())
		if n := w.creates.Load(); n != c.creates {
			t.Errorf("%d bytes of room: %d files, want %d", c.room, n, c.creates)
		}
	}
}
