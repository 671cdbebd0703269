package mmapqueue

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// Handles bounds how many descriptors and mappings several logs together keep. A
// log that is neither written nor read for long has none: its files are opened and
// mapped again when they are needed. Beside these there are descriptors for the
// length of a call, a few for each log that is at work at that moment.
type Handles struct {
	files, mappings int

	tick atomic.Uint64 // what was used last has the highest

	mu     sync.Mutex
	open   map[*keptFile]struct{}
	mapped map[*segment]*Backlog
}

// NewHandles returns bounds for the logs whose options name it: files descriptors
// and as many mappings. Zero or less means no limit.
func NewHandles(files, mappings int) *Handles {
	return &Handles{files: files, mappings: mappings, open: map[*keptFile]struct{}{}, mapped: map[*segment]*Backlog{}}
}

// Held returns how many descriptors and mappings there are.
func (h *Handles) Held() (files, mappings int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.open), len(h.mapped)
}

// create is FS.Create, and keep FS.Open for writing, of files that stay.
func (h *Handles) create(disk FS, path string, size int64) (File, error) {
	f, err := disk.Create(path, size)
	return h.keep(disk, path, f, err)
}

func (h *Handles) reopen(disk FS, path string) (File, error) {
	f, err := disk.Open(path, true)
	return h.keep(disk, path, f, err)
}

func (h *Handles) keep(disk FS, path string, f File, err error) (File, error) {
	if err != nil || h == nil || h.files <= 0 {
		return f, err
	}
	k := &keptFile{h: h, disk: disk, path: path, f: f}
	k.used.Store(h.tick.Add(1))
	h.add(k)
	h.closeOld(k)
	return k, nil
}

// add counts an open file in. The caller holds k.mu, if others know k.
func (h *Handles) add(k *keptFile) {
	h.mu.Lock()
	h.open[k] = struct{}{}
	h.mu.Unlock()
}

// closeOld closes files other than k if there are too many. The caller holds no lock
// of a file.
func (h *Handles) closeOld(k *keptFile) {
	h.mu.Lock()
	var old []*keptFile
	if len(h.open) > h.files {
		old = oldest(h.open, func(k *keptFile) uint64 { return k.used.Load() })
	}
	h.mu.Unlock()
	for _, o := range old {
		if o != k {
			o.rest()
		}
	}
}

// oldest returns an eighth of the keys of m, those that were used longest ago: so
// many, that the others need not be looked at each time.
func oldest[K comparable, V any](m map[K]V, used func(K) uint64) []K {
	keys := slices.Collect(maps.Keys(m))
	slices.SortFunc(keys, func(x, y K) int { return cmp.Compare(used(x), used(y)) })
	return keys[:len(keys)/8+1]
}

// A keptFile is a file whose descriptor may be closed while nobody uses it. What was
// written is with the system by then, and a sync through a later descriptor is for
// all of it: the kernel tells a failed write-back to the first who asks.
type keptFile struct {
	h    *Handles
	disk FS
	used atomic.Uint64

	mu     sync.Mutex
	path   string
	f      File // nil while it rests
	users  int
	closed bool
}

// with calls do with an open descriptor.
func (k *keptFile) with(do func(f File) error) error {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return os.ErrClosed
	}
	woken := k.f == nil
	if woken {
		f, err := k.disk.Open(k.path, true)
		if err != nil {
			k.mu.Unlock()
			return err
		}
		k.f = f
		k.h.add(k)
	}
	f := k.f
	k.users++
	k.used.Store(k.h.tick.Add(1))
	k.mu.Unlock()
	if woken {
		k.h.closeOld(k)
	}
	err := do(f)
	k.mu.Lock()
	k.users--
	k.mu.Unlock()
	return err
}

// rest closes the descriptor unless it is in use.
func (k *keptFile) rest() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.users == 0 && k.f != nil {
		k.drop()
	}
}

// drop closes the descriptor. The caller holds k.mu.
func (k *keptFile) drop() error {
	err := k.f.Close()
	k.f = nil
	k.h.mu.Lock()
	delete(k.h.open, k)
	k.h.mu.Unlock()
	return err
}

// ReadAt is that of an open file.
func (k *keptFile) ReadAt(b []byte, offset int64) (n int, err error) {
	err = k.with(func(f File) (err error) { n, err = f.ReadAt(b, offset); return err })
	return n, err
}

// WriteAt is that of an open file.
func (k *keptFile) WriteAt(b []byte, offset int64) (n int, err error) {
	err = k.with(func(f File) (err error) { n, err = f.WriteAt(b, offset); return err })
	return n, err
}

// Truncate is that of an open file.
func (k *keptFile) Truncate(size int64) error {
	return k.with(func(f File) error { return f.Truncate(size) })
}

// Size is that of an open file.
func (k *keptFile) Size() (size int64, err error) {
	err = k.with(func(f File) (err error) { size, err = f.Size(); return err })
	return size, err
}

// Datasync is that of an open file.
func (k *keptFile) Datasync() error { return k.with(File.Datasync) }

// Forget is that of an open file.
func (k *keptFile) Forget() {
	_ = k.with(func(f File) error { f.Forget(); return nil }) // advice
}

// Gone is that of an open file, and a file at rest that cannot be found is gone too.
func (k *keptFile) Gone() (gone bool) {
	err := k.with(func(f File) error { gone = f.Gone(); return nil })
	return gone || errors.Is(err, fs.ErrNotExist)
}

// Close closes the descriptor for good. It may be called beside other methods.
func (k *keptFile) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.f == nil {
		return nil
	}
	return k.drop()
}

// renamed says that f has another name now.
func renamed(f File, path string) {
	if k, ok := f.(*keptFile); ok {
		k.mu.Lock()
		k.path = path
		k.mu.Unlock()
	}
}

// hasMapped counts a mapping in. The caller holds b.mu.
func (h *Handles) hasMapped(b *Backlog, s *segment) {
	if h != nil && h.mappings > 0 {
		h.mu.Lock()
		h.mapped[s] = b
		h.mu.Unlock()
	}
}

// touched notes that a segment is being read.
func (h *Handles) touched(s *segment) {
	if h != nil {
		s.used.Store(h.tick.Add(1))
	}
}

// hasUnmapped counts a mapping out. The caller holds the backlog's mu.
func (h *Handles) hasUnmapped(s *segment) {
	if h != nil {
		h.mu.Lock()
		delete(h.mapped, s)
		h.mu.Unlock()
	}
}

// unmapOld gives up mappings that nobody reads if there are too many. The caller
// holds no lock.
func (h *Handles) unmapOld() {
	if h == nil || h.mappings <= 0 {
		return
	}
	h.mu.Lock()
	var owners []*Backlog
	var old []*segment
	if len(h.mapped) > h.mappings {
		old = oldest(h.mapped, func(s *segment) uint64 { return s.used.Load() })
		for _, s := range old {
			owners = append(owners, h.mapped[s])
		}
	}
	h.mu.Unlock()
	for i, s := range old {
		b := owners[i]
		b.mu.Lock()
		if s.readers == 0 {
			b.unmap(s)
		}
		b.mu.Unlock()
	}
}
