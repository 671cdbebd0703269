package broker

import (
	"errors"
	"path/filepath"

	"github.com/zsqio/zsq/mmapqueue"
)

// Health returns the last disk error, nil when the last write worked. While there
// is one, each call has a helper look whether the disk works again, so that a
// broker nobody publishes to heals too.
func (b *Broker) Health() error {
	if b.journal != nil {
		if err := b.journal.Err(); err != nil {
			return err // it heals by itself
		}
	}
	failed := b.health.Load()
	if failed == nil {
		return nil
	}
	if !b.closing.Load() && b.probing.CompareAndSwap(false, true) {
		b.helpers.Go(func() {
			defer b.probing.Store(false)
			if mmapqueue.Probe(b.opts.Log.FS, filepath.Join(b.opts.DataPath, backlogsDir), failed.bytes) == nil {
				b.health.CompareAndSwap(failed, nil)
			}
		})
	}
	return failed.err
}

// A diskFailure is why something could not be written or read.
type diskFailure struct {
	err   error
	bytes int64 // of a batch for which the disk had no room: less may fit, which heals nothing
}

func (b *Broker) diskFailed(err error) { b.failed(&diskFailure{err: err}) }

func (b *Broker) failed(f *diskFailure) {
	if b.opts.Logf != nil {
		b.opts.Logf("ERROR", "backlog: %v", f.err)
	}
	b.health.Store(f)
}

// writeFailed is diskFailed for a batch of so many bytes: what the operator's limits
// forbid says nothing of the disk.
func (b *Broker) writeFailed(err error, bytes int64) {
	switch {
	case errors.Is(err, mmapqueue.ErrFull):
	case mmapqueue.NoRoom(err):
		b.failed(&diskFailure{err, bytes})
	default:
		b.diskFailed(err)
	}
}

// diskWorked says that jobs were written together.
func (b *Broker) diskWorked(jobs []*job) {
	failed := b.health.Load()
	if failed == nil {
		return
	}
	bytes := int64(0)
	for _, j := range jobs {
		bytes += j.size()
	}
	if bytes >= failed.bytes {
		b.health.CompareAndSwap(failed, nil)
	}
}
