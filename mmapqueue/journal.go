package mmapqueue

import (
	"cmp"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// JournalOptions are the limits of a journal. The zero value of each field means
// its default.
type JournalOptions struct {
	// SegmentBytes is the size of a segment, 64 MB by default. A batch that is
	// larger gets a segment of its own size.
	SegmentBytes int64

	// Rolled is called by the writer when it has begun another segment: time to
	// think of what is old (see Release). It must not block.
	Rolled func()

	// Logf receives what no caller can be told. It must be safe for concurrent
	// use. The default drops it.
	Logf func(format string, args ...any)

	// FS is where the journal lies. The default is OS.
	FS FS
}

func (o *JournalOptions) defaults() {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = DefaultSegmentBytesMax
	}
	if o.Rolled == nil {
		o.Rolled = func() {}
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.FS == nil {
		o.FS = OS
	}
}

// A Journal is one log for all topics of a daemon: the messages that are in
// memory stand here, so that they survive the process.
//
//	Submit ──► pending ──► writer: writes all that came since the last,
//	                       one sync if one of them asks ──► done(err)
//
// Records are in the order of the Submits. Segments are given back in that
// order, when their user says (Release) that nothing in them is needed; the
// journal itself does not know which messages live.
//
// All methods may be called from any goroutine. Submit does not wait and may be
// called by an event loop, and so may Batch, Segment and Err.
type Journal struct {
	dir string
	o   JournalOptions

	segmentBytes atomic.Int64  // of the next segment
	numbers      atomic.Uint32 // the last number given to a queue or group
	segment      atomic.Uint64 // number of the segment that the next record goes to, or of one before it
	failure      atomic.Pointer[error]
	refused      atomic.Int64 // bytes of the largest batch for which the disk had no room, since the journal last worked
	lost         damageLog

	mu        sync.Mutex
	bell      bell
	pending   []*JournalBatch
	asleep    bool // the writer waits for the bell
	alarm     *time.Timer
	alarmed   bool // alarm will ring it
	free      []*JournalBatch
	freeBytes int // of their buffers
	stopping  bool
	segments  []*journalSegment // in use, ascending by number; the last one may be open
	spares    []*journalSegment // released, ascending by number: to be used again
	slot      uint64            // of the last file's name
	batches   uint64            // begun so far, in earlier runs too
	salt      uint64            // of the open segment; 0 before the first

	// The writer's own, or Close's when it has ended.
	open     *journalSegment   // takes records; nil until the next commit
	unsynced []*journalSegment // written and not synced
	next     uint64            // number of the next segment
	kept     JournalBatch      // what failed batches had that must not be lost
	settled  bool              // what was written before durable is synced, or is about to be
	durable  bool              // a batch has asked for a sync: from then on files wait for one
	gather   []byte            // what goes to the segment with one write, unless it is direct
	direct   []byte            // the only batch of that write, as it is
	newFiles bool              // a file was created since the directory was synced
	last     journalRun        // of the commit under way
	probing  atomic.Bool
	ended    sync.WaitGroup
}

// OpenJournal opens the journal in dir, which it creates if there is none.
// Nothing is written before Start; until then Replay tells what an earlier run
// left.
func OpenJournal(dir string, o JournalOptions) (*Journal, error) {
	o.defaults()
	j := &Journal{dir: dir, o: o, next: 1}
	j.segmentBytes.Store(o.SegmentBytes)
	j.alarm = time.AfterFunc(laterAfter, j.onAlarm)
	j.alarm.Stop()
	if err := o.FS.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("mmapqueue: open journal: %w", err)
	}
	if err := j.load(); err != nil {
		return nil, fmt.Errorf("mmapqueue: open journal in %s: %w", dir, err)
	}
	return j, nil
}

// load finds the segments. What is older than the newest one's tail was waiting
// to be used again.
func (j *Journal) load() error {
	entries, err := j.o.FS.ReadDir(j.dir)
	if err != nil {
		return err
	}
	earlier := int64(0)
	for _, e := range entries {
		slot, ok := journalSlot(e.Name())
		if !ok {
			if e.Name() == probeFile {
				j.o.FS.Remove(filepath.Join(j.dir, probeFile))
			}
			continue
		}
		j.slot = max(j.slot, slot)
		s := &journalSegment{path: filepath.Join(j.dir, e.Name())}
		state, err := s.load(j.o.FS)
		if exhausted(err) {
			return err
		}
		switch state {
		case fileForeign:
			j.damage(s.path, &CorruptError{Segment: s.path, Cause: err})
			j.putAside(s.path)
		case fileEarlier:
			earlier++
			j.putAside(s.path)
		case fileFresh:
			j.spares = append(j.spares, s)
		default:
			j.segments = append(j.segments, s)
		}
	}
	if earlier > 0 {
		j.lost.places.Add(earlier)
		j.o.Logf("mmapqueue: %d files in %s are of a journal in an earlier format, which is not read: they are kept as *%s%s, and what was in memory when their daemon died is not delivered",
			earlier, j.dir, journalSuffix, badSuffix)
	}
	slices.SortFunc(j.segments, func(a, b *journalSegment) int { return cmp.Compare(a.number, b.number) })
	if n := len(j.segments); n > 0 {
		last := j.segments[n-1]
		j.next, j.batches = last.number+1, last.first/batchRecords
		needed := slices.IndexFunc(j.segments, func(s *journalSegment) bool { return s.number >= last.tail })
		j.spares = append(j.spares, j.segments[:needed]...)
		j.segments = slices.Clone(j.segments[needed:])
	}
	j.segment.Store(j.next)
	return nil
}

