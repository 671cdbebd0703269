package mmapqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
)

// Read hands the next records, at most max, to f in order, moves the cursor
// behind them and returns their number. Fewer than max means that the cursor has
// reached the end. The record and its body are valid only inside f; f must not
// call the backlog or its cursors, Depth excepted. Each record is the caller's to
// Finish, by its Sequence.
//
// A damaged record is passed over, counted and logged, without an error. When a
// segment cannot be read on, because its file is gone, was cut or sits on a
// failing disk, Read returns a CorruptError beside the records read before; the
// rest of that segment is lost to the cursor, the file is kept, and the next
// Read goes on behind it.
func (c *Cursor) Read(max int, f func(r *Record)) (n int, err error) {
	for n < max {
		got, more, err := c.readSegment(max-n, f)
		n += got
		if err != nil || !more {
			return n, err
		}
	}
	return n, nil
}

// readSegment is Read within one segment. more says that another call may find
// more records.
func (c *Cursor) readSegment(most int, f func(r *Record)) (n int, more bool, err error) {
	b := c.b
	b.mu.Lock()
	if b.closed || c.gone {
		b.mu.Unlock()
		return 0, false, ErrClosed
	}
	s := c.segment()
	if s == nil {
		b.mu.Unlock()
		return 0, false, nil
	}
	if s.foreign != nil && !s.foreign.counted {
		if err := b.countForeign(c, s); err != nil {
			b.mu.Unlock()
			return 0, false, err
		}
		if b.closed || c.gone || c.depth.Load() == 0 {
			b.mu.Unlock()
			return 0, false, nil
		}
	}
	w := walk{s: s, id: c.id, max: most, at: c.at, limit: s.end, stop: math.MaxUint64, record: &c.r, out: c.out[:0]}
	if w.at.offset <= s.start() {
		w.at.offset = s.start()
		if s.foreign != nil {
			w.at.sequence = s.firstSequence
		}
		w.expect = s.firstSequence
	} else {
		w.expect = w.at.sequence
	}
	next, own := s.next, c.own(s)
	w.next = next
	if c.at.sequence < c.window.end() {
		w.floor = c.window.floor
		w.from = max(c.at.sequence, w.floor) &^ 63
		w.stop = w.from + 64*knownWords
		w.known = c.window.clone(c.known[:0], w.from, knownWords)
		c.known = w.known
	}
	c.held = c.renewed.from(c.held[:0], c.at.sequence)
	w.held = c.held
	mapped := false
	if s.mapping == nil {
		if s.mapping, err = b.o.FS.Map(s.path, s.size); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.mu.Unlock() // out of descriptors or address space: worth another try
			return 0, false, fmt.Errorf("mmapqueue: map %s: %w", s.path, err)
		}
		if mapped = err == nil; mapped {
			b.o.Handles.hasMapped(b, s)
		}
	}
	b.o.Handles.touched(s)
	mapping, epoch := s.mapping, c.epoch
	s.readers++
	b.reading.Add(1)
	b.mu.Unlock()
	defer b.reading.Done()
	if mapped {
		b.o.Handles.unmapOld()
	}

	if err == nil {
		run := w.run
		if s.foreign != nil {
			run = w.runForeign
		}
		err = guard(mapping, func() { run(mapping, f) })
	}
	c.r, c.out = Record{}, w.out
	lost, fault := w.damage, w.at.offset
	if err != nil {
		lost = append(lost, lostRecords{fault, w.expect, next})
		w.at.offset = w.limit
	}

	b.mu.Lock()
	counts := make([]int64, len(lost))
	for i, l := range lost {
		counts[i] = c.lost(l)
	}
	if len(lost) > 0 {
		s.damaged = true
		s.failed = s.failed || err != nil
	}
	s.readers--
	if c.epoch == epoch {
		c.advance(s, &w, next, own)
	}
	if s.dead && s.readers == 0 {
		b.unmap(s)
	}
	gone := b.reap()
	b.touch(len(w.out))
	b.check()
	more = c.depth.Load() > 0
	b.mu.Unlock()
	b.dispose(gone)
	for i, l := range w.damage {
		b.reportLost(s, l.offset, l.offset, counts[i], nil)
	}
	if err != nil {
		err = b.reportLost(s, restOfFile, fault, counts[len(counts)-1], err)
	}
	return len(w.out), more, err
}

// segment returns the segment that c reads next, or nil when it has read
// everything; it moves c there. The caller holds b.mu.
func (c *Cursor) segment() *segment {
	if c.depth.Load() == 0 {
		return nil
	}
	for _, s := range c.b.segments {
		if s.number < c.at.segment {
			continue
		}
		if s.number > c.at.segment {
			c.at.segment, c.at.offset = s.number, 0
		}
		if s.foreign == nil || s.foreign.cursor == c.id {
			return s
		}
		c.pass(c.at.sequence, s.next) // another's
		c.at = position{segment: s.number + 1, sequence: max(c.at.sequence, s.next)}
	}
	c.amend(c.depth.Load(), 0)
	return nil
}

