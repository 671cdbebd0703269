package mmapqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// spareMax is how many segments that nobody needs are kept to be used again.
const spareMax = 3

// reopen has the first sync include the segments that nobody wanted synced so
// far: what stands in them may be all there is of a message that somebody wants
// to be safe now.
func (j *Journal) reopen() {
	j.mu.Lock()
	segments := slices.Clone(j.segments)
	j.mu.Unlock()
	for _, s := range segments {
		if s.f != nil || s.synced >= s.end {
			continue
		}
		f, err := j.o.FS.Open(s.path, true)
		if err != nil {
			j.o.Logf("mmapqueue: sync journal segment: %v", err)
			continue
		}
		s.f = f
		j.unsynced = append(j.unsynced, s)
	}
}

// roll begins a segment with room for need bytes: one to be used again if there
// is one.
func (j *Journal) roll(need int64) error {
	before := int64(0)
	if j.open != nil {
		before = j.open.intact
		if j.durable {
			before = j.open.synced // the rest is promised to nobody yet
		}
		j.leave()
	}
	size := max(j.segmentBytes.Load(), journalStart+need)
	j.mu.Lock()
	var s *journalSegment
	if at := slices.IndexFunc(j.spares, func(s *journalSegment) bool { return s.f == nil && !s.damaged && s.size >= size }); at >= 0 {
		s = j.spares[at]
		j.spares = slices.Delete(j.spares, at, at+1)
	}
	tail := j.next
	if len(j.segments) > 0 {
		tail = j.segments[0].number
	}
	batches := j.batches
	j.mu.Unlock()

	var err error
	if s != nil {
		s.f, err = j.o.FS.Open(s.path, true)
		j.newFiles = j.newFiles || s.unnamed
		s.unnamed = false
	}
	if s == nil || errors.Is(err, fs.ErrNotExist) { // somebody may have removed it
		j.slot++
		s = &journalSegment{path: journalPath(j.dir, j.slot), size: size}
		s.f, err = j.create(s.path, size)
		for least := max(journalStart+need, DefaultSegmentBytesMin); NoRoom(err) && s.size > least; {
			s.size = max(s.size/4, least) // a disk that is nearly full has room for a little
			s.f, err = j.o.FS.Create(s.path, s.size)
		}
		j.newFiles = true
	}
	if err != nil {
		return fmt.Errorf("mmapqueue: begin journal segment: %w", err)
	}
	if err = s.renew(j.next, tail, batches*batchRecords, before); err == nil && j.durable {
		// Before any record: a header that was lost would leave an old one in
		// front of records that are partly overwritten.
		err = s.f.Datasync()
	}
	if err != nil {
		s.f.Close()
		j.o.FS.Remove(s.path)
		return fmt.Errorf("mmapqueue: write header of %s: %w", s.path, err)
	}
	j.mu.Lock()
	j.segments = append(j.segments, s)
	j.salt = s.salt
	j.mu.Unlock()
	j.open = s
	j.next++
	j.segment.Store(s.number)
	j.o.Rolled()
	return nil
}

// create makes a file, and the directory too if somebody has removed that.
func (j *Journal) create(path string, size int64) (File, error) {
	f, err := j.o.FS.Create(path, size)
	if errors.Is(err, fs.ErrNotExist) {
		if err = j.o.FS.MkdirAll(j.dir); err == nil {
			f, err = j.o.FS.Create(path, size)
		}
	}
	return f, err
}

// restore writes the open segment again, under another name, if somebody has removed
// its file: what stands in it may be all that a crash leaves of a message. A segment that
// cannot be written again takes no more records, and those to come are safe at least.
func (j *Journal) restore() {
	s := j.open
	if s == nil || !s.f.Gone() {
		return
	}
	j.slot++
	path := journalPath(j.dir, j.slot)
	f, err := j.create(path, s.size)
	if err == nil {
		if err = copyFile(f, s.f, s.end); err == nil && j.durable {
			err = f.Datasync()
		}
		if err != nil {
			f.Close()
			j.o.FS.Remove(path)
		}
	}
	if err != nil {
		j.o.Logf("mmapqueue: somebody has removed %s, which cannot be written again: %v; what is in it does not survive a crash", s.path, err)
		j.leave()
		return
	}
	j.o.Logf("mmapqueue: somebody has removed %s: it is written again as %s", s.path, path)
	s.f.Close()
	s.f = f
	j.mu.Lock()
	s.path = path
	j.mu.Unlock()
	j.newFiles = true
}

