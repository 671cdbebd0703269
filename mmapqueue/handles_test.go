package mmapqueue_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/mmapqueue"
)

// scarce is a file system that has only so many descriptors.
type scarce struct {
	mmapqueue.FS
	most int64
	open atomic.Int64
}

type scarceFile struct {
	mmapqueue.File
	s      *scarce
	closed atomic.Bool
}

func (s *scarce) take(open func() (mmapqueue.File, error)) (mmapqueue.File, error) {
	if s.open.Add(1) > s.most {
		s.open.Add(-1)
		return nil, syscall.EMFILE
	}
	f, err := open()
	if err != nil {
		s.open.Add(-1)
		return nil, err
	}
	return &scarceFile{File: f, s: s}, nil
}

func (s *scarce) Create(path string, size int64) (mmapqueue.File, error) {
	return s.take(func() (mmapqueue.File, error) { return s.FS.Create(path, size) })
}

func (s *scarce) Open(path string, write bool) (mmapqueue.File, error) {
	return s.take(func() (mmapqueue.File, error) { return s.FS.Open(path, write) })
}

func (f *scarceFile) Close() error {
	if !f.closed.Swap(true) {
		f.s.open.Add(-1)
	}
	return f.File.Close()
}

// manyLogs gives each of n logs a backlog and a reader, with few descriptors and
// mappings for all of them, and demands every record.
func manyLogs(t *testing.T, n, descriptors int) {
	t.Helper()
	const kept = 24
	dir := t.TempDir()
	handles := mmapqueue.NewHandles(kept, kept)
	disk := &scarce{FS: unsynced{mmapqueue.OS}, most: int64(descriptors)}
	o := mmapqueue.Options{SegmentBytesMin: 2048, SegmentBytesMax: 4096, SyncEvery: -1, SyncTimeout: -1, FS: disk, Handles: handles, Logf: t.Logf}
	logs, cursors := make([]*mmapqueue.Backlog, n), make([]*mmapqueue.Cursor, n)
	open := func() {
		for i := range logs {
			logs[i] = mustOpen(t, filepath.Join(dir, fmt.Sprint(i)), o)
			cursors[i] = mustCursor(t, logs[i], "c")
		}
	}
	bounded := func(when string) {
		t.Helper()
		files, mappings := handles.Held()
		if files > kept || mappings > kept+1 {
			t.Fatalf("%s: %d descriptors and %d mappings, the limit is %d", when, files, mappings, kept)
		}
	}
	open()
	const rounds, each = 6, 8
	for round := range rounds {
		for i, b := range logs {
			must(t, b.Append(publish(i*1000+round*each, each)))
			bounded("append")
		}
	}
	if files, _ := handles.Held(); files < kept/2 {
		t.Errorf("%d descriptors are kept, though %d may be", files, kept)
	}
	read := make([]int, n)
	step := func(most int) {
		for i, c := range cursors {
			for _, r := range drain(t, c, most) {
				if want := uint64(i*1000 + read[i]); r.ID != want {
					t.Fatalf("log %d: record %d where %d was due", i, r.ID, want)
				}
				read[i]++
			}
			bounded("read")
		}
	}
	for range 4 {
		step(5)
	}
	for _, b := range logs {
		must(t, b.Sync())
	}
	for _, b := range logs {
		must(t, b.Close())
	}
	bounded("close")
	if files, mappings := handles.Held(); files+mappings > 0 {
		t.Errorf("%d descriptors and %d mappings after all logs were closed", files, mappings)
	}
	open()
	step(1 << 20)
	for i := range read {
		if read[i] != rounds*each {
			t.Fatalf("log %d gave %d records, want %d", i, read[i], rounds*each)
		}
		must(t, logs[i].Close())
	}
	if left := disk.open.Load(); left != 0 {
		t.Errorf("%d descriptors are open at the end", left)
	}
}

// TestManyLogs shows that logs need not have a descriptor each.
func TestManyLogs(t *testing.T) { manyLogs(t, 200, 28) }
