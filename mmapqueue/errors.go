package mmapqueue

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrCorrupt reports bytes that no run of this package can have written, or
	// a file that became shorter than what was written to it. It arrives inside
	// a CorruptError that says where.
	ErrCorrupt = errors.New("mmapqueue: corrupt segment")

	// ErrFull reports an append beyond the log's Budget.
	ErrFull = errors.New("mmapqueue: the backlog has reached its limit")

	// ErrClosed reports a call on a backlog after Close or Remove, or on a
	// cursor after Delete.
	ErrClosed = errors.New("mmapqueue: closed")

	errNotRegular = errors.New("not a regular file")
)

// NoRoom reports whether err says that something does not fit: the disk is full, or the
// quota used up, or a file would be larger than the process may make it. What is smaller
// may still fit.
func NoRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// CorruptError says where a log is damaged. It matches ErrCorrupt under
// errors.Is.
type CorruptError struct {
	Segment string // path of the file
	Offset  int64  // first byte that could not be used
	Records int64  // lost there, at most (of a journal: at least); 0: not known, or none
	Bytes   int64  // of a journal: how many could not be used; 0: not known
	Cause   error  // what the system said, or nil
}

// Error names the file and the offset, the cause where there is one, and what is
// lost where that is known.
func (e *CorruptError) Error() string {
	text := fmt.Sprintf("%v: %s at offset %d", ErrCorrupt, e.Segment, e.Offset)
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	switch {
	case e.Bytes > 0 && e.Records > 0:
		text += fmt.Sprintf(", %d bytes and at least %d records are lost", e.Bytes, e.Records)
	case e.Bytes > 0:
		text += fmt.Sprintf(", %d bytes are lost", e.Bytes)
	case e.Records > 0:
		text += fmt.Sprintf(", up to %d records are lost", e.Records)
	}
	return text
}

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Cause }
