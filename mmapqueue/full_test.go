package mmapqueue_test

import (
	"errors"
	"os"
	"path/filepath"
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
