package mmapqueue

import (
	"errors"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
)

// Damage is counted and logged where it is met: at a start, by what is missing in
// the row of sequences, and when a reader comes to a record that is none.
//
// Records of a log are numbered without a gap within a segment, and a segment's
// header says where the one before it ended; the cursor file says how far the log
// went. So a file that is gone, and an end that was cut off or zeroed, is known by
// the sequences that no segment has and some cursor has not finished. That is not
// more than what was written: of an append that failed or that a crash tore,
// nobody has noted a sequence. A removal of ours leaves no such gap either,
// because the cursor file says first that nobody needs the segment (see dispose).
// (With [Options.PowerSafe] it does not, for that would cost a sync each; there, what
// is missing in front of the oldest segment is known after a clean stop only.)
//
// What is lost is counted in records. A few of them are no messages but the names
// of cursors, and of a sequence alone nobody can tell whose it was: the count is of
// the log, not of each channel, and an upper bound.

// linesMax is how many damaged places of one file get a line of their own in the
// log; beyond it each power of two does.
const linesMax = 16

// placesMax is how many damaged places are remembered, so that each is counted
// once whoever meets it. Those beyond are counted by each who does.
const placesMax = 4096

// damageLog counts damaged places.
type damageLog struct {
	places  atomic.Int64
	records atomic.Int64 // that are lost, as far as is known

	mu    sync.Mutex
	seen  map[damagedPlace]int64 // and how many records were counted there
	files map[string]int64       // places by file
}

// damagedPlace is a place in a file. The rest of a file that cannot be read is at
// restOfFile, wherever its readers were.
type damagedPlace struct {
	path   string
	offset int64
}

const restOfFile = -1

// add counts a place, and the records that are lost there. tell says that it is to
// be logged, and n is how many there are in the file so far.
func (d *damageLog) add(at damagedPlace, records int64) (tell bool, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen == nil {
		d.seen, d.files = map[damagedPlace]int64{}, map[string]int64{}
	}
	if before, known := d.seen[at]; known {
		if records > before {
			d.seen[at] = records
			d.records.Add(records - before)
		}
		return false, d.files[at.path]
	}
	if len(d.seen) < placesMax {
		d.seen[at] = records
	}
	d.places.Add(1)
	d.records.Add(records)
	d.files[at.path]++
	n = d.files[at.path]
	return n <= linesMax || n&(n-1) == 0, n
}

// Damaged returns how many damaged places were found since Open, each once: records,
// ends of files and whole files.
func (b *Backlog) Damaged() int64 { return b.damage.places.Load() }

// Lost returns how many records are lost by that, as far as is known: not more than
// so many.
func (b *Backlog) Lost() int64 { return b.damage.records.Load() }

// report counts and logs damage.
func (b *Backlog) report(s *segment, offset int64, cause error) *CorruptError {
	return b.reportLost(s, offset, offset, 0, cause)
}

// reportLost is report for a place, known as that at key, where records are lost.
func (b *Backlog) reportLost(s *segment, key, offset, records int64, cause error) *CorruptError {
	err := &CorruptError{Segment: s.path, Offset: offset, Records: records, Cause: cause}
	tell, n := b.damage.add(damagedPlace{s.path, key}, records)
	switch {
	case tell && n > linesMax:
		b.o.Logf("%v (%d places in this file so far)", err, n)
	case tell:
		b.o.Logf("%v", err)
	}
	return err
}

// lostRecords is a place in a segment where records should have been: those with
// the sequences in [from, to). A to of 0 says that they are not known.
type lostRecords struct {
	offset   int64
	from, to uint64
}

// lostRun is damage that no whole record has followed yet: where nothing follows it
// may be what a crash has torn.
type lostRun []lostRecords

// add notes that up to n records are not where they should be. The first of them has
// the sequence next, unless others are missing in front of it.
func (l *lostRun) add(offset int64, next, n uint64) {
	if k := len(*l); k > 0 {
		next = (*l)[k-1].to
	}
	*l = append(*l, lostRecords{offset, next, next + min(n, math.MaxUint64-next)})
}

// upTo appends the run to damage, and begins anew: the record with this sequence is
// there.
func (l *lostRun) upTo(sequence uint64, damage []lostRecords) []lostRecords {
	if k := len(*l); k > 0 {
		(*l)[k-1].to = min((*l)[k-1].to, sequence)
		damage = append(damage, *l...)
		*l = (*l)[:0]
	}
	return damage
}

// lost returns how many records of l the cursor has not finished. Where a segment
// begins is not known without its header. The caller holds mu.
func (c *Cursor) lost(l lostRecords) int64 {
	if l.from == 0 {
		return min(1, int64(l.to))
	}
	return c.window.missing(l.from, l.to)
}