// copyFile copies the first n bytes of a file.
func copyFile(to, from File, n int64) error {
	b := make([]byte, min(n, 1<<20))
	for at := int64(0); at < n; at += int64(len(b)) {
		b = b[:min(n-at, int64(len(b)))]
		if _, err := from.ReadAt(b, at); err != nil {
			return err
		}
		if _, err := to.WriteAt(b, at); err != nil {
			return err
		}
	}
	return nil
}

// aheadShare is how many times its size a file that is made ahead must find free:
// on a disk that is nearly full it would be in the way of what somebody waits for.
const aheadShare = 4

// prepare makes the file of the next segment, if none waits to be used again, so
// that no commit has to wait for that.
func (j *Journal) prepare() {
	j.mu.Lock()
	ready := j.stopping || slices.ContainsFunc(j.spares, func(s *journalSegment) bool { return j.reusable(s) })
	j.mu.Unlock()
	if ready {
		return
	}
	j.slot++
	s := &journalSegment{path: journalPath(j.dir, j.slot), size: j.segmentBytes.Load()}
	durable := j.durable
	j.ended.Go(func() {
		if free, err := j.o.FS.Free(j.dir); err == nil && free < aheadShare*s.size {
			return
		}
		f, err := j.o.FS.Create(s.path, s.size)
		if err != nil {
			return // roll, which tries as well, has somebody to tell
		}
		if err = f.Close(); err == nil && durable {
			err = j.syncDirs()
		}
		s.unnamed = !durable || err != nil
		j.mu.Lock()
		j.spares = slices.Insert(j.spares, 0, s)
		j.mu.Unlock()
	})
}

// syncDirs makes the names of the journal's files durable.
func (j *Journal) syncDirs() error {
	return firstErr(j.o.FS.SyncDir(j.dir), j.o.FS.SyncDir(filepath.Dir(j.dir)))
}

// Release says that no segment below number is needed: what they held is
// finished, or safe elsewhere. The one being written stays in any case.
//
// Until the next segment is begun its header does not say so, and a start reads
// what is still there. So files go oldest first, damaged ones and spares alike:
// a finish must not go before the message.
func (j *Journal) Release(number uint64) {
	gone := j.release(number)
	j.mu.Lock()
	told := uint64(0) // the header of the last segment says so of what is below
	if n := len(j.segments); n > 0 {
		told = j.segments[n-1].tail
	}
	j.mu.Unlock()
	if slices.ContainsFunc(gone, func(s *journalSegment) bool { return s.number >= told }) {
		j.sayReleased(number)
	}
	j.discard(gone)
}

// sayReleased writes down, before files go, that nothing below number is needed, so
// that a start can tell them from files that somebody has taken away. It returns when
// that is written, or has failed: then it will be, when the disk works.
func (j *Journal) sayReleased(number uint64) {
	b := j.Batch()
	b.add(&Record{Kind: kindReleased, ID: number})
	done := make(chan struct{})
	j.Submit(b, func(error) { close(done) })
	<-done
}

// release takes the files that Release is to remove off the lists.
func (j *Journal) release(number uint64) (gone []*journalSegment) {
	current := j.segment.Load()
	j.mu.Lock()
	for len(j.segments) > 1 && j.segments[0].number < min(number, current) {
		j.spares = append(j.spares, j.segments[0])
		j.segments = slices.Delete(j.segments, 0, 1)
	}
	n := 0
	for n < len(j.spares) && (len(j.spares)-n > spareMax || !j.reusable(j.spares[n])) {
		n++
	}
	gone = slices.Clone(j.spares[:n])
	j.spares = slices.Delete(j.spares, 0, n)
	j.mu.Unlock()
	return gone
}

func (j *Journal) reusable(s *journalSegment) bool {
	return s.size == j.segmentBytes.Load() && !s.damaged
}

func (j *Journal) discard(gone []*journalSegment) {
	for _, s := range gone {
		remove := j.o.FS.Remove
		if s.damaged {
			remove = func(path string) error { return j.o.FS.Rename(path, path+badSuffix) }
		}
		if err := remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			j.o.Logf("mmapqueue: discard journal segment: %v", err)
		}
	}
}
