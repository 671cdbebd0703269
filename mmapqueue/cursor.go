package mmapqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// Cursor is one reader's place in a log: a channel's, or the topic's own. One
// goroutine at a time may Read; the other methods may be called beside it.
//
// Every record that is the cursor's, a publish or one for it, is in one place:
//
//	still to read ── Read ──► handed out ── Finish ──► finished
//	      └───────────────── Finish ─────────────────────▲
//
// Depth counts the first, Unfinished the second. A restart reads again what is
// not finished. The window holds what is finished, and what the cursor has passed
// that is not its own or is damaged; its floor is the oldest record that keeps a
// segment on disk.
//
// Invariant: what Depth counts is, for each segment from at on, the cursor's
// records in it less those that have left (tally.left). A cursor with Depth 0 has
// read everything, whatever at says; Append puts it in front of the next batch.
type Cursor struct {
	b     *Backlog
	id    uint32       // never changes
	depth atomic.Int64 // changed under b.mu, read anywhere

	// What a Read hands out and notes; they belong to the Read under way.
	r     Record
	out   []uint64
	known []uint64
	held  []uint64

	// Under b.mu:
	name    string
	at      position // where the next Read goes on
	window  window
	base    position // where a restart goes on: not above the floor, and close to it
	mark    position // the next base, once the floor has come so far
	tallies []tally  // ascending by segment, from the floor's segment on
	waiting int64    // handed out and not finished
	epoch   uint64   // raised by Empty and Delete: a Read under way counts no more
	gone    bool     // deleted
	renewed renewed
}

// position is a place in a log: the record with this sequence, or the first
// above it, is not before offset. An offset of 0 is the segment's first record.
type position struct {
	segment  uint64
	offset   int64
	sequence uint64
}

// tally counts a cursor's own records of one segment: those that Depth counts no
// longer, and those that are finished.
type tally struct {
	segment  uint64
	left     int64
	finished int64
}

// Cursor returns the cursor of that name. When there is none it is created at
// the end of the log: it reads what is appended from now on. The name "" is the
// topic's own cursor, for messages that no channel has taken yet.
func (b *Backlog) Cursor(name string) (*Cursor, error) {
	b.mu.Lock()
	c, closed := b.named(name), b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case c != nil:
		return c, nil
	case len(name) > nameMax:
		return nil, fmt.Errorf("mmapqueue: cursor name of %d bytes, the limit is %d", len(name), nameMax)
	}
	b.appending.Lock()
	defer b.appending.Unlock()
	return b.cursor(name)
}

// cursor is Cursor for a caller that holds appending.
func (b *Backlog) cursor(name string) (*Cursor, error) {
	b.mu.Lock()
	if c := b.named(name); c != nil || b.closed {
		b.mu.Unlock()
		if c == nil {
			return nil, ErrClosed
		}
		return c, nil
	}
	b.lastID++
	c := &Cursor{b: b, id: b.lastID, name: name}
	c.settle()
	b.cursors = append(b.cursors, c)
	b.moved = true
	r := c.nameRecord(false)
	b.mu.Unlock()
	return c, firstErr(b.writeName(r), b.saveCursors(false))
}

// named returns the cursor of that name or nil. The caller holds mu.
func (b *Backlog) named(name string) *Cursor {
	if i := slices.IndexFunc(b.cursors, func(c *Cursor) bool { return c.name == name }); i >= 0 {
		return b.cursors[i]
	}
	return nil
}

// Names returns the names of all cursors, in no particular order.
func (b *Backlog) Names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := make([]string, len(b.cursors))
	for i, c := range b.cursors {
		names[i] = c.name
	}
	return names
}

// Cursors returns how many cursors there are.
func (b *Backlog) Cursors() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.cursors)
}

// ID returns the number by which records name this cursor. It is not used
// again while the log has records.
func (c *Cursor) ID() uint32 { return c.id }

// Depth returns how many records the cursor still has to read. Records that a
// Read hands out count until that Read returns.
func (c *Cursor) Depth() int64 { return c.depth.Load() }

// Unfinished returns how many records were handed out and not finished.
func (c *Cursor) Unfinished() int64 {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	return c.waiting
}

// own returns how many records of s are the cursor's.
func (c *Cursor) own(s *segment) int64 { return s.publishes + s.puts[c.id] }

