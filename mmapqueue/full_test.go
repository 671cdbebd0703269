package mmapqueue_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// smallDisk returns a directory on a file system of half a megabyte: a real one if we
// may mount it, else one of ours.
func smallDisk(t *testing.T) (dir string, o mmapqueue.Options) {
	t.Helper()
	const size = 512 << 10
	dir = t.TempDir()
	o = mmapqueue.Options{SegmentBytesMin: 16 << 10, SegmentBytesMax: 256 << 10, SyncEvery: -1, SyncTimeout: -1}
	if err := syscall.Mount("zsq-test", dir, "tmpfs", 0, "size=512k"); err == nil {
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		return dir, o
	}
	disk := faultfs.New()
	disk.Limit(size)
	o.FS = disk
	return dir, o
}

// TestFillAndFree fills a small file system and empties it again a hundred times:
// what was appended without an error is read, what was refused is not, and each
// time there is room again the log goes on.
func TestFillAndFree(t *testing.T) {
	dir, o := smallDisk(t)
	b := mustOpen(t, filepath.Join(dir, "log"), o)
	c := mustCursor(t, b, "ch")
	nextID := 1
	for cycle := range 100 {
		var want []mmapqueue.Record
		for {
			recs := publish(nextID, 1+nextID%97)
			if len(want) > 100_000 {
				t.Fatal("the disk does not fill")
			}
			err := b.Append(recs)
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			must(t, err)
			nextID += len(recs)
			want = append(want, recs...)
		}
		if len(want) < 500 {
			t.Fatalf("cycle %d: the disk is full after %d records", cycle, len(want))
		}
		if err := b.Sync(); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		if cycle%10 == 3 { // also through a stop on the full disk
			if err := b.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("cycle %d: %v", cycle, err)
			}
			b = mustOpen(t, filepath.Join(dir, "log"), o)
			c = mustCursor(t, b, "ch")
		}
		if d := c.Depth(); d != int64(len(want)) {
			t.Fatalf("cycle %d: depth %d, %d were accepted", cycle, d, len(want))
		}
		wantRecords(t, drain(t, c, len(want)+1000), want)
		if cycle%3 == 0 {
			b.Trim()
		}
	}
	must(t, b.Remove())
}

// TestSpaceTaken shows that a disk which another fills refuses what it must and
// heals when the space comes back, without a restart.
func TestSpaceTaken(t *testing.T) {
	dir, o := smallDisk(t)
	if o.FS != nil {
		t.Skip("another's file needs a real file system")
	}
	b := mustOpen(t, filepath.Join(dir, "log"), o)
	c := mustCursor(t, b, "ch")
	other := filepath.Join(dir, "other")
	accepted, drained := 0, 0
	for range 20 {
		f, err := os.Create(other)
		must(t, err)
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, 4096))
		}
		must(t, f.Close())
		for refused := false; !refused; {
			err := b.Append(publish(accepted+1, 10))
			if refused = err != nil; refused && !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if !refused {
				accepted += 10
			}
		}
		must(t, os.Remove(other))
		must(t, b.Append(publish(accepted+1, 10)))
		accepted += 10
		must(t, b.Sync())
		wantRecords(t, drain(t, c, 1<<20), publish(drained+1, accepted-drained))
		drained = accepted
	}
	must(t, b.Remove())
}

// TestJournalOnFullDisk shows that a journal makes smaller segments where the disk has no
// room for one of the usual size, keeps what it acknowledged, is not well because a
// little can still be written, and makes usual ones again when there is room.
func TestJournalOnFullDisk(t *testing.T) {
	const size, body = 1 << 20, 4000
	disk := faultfs.New()
	disk.Limit(2500 << 10)
	dir := filepath.Join(t.TempDir(), "journal")
	j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{SegmentBytes: size, FS: disk})
	j.Start()
	q := j.NewQueue("topic", "channel")
	next := uint64(1)
	submit := func(n int) error {
		b := j.Batch()
		b.Use(q.Alone())
		for range n {
			b.Message(q.Alone(), next, 1, 0, 1, make([]byte, body))
			next++
		}
		done := make(chan error, 1)
		j.Submit(b, func(err error) { done <- err })
		return <-done
	}
	acked := map[uint64]bool{}
	fill := func() (err error) {
		for err == nil {
			first := next
			if err = submit(5); err == nil {
				for id := first; id < next; id++ {
					acked[id] = true
				}
			}
			if next > 10_000 {
				t.Fatal("the disk does not fill")
			}
		}
		return err
	}
	sizes := func() (usual, smaller int) {
		for _, path := range journalFiles(t, dir) {
			stat, err := os.Stat(path)
			must(t, err)
			switch n := stat.Size(); {
			case n == size:
				usual++
			case n >= 64<<10 && n < size:
				smaller++
			default:
				t.Errorf("a segment has %d bytes", n)
			}
		}
		return usual, smaller
	}
	if err := fill(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	usual, smaller := sizes()
	if usual < 2 || smaller < 2 || len(acked) < 500 {
		t.Errorf("%d segments of the usual size and %d smaller ones took %d messages of 2.5 MB", usual, smaller, len(acked))
	}
	// There is room for a finish, not for these; and for what the journal, which tries
	// now and then whether the disk works, may have written before.
	disk.Limit(200 << 10)
	if submit(100) == nil {
		t.Error("there is no room for this, and it was acknowledged")
	}
	b := j.Batch()
	b.Finish(q, []uint64{1})
	j.Submit(b, nil)
	must(t, j.Flush())
	delete(acked, 1)
	if err := j.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("there is no room for what was refused, and the journal says %v", err)
	}
	disk.Limit(4 << 20)
	for j.Err() != nil { // it heals by itself
		runtime.Gosched()
	}
	if err := fill(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if now, _ := sizes(); now < usual+3 {
		t.Errorf("%d segments of the usual size when there was room, %d before", now, usual)
	}
	crashed := clone(t, dir)
	disk.Limit(-1)
	must(t, j.Flush())
	must(t, j.Close())
	_, r := mustJournal(t, crashed, mmapqueue.JournalOptions{SegmentBytes: size})
	for _, q := range r.Queues {
		for _, m := range q.Messages {
			delete(acked, m.ID)
		}
	}
	if len(acked) > 0 || r.Damaged > 0 {
		t.Errorf("%d acknowledged messages are lost, %d places damaged", len(acked), r.Damaged)
	}
}
