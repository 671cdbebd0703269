package mmapqueue

import (
	"fmt"
	"runtime"
	"slices"
	"time"
)

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
	j.restore()
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
	worked, wrote, bytes := true, false, int64(0)
	for _, b := range work {
		worked = worked && b.err == nil
		wrote = wrote || !b.Empty()
		bytes += int64(b.Size())
	}
	switch {
	case !worked:
		j.probe()
	case !wrote || j.failure.Load() == nil:
	case bytes < j.refused.Load():
		j.probe() // a full disk has room for a little
	default:
		j.failure.Store(nil)
		j.refused.Store(0)
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
		if j.stopping {
			j.mu.Unlock()
			return
		}
		j.ended.Add(1) // Close waits for it
		j.mu.Unlock()
		defer j.ended.Done()
		if n := j.refused.Load(); n > 0 {
			if probe(j.o.FS, j.dir, n) != nil {
				j.probe()
				return
			}
			j.refused.CompareAndSwap(n, 0)
		}
		b := j.Batch()
		b.add(&Record{Kind: kindFinish}) // of nothing
		j.Submit(b, nil)
	})
}

// failed ends a batch that could not be written.
func (j *Journal) failed(b *JournalBatch, err error) {
	b.err = err
	j.failure.Store(&err)
	if NoRoom(err) {
		j.refused.Store(max(j.refused.Load(), int64(b.Size())))
	}
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
	for _, n := range b.named {
		n.q.channel.Store(&n.channel)
	}
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
	if err == nil {
		s.intact = r.start + int64(len(bytes))
	} else {
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
