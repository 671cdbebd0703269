package mmapqueue

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// room returns the open segment, with space for size bytes and for the footer
// behind them. The caller holds appending.
func (b *Backlog) room(size int64) (*segment, error) {
	b.mu.Lock()
	closed, s, late := b.closed, b.open, len(b.unsynced) > unsyncedMax
	need := size + footerSize(len(b.cursors)+8)
	fits := false
	if s != nil {
		need += putSize * int64(len(s.puts))
		fits = !s.failed && s.end+need <= s.size
	}
	b.mu.Unlock()
	if fits && !closed && s.f.Gone() {
		b.o.Logf("mmapqueue: somebody has removed %s: what is in it may be lost, and the log goes on in another file", s.path)
		fits = false
	}
	switch {
	case closed:
		return nil, ErrClosed
	case fits:
		return s, nil
	}
	if s != nil {
		b.sealOpen()
	}
	if late {
		if err := b.Sync(); err != nil {
			return nil, err
		}
	}
	return b.newSegment(segmentStart + need)
}

// newSegment makes the segment that the next append goes to, of at least need
// bytes and the names of the cursors. A disk that has no room for one of the usual size may still have room
// for that.
func (b *Backlog) newSegment(need int64) (*segment, error) {
	if err := b.makeDir(); err != nil {
		return nil, err
	}
	var random [8]byte
	rand.Read(random[:])
	b.mu.Lock()
	s := &segment{
		number: b.number, firstSequence: b.sequence, next: b.sequence,
		salt: binary.LittleEndian.Uint64(random[:]), path: segmentPath(b.dir, b.number), before: b.before(),
	}
	names := b.nameRecords()
	s.size = b.sizeNext
	b.mu.Unlock()
	size, err := batchSize(names)
	if err != nil {
		return nil, err
	}
	need += size
	s.size = max(s.size, need)
	front := make([]byte, segmentStart+size)
	copy(front, s.header())
	s.end, s.next = s.encode(front[segmentStart:], names, segmentStart, s.next)

	if !b.reuse(s, need, front) {
		room := b.o.Budget.room(b.bytes.Load())
		if room < need {
			return nil, ErrFull
		}
		s.size = min(s.size, room)
		err := b.create(s, need, front)
		if errors.Is(err, fs.ErrNotExist) { // the directory is gone
			err = b.makeDirAgain()
			if err == nil {
				err = b.create(s, need, front)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	b.grow(s.size)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.segments = append(b.segments, s)
	b.open, b.newFiles, b.sequence = s, true, s.next
	// Not before: a background sync puts cursors that have read everything at the
	// segment of the next number, and that must not be the one behind this.
	b.number = s.number + 1
	half := b.bytes.Load() / 2
	b.sizeNext = min(max(b.sizeNext*2, b.o.SegmentBytesMin), max(half, sizeShallow), b.o.SegmentBytesMax)
	return s, nil
}

// before returns what the next segment's header says of the one in front of it. What
// upstream's files have of the sequences is not known. The caller holds mu.
func (b *Backlog) before() uint64 {
	if n := len(b.segments); n > 0 && b.segments[n-1].foreign == nil {
		return b.segments[n-1].next
	}
	return 0
}

// create makes the file of s, of s.size bytes or, where there is no room for so
// many, of need, and writes its front.
func (b *Backlog) create(s *segment, need int64, front []byte) error {
	f, err := b.o.Handles.create(b.o.FS, s.path, s.size)
	if err != nil && s.size > need {
		b.dropSpares()
		s.size = need
		f, err = b.o.Handles.create(b.o.FS, s.path, s.size)
	}
	if err != nil {
		return fmt.Errorf("mmapqueue: create segment: %w", err)
	}
	if _, err := f.WriteAt(front, 0); err != nil {
		f.Close()
		b.o.FS.Remove(s.path)
		return fmt.Errorf("mmapqueue: write header of %s: %w", s.path, err)
	}
	s.f = f
	return nil
}

// reuse makes s of a spare file whose size is about right and reports whether it
// did. The front is written before the file gets its name: under that name the
// old front would be another segment's.
func (b *Backlog) reuse(s *segment, need int64, front []byte) bool {
	b.mu.Lock()
	i := slices.IndexFunc(b.spares, func(o *segment) bool { return o.size >= need && o.size >= s.size/2 })
	if i < 0 {
		b.mu.Unlock()
		b.dropSpares() // of another time, or cut at their seals too often
		return false
	}
	o := b.spares[i]
	b.spares = slices.Delete(b.spares, i, i+1)
	b.mu.Unlock()
	_, err := o.f.WriteAt(front, 0)
	if err == nil {
		err = b.o.FS.Rename(o.path, s.path)
	}
	if err != nil {
		b.o.Logf("mmapqueue: use %s again: %v", o.path, err)
		b.removeSpare(o)
		return false
	}
	renamed(o.f, s.path)
	s.f, s.size = o.f, o.size
	b.grow(-o.size)
	return true
}

// retire keeps the file of s, which is off the list, for a segment to come, and
// reports whether it did: not one that is larger than those to come may be, which an
// earlier run has left or a large batch. No start takes the file for a segment.
func (b *Backlog) retire(s *segment) bool {
	b.mu.Lock()
	keep := !b.closed && b.onDisk && s.foreign == nil && len(b.spares) < sparesMax && !s.damaged && !s.failed &&
		s.readers == 0 && s.size >= b.o.spareMin && s.size <= min(max(b.sizeNext*2, b.o.spareMin), b.o.SegmentBytesMax)
	b.mu.Unlock()
	if !keep {
		return false
	}
	o := &segment{path: s.path + spareSuffix, size: s.size, f: s.f}
	if o.f == nil {
		f, err := b.o.Handles.reopen(b.o.FS, s.path)
		if err != nil {
			return false
		}
		o.f = f
	}
	if err := b.o.FS.Rename(s.path, o.path); err != nil {
		if s.f == nil {
			o.f.Close()
		}
		return false
	}
	renamed(o.f, o.path)
	b.mu.Lock()
	b.spares = append(b.spares, o)
	b.mu.Unlock()
	return true
}

// dropSpares removes the files that are kept to be used again.
func (b *Backlog) dropSpares() {
	b.mu.Lock()
	spares := b.spares
	b.spares = nil
	b.mu.Unlock()
	for _, o := range spares {
		b.removeSpare(o)
	}
}

func (b *Backlog) removeSpare(o *segment) {
	o.f.Close()
	b.grow(-o.size)
	if err := b.o.FS.Remove(o.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.o.Logf("mmapqueue: remove spare: %v", err)
	}
}

// makeDir creates the directory, and in it the cursors: were they missing after
// a crash, nobody would know who has yet to read what.
func (b *Backlog) makeDir() error {
	b.mu.Lock()
	made := b.onDisk
	b.mu.Unlock()
	if made {
		return nil
	}
	if err := b.o.FS.MkdirAll(b.dir); err != nil {
		return fmt.Errorf("mmapqueue: %w", err)
	}
	b.mu.Lock()
	b.onDisk, b.moved = true, true
	b.mu.Unlock()
	if err := b.saveCursors(false); err != nil {
		b.mu.Lock()
		b.onDisk = false // the next append tries again
		b.mu.Unlock()
		return err
	}
	return nil
}

// makeDirAgain is makeDir for a directory that somebody has removed.
func (b *Backlog) makeDirAgain() error {
	b.o.Logf("mmapqueue: somebody has removed %s: it is made again", b.dir)
	b.mu.Lock()
	b.onDisk = false
	b.mu.Unlock()
	return b.makeDir()
}

// sealOpen ends the open segment. The caller holds appending. A footer that
// cannot be written is logged: it costs the next start a scan and nothing else.
func (b *Backlog) sealOpen() {
	s := b.open
	size, err := s.seal()
	if err != nil {
		b.o.Logf("mmapqueue: seal %s: %v", s.path, err)
	}
	b.grow(size - s.size)
	b.mu.Lock()
	s.size, s.sealed, b.open = size, true, nil
	b.unsynced = append(b.unsynced, s)
	gone := b.reap()
	// A large segment is synced while it is hot; small ones wait for the next
	// sync, so that a log which starts to grow does not sync at each doubling.
	if !b.closed && (size >= syncAtOnce || len(b.unsynced) > unsyncedMax/2) {
		b.hurry(0)
	}
	b.mu.Unlock()
	b.dispose(gone)
}

// reap takes sealed segments off the list that no cursor has to read, and
// returns them for discard. The caller holds mu.
func (b *Backlog) reap() (gone []*segment) {
	oldest := b.number
	for _, c := range b.cursors {
		if !c.idle() {
			oldest = min(oldest, c.oldest())
		}
	}
	b.segments = slices.DeleteFunc(b.segments, func(s *segment) bool {
		needed := !s.sealed || s.number >= oldest
		if s.foreign != nil {
			needed = slices.ContainsFunc(b.cursors, func(c *Cursor) bool {
				return c.id == s.foreign.cursor && !c.idle() && c.oldest() <= s.number
			})
			b.adoptedMoved = b.adoptedMoved || !needed
		}
		if needed {
			return false
		}
		gone = append(gone, s)
		return true
	})
	for _, s := range gone {
		b.drop(s)
	}
	return gone
}

// drop ends what the process holds of s, which is off the list: at once, or
// with the last Read. The caller holds mu.
func (b *Backlog) drop(s *segment) {
	s.dead = true
	if s.readers == 0 {
		b.unmap(s)
	}
	b.unsynced = slices.DeleteFunc(b.unsynced, func(u *segment) bool { return u == s })
}

func (b *Backlog) unmap(s *segment) {
	if s.mapping != nil {
		b.o.Handles.hasUnmapped(s)
	}
	if err := s.unmap(); err != nil {
		b.o.Logf("mmapqueue: unmap %s: %v", s.path, err)
	}
}

// discard removes the files of segments that reap returned, outside any lock. A
// damaged one is kept under another name for whoever wants to look.
func (b *Backlog) discard(gone []*segment) {
	for _, s := range gone {
		if b.retire(s) {
			continue
		}
		if s.f != nil {
			s.f.Close()
		}
		b.grow(-s.size)
		remove := b.o.FS.Remove
		if s.damaged {
			remove = func(path string) error { return b.o.FS.Rename(path, path+badSuffix) }
		}
		if err := remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.o.Logf("mmapqueue: discard segment: %v", err)
		}
		if s.foreign != nil {
			b.forgetMeta(s)
		}
	}
}
