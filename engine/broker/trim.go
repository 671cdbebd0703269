package broker

import (
	"errors"
	"slices"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/mmapqueue"
)

// segment returns the journal's current segment, 0 without a journal.
func (b *Broker) segment() uint64 {
	if b.journal == nil {
		return 0
	}
	return b.journal.Segment()
}

// kickTrim has the journal looked over, soon.
func (b *Broker) kickTrim() {
	b.pool.SetMark(b.journal.Segment())
	if !b.closing.Load() && b.trimming.CompareAndSwap(false, true) {
		b.helpers.Go(func() {
			b.trimJournal()
			b.trimming.Store(false)
		})
	}
}

// trimJournal gives up the journal's segments that nothing in memory needs, and
// sets from where on they are kept when the others are too many. It waits for the
// disk.
//
//  1. Whatever is in memory at this moment is in no segment older than its chunk.
//  2. What was copied out of old chunks has been submitted before these were
//     let go: it is written when the journal is flushed.
//  3. Backlogs are synced that finished something which only the journal knows.
//  4. What is told of topics stays until it is saved elsewhere, or is told again.
//  5. Then what is older is not needed.
func (b *Broker) trimJournal() {
	j := b.journal
	if j == nil {
		return
	}
	b.trim.Lock()
	defer b.trim.Unlock()
	count, first := j.Segments()
	if count > 1 {
		current := j.Segment()
		b.pool.SetMark(current)
		oldest := b.pool.OldestMark()
		if !b.marking.Load() {
			oldest = current // no message in memory was ever the journal's
		}
		b.desk.mu.Lock()
		if since := b.desk.since; since != 0 {
			oldest = min(oldest, since)
		}
		b.desk.mu.Unlock()
		if oldest > first && b.retell() == nil && j.Flush() == nil {
			topics := b.topics.all()
			for _, t := range topics {
				oldest = t.settleOwed(oldest)
			}
			b.sizeSegments(len(topics))
			j.Release(oldest)
		}
	}
	budget := b.opts.JournalBudget
	if budget == 0 {
		budget = max(journalBudget, 2*b.pool.Used())
	}
	keep, size := uint64(0), j.SegmentBytes()
	if j.From(budget+size) > 0 {
		keep = j.From(budget/2 + size)
	}
	b.keepFrom.Store(keep)
}

// segmentBytes returns how large the journal's segments are at least, when they hold
// want bytes.
func (b *Broker) segmentBytes(want int64) int64 {
	most := b.opts.Journal.SegmentBytes
	if b.syncing.Load() {
		return most
	}
	n := max(most/journalSmaller, journalLeast)
	for n < want {
		n *= 2
	}
	return min(n, most)
}

// sizeSegments gives the next segments their size. It changes when that is too little
// or four times too much: the files of another size cannot be used again.
func (b *Broker) sizeSegments(topics int) {
	if !b.marking.Load() {
		return
	}
	want := max(b.pool.Used()/journalSegments, int64(topics)*journalTopicSize)
	size := b.journal.SegmentBytes()
	if n := min(max(size, b.segmentBytes(want)), b.segmentBytes(4*want)); n != size {
		b.journal.SetSegmentBytes(n)
	}
}

// settleOwed returns the oldest segment that is needed for what the topic's
// channels have finished in its backlog, at most limit. If that is below limit it
// makes the backlog remember, first.
func (t *Topic) settleOwed(limit uint64) uint64 {
	owed := t.owed.Load()
	if owed == 0 || owed >= limit {
		return limit
	}
	t.owed.Store(0)
	var err error
	t.writer.inOrder(func(log *mmapqueue.Backlog) {
		if log != nil {
			err = log.Sync()
		}
	})
	if err == nil || errors.Is(err, mmapqueue.ErrClosed) {
		return limit
	}
	t.b.diskFailed(err)
	t.owed.Store(owed)
	return owed
}

// renew copies what a queue holds in old chunks into younger ones, when it cannot
// go to the backlog because of what is there already, and writes what the journal
// should have by the topic's mode and has not, or should have because it pins the
// backlog or goes on to other queues. It runs in the order of the writer, and nobody else pushes: the queue is
// draining, and overflowing.
func (t *Topic) renew(q *queue) {
	b := t.b
	keep := b.keepFrom.Load()
	if keep == 0 && q.pinned.Load() == 0 && !t.securing || q.journal == nil {
		return
	}
	b.onAll(func(*Shard) {})
	b.foreign.grace()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moves.Add(1) // as the refiller, who waits for mu
	all := make([]block.Ref, q.ring.Len())
	all = all[:q.ring.TryPop(all)]
	q.outstanding.Add(int64(len(all)))
	q.moves.Add(1)
	if t.securing {
		b.adoptRead(q, all)
		b.adoptRead(q, q.left)
	}
	batch := b.journal.Batch()
	var old block.Drops
	src := source{q: q, sequences: slices.Concat(
		b.foreign.copyOld(batch, q, all, keep, &old),
		b.foreign.copyOld(batch, q, q.left, keep, &old),
	)}
	segment := b.segment() // or one behind it
	b.journal.Submit(batch, func(err error) {
		if err == nil && len(src.sequences) > 0 {
			b.finishInJournal(q, src.sequences)
			b.finishLater(src, segment)
		}
	})
	old.Flush(b.pool) // not before: see trimJournal
	q.moves.Add(1)
	n := q.ring.TryPush(all)
	q.outstanding.Add(-int64(n))
	q.moves.Add(1)
	if n < len(all) {
		q.left = append(all[n:len(all):len(all)], q.left...)
	}
}

// copyOld replaces the messages in chunks older than keep by copies. The old ones
// hold their segments of the journal until the caller, who has submitted the batch
// by then, lets go of them. What pins the backlog is put into the journal as well; its
// sequences there are returned, to be finished when that is written.
func (f *foreign) copyOld(batch *mmapqueue.JournalBatch, q *queue, refs []block.Ref, keep uint64, old *block.Drops) (replaced []uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	below := q.pinned.Load()
	for i, r := range refs {
		if r.Aux&(auxSequence|auxDue) == auxSequence && q.durable() && sequenceOf(f.b.pool, r) < below {
			replaced = append(replaced, sequenceOf(f.b.pool, r))
			refs[i] = dropSequence(copyTo(f.arena, f.b.pool, r))
			refs[i].Aux |= auxJournal
			f.b.put(batch, q, refs[i], 0)
			old.Add(r.Chunk)
			continue
		}
		if r.Aux&(auxJournal|auxSequence) == 0 && q.durable() {
			f.b.put(batch, q, r, dueOf(f.b.pool, r))
			refs[i].Aux |= auxJournal
			continue
		}
		if r.Aux&auxJournal == 0 || f.b.pool.MarkOf(r.Chunk) >= keep {
			continue
		}
		refs[i] = copyWhole(f.arena, f.b.pool, r)
		f.b.put(batch, q, refs[i], dueOf(f.b.pool, r))
		old.Add(r.Chunk)
	}
	return replaced
}

// renew lets go of an open chunk that is old.
func (f *foreign) renew(keep uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arena.Renew(keep)
}
