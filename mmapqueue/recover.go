package mmapqueue

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// recover brings back what a run left in the directory:
//
//  1. read the cursor file;
//  2. take each segment's counts from its footer; scan a segment without one,
//     which is where a crash left off, and seal it;
//  3. compute each cursor's depth from its place and the counts;
//  4. remove what nobody has to read.
//
// There is no open segment afterwards: the next append makes a new one.
func (b *Backlog) recover() error {
	entries, err := b.o.FS.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b.onDisk = true
	known, err := b.loadCursors()
	if err != nil {
		return err
	}
	if err := b.loadAdopted(); err != nil {
		return err
	}
	for _, e := range entries { // sorted by name, which needs not be by number
		number, ok := segmentNumber(e.Name())
		if !ok {
			if strings.HasSuffix(e.Name(), segmentSuffix+spareSuffix) {
				b.o.FS.Remove(filepath.Join(b.dir, e.Name()))
			}
			continue
		}
		s := &segment{number: number, path: filepath.Join(b.dir, e.Name()), sealed: true}
		keep, err := b.load(s)
		if exhausted(err) {
			return err
		}
		if err != nil {
			// It is kept for whoever may read it. Under its own name the next start
			// would find it behind the cursors, which go on, and remove it.
			b.report(s, 0, err)
			b.putAside(s.path)
		}
		b.number = max(b.number, number+1)
		if keep {
			b.segments = append(b.segments, s)
			b.sequence = max(b.sequence, s.next)
			b.grow(s.size)
		}
	}
	slices.SortFunc(b.segments, func(x, y *segment) int { return int(x.number) - int(y.number) })
	for _, c := range b.cursors {
		// A record lost with the power must not lend its sequence to another.
		b.number = max(b.number, c.base.segment+1)
		b.sequence = max(b.sequence, c.base.sequence, c.window.end())
	}
	for _, s := range b.segments {
		for id := range s.puts {
			if id != nameOf {
				b.lastID = max(b.lastID, id) // no new cursor may take the number of an old one
			}
		}
	}
	if !known && len(b.segments) > 0 {
		b.cursorsFromLog()
	}
	b.adoptedCursors()
	b.reportMissing(known)
	for _, c := range b.cursors {
		c.measure()
	}
	b.discard(b.reap())
	b.trim() // nothing to read: nothing to keep
	return nil
}

