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
			if mmapqueue.Probe(b.opts.Log.FS, filepath.Join(b.opts.DataPath, backlogsDir)) == nil {
				b.health.CompareAndSwap(failed, nil)
			}
		})
	}
	return *failed
}

func (b *Broker) diskFailed(err error) {
	if b.opts.Logf != nil {
		b.opts.Logf("ERROR", "backlog: %v", err)
	}
	b.health.Store(&err)
}

// writeFailed is diskFailed for a write: one that the operator's limits forbid says
// nothing of the disk.
func (b *Broker) writeFailed(err error) {
	if !errors.Is(err, mmapqueue.ErrFull) {
		b.diskFailed(err)
	}
}

func (b *Broker) diskWorked() {
	if b.health.Load() != nil {
		b.health.Store(nil)
	}
}