var (
	errEndMissing  = errors.New("the end of the file is missing")
	errFileMissing = errors.New("a file is missing or cannot be used")
)

// reportMissing finds what no segment has of the sequences that were written, and some
// cursor has not finished. The cursors and segments are those that a start found;
// known says that there was a cursor file.
func (b *Backlog) reportMissing(known bool) {
	var last *segment
	at := uint64(0) // all below it is there, or was never written
	for _, s := range b.segments {
		if s.foreign != nil {
			continue
		}
		if last == nil && !(known && b.saved.exact) {
			at = s.before // what was in front may be finished
		}
		if s.before > at {
			b.reportGap(last, s, at, s.before)
		}
		at, last = max(at, s.next), s
	}
	if known && b.saved.end > at && (last != nil || b.saved.exact) {
		b.reportGap(last, nil, at, b.saved.end)
	}
}

// reportGap reports that the records in [from, to) are in no segment; they stood
// between two segments, either of which may be nil.
func (b *Backlog) reportGap(last, next *segment, from, to uint64) {
	records := b.owed(from, to)
	switch {
	case records == 0:
	case last != nil && (next == nil && !last.footed || next != nil && next.number == last.number+1):
		last.damaged = true
		b.reportLost(last, restOfFile, last.end, records, errEndMissing)
	case last != nil:
		b.reportLost(&segment{path: segmentPath(b.dir, last.number+1)}, restOfFile, 0, records, errFileMissing)
	case next != nil && next.number > 1:
		b.reportLost(&segment{path: segmentPath(b.dir, next.number-1)}, restOfFile, 0, records, errFileMissing)
	default:
		b.reportLost(&segment{path: b.dir}, restOfFile, 0, records, errFileMissing)
	}
}

// owed returns how many of the sequences in [from, to) the cursor that has finished
// fewest of them has not: all when there is no cursor.
func (b *Backlog) owed(from, to uint64) int64 {
	if len(b.cursors) == 0 {
		return int64(to - from)
	}
	most := int64(0)
	for _, c := range b.cursors {
		most = max(most, c.window.missing(from, to))
	}
	return most
}

// missing returns how many sequences in [from, to) are not in the set.
func (w *window) missing(from, to uint64) int64 {
	from = max(from, w.floor)
	if from >= to {
		return 0
	}
	n := to - from
	for i := w.head; i < len(w.words); i++ {
		low := w.low + 64*uint64(i-w.head)
		word := w.words[i]
		if low+64 <= from || low >= to {
			continue
		}
		if low < from {
			word &= ^uint64(0) << (from - low)
		}
		if to-low < 64 {
			word &= 1<<(to-low) - 1
		}
		n -= uint64(bits.OnesCount64(word))
	}
	return int64(n)
}

// dispose removes segments that reap returned. The cursor file says first that
// nobody needs them, or a start after a crash would take them for lost; a disk that
// is full has room for it behind them.
func (b *Backlog) dispose(gone []*segment) {
	if len(gone) == 0 {
		return
	}
	b.mu.Lock()
	tell := b.tellsFirst()
	b.mu.Unlock()
	var err error
	if tell {
		err = b.saveCursors(false)
	}
	b.discard(gone)
	if err != nil {
		if err = b.saveCursors(false); err != nil {
			b.o.Logf("%v", err)
		}
	}
}

// tellsFirst reports whether the cursor file is to be written before segments are
// removed. With PowerSafe that is once a run, so that it does not claim to be exact.
// The caller holds mu.
func (b *Backlog) tellsFirst() bool {
	if !b.o.PowerSafe {
		return true
	}
	exact := b.saved.exact
	b.saved.exact = false
	return exact
}

// numberRange is the numbers in [from, to).
type numberRange struct{ from, to uint64 }

// damage counts and logs a damaged place in a file.
func (j *Journal) damage(path string, err *CorruptError) {
	key := err.Offset
	if path == j.dir {
		key = j.lost.places.Load() // each is another's
	}
	tell, n := j.lost.add(damagedPlace{path, key}, err.Records)
	switch {
	case tell && n > linesMax:
		j.o.Logf("%v (%d places in this file so far)", err, n)
	case tell:
		j.o.Logf("%v", err)
	}
}

// Damaged returns how many damaged places were found: files, and places in files.
func (j *Journal) Damaged() int64 { return j.lost.places.Load() }

// Lost returns how many records are lost by that, at least: finished messages, and
// what was noted of messages, among them.
func (j *Journal) Lost() int64 { return j.lost.records.Load() }