// putAside keeps a file that is no segment under a name that nothing reads. One that
// must stay where it is, because it may not be renamed, is in nobody's way.
func (j *Journal) putAside(path string) {
	if err := j.o.FS.Rename(path, path+badSuffix); err != nil {
		j.o.Logf("mmapqueue: put aside: %v", err)
	}
}

// Start begins to write. What was replayed stays until it is released. The last
// segment is written on where it ends, if it is sound.
func (j *Journal) Start() {
	for _, s := range j.segments {
		if err := s.unmap(); err != nil {
			j.o.Logf("mmapqueue: unmap %s: %v", s.path, err)
		}
	}
	slices.SortFunc(j.spares, func(a, b *journalSegment) int { return cmp.Compare(a.number, b.number) })
	j.discard(j.release(0)) // the spares that are too many
	if n := len(j.segments); n > 0 {
		s := j.segments[n-1]
		if f, err := j.o.FS.Open(s.path, true); err == nil && !s.damaged && s.end >= journalStart {
			s.f, s.synced, s.intact, j.open, j.salt = f, 0, s.end, s, s.salt
			j.segment.Store(s.number)
		} else if err == nil {
			f.Close()
		}
	}
	if err := j.bell.open(); err != nil {
		j.o.Logf("mmapqueue: journal: %v; the writer looks for work now and then", err)
	}
	replayed := len(j.segments) > 0 // or there is nothing to end, and no file needs to be made
	j.ended.Go(j.run)               // which begins segments of its own if something was submitted before
	if replayed {
		j.Submit(j.start(), nil)
	}
}

// SetSegmentBytes gives the segments that are begun from now on another size than
// [JournalOptions] says.
func (j *Journal) SetSegmentBytes(n int64) { j.segmentBytes.Store(n) }

// SegmentBytes returns the size of the next segment.
func (j *Journal) SegmentBytes() int64 { return j.segmentBytes.Load() }

// start is the batch that ends what was replayed.
func (j *Journal) start() *JournalBatch {
	b := j.Batch()
	b.add(&Record{Kind: kindStart})
	return b
}

// NewQueue returns a queue with a number of its own. Channel is "" for what a
// topic holds back.
func (j *Journal) NewQueue(topic, channel string) *JournalQueue {
	return j.adopt(j.numbers.Add(1), topic, channel)
}

func (j *Journal) adopt(number uint32, topic, channel string) *JournalQueue {
	q := &JournalQueue{number: number, topic: topic}
	q.channel.Store(&channel)
	q.alone = JournalGroup{number: j.numbers.Add(1), queues: []*JournalQueue{q}}
	return q
}

// NewGroup returns the group of these queues, of which there is at least one,
// all of one topic.
func (j *Journal) NewGroup(queues []*JournalQueue) *JournalGroup {
	if len(queues) == 1 {
		return queues[0].Alone()
	}
	return &JournalGroup{number: j.numbers.Add(1), queues: queues}
}

// Segment returns a number that is not above that of the segment to which
// anything submitted from now on is written.
func (j *Journal) Segment() uint64 { return j.segment.Load() }

