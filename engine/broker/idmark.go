package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/zsqio/zsq/mmapqueue"
)

// idMarkAhead is how many ids the mark on disk runs ahead of those in use, when it
// is written. At five million messages a second that is ten days; there is room
// for half a million starts.
const idMarkAhead = 1 << 42

// TakeIDMark returns where this run's message ids start, and writes down where
// the next run's do. Path is the mark's file. Without a mark that can be read, or
// when the next cannot be written, ids start at wallNs, the wall clock: no
// run has handed out as many. The mark is good whatever err says; after an error
// the operator should hear of it, and ForgetIDMark has the broker try again.
func TakeIDMark(path string, wallNs int64) (mark uint64, err error) {
	mark, err = readIDMark(path)
	if mark == 0 {
		mark = uint64(wallNs)
	}
	if failed := writeIDMark(path, mark+idMarkAhead); failed != nil {
		mark = max(mark, uint64(wallNs)) // the next run may read the old one
		if err = errors.Join(err, failed); errors.Is(failed, fs.ErrPermission) {
			err = failed // which says it all
		}
	}
	return mark, err
}

// readIDMark returns 0 when there is no mark. One that cannot be understood is
// kept under another name.
func readIDMark(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil { // the next one takes its place, if it is a file
		return 0, fmt.Errorf("broker: id mark: %v", err) // %v: what cannot be read may yet be written
	}
	mark, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 62)
	if err != nil {
		err = fmt.Errorf("broker: id mark in %s, kept as %s.bad: %w", path, path, err)
		return 0, errors.Join(err, os.Rename(path, path+".bad"))
	}
	return mark, nil
}

// ForgetIDMark says that the mark on disk is not this run's: the next ExtendIDMark
// writes it.
func (b *Broker) ForgetIDMark() { b.idMark = 0 }

// ExtendIDMark moves the mark in path on when this run has used up half of what it
// allows. One goroutine calls it now and then.
func (b *Broker) ExtendIDMark(path string) error {
	next := b.ids.next.Load()
	if next+idMarkAhead/2 < b.idMark {
		return nil
	}
	if err := writeIDMark(path, next+idMarkAhead); err != nil {
		return err
	}
	b.idMark = next + idMarkAhead
	return nil
}

func writeIDMark(path string, mark uint64) error {
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = mmapqueue.ReplaceFile(mmapqueue.OS, path, fmt.Appendln(nil, mark))
	}
	if err != nil {
		return fmt.Errorf("broker: id mark: %w", err)
	}
	return nil
}
