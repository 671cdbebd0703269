package mmapqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/edsrzf/mmap-go"
)

// FS is what a log asks of a file system. OS is the one of the system; tests put
// one here that fails, fills up, or forgets what was not synced. Its methods
// may be called from several goroutines at once.
type FS interface {
	// Create makes a file that does not exist, with size bytes set aside on the
	// disk, all zero.
	Create(path string, size int64) (File, error)
	// Open opens a file that exists, for reading or for both.
	Open(path string, write bool) (File, error)
	// Map maps the first size bytes of a file for reading.
	Map(path string, size int64) (mmap.MMap, error)
	// ReadDir lists a directory, sorted by name.
	ReadDir(path string) ([]fs.DirEntry, error)
	// MkdirAll makes a directory and those above it.
	MkdirAll(path string) error
	// Rename gives a file another name; what had that name is gone.
	Rename(from, to string) error
	// Remove deletes a file or an empty directory.
	Remove(path string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(path string) error
	// Free returns the bytes that files in a directory can still take.
	Free(path string) (int64, error)
}

// File is an open file of an FS. Close may be called beside Datasync, and again.
type File interface {
	ReadAt(b []byte, offset int64) (int, error)
	WriteAt(b []byte, offset int64) (int, error)
	Truncate(size int64) error
	Size() (int64, error)
	// Datasync returns when what was written is on the disk.
	Datasync() error
	// Forget tells the system that nobody will read the file soon: what is on the
	// disk needs no memory.
	Forget()
	// Gone reports whether the file has no name any more: somebody has removed it, and
	// what is written to it is lost with the process. It is cheap.
	Gone() bool
	Close() error
}

// file is File, for the rest of this package.
type file = File

// OS is the file system of the system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) Create(path string, size int64) (File, error) { return createFile(path, size) }

func (osFS) Open(path string, write bool) (File, error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	return openFile(path, flag)
}

func (osFS) Map(path string, size int64) (mmap.MMap, error) { return mapFile(path, size) }
func (osFS) ReadDir(path string) ([]fs.DirEntry, error)     { return os.ReadDir(path) }
func (osFS) MkdirAll(path string) error                     { return os.MkdirAll(path, 0o755) }
func (osFS) Rename(from, to string) error                   { return os.Rename(from, to) }
func (osFS) Remove(path string) error                       { return os.Remove(path) }
func (osFS) SyncDir(path string) error                      { return syncDir(path) }
func (osFS) Free(path string) (int64, error)                { return freeBytes(path) }

// readFile returns a file's bytes.
func readFile(disk FS, path string) ([]byte, error) {
	f, err := disk.Open(path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if len(b) == 0 {
		return b, nil // a read at the end of a file says so
	}
	_, err = f.ReadAt(b, 0)
	return b, err
}

// replaceFile writes a file whole or not at all, as far as a crash of the
// process goes, and durably if asked to.
func replaceFile(disk FS, path string, b []byte, durably bool) error {
	temporary := path + ".tmp"
	if err := disk.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := disk.Create(temporary, int64(len(b)))
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil && durably {
		err = f.Datasync()
	}
	if err = firstErr(err, f.Close()); err == nil {
		err = disk.Rename(temporary, path)
	}
	if err != nil {
		disk.Remove(temporary)
	}
	return err
}

// ReplaceFile writes a small file that is, at any instant, whole: the old or the new
// one. It returns when the new one is on the disk, under its name. Calls for the
// same path come one at a time.
func ReplaceFile(disk FS, path string, b []byte) error {
	if err := replaceFile(disk, path, b, true); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}

// removeAll deletes a directory and the files in it.
func removeAll(disk FS, dir string) error {
	entries, err := disk.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = firstErr(err, disk.Remove(filepath.Join(dir, e.Name())))
	}
	return firstErr(err, disk.Remove(dir))
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed by Trim meanwhile
	}
	if err != nil {
		return fmt.Errorf("mmapqueue: sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("mmapqueue: sync directory: %w", err)
	}
	return nil
}

// Probe reports whether a log could write that many bytes in dir now: it makes a
// small file there, syncs it and removes it, and sets the bytes aside. A nil disk is OS.
func Probe(disk FS, dir string, bytes int64) error {
	if disk == nil {
		disk = OS
	}
	if err := disk.MkdirAll(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, probeFile)
	if err := replaceFile(disk, path, make([]byte, DefaultSegmentBytesMin), true); err != nil {
		return err
	}
	if err := disk.Remove(path); err != nil || bytes <= DefaultSegmentBytesMin {
		return err
	}
	return probe(disk, dir, bytes)
}

// probeFile is what a probe makes; whoever finds it removes it.
const probeFile = "probe"

// probe reports whether a file of that size could be made in dir.
func probe(disk FS, dir string, size int64) error {
	path := filepath.Join(dir, probeFile)
	f, err := disk.Create(path, size)
	if err == nil {
		err = f.Close()
	}
	if removed := disk.Remove(path); err == nil {
		err = removed
	}
	return err
}
