package broker

import (
	"errors"
	"math"
	"sync"

	"github.com/zsqio/zsq/mmapqueue"
)

// A clean stop leaves in the journal what is small: a topic with a few messages
// would cost a directory, a segment and a cursor file, ten thousand of them seconds.
// The journal begins a segment for that, and keeps nothing older.
const (
	leaveMessages = 32       // of a topic and all its channels
	leaveBytes    = 64 << 10 // likewise, with some allowance for each message
	leaveBatch    = 4 << 20  // bytes of one batch
)

// leavings collects what topics leave.
type leavings struct {
	mu      sync.Mutex
	batches []*mmapqueue.JournalBatch // each but the last one is full
}

// batch returns the one to add to.
func (l *leavings) batch(b *Broker) *mmapqueue.JournalBatch {
	if n := len(l.batches); n > 0 && l.batches[n-1].Size() < leaveBatch {
		return l.batches[n-1]
	}
	batch := b.journal.Batch()
	if batch.Sync(); len(l.batches) == 0 {
		batch.Anew()
	}
	l.batches = append(l.batches, batch)
	return batch
}

// leaves takes over a topic's messages if they are few, and none of them is in the
// backlog or from there.
func (b *Broker) leaves(all []collector) bool {
	if b.journal == nil || b.opts.Unload {
		return false
	}
	messages := 0
	for i := range all {
		q := all[i].q
		messages += all[i].waits()
		if messages > leaveMessages || q.cursor != nil && q.cursor.Depth() > 0 {
			return false
		}
	}
	jobs := make([]job, len(all))
	bytes, fits := 0, true
	for i := range all {
		all[i].take(&jobs[i], math.MaxInt)
		for _, r := range jobs[i].refs {
			bytes += int(r.Len) + 64
			fits = fits && bytes <= leaveBytes && r.Aux&auxSequence == 0
		}
	}
	if !fits {
		for i := range all {
			all[i].giveBack(&jobs[i])
		}
		return false
	}
	b.leavings.mu.Lock()
	defer b.leavings.mu.Unlock()
	for i, j := range jobs {
		for k, r := range j.refs {
			b.put(b.leavings.batch(b), all[i].q, r, j.due[k])
		}
	}
	return true
}

// leave ends the journal of a broker that is closed: only what topics leave is still
// in it, and what no other file tells of them.
func (b *Broker) leave() error {
	l := &b.leavings
	for _, t := range b.Topics() {
		if t.ephemeral || t.exiting.Load() {
			continue
		}
		if b.desk.since != 0 {
			t.tellAll(func(n mmapqueue.News) { l.batch(b).News(n) })
		}
		if t.own.Load() {
			l.batch(b).News(mmapqueue.News{Kind: mmapqueue.Durability, Topic: t.name, Value: uint64(t.mode.Load())})
		}
	}
	if len(l.batches) == 0 {
		return b.journal.Remove()
	}
	first := uint64(0)
	for _, batch := range l.batches {
		if err := b.submitAndWait(batch); err != nil {
			return errors.Join(err, b.journal.Close())
		}
		if first == 0 {
			first = b.journal.Segment()
		}
	}
	return b.journal.CloseFrom(first)
}

// tellAll says all that there is to tell of a topic and its channels.
func (t *Topic) tellAll(tell func(n mmapqueue.News)) {
	tell(mmapqueue.News{Kind: mmapqueue.Birth, Topic: t.name, Value: t.incarnation})
	if t.paused.Load() {
		tell(mmapqueue.News{Kind: mmapqueue.Paused, Topic: t.name})
	}
	for _, c := range t.Channels() {
		if c.ephemeral {
			continue
		}
		tell(mmapqueue.News{Kind: mmapqueue.Birth, Topic: t.name, Channel: c.name})
		if c.Paused() {
			tell(mmapqueue.News{Kind: mmapqueue.Paused, Topic: t.name, Channel: c.name})
		}
	}
}
