package mmapqueue

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/bytebufferpool"

	"github.com/zsqio/zsq/internal/invariant"
)

// Options are the limits of a backlog. The zero value of each field means its
// default.
type Options struct {
	// SegmentBytesMin is the size of a log's first segment; each one after it is
	// twice as large, up to SegmentBytesMax. A batch that is larger than that
	// gets a segment of its own size. The defaults are 64 KB and 64 MB.
	SegmentBytesMin, SegmentBytesMax int64

	// SyncEvery is how many records may be appended and read before a sync
	// starts in the background (default 2,500), and SyncTimeout how long after
	// the first of them (default 2 s). Negative values mean never; a large
	// sealed segment is synced in the background regardless. No call waits for these
	// syncs, as upstream's publishers do not. A log that turns over more than
	// 125,000 records a second is synced as often as at that speed, every 20 ms with
	// the default: a sync costs much more than a record.
	SyncEvery   int64
	SyncTimeout time.Duration

	// Logf receives what no caller can be told: damage found, background syncs
	// that failed. It must be safe for concurrent use. The default drops it.
	Logf func(format string, args ...any)

	// Budget bounds the bytes on disk, of several logs perhaps. The default is no
	// limit.
	Budget *Budget

	// Handles bounds descriptors and mappings, of several logs perhaps. The default
	// is no limit.
	Handles *Handles

	// FS is where the log lies. The default is OS.
	FS FS

	// PowerSafe has every save of the cursors be on the disk before it replaces
	// the one before, and its name after a Sync too, so that what was finished
	// before the last Sync is so after a power cut. It costs a sync of a small file
	// for each cursor that comes, goes or is emptied, and one of the directory for
	// each Sync.
	PowerSafe bool

	// spareMin is the size from which a segment that nobody needs is kept to be
	// written again; smaller ones are not worth it.
	spareMin int64
}

const (
	segmentBytesMin = 64 << 10
	segmentBytesMax = 64 << 20

	// syncPace is how long after a sync the next begins at the earliest, for each
	// record of SyncEvery. (Syncing after every 2,500 records at 1.5 million a second
	// took a third of the CPU of a drain: a cursor file each, and Go's monitor
	// thread never at rest.)
	syncPace = 8 * time.Microsecond

	// unsyncedMax is how many sealed segments may wait for their sync before an
	// append waits with them: what bounds dirty pages and descriptors.
	unsyncedMax = 8

	// syncAtOnce is the size from which a sealed segment is synced at once.
	syncAtOnce = 4 << 20

	// sizeShallow is how large segments of a log become that is read as fast as
	// it is written. Beyond it a segment is half of what lies in the log: such a
	// log turns in few pages, which stay in the processor's cache.
	sizeShallow = 16 << 20

	// sparesMax is how many segments that nobody needs are kept to be written again.
	sparesMax = 2
	spareMin  = 1 << 20

	// coldDistance is how many bytes in front of every reader the system may
	// keep in memory. What is written farther away is given up as soon as it is
	// synced, so that a backlog of gigabytes passes through a few pages.
	coldDistance = 64 << 20
)

