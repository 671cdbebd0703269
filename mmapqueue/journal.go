package mmapqueue

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
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

// spareMax is how many segments that nobody needs are kept to be used again.
const spareMax = 3

func (o *JournalOptions) defaults() {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = segmentBytesMax
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
	for _, e := range entries {
		slot, ok := journalSlot(e.Name())
		if !ok {
			continue
		}
		j.slot = max(j.slot, slot)
		s := &journalSegment{path: filepath.Join(j.dir, e.Name())}
		fresh, foreign, err := s.load(j.o.FS)
		switch {
		case err != nil:
			return err
		case foreign:
			j.o.Logf("%v", &CorruptError{Segment: s.path})
			if err := j.o.FS.Rename(s.path, s.path+badSuffix); err != nil {
				return err
			}
		case fresh:
			j.spares = append(j.spares, s)
		default:
			j.segments = append(j.segments, s)
		}
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

// Start begins to write. What was replayed stays until it is released. The last
// segment is written on where it ends, if it is sound.
func (j *Journal) Start() {
	for _, s := range j.segments {
		if err := s.unmap(); err != nil {
			j.o.Logf("mmapqueue: unmap %s: %v", s.path, err)
		}
	}
	slices.SortFunc(j.spares, func(a, b *journalSegment) int { return cmp.Compare(a.number, b.number) })
	j.Release(0) // the spares that are too many
	if n := len(j.segments); n > 0 {
		s := j.segments[n-1]
		if f, err := j.o.FS.Open(s.path, true); err == nil && !s.damaged && s.end >= journalStart {
			s.f, s.synced, j.open, j.salt = f, 0, s, s.salt
			j.segment.Store(s.number)
		} else if err == nil {
			f.Close()
		}
	}
	if err := j.bell.open(); err != nil {
		j.o.Logf("mmapqueue: journal: %v; the writer looks for work now and then", err)
	}
	j.ended.Go(j.run)
	if len(j.segments) > 0 { // or there is nothing to end, and no file needs to be made
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
	*b = JournalBatch{buf: b.buf[:0], starts: b.starts[:0], groups: b.groups[:0], forced: b.forced[:0], ids: b.ids[:0]}
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

// yieldEvery is how often the writer goes through the scheduler, for its bell does not:
// see package netloop, whose loops do the same.
const yieldEvery = 4 * time.Millisecond

func (j *Journal) run() {
	var work []*JournalBatch
	var yielded time.Time
	for {
		j.mu.Lock()
		for _, b := range work {
			j.recycle(b)
		}
		clear(work)
		for len(j.pending) == 0 && !j.stopping {
			j.asleep = true
			j.mu.Unlock()
			if now := time.Now(); now.Sub(yielded) > yieldEvery {
				yielded = now
				runtime.Gosched()
			}
			j.bell.wait()
			j.mu.Lock()
			j.asleep = false
		}
		if len(j.pending) == 0 {
			j.mu.Unlock()
			return
		}
		work, j.pending = j.pending, work[:0]
		j.mu.Unlock()
		j.commit(work)
	}
}

// commit writes work, and tells each batch what became of it: first those that
// need no sync.
func (j *Journal) commit(work []*JournalBatch) {
	if !j.kept.Empty() {
		kept := j.kept
		j.kept = JournalBatch{}
		work = append([]*JournalBatch{&kept}, work...)
	}
	run := &j.last
	run.j, run.err = j, nil
	sync := false
	for _, b := range work {
		sync = sync || b.sync
	}
	j.durable = j.durable || sync
	for _, b := range work {
		if err := run.add(b); err != nil {
			j.failed(b, err)
		}
	}
	run.write()
	if sync {
		for _, b := range work {
			if !b.sync && !b.flush {
				b.answer()
			}
		}
		j.sync(run)
	}
	clear(run.placed[:cap(run.placed)])
	clear(run.all)
	run.all = run.all[:0]
	worked, wrote := true, false
	for _, b := range work {
		worked = worked && b.err == nil
		wrote = wrote || !b.Empty()
	}
	switch {
	case !worked:
		j.probe()
	case wrote && j.failure.Load() != nil:
		j.failure.Store(nil)
	}
	for _, b := range work {
		if b.flush && !j.kept.Empty() {
			b.err = j.Err()
		}
		b.answer()
	}
}

// answer calls done, once.
func (b *JournalBatch) answer() {
	if done := b.done; done != nil {
		b.done = nil
		done(b.err)
	}
}

// probeEvery is how long after a failure the disk is tried again when nobody
// else does.
const probeEvery = 500 * time.Millisecond

// probe has something written after a while.
func (j *Journal) probe() {
	if j.probing.Swap(true) {
		return
	}
	time.AfterFunc(probeEvery, func() {
		j.probing.Store(false)
		j.mu.Lock()
		stopping := j.stopping
		j.mu.Unlock()
		if !stopping {
			b := j.Batch()
			b.add(&Record{Kind: kindFinish}) // of nothing
			j.Submit(b, nil)
		}
	})
}

// failed ends a batch that could not be written.
func (j *Journal) failed(b *JournalBatch, err error) {
	b.err = err
	j.failure.Store(&err)
	b.essentials(&j.kept)
}

// A journalRun is what goes to one segment with one write.
type journalRun struct {
	j      *Journal
	start  int64 // where the write begins
	placed []placedBatch
	all    []placedBatch // of this commit
	err    error         // of it: what comes behind has failed too, or it would stand before what is tried again
}

// writeBytes is what is worth a write of its own, rather than to be copied to what
// it could be written with.
const writeBytes = 32 << 10

type placedBatch struct {
	b       *JournalBatch
	segment *journalSegment
}

// add puts b behind what is gathered, with the groups that the segment does not
// know yet in front of it.
func (r *journalRun) add(b *JournalBatch) error {
	if b.Empty() {
		r.all = append(r.all, placedBatch{b: b})
		return nil
	}
	j := r.j
	roll := j.open == nil || b.anew || j.open.end+r.need(b, false) > j.open.size
	if roll || len(j.gather)+len(j.direct)+len(b.buf) >= writeBytes {
		r.write()
	}
	if roll && r.err == nil {
		r.err = j.roll(r.need(b, true))
	}
	if r.err != nil {
		return r.err
	}
	s := j.open
	if len(r.placed) == 0 {
		r.start, j.gather, j.direct = s.end, j.gather[:0], nil
	}
	for _, g := range b.forced {
		g.definedIn = 0
	}
	for _, groups := range [][]*JournalGroup{b.forced, b.groups} {
		for _, g := range groups {
			if g.definedIn != s.number {
				g.definedIn = s.number
				r.define(s, g)
			}
		}
	}
	p := placedBatch{b: b, segment: s}
	b.reseal(s.salt)
	switch {
	case len(j.gather) == 0 && j.direct == nil:
		j.direct = b.buf
	case len(j.direct) > 0:
		j.gather = append(append(j.gather, j.direct...), b.buf...)
		j.direct = j.direct[:0]
	default:
		j.gather = append(j.gather, b.buf...)
	}
	s.end += int64(len(b.buf))
	if s.end > s.size/2 && !s.followed {
		s.followed = true
		j.prepare()
	}
	r.placed = append(r.placed, p)
	r.all = append(r.all, p)
	return nil
}

// need returns the most bytes that b can take in a segment. fresh says that the
// segment knows no group yet.
func (r *journalRun) need(b *JournalBatch, fresh bool) int64 {
	n := int64(len(b.buf))
	for _, g := range b.groups {
		if fresh || g.definedIn != r.j.open.number {
			n += 2 * recordSize(g.size())
		}
	}
	for _, g := range b.forced {
		n += 2 * recordSize(g.size())
	}
	return n
}

// define writes g down twice: see the layouts.
func (r *journalRun) define(s *journalSegment, g *JournalGroup) {
	j := r.j
	body := g.define(nil)
	if len(j.direct) > 0 {
		j.gather = append(j.gather, j.direct...)
		j.direct = j.direct[:0]
	}
	for range 2 {
		at := len(j.gather)
		j.gather = slices.Grow(j.gather, int(recordSize(len(body))))[:at+int(recordSize(len(body)))]
		encode(j.gather[at:], &Record{Kind: kindGroup, Cursor: g.number, Body: body}, s.first, journalPlace, s.salt)
		s.end += recordSize(len(body))
	}
}

// write writes what is gathered. When that fails the segment takes no more, and
// its batches have failed.
func (r *journalRun) write() {
	if len(r.placed) == 0 {
		return
	}
	j, s := r.j, r.j.open
	bytes := j.gather
	if len(j.direct) > 0 {
		bytes = j.direct
	}
	j.direct = nil
	n, err := s.f.WriteAt(bytes, r.start)
	if err != nil {
		err = fmt.Errorf("mmapqueue: write %d bytes to %s, %d written: %w", len(bytes), s.path, n, err)
		r.err = err
		for _, p := range r.placed {
			j.failed(p.b, err)
		}
		j.leave()
	}
	if cap(j.gather) > batchBytesMax {
		j.gather = nil
	}
	r.placed = r.placed[:0]
}

// leave ends the writing to the open segment.
func (j *Journal) leave() {
	s := j.open
	j.open = nil
	if j.durable {
		j.unsynced = append(j.unsynced, s)
		return
	}
	s.f.Close()
	s.f = nil
}

// sync makes the commit durable, and whatever came before it. The batches in a
// segment that could not be synced have failed, and the segment takes no more;
// those that are answered already stand in the file as far as the process can
// see.
func (j *Journal) sync(r *journalRun) {
	if !j.settled {
		j.settled = true
		j.reopen()
	}
	todo := j.unsynced
	if j.open != nil && j.open.synced < j.open.end {
		todo = append(todo, j.open)
	}
	fail := func(s *journalSegment, err error) {
		for _, p := range r.all {
			if p.b.err == nil && p.segment == s {
				j.failed(p.b, err)
			}
		}
	}
	for _, s := range todo {
		if err := s.f.Datasync(); err != nil {
			fail(s, fmt.Errorf("mmapqueue: sync %s: %w", s.path, err))
			if s == j.open {
				j.open = nil
			}
		}
		s.synced = s.end
		if s != j.open {
			s.f.Close()
			s.f = nil
		}
	}
	j.unsynced = j.unsynced[:0]
	if j.newFiles {
		if err := j.syncDirs(); err != nil {
			for _, s := range todo {
				fail(s, err)
			}
			return
		}
		j.newFiles = false
	}
}

// reopen has the first sync include the segments that nobody wanted synced so
// far: what stands in them may be all there is of a message that somebody wants
// to be safe now.
func (j *Journal) reopen() {
	j.mu.Lock()
	segments := slices.Clone(j.segments)
	j.mu.Unlock()
	for _, s := range segments {
		if s.f != nil || s.synced >= s.end {
			continue
		}
		f, err := j.o.FS.Open(s.path, true)
		if err != nil {
			j.o.Logf("mmapqueue: sync journal segment: %v", err)
			continue
		}
		s.f = f
		j.unsynced = append(j.unsynced, s)
	}
}

// roll begins a segment with room for need bytes: one to be used again if there
// is one.
func (j *Journal) roll(need int64) error {
	if j.open != nil {
		j.leave()
	}
	size := max(j.segmentBytes.Load(), journalStart+need)
	j.mu.Lock()
	var s *journalSegment
	if at := slices.IndexFunc(j.spares, func(s *journalSegment) bool { return s.f == nil && !s.damaged && s.size >= size }); at >= 0 {
		s = j.spares[at]
		j.spares = slices.Delete(j.spares, at, at+1)
	}
	tail := j.next
	if len(j.segments) > 0 {
		tail = j.segments[0].number
	}
	batches := j.batches
	j.mu.Unlock()

	var err error
	if s != nil {
		s.f, err = j.o.FS.Open(s.path, true)
		j.newFiles = j.newFiles || s.unnamed
		s.unnamed = false
	} else {
		j.slot++
		s = &journalSegment{path: journalPath(j.dir, j.slot), size: size}
		s.f, err = j.o.FS.Create(s.path, size)
		for least := max(journalStart+need, segmentBytesMin); errors.Is(err, syscall.ENOSPC) && s.size > least; {
			s.size = max(s.size/4, least) // a disk that is nearly full has room for a little
			s.f, err = j.o.FS.Create(s.path, s.size)
		}
		j.newFiles = true
	}
	if err != nil {
		return fmt.Errorf("mmapqueue: begin journal segment: %w", err)
	}
	if err = s.renew(j.next, tail, batches*batchRecords); err == nil && j.durable {
		// Before any record: a header that was lost would leave an old one in
		// front of records that are partly overwritten.
		err = s.f.Datasync()
	}
	if err != nil {
		s.f.Close()
		j.o.FS.Remove(s.path)
		return fmt.Errorf("mmapqueue: write header of %s: %w", s.path, err)
	}
	j.mu.Lock()
	j.segments = append(j.segments, s)
	j.salt = s.salt
	j.mu.Unlock()
	j.open = s
	j.next++
	j.segment.Store(s.number)
	j.o.Rolled()
	return nil
}

// prepare makes the file of the next segment, if none waits to be used again, so
// that no commit has to wait for that.
func (j *Journal) prepare() {
	j.mu.Lock()
	ready := j.stopping || slices.ContainsFunc(j.spares, func(s *journalSegment) bool { return j.reusable(s) })
	j.mu.Unlock()
	if ready {
		return
	}
	j.slot++
	s := &journalSegment{path: journalPath(j.dir, j.slot), size: j.segmentBytes.Load()}
	durable := j.durable
	j.ended.Go(func() {
		f, err := j.o.FS.Create(s.path, s.size)
		if err != nil {
			return // roll, which tries as well, has somebody to tell
		}
		if err = f.Close(); err == nil && durable {
			err = j.syncDirs()
		}
		s.unnamed = !durable || err != nil
		j.mu.Lock()
		j.spares = slices.Insert(j.spares, 0, s)
		j.mu.Unlock()
	})
}

// syncDirs makes the names of the journal's files durable.
func (j *Journal) syncDirs() error {
	return firstErr(j.o.FS.SyncDir(j.dir), j.o.FS.SyncDir(filepath.Dir(j.dir)))
}

// Release says that no segment below number is needed: what they held is
// finished, or safe elsewhere. The one being written stays in any case.
//
// Until the next segment is begun its header does not say so, and a start reads
// what is still there. So files go oldest first, damaged ones and spares alike:
// a finish must not go before the message.
func (j *Journal) Release(number uint64) {
	current := j.segment.Load()
	j.mu.Lock()
	for len(j.segments) > 1 && j.segments[0].number < min(number, current) {
		j.spares = append(j.spares, j.segments[0])
		j.segments = slices.Delete(j.segments, 0, 1)
	}
	n := 0
	for n < len(j.spares) && (len(j.spares)-n > spareMax || !j.reusable(j.spares[n])) {
		n++
	}
	gone := slices.Clone(j.spares[:n])
	j.spares = slices.Delete(j.spares, 0, n)
	j.mu.Unlock()
	j.discard(gone)
}

func (j *Journal) reusable(s *journalSegment) bool {
	return s.size == j.segmentBytes.Load() && !s.damaged
}

func (j *Journal) discard(gone []*journalSegment) {
	for _, s := range gone {
		remove := j.o.FS.Remove
		if s.damaged {
			remove = func(path string) error { return j.o.FS.Rename(path, path+badSuffix) }
		}
		if err := remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			j.o.Logf("mmapqueue: discard journal segment: %v", err)
		}
	}
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

// Close writes what was submitted and ends the writer. The files stay.
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
	return firstErr(err, j.Err())
}

// CloseFrom closes the journal and deletes its files, but for those from the given
// number on: everything in the others is finished or safe elsewhere.
func (j *Journal) CloseFrom(number uint64) error {
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