// loadCursors reads the cursor file and reports whether there was a sound one.
func (b *Backlog) loadCursors() (known bool, err error) {
	path := filepath.Join(b.dir, cursorFile)
	b.o.FS.Remove(path + ".tmp")
	buf, err := readFile(b.o.FS, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if exhausted(err) {
		return false, err
	}
	if err == nil && b.decodeCursors(buf) {
		return true, nil
	}
	b.cursors, b.lastID = nil, 0
	b.report(&segment{path: path}, 0, err)
	b.putAside(path)
	return false, nil
}

// exhausted reports whether err says that the system has run out of something:
// worth another try, and no reason to think a file damaged.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// putAside keeps a file that cannot be used under a name that nothing reads.
func (b *Backlog) putAside(path string) {
	if err := b.o.FS.Rename(path, path+badSuffix); err != nil {
		b.o.Logf("mmapqueue: put aside: %v", err)
	}
}

// load reads what a start has to know of s. A file that is no segment at all is
// put aside, and one without records is removed: keep is false.
func (b *Backlog) load(s *segment) (keep bool, err error) {
	f, err := b.o.FS.Open(s.path, false)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if s.size, err = f.Size(); err != nil {
		return false, err
	}
	header := make([]byte, segmentStart)
	n, _ := f.ReadAt(header, 0)
	headed, sound := s.parseHeader(header[:n])
	footed := s.readFooter(f) // it knows the salt as well
	s.footed = footed
	if !headed && !footed && b.blank(s) {
		return false, b.o.FS.Remove(s.path) // made, and never written
	}
	if !sound {
		b.report(s, 0, nil)
	}
	switch {
	case footed:
		s.damaged = !sound
		return true, nil
	case !headed:
		b.putAside(s.path)
		return false, nil
	}
	if err := b.scan(s); err != nil {
		return false, err
	}
	s.damaged = s.damaged || !sound
	if s.end == segmentStart && !s.damaged {
		return false, b.o.FS.Remove(s.path)
	}
	if !s.damaged {
		b.sealScanned(s)
	}
	return true, nil
}

// blank reports whether s holds nothing but zeros.
func (b *Backlog) blank(s *segment) bool {
	if s.size == 0 {
		return true
	}
	m, err := b.o.FS.Map(s.path, s.size)
	if err != nil {
		return false
	}
	defer m.Unmap()
	zero := true
	fault := guard(m, func() {
		for _, x := range m {
			zero = zero && x == 0
		}
	})
	return zero && fault == nil
}

// scan reads all records of s, which has no footer. Its end is behind the last
// whole record: what follows is space never written, or the torn end of a batch
// that nobody was told of. What lies between whole records and is none is damage.
//
// What a cursor has finished in s is counted again, since the cursor file may
// count records that are damaged now.
func (b *Backlog) scan(s *segment) error {
	m, err := b.o.FS.Map(s.path, s.size)
	if err != nil {
		return err
	}
	defer m.Unmap()
	s.end, s.next = segmentStart, s.firstSequence
	for _, c := range b.cursors {
		if c.base.segment <= s.number {
			c.tally(s.number).finished = 0
		}
	}
	var damage []lostRecords
	fault := guard(m, func() { damage = s.scan(m, b.cursors) })
	for _, l := range damage {
		b.reportLost(s, l.offset, l.offset, b.owed(l.from, l.to), nil)
	}
	if fault != nil {
		b.report(s, s.end, fault)
	}
	s.damaged = fault != nil || len(damage) > 0
	for _, c := range b.cursors {
		if c.base.segment == s.number {
			c.base.offset = min(c.base.offset, s.end)
		}
	}
	return nil
}

// scan counts the records of m, and which of them the cursors have finished.
func (s *segment) scan(m mmap.MMap, cursors []*Cursor) (damage []lostRecords) {
	var r Record
	var lost lostRun // damage, once a whole record follows
	for offset := s.end; offset < int64(len(m)); {
		size, v := decode(m[offset:], &r, offset, s.salt)
		switch v {
		case nothing:
			lost.add(offset, s.next, math.MaxUint64)
			offset = resync(m, offset, s.salt)
			continue
		case damaged:
			lost.add(offset, s.next, 1)
			offset += size
			continue
		}
		damage = lost.upTo(r.Sequence, damage)
		switch r.Kind {
		case KindPublish:
			s.publishes++
		case KindSome:
			for to := r.to; len(to) >= 4; to = to[4:] {
				s.addPuts(binary.LittleEndian.Uint32(to), 1)
			}
		default:
			s.addPuts(r.Cursor, 1)
		}
		for _, c := range cursors {
			if c.base.segment <= s.number && r.isFor(c.id) && c.window.has(r.Sequence) {
				c.tally(s.number).finished++
			}
		}
		offset += size
		s.end, s.next = offset, r.Sequence+1
	}
	return damage
}

// sealScanned writes the footer that a crash left out, so that the next start is
// quick. A damaged segment is left as it was found. Failure is harmless.
func (b *Backlog) sealScanned(s *segment) {
	f, err := b.o.FS.Open(s.path, true)
	if err == nil {
		s.f = f
		s.size, err = s.seal()
		s.f = nil
		err = firstErr(err, f.Close())
	}
	if err != nil {
		b.o.Logf("mmapqueue: seal %s: %v", s.path, err)
	}
}

// measure puts c where its base is, and computes its depth from the counts of all
// segments from there on.
func (c *Cursor) measure() {
	c.at, c.mark = c.base, c.base
	depth, kept := int64(0), []tally(nil)
	for _, s := range c.b.segments {
		if s.number < c.base.segment {
			continue
		}
		t := *c.tally(s.number)
		t.finished = min(t.finished, c.own(s))
		t.left = t.finished
		kept = append(kept, t)
		depth += c.own(s) - t.left
	}
	c.tallies = kept
	c.depth.Store(depth)
	if depth == 0 {
		c.settle()
	}
}