func (o *Options) defaults() {
	if o.SegmentBytesMin <= 0 {
		o.SegmentBytesMin = segmentBytesMin
	}
	if o.SegmentBytesMax <= 0 {
		o.SegmentBytesMax = segmentBytesMax
	}
	o.SegmentBytesMax = max(o.SegmentBytesMin, o.SegmentBytesMax)
	if o.SyncEvery == 0 {
		o.SyncEvery = 2500
	}
	if o.SyncTimeout == 0 {
		o.SyncTimeout = 2 * time.Second
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.spareMin == 0 {
		o.spareMin = spareMin
	}
	if o.FS == nil {
		o.FS = OS
	}
}

// backgroundSyncs bounds the threads and descriptors that the timers of many logs
// take at a time.
var backgroundSyncs = make(chan struct{}, 16)

// batches holds the buffers in which Append gathers a batch. It is ours alone,
// so that its sizes are those of batches.
var batches bytebufferpool.Pool

// Backlog is the log of one topic: a directory of segments and the cursors that
// read them. One goroutine appends, any number read through cursors of their
// own, and every other method may be called from anywhere.
//
// Locks are taken in the order appending, syncing, saving, mu; no file is
// written, synced or removed under mu, but segments are mapped under it.
type Backlog struct {
	dir string
	o   Options

	appending sync.Mutex // Append, Trim, Close, Remove: who may change open
	syncing   sync.Mutex // one sync at a time
	saving    sync.Mutex // one writer of the cursor file at a time
	savedSum  uint64     // checksum of the cursor file, 0 without one; under saving

	bytes  atomic.Int64 // size of all files of segments
	broken atomic.Int64 // damaged places found

	mu           sync.Mutex
	closed       bool
	onDisk       bool       // the directory exists
	segments     []*segment // ascending by number; the open one is last
	open         *segment   // takes records; nil until the next append makes one
	unsynced     []*segment // sealed, with f still open
	cursors      []*Cursor
	lastID       uint32     // of all cursors there ever were
	number       uint64     // of the next segment
	sequence     uint64     // of the next record
	sizeNext     int64      // of the next segment
	spares       []*segment // files for segments to come; they have no place in the log
	ops          int64      // records appended, read and finished since the last sync
	quiet        bool       // nothing happened since the last sync by the timer
	moved        bool       // a cursor has moved since the cursor file was written
	adoptedMoved bool       // the list of adopted files has changed since it was written
	newFiles     bool       // a file was created since the directory was synced
	adoptedFrom  string     // the directory of the adopted files
	timer        *time.Timer
	armed        bool           // timer will run
	soon         bool           // it will not wait for the timeout
	synced       time.Time      // when the last sync began
	reading      sync.WaitGroup // Reads under way; none is added once closed
}

// Open returns the log in dir, with all records and cursors that the last run
// left there. It creates nothing: a directory without records, or no directory,
// is an empty log. Two backlogs must not share a directory.
func Open(dir string, o Options) (*Backlog, error) {
	o.defaults()
	b := &Backlog{dir: dir, o: o, number: 1, sequence: 1, sizeNext: o.SegmentBytesMin}
	if err := b.recover(); err != nil {
		return nil, fmt.Errorf("mmapqueue: open %s: %w", dir, err)
	}
	return b, nil
}

// Append writes recs behind all others, with one system call, and makes them
// readable: all of them or, with an error, none. It copies the bodies. It does
// not wait for the disk; see Options.SyncEvery.
//
// A put for a cursor that does not exist is written and read by nobody: its
// channel was deleted while the batch was on its way. So is a publish while
// there is no cursor at all.
func (b *Backlog) Append(recs []Record) error {
	b.appending.Lock()
	defer b.appending.Unlock()
	return b.append(recs)
}

// append is Append for a caller that holds appending.
func (b *Backlog) append(recs []Record) error { return b.appendAnd(recs, nil) }

// appendAnd is append with something to be done under mu when recs are counted:
// they stand in s from the given sequence on.
func (b *Backlog) appendAnd(recs []Record, do func(s *segment, first uint64)) error {
	if len(recs) == 0 {
		return nil
	}
	size, err := batchSize(recs)
	if err != nil {
		return err
	}
	s, err := b.room(size)
	if err != nil {
		return err
	}

	buf := batches.Get()
	defer batches.Put(buf)
	buf.B = slices.Grow(buf.B[:0], int(size))[:size]
	offset, sequence := s.encode(buf.B, recs, s.end, b.sequence)
	if n, err := s.f.WriteAt(buf.B, s.end); err != nil {
		b.mu.Lock()
		s.failed = true
		b.sequence = sequence // a start may find records of this batch
		b.mu.Unlock()
		b.sealOpen()
		return fmt.Errorf("mmapqueue: append %d bytes to %s, %d written: %w", size, s.path, n, err)
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(s, recs)
	first := b.sequence
	s.end, s.next, b.sequence = offset, sequence, sequence
	if do != nil {
		do(s, first)
	}
	b.touch(len(recs))
	return nil
}

// count adds recs, which were just written at the end of s, to what each cursor
// has to read. A cursor that had read everything is put in front of them first.
// The caller holds mu.
func (b *Backlog) count(s *segment, recs []Record) {
	for _, c := range b.cursors {
		if c.depth.Load() == 0 {
			c.skip()
		}
	}
	publishes := int64(0)
	for i, n := 0, 0; i < len(recs); i += n {
		r := &recs[i]
		for n = 1; i+n < len(recs) && r.sameReaders(&recs[i+n]); n++ {
		}
		switch r.Kind {
		case KindPublish:
			publishes += int64(n)
		case KindSome:
			for _, id := range r.To {
				b.countPuts(s, id, int64(n))
			}
		default:
			b.countPuts(s, r.Cursor, int64(n))
		}
	}
	s.publishes += publishes
	if publishes > 0 {
		for _, c := range b.cursors {
			c.depth.Add(publishes)
		}
	}
}

// countPuts adds n records of s to what the cursor of that number has to read, if
// there still is one. The caller holds mu.
func (b *Backlog) countPuts(s *segment, cursor uint32, n int64) {
	if at := slices.IndexFunc(b.cursors, func(c *Cursor) bool { return c.id == cursor }); at >= 0 {
		b.cursors[at].depth.Add(n)
		s.addPuts(cursor, n)
	}
}

// room returns the open segment, with space for size bytes and for the footer
// behind them. The caller holds appending.
func (b *Backlog) room(size int64) (*segment, error) {
	b.mu.Lock()
	closed, s, late := b.closed, b.open, len(b.unsynced) > unsyncedMax
	need := size + footerSize(len(b.cursors)+8)
	fits := false
	if s != nil {
		need += putSize * int64(len(s.puts))
		fits = !s.failed && s.end+need <= s.size
	}
	b.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case fits:
		return s, nil
	}
	if s != nil {
		b.sealOpen()
	}
	if late {
		if err := b.Sync(); err != nil {
			return nil, err
		}
	}
	return b.newSegment(segmentStart + need)
}

// newSegment makes the segment that the next append goes to, of at least need
// bytes and the names of the cursors. A disk that has no room for one of the usual size may still have room
// for that.
func (b *Backlog) newSegment(need int64) (*segment, error) {
	if err := b.makeDir(); err != nil {
		return nil, err
	}
	var random [8]byte
	rand.Read(random[:])
	b.mu.Lock()
	s := &segment{
		number: b.number, firstSequence: b.sequence, next: b.sequence,
		salt: binary.LittleEndian.Uint64(random[:]), path: segmentPath(b.dir, b.number),
	}
	names := b.nameRecords()
	s.size = b.sizeNext
	b.mu.Unlock()
	size, err := batchSize(names)
	if err != nil {
		return nil, err
	}
	need += size
	s.size = max(s.size, need)
	front := make([]byte, segmentStart+size)
	copy(front, s.header())
	s.end, s.next = s.encode(front[segmentStart:], names, segmentStart, s.next)

	if !b.reuse(s, need, front) {
		room := b.o.Budget.room(b.bytes.Load())
		if room < need {
			return nil, ErrFull
		}
		s.size = min(s.size, room)
		if err := b.create(s, need, front); err != nil {
			return nil, err
		}
	}
	b.grow(s.size)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.segments = append(b.segments, s)
	b.open, b.newFiles, b.sequence = s, true, s.next
	// Not before: a background sync puts cursors that have read everything at the
	// segment of the next number, and that must not be the one behind this.
	b.number = s.number + 1
	half := b.bytes.Load() / 2
	b.sizeNext = min(max(b.sizeNext*2, b.o.SegmentBytesMin), max(half, sizeShallow), b.o.SegmentBytesMax)
	return s, nil
}

// create makes the file of s, of s.size bytes or, where there is no room for so
// many, of need, and writes its front.
func (b *Backlog) create(s *segment, need int64, front []byte) error {
	f, err := b.o.Handles.create(b.o.FS, s.path, s.size)
	if err != nil && s.size > need {
		b.dropSpares()
		s.size = need
		f, err = b.o.Handles.create(b.o.FS, s.path, s.size)
	}
	if err != nil {
		return fmt.Errorf("mmapqueue: create segment: %w", err)
	}
	if _, err := f.WriteAt(front, 0); err != nil {
		f.Close()
		b.o.FS.Remove(s.path)
		return fmt.Errorf("mmapqueue: write header of %s: %w", s.path, err)
	}
	s.f = f
	return nil
}

// reuse makes s of a spare file whose size is about right and reports whether it
// did. The front is written before the file gets its name: under that name the
// old front would be another segment's.
func (b *Backlog) reuse(s *segment, need int64, front []byte) bool {
	b.mu.Lock()
	i := slices.IndexFunc(b.spares, func(o *segment) bool { return o.size >= need && o.size >= s.size/2 })
	if i < 0 {
		b.mu.Unlock()
		b.dropSpares() // of another time, or cut at their seals too often
		return false
	}
	o := b.spares[i]
	b.spares = slices.Delete(b.spares, i, i+1)
	b.mu.Unlock()
	_, err := o.f.WriteAt(front, 0)
	if err == nil {
		err = b.o.FS.Rename(o.path, s.path)
	}
	if err != nil {
		b.o.Logf("mmapqueue: use %s again: %v", o.path, err)
		b.removeSpare(o)
		return false
	}
	renamed(o.f, s.path)
	s.f, s.size = o.f, o.size
	b.grow(-o.size)
	return true
}

// retire keeps the file of s, which is off the list, for a segment to come, and
// reports whether it did. No start takes the file for a segment.
func (b *Backlog) retire(s *segment) bool {
	b.mu.Lock()
	keep := !b.closed && b.onDisk && s.foreign == nil && len(b.spares) < sparesMax && !s.damaged && !s.failed &&
		s.readers == 0 && s.size >= b.o.spareMin && s.size <= max(b.sizeNext*2, b.o.spareMin)
	b.mu.Unlock()
	if !keep {
		return false
	}
	o := &segment{path: s.path + spareSuffix, size: s.size, f: s.f}
	if o.f == nil {
		f, err := b.o.Handles.reopen(b.o.FS, s.path)
		if err != nil {
			return false
		}
		o.f = f
	}
	if err := b.o.FS.Rename(s.path, o.path); err != nil {
		o.f.Close()
		s.f = nil
		return false
	}
	renamed(o.f, o.path)
	b.mu.Lock()
	b.spares = append(b.spares, o)
	b.mu.Unlock()
	return true
}

// dropSpares removes the files that are kept to be used again.
func (b *Backlog) dropSpares() {
	b.mu.Lock()
	spares := b.spares
	b.spares = nil
	b.mu.Unlock()
	for _, o := range spares {
		b.removeSpare(o)
	}
}

func (b *Backlog) removeSpare(o *segment) {
	o.f.Close()
	b.grow(-o.size)
	if err := b.o.FS.Remove(o.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.o.Logf("mmapqueue: remove spare: %v", err)
	}
}

// makeDir creates the directory, and in it the cursors: were they missing after
// a crash, nobody would know who has yet to read what.
func (b *Backlog) makeDir() error {
	b.mu.Lock()
	made := b.onDisk
	b.mu.Unlock()
	if made {
		return nil
	}
	if err := b.o.FS.MkdirAll(b.dir); err != nil {
		return fmt.Errorf("mmapqueue: %w", err)
	}
	b.mu.Lock()
	b.onDisk, b.moved = true, true
	b.mu.Unlock()
	if err := b.saveCursors(false); err != nil {
		b.mu.Lock()
		b.onDisk = false // the next append tries again
		b.mu.Unlock()
		return err
	}
	return nil
}

// sealOpen ends the open segment. The caller holds appending. A footer that
// cannot be written is logged: it costs the next start a scan and nothing else.
func (b *Backlog) sealOpen() {
	s := b.open
	size, err := s.seal()
	if err != nil {
		b.o.Logf("mmapqueue: seal %s: %v", s.path, err)
	}
	b.grow(size - s.size)
	b.mu.Lock()
	s.size, s.sealed, b.open = size, true, nil
	b.unsynced = append(b.unsynced, s)
	gone := b.reap()
	// A large segment is synced while it is hot; small ones wait for the next
	// sync, so that a log which starts to grow does not sync at each doubling.
	if !b.closed && (size >= syncAtOnce || len(b.unsynced) > unsyncedMax/2) {
		b.hurry(0)
	}
	b.mu.Unlock()
	b.discard(gone)
}

// reap takes sealed segments off the list that no cursor has to read, and
// returns them for discard. The caller holds mu.
func (b *Backlog) reap() (gone []*segment) {
	oldest := b.number
	for _, c := range b.cursors {
		if !c.idle() {
			oldest = min(oldest, c.oldest())
		}
	}
	b.segments = slices.DeleteFunc(b.segments, func(s *segment) bool {
		needed := !s.sealed || s.number >= oldest
		if s.foreign != nil {
			needed = slices.ContainsFunc(b.cursors, func(c *Cursor) bool {
				return c.id == s.foreign.cursor && !c.idle() && c.oldest() <= s.number
			})
			b.adoptedMoved = b.adoptedMoved || !needed
		}
		if needed {
			return false
		}
		gone = append(gone, s)
		return true
	})
	for _, s := range gone {
		b.drop(s)
	}
	return gone
}

// drop ends what the process holds of s, which is off the list: at once, or
// with the last Read. The caller holds mu.
func (b *Backlog) drop(s *segment) {
	s.dead = true
	if s.readers == 0 {
		b.unmap(s)
	}
	b.unsynced = slices.DeleteFunc(b.unsynced, func(u *segment) bool { return u == s })
}

func (b *Backlog) unmap(s *segment) {
	if s.mapping != nil {
		b.o.Handles.hasUnmapped(s)
	}
	if err := s.unmap(); err != nil {
		b.o.Logf("mmapqueue: unmap %s: %v", s.path, err)
	}
}

// discard removes the files of segments that reap returned, outside any lock. A
// damaged one is kept under another name for whoever wants to look.
func (b *Backlog) discard(gone []*segment) {
	for _, s := range gone {
		if b.retire(s) {
			continue
		}
		if s.f != nil {
			s.f.Close()
		}
		b.grow(-s.size)
		remove := b.o.FS.Remove
		if s.damaged {
			remove = func(path string) error { return b.o.FS.Rename(path, path+badSuffix) }
		}
		if err := remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.o.Logf("mmapqueue: discard segment: %v", err)
		}
		if s.foreign != nil {
			b.forgetMeta(s)
		}
	}
}

