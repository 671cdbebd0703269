package mmapqueue

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// backgroundSyncs bounds the threads and descriptors that the timers of many logs
// take at a time.
var backgroundSyncs = make(chan struct{}, 16)

// touch counts n records appended or read, and has them synced in time. The
// caller holds mu.
func (b *Backlog) touch(n int) {
	b.ops += int64(n)
	b.quiet = false
	switch {
	case b.closed:
	case b.o.SyncEvery > 0 && b.ops >= b.o.SyncEvery:
		if !b.soon {
			b.hurry(b.pace())
		}
	case b.o.SyncTimeout > 0 && !b.armed:
		b.arm(b.o.SyncTimeout)
	}
}

// pace returns how long a sync that is due by the number of records has to wait.
// The caller holds mu.
func (b *Backlog) pace() time.Duration {
	pause := time.Duration(min(b.o.SyncEvery, int64(time.Second/syncPace))) * syncPace
	return max(0, pause-time.Since(b.synced))
}

// hurry is arm for a sync that is not to be put off. The caller holds mu.
func (b *Backlog) hurry(d time.Duration) {
	b.soon = true
	b.arm(d)
}

// arm has a sync begin after d on a goroutine of the timer's, which Close waits
// for. The caller holds mu.
func (b *Backlog) arm(d time.Duration) {
	b.armed = true
	if b.timer != nil {
		b.timer.Reset(d)
		return
	}
	b.timer = time.AfterFunc(d, func() {
		backgroundSyncs <- struct{}{}
		defer func() { <-backgroundSyncs }()
		if err := b.Sync(); err != nil && !errors.Is(err, ErrClosed) {
			b.o.Logf("%v", err)
		}
		if b.rests() {
			b.Trim()
		}
	})
}

// rests reports whether nothing has happened for a while to a log that nobody
// needs anything of; it has the timer look again while that is not known.
func (b *Backlog) rests() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !b.onDisk || slices.ContainsFunc(b.cursors, func(c *Cursor) bool { return !c.idle() }) {
		return false
	}
	if b.quiet {
		return true
	}
	b.quiet = true
	if !b.armed && b.o.SyncTimeout > 0 {
		b.arm(b.o.SyncTimeout)
	}
	return false
}

// Sync returns when everything appended and read before the call is on the disk.
// After an error nothing may be claimed for it; the segment at fault takes no
// more records, and later appends go to a new one.
func (b *Backlog) Sync() error {
	b.syncing.Lock()
	defer b.syncing.Unlock()
	b.mu.Lock() // not before: whoever shuts the log waits for those that hold syncing only
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return b.sync()
}

// sync is Sync, also of a log that is being closed. The caller holds syncing.
func (b *Backlog) sync() error {
	b.mu.Lock()
	todo := slices.Clone(b.unsynced)
	sealed := len(todo)
	if b.open != nil && b.open.synced < b.open.end {
		todo = append(todo, b.open)
	}
	ends := make([]int64, len(todo))
	for i, s := range todo {
		ends[i] = s.end
	}
	end := b.lastNext()
	newFiles := b.newFiles && b.onDisk
	names := newFiles || b.o.PowerSafe && b.onDisk
	b.ops, b.armed, b.soon, b.newFiles = 0, false, false, false
	b.synced = time.Now()
	b.mu.Unlock()

	var first error
	for i, s := range todo {
		b.mu.Lock()
		f := s.f
		b.mu.Unlock()
		err := f.Datasync()
		b.mu.Lock()
		if err != nil && !s.dead {
			s.failed = true
			first = firstErr(first, fmt.Errorf("mmapqueue: sync %s: %w", s.path, err))
		}
		s.synced = ends[i]
		done := i < sealed && !s.dead
		cold := err == nil && !s.dead && b.cold(s)
		if done {
			s.f = nil
			b.unsynced = slices.DeleteFunc(b.unsynced, func(u *segment) bool { return u == s })
		}
		b.mu.Unlock()
		if cold {
			f.Forget()
		}
		if done {
			f.Close()
		}
	}
	if first == nil {
		b.mu.Lock()
		b.syncedEnd = end
		b.mu.Unlock()
	}
	first = firstErr(first, b.saveCursors(true))
	if names { // behind the cursors, whose file has been replaced
		err := b.o.FS.SyncDir(b.dir)
		if newFiles {
			err = firstErr(err, b.o.FS.SyncDir(filepath.Dir(b.dir))) // its own name too
		}
		if err != nil {
			b.mu.Lock()
			b.newFiles = b.newFiles || newFiles
			b.mu.Unlock()
		}
		first = firstErr(first, err)
	}
	return first
}

// cold reports whether every reader has more than coldDistance to read before it
// comes to s. The caller holds mu.
func (b *Backlog) cold(s *segment) bool {
	nearest := uint64(0)
	for _, c := range b.cursors {
		if c.depth.Load() == 0 {
			return false // it will read what comes next
		}
		nearest = max(nearest, c.at.segment)
	}
	distance := int64(0)
	for i := len(b.segments) - 1; i >= 0 && b.segments[i].number > nearest; i-- {
		if b.segments[i].number < s.number {
			distance += b.segments[i].size
		}
	}
	return distance > coldDistance
}

// firstErr returns the first of two errors that is not nil.
func firstErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Trim gives back what a backlog with nothing to read still holds: the open
// segment, the cursor file, the directory. The cursors stay. While there is
// something to read it only drops the mappings that nobody reads at this moment.
func (b *Backlog) Trim() {
	b.appending.Lock()
	defer b.appending.Unlock()
	b.trim()
}

// trim is Trim for a caller that holds appending.
func (b *Backlog) trim() {
	b.syncing.Lock()
	defer b.syncing.Unlock()
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	idle := b.onDisk
	for _, c := range b.cursors {
		idle = idle && c.idle()
	}
	if !idle {
		for _, s := range b.segments {
			if s.readers == 0 {
				b.unmap(s)
			}
		}
		b.mu.Unlock()
		return
	}
	if len(b.segments) > 0 && b.tellsFirst() {
		b.mu.Unlock()
		if err := b.writeCursorsLocked(b.o.PowerSafe); err != nil {
			b.o.Logf("%v", err) // a start after a crash may take for lost what follows
		}
		b.mu.Lock()
	}
	gone := b.segments
	for _, s := range gone {
		s.sealed = true
		b.drop(s)
	}
	b.segments, b.open, b.onDisk, b.moved, b.adoptedMoved = nil, nil, false, false, false
	b.sizeNext = b.o.SegmentBytesMin
	b.mu.Unlock()
	b.savedSum = 0
	b.dropSpares()
	// The cursors go last: records without cursors would be read again by all.
	b.discard(gone)
	b.o.FS.Remove(filepath.Join(b.dir, adoptedFile))
	b.o.FS.Remove(filepath.Join(b.dir, cursorFile))
	b.o.FS.Remove(b.dir) // fails when evidence lies there
}
