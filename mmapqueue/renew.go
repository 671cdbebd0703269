package mmapqueue

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// A record that somebody holds for hours keeps its segment and all behind it. Renew
// writes it again, at the end of the log, and finishes the old one. The holder need
// not know: it goes on to finish the old sequence.
//
//	segments   │ S . . . . │ . . . . . . │ . . . . . . │ . . . . S'
//	                all of the others finished             at ──► unread
//	S finished, S' handed out like S was, though no Read has come there yet
//
// A restart reads S' again, as it would have read S. A crash before the cursor file
// says that S is finished makes it read both: S' is synced before S goes.

// renewed is what a cursor knows of records that were written again.
type renewed struct {
	as   map[uint64]uint64   // the new sequence by the old one, which may be a new one itself
	held map[uint64]struct{} // new sequences that are not finished
}

// Segments kept by a few old records are worth renewing these when there are more
// than pinnedSegments of them, and pinnedShare times as many records as are live.
const (
	pinnedSegments = 4
	pinnedShare    = 10
	renewMax       = 4096    // records at a time
	renewBytes     = 4 << 20 // after which no other segment is looked at
)

// from appends the held sequences from the given one on, ascending.
func (r *renewed) from(buf []uint64, sequence uint64) []uint64 {
	for s := range r.held {
		if s >= sequence {
			buf = append(buf, s)
		}
	}
	slices.Sort(buf)
	return buf
}

// with returns the sequences, and for those that were renewed the new ones as well.
func (r *renewed) with(sequences []uint64) []uint64 {
	all := slices.Clip(sequences)
	for _, s := range sequences {
		for as, ok := r.as[s]; ok; as, ok = r.as[s] {
			delete(r.as, s)
			all = append(all, as)
			s = as
		}
	}
	return all
}

// finish forgets a held sequence and reports whether it was one.
func (r *renewed) finish(sequence uint64) bool {
	_, held := r.held[sequence]
	delete(r.held, sequence)
	return held
}

// pass notes that what lies in [from, to) is not c's to read any more. What it holds
// there it still owes. The caller holds b.mu.
func (c *Cursor) pass(from, to uint64) {
	if len(c.renewed.held) > 0 {
		for _, s := range c.renewed.from(nil, from) {
			if s >= to {
				break
			}
			c.window.addRange(from, s)
			from = s + 1
		}
	}
	c.window.addRange(from, to)
}

// pinned returns the segments that c alone keeps for a few records handed out long
// ago, or none when it is not worth while. The caller holds b.mu.
func (c *Cursor) pinned() []*segment {
	if c.waiting == 0 || c.gone {
		return nil
	}
	end := c.at.segment
	for _, o := range c.b.cursors {
		if o != c && !o.idle() {
			end = min(end, o.oldest())
		}
	}
	oldest := c.oldest()
	if end <= oldest {
		return nil
	}
	var pinned []*segment
	own, live := int64(0), int64(0)
	for _, s := range c.b.segments {
		if s.number < oldest || s.number >= end || !s.sealed || s.foreign != nil {
			continue
		}
		pinned = append(pinned, s)
		own += c.own(s)
		live += c.own(s)
		if i, ok := slices.BinarySearchFunc(c.tallies, s.number, func(t tally, n uint64) int { return int(t.segment) - int(n) }); ok {
			live -= c.tallies[i].finished
		}
	}
	if len(pinned) <= pinnedSegments || live*pinnedShare >= own {
		return nil
	}
	return pinned
}

// Pinned returns a sequence above 0 if it is time for Renew: then records below it,
// handed out long ago and not finished, keep segments that are otherwise done with.
func (c *Cursor) Pinned() (below uint64) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.b.closed {
		return 0
	}
	if pinned := c.pinned(); len(pinned) > 0 {
		return pinned[len(pinned)-1].next
	}
	return 0
}

// Renew appends again what Pinned told of, or some of it, syncs the log, and finishes
// the old records; it returns how many there were.
func (c *Cursor) Renew() (n int, err error) {
	b := c.b
	recs, old, err := c.worthRenewing()
	if err != nil || len(recs) == 0 {
		return 0, err
	}
	b.appending.Lock()
	defer b.appending.Unlock()
	if err := b.appendAnd(recs, func(s *segment, first uint64) { c.hold(s, first, old) }); err != nil {
		return 0, err
	}
	if err := b.Sync(); err != nil {
		return 0, err // both stand there; the holder's Finish is for both
	}
	b.mu.Lock()
	for _, sequence := range old {
		if _, ok := c.renewed.as[sequence]; !ok || !c.window.add(sequence) {
			continue // finished meanwhile
		}
		n++
		c.renewed.finish(sequence)
		c.waiting--
		if s := b.segmentOf(sequence); s != nil && sequence >= s.firstSequence {
			c.tally(s.number).finished++
		}
	}
	b.moved = true
	c.raised()
	gone := b.reap()
	b.check()
	b.mu.Unlock()
	b.dispose(gone)
	return n, nil
}

// worthRenewing returns what Renew is to write, and what it was before.
func (c *Cursor) worthRenewing() (recs []Record, old []uint64, err error) {
	b := c.b
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, nil, ErrClosed
	}
	pinned := c.pinned()
	wanted := make([][]uint64, len(pinned))
	total := 0
	for i, s := range pinned {
		for sequence := max(s.firstSequence, c.window.floor); sequence < s.next && total < renewMax; sequence++ {
			if !c.window.has(sequence) {
				wanted[i] = append(wanted[i], sequence)
				total++
			}
		}
	}
	b.mu.Unlock()
	size := 0
	for i, s := range pinned {
		if len(wanted[i]) == 0 || size > renewBytes {
			continue
		}
		found, err := b.find(s, wanted[i])
		if errors.Is(err, fs.ErrNotExist) {
			continue // done with by now
		}
		if err != nil {
			return nil, nil, err
		}
		for _, r := range found {
			old = append(old, r.Sequence)
			size += len(r.Body)
			r.Kind, r.Cursor, r.to = KindPut, c.id, nil
			recs = append(recs, r)
		}
	}
	return recs, old, nil
}

// hold takes what was just appended for c out of what it has to read: it is held
// already, under the old sequences. The caller holds b.mu.
func (c *Cursor) hold(s *segment, first uint64, old []uint64) {
	if c.gone {
		return
	}
	if c.renewed.as == nil {
		c.renewed = renewed{map[uint64]uint64{}, map[uint64]struct{}{}}
	}
	t := c.tally(s.number)
	for i, sequence := range old {
		as := first + uint64(i)
		c.depth.Add(-1)
		t.left++
		if c.window.has(sequence) { // finished while we read it
			c.window.add(as)
			t.finished++
			continue
		}
		c.waiting++
		c.renewed.held[as] = struct{}{}
		c.renewed.as[sequence] = as
	}
}

// find returns the records of s with these ascending sequences, with bodies of their
// own. One that is damaged, or whose file has gone to another use, is not among them.
func (b *Backlog) find(s *segment, sequences []uint64) (found []Record, err error) {
	err = b.each(s, segmentStart, func(r *Record) bool {
		for len(sequences) > 0 && sequences[0] < r.Sequence {
			sequences = sequences[1:]
		}
		if len(sequences) > 0 && sequences[0] == r.Sequence {
			found = append(found, *r)
			found[len(found)-1].Body = bytes.Clone(r.Body)
			sequences = sequences[1:]
		}
		return len(sequences) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("mmapqueue: renew: %w", err)
	}
	return found, nil
}