// touch counts n records appended or read, and has them synced in time. The
// caller holds mu.
func (b *Backlog) touch(n int) {
	b.ops += int64(n)
	b.quiet = false
	switch {
	case b.closed:
	case b.o.SyncEvery > 0 && b.ops >= b.o.SyncEvery:
		if !b.soon {
			b.hurry(b.pace())
		}
	case b.o.SyncTimeout > 0 && !b.armed:
		b.arm(b.o.SyncTimeout)
	}
}

// pace returns how long a sync that is due by the number of records has to wait.
// The caller holds mu.
func (b *Backlog) pace() time.Duration {
	pause := time.Duration(min(b.o.SyncEvery, int64(time.Second/syncPace))) * syncPace
	return max(0, pause-time.Since(b.synced))
}

// hurry is arm for a sync that is not to be put off. The caller holds mu.
func (b *Backlog) hurry(d time.Duration) {
	b.soon = true
	b.arm(d)
}

// arm has a sync begin after d on a goroutine of the timer's, which Close waits
// for. The caller holds mu.
func (b *Backlog) arm(d time.Duration) {
	b.armed = true
	if b.timer != nil {
		b.timer.Reset(d)
		return
	}
	b.timer = time.AfterFunc(d, func() {
		backgroundSyncs <- struct{}{}
		defer func() { <-backgroundSyncs }()
		if err := b.Sync(); err != nil && !errors.Is(err, ErrClosed) {
			b.o.Logf("%v", err)
		}
		if b.rests() {
			b.Trim()
		}
	})
}

