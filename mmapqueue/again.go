package mmapqueue

import (
	"errors"
	"io/fs"
	"slices"
)

// FinishAgain is Finish at a start, before any Read, by one who has kept books
// elsewhere of what the cursor was done with when the process, or the power, ended.
// These may be better than the log: of what was not synced the cut has taken some
// records and left others, and a cursor may be one of the same name that had been
// deleted. What is not there, whole and the cursor's, is passed over. Were it
// counted, Depth would say too little, and what it does not count is not read.
//
// It looks at the records from the cursor's place to the last of the sequences, and
// fails when their file cannot be opened for want of something.
func (c *Cursor) FinishAgain(sequences []uint64) error {
	b := c.b
	sequences = slices.Clone(sequences)
	slices.Sort(sequences)
	b.mu.Lock()
	if b.closed || c.gone {
		b.mu.Unlock()
		return nil
	}
	segments, base := slices.Clone(b.segments), c.base
	b.mu.Unlock()
	var found []uint64
	for _, s := range segments {
		if s.number < base.segment {
			continue
		}
		from, _ := slices.BinarySearch(sequences, s.firstSequence)
		to, _ := slices.BinarySearch(sequences, s.next)
		wanted := sequences[from:max(from, to)]
		if f := s.foreign; f != nil {
			if len(wanted) == 0 || f.cursor != c.id {
				continue
			}
			b.mu.Lock()
			if !f.counted { // a promise may be less than what was finished
				if err := b.countForeign(c, s); err != nil {
					b.mu.Unlock()
					return err
				}
			}
			end := s.firstSequence + uint64(s.puts[c.id]) // a sequence is a place in it
			b.mu.Unlock()
			for _, sequence := range wanted {
				if sequence < end {
					found = append(found, sequence)
				}
			}
			continue
		}
		offset := int64(segmentStart)
		if s.number == base.segment {
			offset = max(offset, base.offset)
		}
		err := b.each(s, offset, func(r *Record) bool {
			for len(wanted) > 0 && wanted[0] < r.Sequence {
				wanted = wanted[1:]
			}
			if len(wanted) > 0 && wanted[0] == r.Sequence && r.isFor(c.id) {
				found = append(found, r.Sequence)
			}
			return len(wanted) > 0
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	c.Finish(found)
	c.Corrected() // nobody has asked for Depth yet
	return nil
}
