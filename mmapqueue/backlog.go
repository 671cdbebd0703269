package mmapqueue

import (
	"fmt"
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
	// gets a segment of its own size. The defaults are DefaultSegmentBytesMin and
	// DefaultSegmentBytesMax; a largest size below the first counts as the first.
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

// The sizes of segments where Options say nothing.
const (
	DefaultSegmentBytesMin = 64 << 10
	DefaultSegmentBytesMax = 64 << 20
)

const (
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
		o.SegmentBytesMin = DefaultSegmentBytesMin
	}
	if o.SegmentBytesMax <= 0 {
		o.SegmentBytesMax = DefaultSegmentBytesMax
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

// batches holds the buffers in which Append gathers a batch. It is ours alone,
// so that its sizes are those of batches.
var batches, largeBatches bytebufferpool.Pool

// blockSize is that of a huge page. A batch of that size is written with zeros behind
// it to the end of such a block of the file, where nothing stands yet: the system then
// takes one huge page for the block, rather than many small ones and one by one. With
// the huge pages that a stop gives back in hand, it is ready some five times sooner
// where the memory of the machine is another's until it is touched.
const blockSize = 2 << 20

// blockEnd returns the end of the block of the last byte in front of offset.
func blockEnd(offset int64) int64 { return (offset + blockSize - 1) &^ (blockSize - 1) }

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
	saved     savedEnd   // what the cursor file said at the start

	bytes  atomic.Int64 // size of all files of segments
	damage damageLog

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
	syncedEnd    uint64     // end, when all before it was last on the disk
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

// expectShare is the part of what is expected that one segment takes: the last one is
// synced while somebody waits for it, the others beside the appends.
const expectShare = 20

// Expect says that so many bytes of records are about to be appended: the segments are
// of a size for them at once, and do not grow up to it.
func (b *Backlog) Expect(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sizeNext = max(b.sizeNext, min(bytes/expectShare, b.o.SegmentBytesMax))
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

	pool, whole := &batches, size
	if size >= blockSize {
		pool = &largeBatches
		whole = min(blockEnd(s.end+size), max(s.size, s.end+size)) - s.end
	}
	buf := pool.Get()
	defer pool.Put(buf)
	buf.B = slices.Grow(buf.B[:0], int(whole))[:whole]
	clear(buf.B[size:])
	offset, sequence := s.encode(buf.B, recs, s.end, b.sequence)
	if n, err := s.f.WriteAt(buf.B, s.end); err != nil && int64(n) < size {
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

// Bytes returns the size of all segments, with space set aside for later records.
func (b *Backlog) Bytes() int64 { return b.bytes.Load() }

// NextSequence returns the sequence that the next record gets, or one before it.
func (b *Backlog) NextSequence() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sequence
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
	b.syncing.Lock()
	defer b.syncing.Unlock()
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
	if b.o.PowerSafe { // the cursor file is exact only now, also behind a sync of a moment ago
		b.mu.Lock()
		b.moved = true
		b.mu.Unlock()
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