// advance moves c to where w has come. At w's limit everything that s counted,
// own of it, has been handed out, is finished or is damaged, so that the depth is
// exact again from there on; next is the sequence there. The caller holds b.mu.
func (c *Cursor) advance(s *segment, w *walk, next uint64, own int64) {
	b := c.b
	t := c.tally(s.number)
	left := int64(0)
	for _, sequence := range w.out {
		if !c.window.has(sequence) { // else Finish was quicker, and has counted it
			left++
		}
	}
	c.waiting += left
	depth := c.depth.Load() - left
	handed := left
	if w.at.offset >= w.limit {
		left = max(left, own-t.left)
		w.at.sequence = max(w.at.sequence, next)
		if s.sealed && s.end == w.limit {
			w.at.segment, w.at.offset = s.number+1, 0
		}
	}
	t.left += left
	// What was passed and not handed out is not ours, is finished or is damaged.
	if from := c.at.sequence; w.at.sequence-from != uint64(len(w.out)) {
		for _, sequence := range w.out {
			c.pass(from, sequence)
			from = sequence + 1
		}
		c.pass(from, w.at.sequence)
	}
	c.at, b.moved = w.at, true
	c.amend(depth, depth+handed-left)
	c.raised()
	if c.at.segment != s.number && s.readers == 0 {
		for _, other := range b.cursors {
			if other.depth.Load() > 0 && other.at.segment == s.number {
				return
			}
		}
		b.unmap(s)
	}
}

// Finish says that the caller is done with records, by their Sequence: no
// restart after the next Sync reads them again. Records that were not read yet
// leave Depth, and no Read that begins later hands them out. Sequences may come in
// any order, and again; quickest is ascending and many at a time. Those of records
// that are not the cursor's must not be among them; at a start FinishAgain is for
// one who does not know that. After Close or Delete it does
// nothing.
func (c *Cursor) Finish(sequences []uint64) {
	b := c.b
	b.mu.Lock()
	if b.closed || c.gone {
		b.mu.Unlock()
		return
	}
	var s *segment
	var t *tally
	unread := int64(0)
	if len(c.renewed.as) > 0 {
		sequences = c.renewed.with(sequences)
	}
	for _, sequence := range sequences {
		if sequence >= b.sequence || !c.window.add(sequence) {
			continue
		}
		if s == nil || sequence >= s.next || sequence < s.firstSequence {
			if s = b.segmentOf(sequence); s == nil || sequence < s.firstSequence {
				s = nil // its file is gone
				continue
			}
			t = c.tally(s.number)
		}
		t.finished++
		if held := c.renewed.finish(sequence); sequence >= c.at.sequence && !held {
			t.left++
			unread++
		} else {
			c.waiting--
		}
	}
	c.depth.Store(max(0, c.depth.Load()-unread))
	b.moved = true
	c.raised()
	gone := b.reap()
	b.touch(len(sequences))
	b.check()
	b.mu.Unlock()
	b.dispose(gone)
}

// knownWords is how much of the window one step of a Read looks at: 4,096 records.
const knownWords = 64

// walk is one pass over the records of a segment.
type walk struct {
	s     *segment
	id    uint32 // of the cursor that reads
	max   int
	limit int64  // where the records end
	stop  uint64 // sequence that ends the pass

	known []uint64 // the cursor's window from the sequence from on, or nil
	from  uint64
	floor uint64

	held []uint64 // ascending: handed out already, though they stand here

	record *Record
	at     position // behind the last record seen
	out    []uint64 // records handed out
	expect uint64   // sequence of the record that is to stand at at.offset
	next   uint64   // sequence behind the last record
	damage []lostRecords
}

// run hands records to f until there were max or the limit is reached. Its
// fields are right at every step, because a fault may end it anywhere.
func (w *walk) run(m []byte, f func(r *Record)) {
	data := m[:min(w.limit, int64(len(m)))]
	for len(w.out) < w.max && w.at.offset < w.limit && w.at.sequence < w.stop {
		size, v := decode(data[w.at.offset:], w.record, w.at.offset, w.s.salt)
		switch {
		case v == nothing:
			w.lose(w.next) // or less, as the next record says
			w.at.offset = resync(data, w.at.offset, w.s.salt)
			continue
		case v == damaged:
			w.lose(w.expect + 1)
			w.at.offset += size
			continue
		}
		sequence := w.record.Sequence
		if n := len(w.damage); n > 0 && w.damage[n-1].to > sequence {
			w.damage[n-1].to = sequence
		}
		if sequence >= w.stop {
			w.at.sequence = sequence
			return
		}
		for len(w.held) > 0 && w.held[0] < sequence {
			w.held = w.held[1:]
		}
		if w.record.isFor(w.id) && !w.done(sequence) && (len(w.held) == 0 || w.held[0] != sequence) {
			f(w.record)
			w.out = append(w.out, sequence)
		}
		w.at.offset += size
		w.at.sequence = sequence + 1
		w.expect = w.at.sequence
	}
}

// lose notes that the records from the expected one up to the given sequence do not
// stand where they should.
func (w *walk) lose(to uint64) {
	w.damage = append(w.damage, lostRecords{w.at.offset, w.expect, to})
	w.expect = to
}

// done reports whether the window knew a record as done when the pass began.
func (w *walk) done(sequence uint64) bool {
	switch {
	case sequence < w.at.sequence:
		return true // passed: what is not ours and what a restart goes over again
	case w.known == nil:
		return false
	case sequence < w.floor:
		return true
	}
	return w.known[(sequence-w.from)/64]>>(sequence%64)&1 != 0
}
