// Package faultfs is a file system for tests of mmapqueue that does what disks
// do: it fails, tears a write, fills up, and forgets at a power cut what was
// not synced.
//
// A Disk keeps its files in a real directory, so that mappings work, and beside
// them what a strict disk would still hold after a power cut. What it assumes is
// what mmapqueue's package comment assumes, and no more: pages that were not
// synced are there in any version since the last sync, each for itself; so are
// lengths of files and names in directories; a rename replaces a name as a whole.
package faultfs

import (
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/edsrzf/mmap-go"

	"github.com/zsqio/zsq/mmapqueue"
)

// Faults are what a disk does wrong. The zero value is a disk that works.
type Faults struct {
	Create error // of every Create
	Sync   error // of every Datasync and SyncDir
	Write  error // of a write that passes Room, once as much as fits was written
	Room   int64 // bytes that may still be written, if Write is set
	Rename error // of every Rename

	// Planted faults, for showing that a harness finds them.
	LieDatasync bool // Datasync says yes and does nothing
	LieSyncDir  bool // SyncDir says yes and does nothing
	SkipWrite   int  // every write of that number is dropped and said to be done; 0 for none
}

// Counts are how often the disk was asked.
type Counts struct{ Writes, Syncs, Creates int }

// ErrCut is what every call returns once the power is cut, or the process dead.
var ErrCut = errors.New("faultfs: no power")

// page is the size of what a disk writes as a whole.
const page = 4096

// Disk is a file system for one test. Its methods may be called from several
// goroutines at once.
type Disk struct {
	mu     sync.Mutex
	faults Faults
	counts Counts
	left   int   // operations until the process dies, or -1
	budget int64 // bytes that the disk has for files, or -1
	used   int64
	names  map[string]*name
}

// name is what a directory says about one path.
type name struct {
	durable *node
	pending []*node // since the directory was synced, oldest first; nil: no such file
}

func (n *name) now() *node {
	if len(n.pending) > 0 {
		return n.pending[len(n.pending)-1]
	}
	return n.durable
}

// node is a file or a directory.
type node struct {
	dir     bool
	charged int64
	size    int64
	durable []byte
	sizes   []int64 // since the last sync
	writes  []write // since the last sync
}

type write struct {
	offset int64
	data   []byte
}

// New returns a disk without limits or faults.
func New() *Disk { return &Disk{left: -1, budget: -1, names: map[string]*name{}} }

// Found returns a disk on which everything under root is durable as it is: what an
// earlier disk's PowerCut has left.
func Found(root string) (*Disk, error) {
	d := New()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || path == root:
			return err
		case e.IsDir():
			d.names[path] = &name{durable: &node{dir: true}}
			return nil
		}
		b, err := os.ReadFile(path)
		d.names[path] = &name{durable: &node{durable: b, size: int64(len(b))}}
		return err
	})
	return d, err
}

// Set replaces the faults.
func (d *Disk) Set(f Faults) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = f
}

// Counts returns how often the disk was asked, and starts to count again.
func (d *Disk) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.counts
	d.counts = Counts{}
	return c
}

// Limit gives the disk bytes of space for everything that is created on it from
// now on; a negative number is no limit.
func (d *Disk) Limit(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.budget, d.used = bytes, 0
}

// DieAfter lets n more operations that change something through; the next write
// is torn, and then every call fails with ErrCut. A negative number is never.
func (d *Disk) DieAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = n
}

// step counts an operation that changes something and reports whether it is the
// one at which the process dies. The caller holds mu.
func (d *Disk) step() (last bool, err error) {
	switch {
	case d.left < 0:
	case d.left == 0:
		return false, ErrCut
	case d.left == 1:
		d.left = 0
		return true, nil
	default:
		d.left--
	}
	return false, nil
}