// rests reports whether nothing has happened for a while to a log that nobody
// needs anything of; it has the timer look again while that is not known.
func (b *Backlog) rests() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !b.onDisk || slices.ContainsFunc(b.cursors, func(c *Cursor) bool { return !c.idle() }) {
		return false
	}
	if b.quiet {
		return true
	}
	b.quiet = true
	if !b.armed && b.o.SyncTimeout > 0 {
		b.arm(b.o.SyncTimeout)
	}
	return false
}

// Sync returns when everything appended and read before the call is on the disk.
// After an error nothing may be claimed for it; the segment at fault takes no
// more records, and later appends go to a new one.
func (b *Backlog) Sync() error {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return b.sync()
}

func (b *Backlog) sync() error {
	b.syncing.Lock()
	defer b.syncing.Unlock()
	b.mu.Lock()
	todo := slices.Clone(b.unsynced)
	sealed := len(todo)
	if b.open != nil && b.open.synced < b.open.end {
		todo = append(todo, b.open)
	}
	ends := make([]int64, len(todo))
	for i, s := range todo {
		ends[i] = s.end
	}
	newFiles := b.newFiles && b.onDisk
	names := newFiles || b.o.PowerSafe && b.onDisk
	b.ops, b.armed, b.soon, b.newFiles = 0, false, false, false
	b.synced = time.Now()
	b.mu.Unlock()

	var first error
	for i, s := range todo {
		b.mu.Lock()
		f := s.f
		b.mu.Unlock()
		err := f.Datasync()
		b.mu.Lock()
		if err != nil && !s.dead {
			s.failed = true
			first = firstErr(first, fmt.Errorf("mmapqueue: sync %s: %w", s.path, err))
		}
		s.synced = ends[i]
		done := i < sealed && !s.dead
		cold := err == nil && !s.dead && b.cold(s)
		if done {
			s.f = nil
			b.unsynced = slices.DeleteFunc(b.unsynced, func(u *segment) bool { return u == s })
		}
		b.mu.Unlock()
		if cold {
			f.Forget()
		}
		if done {
			f.Close()
		}
	}
	first = firstErr(first, b.saveCursors(true))
	if names { // behind the cursors, whose file has been replaced
		err := b.o.FS.SyncDir(b.dir)
		if newFiles {
			err = firstErr(err, b.o.FS.SyncDir(filepath.Dir(b.dir))) // its own name too
		}
		if err != nil {
			b.mu.Lock()
			b.newFiles = b.newFiles || newFiles
			b.mu.Unlock()
		}
		first = firstErr(first, err)
	}
	return first
}

