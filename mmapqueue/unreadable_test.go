package mmapqueue_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/internal/diskqueue"
	"github.com/zsqio/zsq/mmapqueue"
)

// locked does not open one file, as a system that forbids it.
type locked struct {
	mmapqueue.FS
	path string
}

func (l locked) Open(path string, write bool) (mmapqueue.File, error) {
	if path == l.path {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EACCES}
	}
	return l.FS.Open(path, write)
}

// TestUnreadableSegment starts over a segment that may not be read: the others are, and
// the file outlives the starts that can read it again, which would find nobody to read it.
func TestUnreadableSegment(t *testing.T) {
	const n = 200
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, small)
	mustCursor(t, b, "c")
	for i := range n / 10 {
		must(t, b.Append(publish(i*10+1, 10)))
	}
	must(t, b.Close())
	paths := segments(t, dir)
	if len(paths) < 3 {
		t.Fatalf("%d segments", len(paths))
	}
	hidden, err := os.ReadFile(paths[1])
	must(t, err)

	o := small
	o.FS = locked{mmapqueue.OS, paths[1]}
	b = mustOpen(t, dir, o)
	c := mustCursor(t, b, "c")
	got := drain(t, c, n)
	if len(got) == 0 || len(got) == n || b.Damaged() == 0 || b.Lost() < int64(n-len(got)) {
		t.Errorf("%d of %d records came, and %d in %d places are counted as lost", len(got), n, b.Lost(), b.Damaged())
	}
	c.Finish(sequences(got))
	must(t, b.Close())

	b = mustOpen(t, dir, small)
	must(t, b.Close())
	if kept, err := os.ReadFile(paths[1] + ".bad"); err != nil || string(kept) != string(hidden) {
		t.Errorf("the file that could not be read was not kept: %d of %d bytes, %v", len(kept), len(hidden), err)
	}
}

// TestAdoptIncomplete adopts a queue of upstream's with a file that is missing, one that
// is empty, and one that may not be read at the first start: each is told, the rest
// comes, and the last one comes later.
func TestAdoptIncomplete(t *testing.T) {
	const n = 400
	upstream, dir := t.TempDir(), filepath.Join(t.TempDir(), "log")
	theirs, _ := old(1, n)
	writeOld(t, upstream, "c", theirs, 4000)
	files := oldFiles(t, upstream)
	if len(files) < 6 {
		t.Fatalf("%d files", len(files))
	}
	count := func(path string) (records int) {
		b, err := os.ReadFile(path)
		must(t, err)
		for {
			_, size, ok := diskqueue.Parse(b)
			if !ok {
				return records
			}
			b = b[size:]
			records++
		}
	}
	gone, hidden := count(files[1])+count(files[2]), count(files[3])
	must(t, os.Remove(files[1]))
	must(t, os.Truncate(files[2], 0))
	var log notebook
	o := small
	o.Logf = log.logf
	o.FS = locked{mmapqueue.OS, files[3]}
	b := mustOpen(t, dir, o)
	adopt(t, b, upstream)
	got := drain(t, mustCursor(t, b, "c"), n)
	if len(got) != n-gone-hidden || b.Damaged() != 3 {
		t.Errorf("%d records came, want %d; %d places are counted", len(got), n-gone-hidden, b.Damaged())
	}
	for _, path := range files[1:4] {
		if len(log.about(filepath.Base(path))) != 1 {
			t.Errorf("nothing is logged of %s:\n%s", path, strings.Join(log.lines, "\n"))
		}
	}
	mustCursor(t, b, "c").Finish(sequences(got))
	must(t, b.Close())

	b = mustOpen(t, dir, small)
	adopt(t, b, upstream)
	if got := drain(t, mustCursor(t, b, "c"), n); len(got) != hidden || b.Damaged() != 0 {
		t.Errorf("%d records came, want %d; %d places are counted", len(got), hidden, b.Damaged())
	}
	must(t, b.Close())
}
