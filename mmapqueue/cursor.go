package mmapqueue

import (
	"fmt"
	"slices"
	"sync/atomic"
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
	amended int64    // what Reads have added to Depth, or taken from it, for Corrected
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

// Corrected returns by how many records Reads have corrected Depth since the last
// call: below zero for what a seal, or a list of adopted files, has counted and is
// damaged, above it for what upstream's books knew nothing of. Depth at the last call,
// and what was appended since, less Corrected is what Reads have handed out, Empty and
// Finish have taken, and Depth still counts.
func (c *Cursor) Corrected() int64 {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	n := c.amended
	c.amended = 0
	return n
}

// amend sets Depth, which should be want by what was promised, to what is known now.
// The caller holds b.mu.
func (c *Cursor) amend(want, depth int64) {
	depth = max(0, depth)
	c.amended += depth - want
	c.depth.Store(depth)
}

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