// cold reports whether every reader has more than coldDistance to read before it
// comes to s. The caller holds mu.
func (b *Backlog) cold(s *segment) bool {
	nearest := uint64(0)
	for _, c := range b.cursors {
		if c.depth.Load() == 0 {
			return false // it will read what comes next
		}
		nearest = max(nearest, c.at.segment)
	}
	distance := int64(0)
	for i := len(b.segments) - 1; i >= 0 && b.segments[i].number > nearest; i-- {
		if b.segments[i].number < s.number {
			distance += b.segments[i].size
		}
	}
	return distance > coldDistance
}

// firstErr returns the first of two errors that is not nil.
func firstErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Trim gives back what a backlog with nothing to read still holds: the open
// segment, the cursor file, the directory. The cursors stay. While there is
// something to read it only drops the mappings that nobody reads at this moment.
func (b *Backlog) Trim() {
	b.appending.Lock()
	defer b.appending.Unlock()
	b.trim()
}

// trim is Trim for a caller that holds appending.
func (b *Backlog) trim() {
	b.syncing.Lock()
	defer b.syncing.Unlock()
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	idle := b.onDisk
	for _, c := range b.cursors {
		idle = idle && c.idle()
	}
	if !idle {
		for _, s := range b.segments {
			if s.readers == 0 {
				b.unmap(s)
			}
		}
		b.mu.Unlock()
		return
	}
	gone := b.segments
	for _, s := range gone {
		s.sealed = true
		b.drop(s)
	}
	b.segments, b.open, b.onDisk, b.moved, b.adoptedMoved = nil, nil, false, false, false
	b.sizeNext = b.o.SegmentBytesMin
	b.mu.Unlock()
	b.savedSum = 0
	b.dropSpares()
	// The cursors go last: records without cursors would be read again by all.
	b.discard(gone)
	b.o.FS.Remove(filepath.Join(b.dir, adoptedFile))
	b.o.FS.Remove(filepath.Join(b.dir, cursorFile))
	b.o.FS.Remove(b.dir) // fails when evidence lies there
}