// end returns the position behind everything. The caller holds b.mu.
func (b *Backlog) end() position {
	if s := b.open; s != nil {
		return position{segment: s.number, offset: s.end, sequence: b.sequence}
	}
	return position{segment: b.number, sequence: b.sequence}
}

// idle reports whether c needs nothing that is in the log. The caller holds b.mu.
func (c *Cursor) idle() bool { return c.depth.Load() == 0 && c.waiting == 0 }

// settle puts c, which needs nothing that is in the log, behind everything. The
// caller holds b.mu.
func (c *Cursor) settle() {
	c.at = c.b.end()
	c.base, c.mark = c.at, c.at
	c.window.reset(c.at.sequence)
	c.renewed = renewed{}
	c.tallies = c.tallies[:0]
	if s := c.b.open; s != nil {
		c.tallies = append(c.tallies, tally{s.number, c.own(s), c.own(s)})
	}
}

// skip puts c, which has nothing to read, behind everything: what lies between
// is not its own. The caller holds b.mu.
func (c *Cursor) skip() {
	if c.waiting == 0 {
		c.settle()
		return
	}
	end := c.b.end()
	c.pass(c.at.sequence, end.sequence)
	c.at = end
	if s := c.b.open; s != nil {
		c.tally(s.number).left = c.own(s)
	}
}

// tally returns the counts of a segment, which it adds when there are none. The
// caller holds b.mu.
func (c *Cursor) tally(segment uint64) *tally {
	i := len(c.tallies)
	for i > 0 && c.tallies[i-1].segment > segment {
		i--
	}
	if i == 0 || c.tallies[i-1].segment < segment {
		c.tallies = slices.Insert(c.tallies, i, tally{segment: segment})
		i++
	}
	return &c.tallies[i-1]
}

// raised follows the window's floor: the base comes after it, and counts of
// segments that are done with go. The caller holds b.mu.
func (c *Cursor) raised() {
	if c.idle() {
		c.settle()
		return
	}
	if floor := c.window.floor; floor >= c.mark.sequence {
		c.base, c.mark = c.mark, c.at
	}
	oldest := c.oldest()
	if oldest > c.base.segment {
		c.base = position{segment: oldest, sequence: c.base.sequence}
	}
	n := 0
	for n < len(c.tallies) && c.tallies[n].segment < oldest {
		n++
	}
	c.tallies = slices.Delete(c.tallies, 0, n)
}

// oldest returns the first segment that c, which is not idle, needs. The caller
// holds b.mu.
func (c *Cursor) oldest() uint64 {
	s := c.b.segmentOf(c.window.floor)
	switch {
	case s != nil && c.depth.Load() > 0:
		return min(s.number, c.at.segment)
	case s != nil:
		return s.number
	}
	return c.at.segment
}

// segmentOf returns the segment in which the record of that sequence is, or
// would be; nil when that is behind the last. The caller holds b.mu.
func (b *Backlog) segmentOf(sequence uint64) *segment {
	i, _ := slices.BinarySearchFunc(b.segments, sequence, func(s *segment, sequence uint64) int {
		if s.next <= sequence {
			return -1
		}
		return 1
	})
	if i == len(b.segments) {
		return nil
	}
	return b.segments[i]
}

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
	}
	next, own := s.next, c.own(s)
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
	for _, offset := range w.damage {
		b.report(s, offset, nil)
	}
	if err != nil {
		err = b.report(s, w.at.offset, err)
		w.at.offset = w.limit
	}

	b.mu.Lock()
	if len(w.damage) > 0 || err != nil {
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
	b.discard(gone)
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
	c.depth.Store(0)
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
	c.depth.Store(max(0, c.depth.Load()-left))
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
// that are not the cursor's must not be among them. After Close or Delete it does
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
	b.discard(gone)
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
	damage []int64  // where a record should have been
}