// node returns what path is. A file that was there before the disk was is
// durable as it is. The caller holds mu.
func (d *Disk) node(path string) *node {
	if n := d.names[path]; n != nil {
		return n.now()
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	f := &node{durable: b, size: int64(len(b))}
	d.names[path] = &name{durable: f}
	return f
}

// point makes path mean n, until a sync of its directory only for the living. The
// caller holds mu and has called node before it changed anything.
func (d *Disk) point(path string, n *node) {
	at := d.names[path]
	if at == nil {
		at = &name{}
		d.names[path] = at
	}
	at.pending = append(at.pending, n)
}

// charge takes bytes of space, or fails and takes none. The caller holds mu.
func (d *Disk) charge(n *node, bytes int64) error {
	if d.budget >= 0 && bytes > 0 && d.used+bytes > d.budget {
		return syscall.ENOSPC
	}
	d.used += bytes
	n.charged += bytes
	return nil
}

// Create makes a file with size bytes set aside.
func (d *Disk) Create(path string, size int64) (mmapqueue.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.Creates++
	if _, err := d.step(); err != nil {
		return nil, err
	}
	if d.faults.Create != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: d.faults.Create}
	}
	n := &node{size: size, sizes: []int64{0, size}}
	if err := d.charge(n, size); err != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	inner, err := mmapqueue.OS.Create(path, size)
	if err != nil {
		return nil, err
	}
	d.point(path, n)
	return &file{File: inner, d: d, n: n}, nil
}

// Open opens a file.
func (d *Disk) Open(path string, write bool) (mmapqueue.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	inner, err := mmapqueue.OS.Open(path, write)
	if err != nil {
		return nil, err
	}
	return &file{File: inner, d: d, n: d.node(path)}, nil
}

// Map maps a file.
func (d *Disk) Map(path string, size int64) (mmap.MMap, error) { return mmapqueue.OS.Map(path, size) }

// ReadDir lists a directory.
func (d *Disk) ReadDir(path string) ([]fs.DirEntry, error) { return mmapqueue.OS.ReadDir(path) }

// MkdirAll makes a directory and those above it.
func (d *Disk) MkdirAll(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.step(); err != nil {
		return err
	}
	for at := path; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil {
			break
		}
		d.point(at, &node{dir: true})
	}
	return mmapqueue.OS.MkdirAll(path)
}

// Rename gives a file another name.
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.step(); err != nil {
		return err
	}
	if d.faults.Rename != nil {
		return d.faults.Rename
	}
	n, old := d.node(from), d.node(to)
	if err := mmapqueue.OS.Rename(from, to); err != nil {
		return err
	}
	if old != nil {
		d.used -= old.charged
	}
	d.point(to, n)
	d.point(from, nil)
	return nil
}

// Remove deletes a file or an empty directory.
func (d *Disk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.step(); err != nil {
		return err
	}
	n := d.node(path)
	if err := mmapqueue.OS.Remove(path); err != nil {
		return err
	}
	if n != nil {
		d.used -= n.charged
		n.charged = 0
	}
	d.point(path, nil)
	return nil
}

// Free returns what the disk's room leaves, all there can be when it has no limit.
func (d *Disk) Free(string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.budget < 0 {
		return math.MaxInt64, nil
	}
	return d.budget - d.used, nil
}

// SyncDir makes the names in a directory durable.
func (d *Disk) SyncDir(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.Syncs++
	if _, err := d.step(); err != nil {
		return err
	}
	if d.faults.Sync != nil {
		return d.faults.Sync
	}
	if d.faults.LieSyncDir {
		return nil
	}
	for at, n := range d.names {
		if filepath.Dir(at) == path {
			n.durable, n.pending = n.now(), nil
		}
	}
	return nil
}

// file is an open file of a Disk.
type file struct {
	mmapqueue.File
	d *Disk
	n *node
}

