package mmapqueue

import (
	"cmp"
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
	names := map[uint32]string{}
	for _, s := range b.segments {
		if s.foreign != nil {
			if _, named := names[s.foreign.cursor]; !named {
				names[s.foreign.cursor] = s.foreign.name
			}
			b.lastID = max(b.lastID, s.foreign.cursor)
			continue
		}
		b.eachName(s, func(r *Record) {
			id := uint32(r.ID)
			b.lastID = max(b.lastID, id)
			if delete(names, id); r.Due == 0 {
				names[id] = string(r.Body)
			}
		})
	}
	for id, name := range names {
		b.cursors = append(b.cursors, &Cursor{b: b, id: id, name: name})
	}
	// Newest first, should a damaged record have left a name with two owners.
	slices.SortFunc(b.cursors, func(x, y *Cursor) int { return cmp.Compare(y.id, x.id) })
	owned := map[string]bool{}
	b.cursors = slices.DeleteFunc(b.cursors, func(c *Cursor) bool {
		another := owned[c.name]
		owned[c.name] = true
		return another
	})
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