// run hands records to f until there were max or the limit is reached. Its
// fields are right at every step, because a fault may end it anywhere.
func (w *walk) run(m []byte, f func(r *Record)) {
	data := m[:min(w.limit, int64(len(m)))]
	for len(w.out) < w.max && w.at.offset < w.limit && w.at.sequence < w.stop {
		size, v := decode(data[w.at.offset:], w.record, w.at.offset, w.s.salt)
		switch {
		case v == nothing:
			w.damage = append(w.damage, w.at.offset)
			w.at.offset = resync(data, w.at.offset, w.s.salt)
			continue
		case v == damaged:
			w.damage = append(w.damage, w.at.offset)
			w.at.offset += size
			continue
		}
		sequence := w.record.Sequence
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
	}
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

// Empty finishes everything the cursor has still to read. What was handed out
// stays the caller's to Finish: a consumer may hold it.
func (c *Cursor) Empty() {
	b := c.b
	b.mu.Lock()
	if b.closed || c.gone {
		b.mu.Unlock()
		return
	}
	if c.depth.Load() > 0 {
		c.forget()
	}
	c.epoch++
	b.moved = true
	c.raised()
	gone := b.reap()
	b.check()
	b.mu.Unlock()
	if err := b.saveCursors(false); err != nil {
		b.o.Logf("%v", err)
	}
	b.discard(gone)
}

// forget finishes all that c has still to read and puts it behind everything. The
// caller holds b.mu.
func (c *Cursor) forget() {
	for _, s := range c.b.segments {
		if s.number >= c.at.segment {
			t := c.tally(s.number)
			t.finished += max(0, c.own(s)-t.left)
			t.left = c.own(s)
		}
	}
	c.depth.Store(0)
	c.skip()
}

// Rename gives the cursor another name; its id and its place stay. It fails when
// the name is taken.
func (c *Cursor) Rename(name string) error {
	b := c.b
	b.appending.Lock()
	defer b.appending.Unlock()
	b.mu.Lock()
	switch other := b.named(name); {
	case b.closed || c.gone:
		b.mu.Unlock()
		return ErrClosed
	case other == c:
		b.mu.Unlock()
		return nil
	case other != nil || len(name) > nameMax:
		b.mu.Unlock()
		return fmt.Errorf("mmapqueue: rename cursor %q: the name %.80q is taken or too long", c.name, name)
	}
	c.name = name
	b.moved = true
	r := c.nameRecord(false)
	b.mu.Unlock()
	return firstErr(b.writeName(r), b.saveCursors(false))
}

// Delete removes the cursor and what it had to read. Later calls on it fail with
// ErrClosed.
func (c *Cursor) Delete() error {
	b := c.b
	b.appending.Lock()
	defer b.appending.Unlock()
	b.mu.Lock()
	if b.closed || c.gone {
		b.mu.Unlock()
		return ErrClosed
	}
	c.gone = true
	c.epoch++
	c.depth.Store(0)
	b.cursors = slices.DeleteFunc(b.cursors, func(o *Cursor) bool { return o == c })
	b.moved = true
	gone := b.reap()
	r := c.nameRecord(true)
	b.mu.Unlock()
	err := firstErr(b.writeName(r), b.saveCursors(false))
	b.discard(gone)
	return err
}

// The cursor file holds what every cursor is done with. It is replaced whole, by
// rename, at each sync and whenever a cursor is created, renamed, emptied or
// deleted:
//
//	0       8         12      16
//	├───────┼─────────┼───────┼──────────┬──────────┐
//	│ magic │ last id │ count │ cursors… │ checksum │
//	└───────┴─────────┴───────┴──────────┴──────────┘
//
// and for each cursor:
//
//	0    4      8         16       24         32        36       40
//	├────┼──────┼─────────┼────────┼──────────┼─────────┼────────┼──────┬──────────┬────────┐
//	│ id │ name │ segment │ offset │ sequence │ tallies │ window │ name │ tallies… │ window │
//	└────┴──────┴─────────┴────────┴──────────┴─────────┴────────┴──────┴──────────┴────────┘
//
// segment, offset and sequence are the base. The numbers called name and window
// are lengths in bytes, tallies a count; a tally is a segment and how many of the
// cursor's records in it are finished, 8 bytes each. window.go draws the window.
// checksum is the xxhash64 of everything before it. A file that is older than
// the records beside it makes cursors read some of them again, and never miss one.
const (
	cursorFile  = "cursors"
	cursorMagic = 0x0132525543515a00 // "\0ZQCUR2\1" in the file
	cursorFixed = 40
	tallySize   = 16
	nameMax     = 1024
)

// saveCursors writes the cursor file if a cursor has moved and there is a
// directory to hold it.
func (b *Backlog) saveCursors(durably bool) error {
	return b.writeCursors(durably || b.o.PowerSafe)
}

func (b *Backlog) writeCursors(durably bool) error {
	b.saving.Lock()
	defer b.saving.Unlock()
	if err := b.saveAdopted(); err != nil {
		return err
	}
	b.mu.Lock()
	if !b.onDisk || !b.moved {
		b.mu.Unlock()
		return nil
	}
	b.moved = !durably // a sync that follows still has to make it durable
	buf := b.encodeCursors()
	sum := binary.LittleEndian.Uint64(buf[len(buf)-8:])
	same := sum == b.savedSum && !durably
	b.mu.Unlock()
	if same {
		return nil // a log that was filled and closed at once says so once
	}
	if err := replaceFile(b.o.FS, filepath.Join(b.dir, cursorFile), buf, durably); err != nil {
		b.mu.Lock()
		b.moved = true
		b.mu.Unlock()
		return fmt.Errorf("mmapqueue: save cursors: %w", err)
	}
	b.savedSum = sum
	return nil
}

func (b *Backlog) encodeCursors() []byte {
	buf := make([]byte, 0, 1024)
	buf = binary.LittleEndian.AppendUint64(buf, cursorMagic)
	buf = binary.LittleEndian.AppendUint32(buf, b.lastID)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(b.cursors)))
	for _, c := range b.cursors {
		if c.idle() {
			c.settle()
		}
		fixed := len(buf)
		buf = binary.LittleEndian.AppendUint32(buf, c.id)
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(c.name)))
		buf = binary.LittleEndian.AppendUint64(buf, c.base.segment)
		buf = binary.LittleEndian.AppendUint64(buf, uint64(c.base.offset))
		buf = binary.LittleEndian.AppendUint64(buf, c.base.sequence)
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(c.tallies)))
		buf = binary.LittleEndian.AppendUint32(buf, 0)
		buf = append(buf, c.name...)
		for _, t := range c.tallies {
			buf = binary.LittleEndian.AppendUint64(buf, t.segment)
			buf = binary.LittleEndian.AppendUint64(buf, uint64(t.finished))
		}
		before := len(buf)
		buf = c.window.encode(buf)
		binary.LittleEndian.PutUint32(buf[fixed+36:], uint32(len(buf)-before))
	}
	return binary.LittleEndian.AppendUint64(buf, xxhash.Sum64(buf))
}

