package mmapqueue_test

import (
	"io"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"

	"github.com/edsrzf/mmap-go"

	"github.com/zsqio/zsq/mmapqueue"
)

// memoryFS is a file system in memory for one goroutine: what a test needs that
// opens a quarter of a million logs. A mapping is a copy of its own.
type memoryFS map[string]*memoryFile

type memoryFile struct{ bytes []byte }

func (m memoryFS) Create(path string, size int64) (mmapqueue.File, error) {
	if m[path] != nil {
		return nil, fs.ErrExist
	}
	m[path] = &memoryFile{make([]byte, size)}
	return m[path], nil
}

func (m memoryFS) Open(path string, _ bool) (mmapqueue.File, error) {
	if m[path] == nil {
		return nil, fs.ErrNotExist
	}
	return m[path], nil
}

func (m memoryFS) Map(path string, size int64) (mmap.MMap, error) {
	if m[path] == nil {
		return nil, fs.ErrNotExist
	}
	mapping, err := mmap.MapRegion(nil, int(size), mmap.RDWR, mmap.ANON, 0)
	if err == nil {
		copy(mapping, m[path].bytes)
	}
	return mapping, err
}

func (m memoryFS) ReadDir(path string) (entries []fs.DirEntry, err error) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if filepath.Dir(name) == path {
			entries = append(entries, memoryEntry{name: filepath.Base(name)})
		}
	}
	if len(entries) == 0 {
		return nil, fs.ErrNotExist
	}
	return entries, nil
}

type memoryEntry struct {
	fs.DirEntry // nil: nobody asks a file of a log for more than its name
	name        string
}

func (e memoryEntry) Name() string { return e.name }
func (memoryEntry) IsDir() bool    { return false }

func (m memoryFS) Rename(from, to string) error {
	if m[from] == nil {
		return fs.ErrNotExist
	}
	m[to] = m[from]
	delete(m, from)
	return nil
}

func (m memoryFS) Remove(path string) error {
	delete(m, path) // or it is a directory, which is there while it has files
	return nil
}

func (memoryFS) MkdirAll(string) error { return nil }
func (memoryFS) SyncDir(string) error  { return nil }

func (memoryFS) Free(string) (int64, error) { return math.MaxInt64, nil }

func (f *memoryFile) ReadAt(b []byte, offset int64) (n int, err error) {
	if offset < int64(len(f.bytes)) {
		n = copy(b, f.bytes[offset:])
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}

func (f *memoryFile) WriteAt(b []byte, offset int64) (int, error) {
	if grow := offset + int64(len(b)) - int64(len(f.bytes)); grow > 0 {
		f.bytes = append(f.bytes, make([]byte, grow)...)
	}
	return copy(f.bytes[offset:], b), nil
}

func (f *memoryFile) Truncate(size int64) error {
	f.bytes = slices.Grow(f.bytes, max(0, int(size)-len(f.bytes)))[:size]
	return nil
}

func (f *memoryFile) Size() (int64, error) { return int64(len(f.bytes)), nil }
func (*memoryFile) Datasync() error        { return nil }
func (*memoryFile) Forget()                {}
func (*memoryFile) Gone() bool             { return false }
func (*memoryFile) Close() error           { return nil }
