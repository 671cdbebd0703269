package mmapqueue

import (
	"math"
	"slices"
)

// The cursor file says which cursor is which. Were it damaged, nobody would know
// whose the puts are, nor which channels there were; so the log says it too. A
// put for nameOf is no message: its id is a cursor's, and its body that cursor's
// name. A due time other than 0 means that the cursor is deleted. Each segment
// begins with the names of all cursors there are then.
const nameOf = math.MaxUint32

func (c *Cursor) nameRecord(deleted bool) Record {
	r := Record{Kind: KindPut, Cursor: nameOf, ID: uint64(c.id), Body: []byte(c.name)}
	if deleted {
		r.Due = 1
	}
	return r
}

// nameRecords returns what a new segment begins with. The caller holds mu.
func (b *Backlog) nameRecords() []Record {
	recs := make([]Record, len(b.cursors))
	for i, c := range b.cursors {
		recs[i] = c.nameRecord(false)
	}
	return recs
}

// writeName has the log say what a cursor is called, or that it is deleted. A log
// without an open segment says it when it begins one. The caller holds appending.
func (b *Backlog) writeName(r Record) error {
	b.mu.Lock()
	open := b.open != nil
	b.mu.Unlock()
	if !open {
		return nil
	}
	return b.append([]Record{r})
}

// cursorsFromLog makes the cursors that the segments name, for a log whose cursor
// file is gone. They read all of it: it is unknown what they had finished, and too
// much is better than too little.
func (b *Backlog) cursorsFromLog() {
	type naming struct {
		id   uint32
		name string
	}
	var names []naming // the last one is the newest
	note := func(id uint32, name string, dead bool) {
		names = slices.DeleteFunc(names, func(n naming) bool { return n.id == id })
		if !dead {
			names = append(names, naming{id, name})
		}
		b.lastID = max(b.lastID, id)
	}
	for _, s := range b.segments {
		if f := s.foreign; f != nil {
			if !slices.ContainsFunc(names, func(n naming) bool { return n.id == f.cursor }) {
				note(f.cursor, f.name, false)
			}
			continue
		}
		b.eachName(s, func(r *Record) { note(uint32(r.ID), string(r.Body), r.Due != 0) })
	}
	// A name may have two owners, when a damaged record, or a loss of power, has left
	// the dead one in the log. The other one is named by each segment since.
	for _, n := range slices.Backward(names) {
		if b.named(n.name) == nil {
			b.cursors = append(b.cursors, &Cursor{b: b, id: n.id, name: n.name})
		}
	}
	if len(b.cursors) == 0 {
		b.lastID++
		b.cursors = []*Cursor{{b: b, id: b.lastID}}
	}
	first := position{segment: b.segments[0].number}
	for _, c := range b.cursors {
		c.base = first
	}
	b.moved = true
	b.o.Logf("mmapqueue: %s has records and no cursor file: its %d cursors read all of it", b.dir, len(b.cursors))
}

// eachName hands the names in s to f. What cannot be read is passed over; a
// reader will report it.
func (b *Backlog) eachName(s *segment, f func(r *Record)) {
	err := b.each(s, segmentStart, func(r *Record) bool {
		if r.Kind == KindPut && r.Cursor == nameOf {
			f(r)
		}
		return true
	})
	if err != nil {
		b.o.Logf("mmapqueue: names in %s: %v", s.path, err)
	}
}
