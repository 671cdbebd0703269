package mmapqueue

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"unsafe"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// osFile is the file of the system. os.File holds the descriptor open for as
// long as a call is under way, so Close beside Datasync is sound.
type osFile struct{ *os.File }

// Size returns the length of the file.
func (f osFile) Size() (int64, error) {
	stat, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return stat.Size(), nil
}

// Datasync waits until what was written is on the disk.
func (f osFile) Datasync() error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sync error
	if err := raw.Control(func(fd uintptr) { sync = ignoringEINTR(func() error { return unix.Fdatasync(int(fd)) }) }); err != nil {
		return err
	}
	return sync
}

// Forget drops the file's clean pages from the page cache. It is advice: there is
// nothing to be done when the system does not take it.
func (f osFile) Forget() {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) })
	}
}

// Gone reports whether the file was removed while it was open.
func (f osFile) Gone() bool {
	var stat unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Fstat(int(f.Fd()), &stat) })
	runtime.KeepAlive(f.File)
	return err == nil && stat.Nlink == 0
}

// createFile creates path with size bytes set aside on the disk, so that a full
// disk shows here and not in a later write. Where the file system cannot do that
// the file is merely long; writes go through pwrite, so that even then a full
// disk is an error code and never a signal.
func createFile(path string, size int64) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = ignoringEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.Truncate(size)
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return nil, &os.PathError{Op: "fallocate", Path: path, Err: err}
	}
	return osFile{f}, nil
}

// freeBytes returns what a file system has left for those who are not its owner.
func freeBytes(path string) (int64, error) {
	var s unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(path, &s) }); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// openFile opens a file that exists. Only a regular one is one of ours: to open a
// pipe waits for whoever writes it, and a device takes what is written and keeps none of it.
func openFile(path string, flag int) (file, error) {
	stat, err := os.Stat(path)
	if err == nil && !stat.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errNotRegular}
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// mapFile maps the first size bytes of path for reading. The descriptor is
// closed again; a mapping does not need it.
func mapFile(path string, size int64) (mmap.MMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mmap.MapRegion(f, int(size), mmap.RDONLY, 0, 0)
}

// guard runs read, which reads from the mapping m. When the file behind m is
// shorter than m, or the disk fails, it returns the fault as an error. Every
// other panic goes on its way: it is our own bug.
func guard(m []byte, read func()) (fault error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		e := recover()
		if e == nil {
			return
		}
		// The runtime tells the address of a fault through this method. The
		// arithmetic compares addresses only and forms no pointer.
		at, ok := e.(interface {
			error
			Addr() uintptr
		})
		base := uintptr(unsafe.Pointer(unsafe.SliceData(m)))
		if !ok || at.Addr()-base >= uintptr(len(m)) {
			panic(e)
		}
		fault = at
	}()
	read()
	return nil
}

// SyncFileSystem returns when everything written to the file system that path is
// on has reached the disk; what failed to is an error (since Linux 5.8).
func SyncFileSystem(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("mmapqueue: sync file system: %w", err)
	}
	defer f.Close()
	if err := ignoringEINTR(func() error { return unix.Syncfs(int(f.Fd())) }); err != nil {
		return fmt.Errorf("mmapqueue: sync file system of %s: %w", path, err)
	}
	return nil
}