// Bytes returns the size of all segments, with space set aside for later records.
func (b *Backlog) Bytes() int64 { return b.bytes.Load() }

// NextSequence returns the sequence that the next record gets, or one before it.
func (b *Backlog) NextSequence() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sequence
}

// Damaged returns how many damaged places were found since Open. A place may be
// found once by each cursor.
func (b *Backlog) Damaged() int64 { return b.broken.Load() }

// report counts and logs damage in s.
func (b *Backlog) report(s *segment, offset int64, cause error) *CorruptError {
	err := &CorruptError{Segment: s.path, Offset: offset, Cause: cause}
	b.broken.Add(1)
	b.o.Logf("%v", err)
	return err
}

// Close seals and syncs the log and gives back every descriptor and mapping; it
// waits for Reads under way. A log with nothing to read leaves no file, and
// then Open finds no cursors either. A second Close returns ErrClosed.
func (b *Backlog) Close() error {
	b.appending.Lock()
	defer b.appending.Unlock()
	if err := b.wrapUp(); err != nil {
		return err
	}
	return b.sync()
}

// CloseUnsynced is Close without the wait for the disk. Whoever closes many logs
// at once asks SyncFileSystem behind the last one: a sync for each costs a wait
// of its own.
func (b *Backlog) CloseUnsynced() error {
	b.appending.Lock()
	defer b.appending.Unlock()
	if err := b.wrapUp(); err != nil {
		return err
	}
	b.mu.Lock()
	files := b.unsynced
	b.unsynced = nil
	b.mu.Unlock()
	for _, s := range files {
		s.f.Close()
	}
	return b.writeCursors(false)
}

