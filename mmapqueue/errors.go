package mmapqueue

import (
	"errors"
	"fmt"
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
)

// CorruptError says where a log is damaged. It matches ErrCorrupt under
// errors.Is.
type CorruptError struct {
	Segment string // path of the file
	Offset  int64  // first byte that could not be used
	Records int64  // lost there, at most; 0: not known, or none
	Cause   error  // what the system said, or nil
}

// Error names the file and the offset, the cause where there is one, and what is
// lost where that is known.
func (e *CorruptError) Error() string {
	text := fmt.Sprintf("%v: %s at offset %d", ErrCorrupt, e.Segment, e.Offset)
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	if e.Records > 0 {
		text += fmt.Sprintf(", up to %d records are lost", e.Records)
	}
	return text
}

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Cause }