// decodeCursors fills the cursors from buf and reports whether buf is whole.
func (b *Backlog) decodeCursors(buf []byte) bool {
	if len(buf) < 16+8 || binary.LittleEndian.Uint64(buf) != cursorMagic {
		return false
	}
	body := buf[:len(buf)-8]
	if xxhash.Sum64(body) != binary.LittleEndian.Uint64(buf[len(body):]) {
		return false
	}
	b.lastID = binary.LittleEndian.Uint32(body[8:])
	count := binary.LittleEndian.Uint32(body[12:])
	body = body[16:]
	for range count {
		if len(body) < cursorFixed {
			return false
		}
		n := int64(binary.LittleEndian.Uint32(body[4:]))
		tallies := int64(binary.LittleEndian.Uint32(body[32:]))
		window := int64(binary.LittleEndian.Uint32(body[36:]))
		if n > nameMax || int64(len(body)) < cursorFixed+n+tallies*tallySize+window {
			return false
		}
		c := &Cursor{b: b, id: binary.LittleEndian.Uint32(body)}
		c.base = position{
			segment:  binary.LittleEndian.Uint64(body[8:]),
			offset:   int64(binary.LittleEndian.Uint64(body[16:])),
			sequence: binary.LittleEndian.Uint64(body[24:]),
		}
		c.at, c.mark = c.base, c.base
		body = body[cursorFixed:]
		c.name, body = string(body[:n]), body[n:]
		for range tallies {
			t := c.tally(binary.LittleEndian.Uint64(body))
			t.finished = int64(binary.LittleEndian.Uint64(body[8:]))
			body = body[tallySize:]
		}
		if !c.window.decode(body[:window]) || c.base.offset < 0 {
			return false
		}
		body = body[window:]
		b.cursors = append(b.cursors, c)
	}
	return len(body) == 0
}