// wrapUp seals the log and makes every later call fail. The caller holds appending.
func (b *Backlog) wrapUp() error {
	if err := b.shut(); err != nil {
		return err
	}
	if b.open != nil {
		b.sealOpen()
	}
	b.dropSpares()
	b.trim() // the idle case, and all mappings
	return nil
}

// shut makes every later call fail, and returns when no Read and no timer is at
// work. The caller holds appending.
func (b *Backlog) shut() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
	b.mu.Unlock()
	b.reading.Wait()
	b.syncing.Lock() // a background sync that had begun has ended
	defer b.syncing.Unlock()
	return nil
}

// Remove closes the log and deletes its directory with everything in it.
func (b *Backlog) Remove() error {
	b.appending.Lock()
	defer b.appending.Unlock()
	if err := b.shut(); err != nil {
		return err
	}
	b.mu.Lock()
	gone := b.segments
	for _, s := range gone {
		b.drop(s)
	}
	for _, c := range b.cursors {
		c.depth.Store(0)
		c.waiting = 0
	}
	b.segments, b.open, b.cursors, b.onDisk, b.adoptedMoved = nil, nil, nil, false, false
	b.mu.Unlock()
	b.dropSpares()
	b.discard(gone)
	if err := removeAll(b.o.FS, b.dir); err != nil {
		return fmt.Errorf("mmapqueue: remove: %w", err)
	}
	return nil
}

// check states the invariants of a log; it does nothing in a release build. The
// caller holds mu.
func (b *Backlog) check() {
	if !invariant.Enabled {
		return
	}
	for _, c := range b.cursors {
		depth := c.depth.Load()
		invariant.Check(depth >= 0, "cursor %q has depth %d", c.name, depth)
		invariant.Check(c.waiting >= 0, "cursor %q has %d unfinished records", c.name, c.waiting)
		invariant.Check(c.base.sequence <= c.window.floor, "cursor %q: base %d above floor %d", c.name, c.base.sequence, c.window.floor)
		invariant.Check(c.window.floor <= b.sequence, "cursor %q: floor %d above the end %d", c.name, c.window.floor, b.sequence)
		invariant.Check(depth == 0 || len(b.segments) > 0, "cursor %q has depth %d and no segment", c.name, depth)
	}
	for i, s := range b.segments {
		invariant.Check(i == 0 || b.segments[i-1].number < s.number, "segment %d after %d", s.number, b.segments[max(i-1, 0)].number)
		invariant.Check(s.sealed == (s != b.open), "segment %d: sealed is %t", s.number, s.sealed)
	}
}
