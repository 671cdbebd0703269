package broker

import (
	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// finishLater has the topic's writer finish what a queue is done with. The journal
// has that too, not before the given segment, if there is a journal.
func (b *Broker) finishLater(src source, segment uint64) {
	src.q.topic.writer.submit(job{run: func(*mmapqueue.Backlog) { b.finishSource(src) }})
	src.q.owe(segment)
}

// owe notes that from this segment on the journal has what the backlog may have
// forgotten after a crash. It comes behind what tells the backlog: settleOwed
// looks at it first.
func (q *queue) owe(segment uint64) {
	if segment != 0 {
		q.topic.owed.CompareAndSwap(0, segment)
	}
}

// finishBelow tells journal and backlog that records in q's backlog are finished.
// The caller runs in the order of the writer and holds q.mu.
func (b *Broker) finishBelow(q *queue, sequences []uint64) {
	if len(sequences) == 0 || q.cursor == nil {
		return
	}
	segment := b.segment()
	b.finishInJournal(q, sequences)
	q.cursor.Finish(sequences)
	q.owe(segment)
}

// finishInJournal tells the journal that records in q's backlog are finished.
func (b *Broker) finishInJournal(q *queue, sequences []uint64) {
	if q.durable() {
		batch := b.journal.Batch()
		batch.FinishBacklog(q.journal, sequences)
		b.journal.Submit(batch, nil)
	}
}

// adoptJob puts into the journal what stands in a backlog and is about to be
// written there once more, and waits for that.
func (b *Broker) adoptJob(j *job) error {
	var batch *mmapqueue.JournalBatch
	for _, n := range j.want {
		if !n.q.durable() {
			continue
		}
		for _, r := range j.refs[n.from:] {
			if r.Aux&auxSequence == 0 {
				continue
			}
			if batch == nil {
				batch = b.journal.Batch()
			}
			b.put(batch, n.q, r, dueOf(b.pool, r))
		}
	}
	if batch == nil {
		return nil
	}
	j.adopted = true
	return b.submitAndWait(batch)
}

func (b *Broker) submitAndWait(batch *mmapqueue.JournalBatch) error {
	written := make(chan error, 1)
	b.journal.Submit(batch, func(err error) { written <- err })
	return <-written
}

// adoptRead makes messages that a topic's own queue has read from its backlog the
// journal's: they go on to other queues, and the journal tells of that. It returns
// their descriptors; when the journal fails they stay what they are.
func (b *Broker) adoptRead(q *queue, refs []block.Ref) {
	read := make([]block.Ref, 0, len(refs))
	for _, r := range refs {
		if r.Aux&auxSequence != 0 {
			read = append(read, r)
		}
	}
	if len(read) == 0 || !q.durable() || q.owner.Load() != nil {
		return
	}
	batch := b.journal.Batch()
	f := b.foreign
	adopted := make([]block.Ref, len(read))
	f.mu.Lock()
	for i, r := range read {
		frame := frameOf(b.pool, r)
		id, _ := wire.FrameID(frame)
		adopted[i] = store(f.arena, id, wire.FrameTimestamp(frame), dueOf(b.pool, r), wire.FrameBody(frame))
		adopted[i].Aux |= r.Aux&auxAttempts | auxJournal
		b.put(batch, q, r, dueOf(b.pool, r))
	}
	f.mu.Unlock()
	if err := b.submitAndWait(batch); err != nil {
		b.diskFailed(err)
		b.drop(nil, adopted)
		return
	}
	b.finishBelow(q, b.sequences(read))
	b.drop(nil, read)
	for i, r := range refs {
		if r.Aux&auxSequence != 0 {
			refs[i], adopted = adopted[0], adopted[1:]
		}
	}
}

// finishSource tells the backlog that records are finished. It runs in the order
// of the writer.
func (b *Broker) finishSource(src source) {
	src.q.mu.Lock()
	defer src.q.mu.Unlock()
	if src.q.cursor != nil {
		src.q.cursor.Finish(src.sequences)
	}
}

// sequences returns those of the messages that have one.
func (b *Broker) sequences(refs []block.Ref) (sequences []uint64) {
	for _, r := range refs {
		if r.Aux&auxSequence != 0 {
			sequences = append(sequences, sequenceOf(b.pool, r))
		}
	}
	return sequences
}

// finished tells journal and backlog that messages of q are gone. The caller runs
// in the order of the writer and holds q.mu.
func (b *Broker) finished(q *queue, refs []block.Ref) {
	b.finishBelow(q, b.sequences(refs))
	b.finishJournaled(q, refs)
}

// finishJournaled tells the journal that messages need it no longer.
func (b *Broker) finishJournaled(q *queue, refs []block.Ref) {
	if q.journal == nil {
		return
	}
	var ids []uint64
	for _, r := range refs {
		if r.Aux&auxJournal != 0 {
			id, _ := wire.FrameID(frameOf(b.pool, r))
			ids = append(ids, id)
		}
	}
	if len(ids) > 0 {
		batch := b.journal.Batch()
		batch.Finish(q.journal, ids)
		if q.topic.syncs() {
			batch.Sync() // the channel is emptied, or its messages go elsewhere
		}
		b.journal.Submit(batch, nil)
	}
}

// carried is called when a batch stands in the backlog: the journal needs it no
// longer, nor does the place in the backlog where it came from. The caller holds
// n.q.mu.
func (b *Broker) carried(j *job, n want) {
	refs := j.refs[n.from:]
	if j.from == nil {
		b.finishBelow(n.q, b.sequences(refs))
	}
	if n.q.journal == nil {
		return
	}
	var ids []uint64
	for _, r := range refs {
		if r.Aux&auxJournal != 0 && n.journaled || r.Aux&auxSequence != 0 && j.adopted {
			id, _ := wire.FrameID(frameOf(b.pool, r))
			ids = append(ids, id)
		}
	}
	if len(ids) > 0 {
		batch := b.journal.Batch()
		batch.Finish(n.q.journal, ids)
		b.journal.Submit(batch, nil)
	}
}

// renamed tells the journal a queue's new name, and has it written down if there is
// somebody's message under the old one.
func (b *Broker) renamed(q *queue, name string) {
	batch := b.journal.Batch()
	batch.Rename(q.journal, name)
	if q.known.Load() {
		batch.Define(q.journal.Alone())
	}
	b.journal.Submit(batch, nil)
}

// end writes down that a queue is gone.
func (b *Broker) end(q *queue) {
	if q.known.Load() {
		batch := b.journal.Batch()
		batch.End(q.journal)
		if q.topic.syncs() {
			batch.Sync()
		}
		b.journal.Submit(batch, nil)
	}
}