// Err returns why the last commit failed, nil when it worked. While it is not
// nil, publishers do well to refuse: what they submit is likely to fail. A
// batch that is submitted all the same tries again.
func (j *Journal) Err() error {
	if p := j.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Batch returns an empty batch.
func (j *Journal) Batch() *JournalBatch {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b *JournalBatch
	if n := len(j.free); n == 0 {
		b = new(JournalBatch)
	} else {
		b = j.free[n-1]
		j.free[n-1] = nil
		j.free = j.free[:n-1]
		j.freeBytes -= cap(b.buf)
	}
	j.batches++
	b.sequence, b.salt = j.batches*batchRecords, j.salt
	return b
}

// What is kept of the memory of batches.
const (
	batchesKept   = 16
	batchBytesMax = 4 << 20  // of one
	freeBytesMax  = 32 << 20 // of all
)

// Submit hands b over. done, which may be nil, is called on the writer's
// goroutine when b is written, and is on the disk if b asks for that, or when
// that has failed: then no message of b counts as written, though a start may
// find some, and everything else in b is written as soon as the disk works. done must not
// block.
func (j *Journal) Submit(b *JournalBatch, done func(err error)) {
	b.done = done
	j.mu.Lock()
	j.pending = append(j.pending, b)
	j.ring()
}

// What is submitted Later is written at the latest after laterAfter, or when
// laterBytes have gathered.
const (
	laterAfter = 5 * time.Millisecond
	laterBytes = 64 << 10
)

// Later is Submit for a batch that nobody waits for: it does not wake the writer
// for it alone. Its place among the others is as it would be with Submit.
func (j *Journal) Later(b *JournalBatch) {
	j.mu.Lock()
	if n := len(j.pending); n > 0 && j.pending[n-1].later && j.pending[n-1].salt == b.salt {
		last := j.pending[n-1]
		last.take(b)
		j.recycle(b)
		b = last
	} else {
		b.later = true
		j.pending = append(j.pending, b)
	}
	if b.Size() >= laterBytes {
		b.later = false // or it grows while the writer is busy
		j.ring()
		return
	}
	alarm := j.asleep && !j.alarmed
	j.alarmed = j.alarmed || alarm
	j.mu.Unlock()
	if alarm {
		j.alarm.Reset(laterAfter)
	}
}

// recycle keeps an empty batch with the memory of b. The caller holds mu.
func (j *Journal) recycle(b *JournalBatch) {
	if len(j.free) >= batchesKept || cap(b.buf) > batchBytesMax || j.freeBytes+cap(b.buf) > freeBytesMax {
		return
	}
	clear(b.groups)
	clear(b.forced)
	clear(b.named)
	*b = JournalBatch{buf: b.buf[:0], starts: b.starts[:0], groups: b.groups[:0], forced: b.forced[:0], named: b.named[:0], ids: b.ids[:0]}
	j.freeBytes += cap(b.buf)
	j.free = append(j.free, b)
}

// onAlarm wakes the writer for what was submitted Later.
func (j *Journal) onAlarm() {
	j.mu.Lock()
	j.alarmed = false
	if len(j.pending) == 0 {
		j.mu.Unlock()
		return
	}
	j.ring()
}

// ring unlocks mu, and wakes the writer if it sleeps.
func (j *Journal) ring() {
	asleep := j.asleep
	j.asleep = false
	j.mu.Unlock()
	if asleep {
		j.bell.ring()
	}
}

// Flush returns when all that was submitted before is written, and on the disk
// where that was asked for, or has failed. The error is why something that must
// not be lost is still to be written.
func (j *Journal) Flush() error {
	c := make(chan error, 1)
	b := j.Batch()
	b.flush = true
	j.Submit(b, func(err error) { c <- err })
	return <-c
}

// From returns from which number on segments are the newest that take at most n bytes
// together, 0 when all do. The one being written is among them in any case.
func (j *Journal) From(n int64) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := len(j.segments) - 1; i >= 0; i-- {
		if n -= j.segments[i].size; n < 0 {
			return j.segments[min(i+1, len(j.segments)-1)].number
		}
	}
	return 0
}

// Segments returns how many segments hold what is needed, and the number of the
// oldest, 0 without any.
func (j *Journal) Segments() (count int, oldest uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segments) > 0 {
		oldest = j.segments[0].number
	}
	return len(j.segments), oldest
}

// Close writes what was submitted and ends the writer. The files stay. The error is
// why something could not be written that must not be lost, as with Flush.
func (j *Journal) Close() error {
	j.mu.Lock()
	j.stopping = true
	j.ring()
	j.ended.Wait()
	j.alarm.Stop()
	err := j.bell.close()
	if j.open != nil {
		j.unsynced = append(j.unsynced, j.open)
		j.open = nil
	}
	for _, s := range j.unsynced {
		err = firstErr(err, s.f.Close())
		s.f = nil
	}
	j.unsynced = nil
	for _, s := range j.segments {
		err = firstErr(err, s.unmap())
	}
	if j.kept.Empty() {
		return err // whose messages were refused has been told
	}
	return firstErr(err, j.Err())
}

// CloseFrom closes the journal and deletes its files, but for those from the given
// number on: everything in the others is finished or safe elsewhere.
func (j *Journal) CloseFrom(number uint64) error {
	j.mu.Lock()
	used := len(j.segments)
	for _, s := range j.spares {
		if s.number > 0 {
			used++
		}
	}
	j.mu.Unlock()
	if used > 1 { // or nothing goes in front of something
		j.sayReleased(min(number, j.Segment()))
	}
	err := j.Close()
	for _, s := range j.spares {
		s.damaged = false
	}
	// In this order: a message goes before what says that it is finished, and
	// what is not needed before what says so.
	j.discard(j.spares)
	n := 0
	for n < len(j.segments) && j.segments[n].number < number {
		n++
	}
	j.discard(j.segments[:n])
	j.segments, j.spares = j.segments[n:], nil
	return err
}

// Remove is [Journal.CloseFrom] for a journal of which nothing is needed.
func (j *Journal) Remove() error {
	err := j.CloseFrom(math.MaxUint64)
	j.o.FS.Remove(j.dir) // fails when evidence lies there
	return err
}