// WriteAt writes, or as much as the faults let it.
func (f *file) WriteAt(b []byte, offset int64) (int, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.Writes++
	last, err := d.step()
	if err != nil {
		return 0, err
	}
	n, fault := len(b), error(nil)
	if d.faults.Write != nil {
		if n = int(min(int64(n), d.faults.Room)); n < len(b) {
			fault = d.faults.Write
		}
		d.faults.Room -= int64(n)
	}
	if last {
		n, fault = n/2, ErrCut
	}
	if grow := offset + int64(n) - f.n.size; grow > 0 {
		if err := d.charge(f.n, grow); err != nil {
			return 0, err
		}
		f.n.size += grow
		f.n.sizes = append(f.n.sizes, f.n.size)
	}
	if k := d.faults.SkipWrite; k > 0 && d.counts.Writes%k == 0 {
		return len(b), nil
	}
	f.n.writes = append(f.n.writes, write{offset, slices.Clone(b[:n])})
	if n, err := f.File.WriteAt(b[:n], offset); err != nil {
		return n, err
	}
	return n, fault
}

// Truncate cuts or lengthens the file.
func (f *file) Truncate(size int64) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.step(); err != nil {
		return err
	}
	if err := d.charge(f.n, size-f.n.size); err != nil {
		return err
	}
	f.n.size = size
	f.n.sizes = append(f.n.sizes, size)
	return f.File.Truncate(size)
}

// Datasync makes the file's bytes durable.
func (f *file) Datasync() error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.Syncs++
	if _, err := d.step(); err != nil {
		return err
	}
	if d.faults.Sync != nil {
		return d.faults.Sync
	}
	if d.faults.LieDatasync {
		return nil
	}
	f.n.durable = f.n.image(nil)
	f.n.writes, f.n.sizes = nil, nil
	return nil
}

// image returns the bytes of a file: all that was written, or with rng one of
// the states that a power cut may leave.
func (n *node) image(rng *rand.Rand) []byte {
	size := n.size
	if rng != nil && len(n.sizes) > 0 {
		if at := rng.IntN(len(n.sizes) + 1); at < len(n.sizes) {
			size = n.sizes[at]
		} else {
			size = int64(len(n.durable))
		}
	}
	b := make([]byte, size)
	copy(b, n.durable)
	versions := map[int64]int{} // by page: how many of its writes are there
	if rng != nil {
		for _, w := range n.writes {
			for p := w.offset / page; p*page < w.offset+int64(len(w.data)); p++ {
				versions[p]++
			}
		}
		for _, p := range sortedKeys(versions) {
			versions[p] = rng.IntN(versions[p] + 1)
		}
	}
	for _, w := range n.writes {
		for p := w.offset / page; p*page < w.offset+int64(len(w.data)); p++ {
			if rng != nil {
				if versions[p] == 0 {
					continue
				}
				versions[p]--
			}
			from, to := max(w.offset, p*page), min(w.offset+int64(len(w.data)), (p+1)*page)
			if from < size {
				copy(b[from:], w.data[from-w.offset:to-w.offset])
			}
		}
	}
	return b
}

func sortedKeys[K interface{ ~int64 | ~string }, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// PowerCut writes what the disk may hold after a cut at this moment into to: the
// files that were under from. The disk goes on as if nothing had happened, so
// that one run can be cut many times. What is not synced is drawn from rng.
func (d *Disk) PowerCut(rng *rand.Rand, from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := map[string]*node{}
	for _, path := range sortedKeys(d.names) {
		n := d.names[path]
		state := n.durable
		if at := rng.IntN(len(n.pending) + 1); at > 0 {
			state = n.pending[at-1]
		}
		if state != nil {
			kept[path] = state
		}
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, path := range sortedKeys(kept) {
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." || !filepath.IsLocal(rel) {
			continue
		}
		for parent := filepath.Dir(path); parent != from; parent = filepath.Dir(parent) {
			if d.names[parent] != nil && kept[parent] == nil {
				delete(kept, path) // its directory is gone, and it with it
				break
			}
		}
		if kept[path] == nil {
			continue
		}
		at := filepath.Join(to, rel)
		if kept[path].dir {
			err = os.MkdirAll(at, 0o755)
		} else {
			err = os.WriteFile(at, kept[path].image(rng), 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
