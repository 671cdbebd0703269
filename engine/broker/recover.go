package broker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/diskqueue"
	"github.com/zsqio/zsq/mmapqueue"
)

// journalDir is the journal's folder beside the backlogs. No backlog has such a
// name.
const journalDir = "journal"

// A start with a journal:
//
//  1. replay it: each queue's messages that were in memory, and what it has
//     finished in its backlog;
//  2. open the backlogs and finish that there (openTopic);
//  3. bring the messages back, in front of what the backlogs hold. They still
//     stand in the journal, in the segments their chunks are marked with;
//  4. make the backlogs remember step 2, and write on.
//
// A crash on the way does no harm: nothing is appended to a backlog, and nothing
// goes from the journal, before step 4 is done.
type recovery struct {
	queues map[string][]*mmapqueue.RecoveredQueue // by topic
	topics map[string]*mmapqueue.RecoveredTopic
	ended  []*mmapqueue.JournalQueue // of what is dead, though its messages stand there
}

// load is a message to be brought back.
type load struct {
	q  *queue
	at int // index in q.left; -1: it is deferred
	m  *mmapqueue.RecoveredMessage
}

// suspects are messages, by id, that may stand in the backlog below a sequence
// though the journal holds them, or held them and knows their end: the crash may
// have come just when one had been written to the backlog. There it is dropped.
// The journal keeps the list through the next crash, because a message may be
// finished before its copy is met.
type suspects map[uint64]uint64

// known reports whether r is in the journal as well.
func (s suspects) known(r *mmapqueue.Record) bool { return r.Sequence < s[r.ID] }

// openJournal replays the journal of the run before, if there was one.
func (b *Broker) openJournal() (*recovery, *mmapqueue.Journal, error) {
	dir := filepath.Join(b.opts.DataPath, backlogsDir, journalDir)
	o := b.opts.Journal
	switch b.opts.Durability {
	case DurabilityMemory:
		o.SegmentBytes = min(o.SegmentBytes, journalSegmentSmall)
	case DurabilityProcess:
		o.SegmentBytes = b.segmentBytes(0)
	case DurabilityDisk:
		b.syncing.Store(true)
	}
	o.Rolled = b.kickTrim
	j, err := mmapqueue.OpenJournal(dir, o)
	if err != nil {
		return nil, nil, err
	}
	found, err := j.Replay()
	if err != nil {
		return nil, nil, errors.Join(err, j.Close())
	}
	rec := &recovery{queues: map[string][]*mmapqueue.RecoveredQueue{}, topics: found.Topics}
	for _, q := range found.Queues {
		if n := found.Topics[q.Topic]; n != nil && (n.Dead || n.Channels[q.Channel] != nil && n.Channels[q.Channel].Dead) {
			rec.ended = append(rec.ended, q.Queue)
			continue
		}
		rec.queues[q.Topic] = append(rec.queues[q.Topic], q)
		if len(q.Messages) > 0 {
			b.marking.Store(true)
		}
	}
	return rec, j, nil
}

// died reports whether the journal has last told of a channel's death.
func (b *Broker) died(topic, channel string) bool {
	n := b.news[topic]
	return n != nil && n.Channels[channel] != nil && n.Channels[channel].Dead
}

// adopt gives a topic that is being opened what the journal has for it. It
// returns v's queues with the messages counted, and notes what is to be loaded.
func (t *Topic) adopt(v *view, queues []*mmapqueue.RecoveredQueue) (loads []load) {
	for _, rq := range queues {
		q := v.hold
		if rq.Channel != "" {
			q = t.queueOf(v, rq.Channel)
		}
		// The last one of a name is the one that is written on.
		q.journal = rq.Queue
		q.known.Store(true)
		deferrable := rq.Channel != ""
		if q.cursor != nil && q.cursor.Depth() > 0 {
			q.suspect(rq, t.writer.log.NextSequence())
		}
		for i := range rq.Messages {
			m := &rq.Messages[i]
			at := -1
			if m.Due == 0 || !deferrable {
				at = len(q.left)
				q.left = append(q.left, block.Ref{})
			}
			loads = append(loads, load{q, at, m})
		}
	}
	return loads
}

// suspect collects the suspects of a queue whose backlog, with records to read,
// goes on at sequence next. An end above that is of a log that has begun anew.
func (q *queue) suspect(rq *mmapqueue.RecoveredQueue, next uint64) {
	if q.suspects == nil {
		q.suspects = suspects{}
	}
	for _, s := range rq.Suspects {
		if s.End <= next {
			q.suspects[s.ID] = s.End
		}
	}
	for i := range rq.Messages {
		q.suspects[rq.Messages[i].ID] = next
	}
}

// noteSuspects adds a topic's suspects to a batch.
func (t *Topic) noteSuspects(batch *mmapqueue.JournalBatch) {
	for _, q := range t.queues() {
		byEnd := map[uint64][]uint64{}
		for id, end := range q.suspects {
			byEnd[end] = append(byEnd[end], id)
		}
		for end, ids := range byEnd {
			batch.Suspect(q.journal, end, ids)
		}
	}
}

// finishRecovered tells a topic's backlog what the journal knows to be finished.
func (t *Topic) finishRecovered(queues []*mmapqueue.RecoveredQueue) error {
	names := t.writer.log.Names()
	for _, rq := range queues {
		if len(rq.Finished) == 0 || !slices.Contains(names, rq.Channel) {
			continue
		}
		c, err := t.writer.log.Cursor(rq.Channel)
		if err != nil {
			return err
		}
		if err := c.FinishAgain(rq.Finished); err != nil {
			return err
		}
		t.owed.Store(1)
	}
	return nil
}

// queueOf returns the queue of a channel of a topic that is being opened.
func (t *Topic) queueOf(v *view, channel string) *queue {
	for _, c := range v.channels {
		if c.name == channel {
			return c.q
		}
	}
	c := t.newChannel(channel)
	c.q = t.newQueue(channel)
	c.q.owner.Store(c)
	v.channels = append(v.channels, c)
	return c.q
}

// load brings the messages back, oldest segment first, so that few chunks hold the
// journal back for long. Channels share a body as before. Deferred ones go to a
// shard.
func (b *Broker) load(loads []load) {
	slices.SortStableFunc(loads, func(x, y load) int {
		if x.m.Segment != y.m.Segment {
			return int(int64(x.m.Segment) - int64(y.m.Segment))
		}
		return int(int64(x.m.ID) - int64(y.m.ID))
	})
	arena := block.NewArena(b.pool)
	var last *mmapqueue.RecoveredMessage
	var lastRef block.Ref
	for _, l := range loads {
		m := l.m
		var r block.Ref
		if last != nil && last.ID == m.ID && last.Due == m.Due && last.Segment == m.Segment {
			r = lastRef
			b.pool.Retain(r.Chunk, 1)
		} else {
			arena.SetMark(m.Segment)
			r = store(arena, m.ID, m.Timestamp, m.Due, m.Body)
			last, lastRef = m, r
		}
		r.Aux = r.Aux&^auxAttempts | uint32(m.Attempts) | auxJournal
		if l.at >= 0 {
			l.q.left[l.at] = r
		} else {
			b.shards[0].postDeferred(l.q.owner.Load(), r)
		}
	}
	arena.Close()
}

// openAll opens the topics that have a backlog in root, messages in the journal,
// or files of upstream's. It is the body of Open.
func (b *Broker) openAll(root string, dirs []os.DirEntry, rec *recovery, theirs map[string][]diskqueue.Queue) ([]*Topic, error) {
	paths := map[string]string{}
	for _, d := range dirs {
		// Sorted by incarnation: only the last one counts. An older one is what
		// a deletion could not remove.
		name, ok := topicOf(d)
		if !ok {
			continue
		}
		path := filepath.Join(root, d.Name())
		if rec.ancestor(name, d.Name()) {
			if err := os.RemoveAll(path); err != nil {
				b.diskFailed(err)
			}
			continue
		}
		paths[name] = path
	}
	fresh := func(name string) {
		if paths[name] == "" {
			paths[name] = b.directory(name, b.ids.take(1))
		}
	}
	for name := range rec.queues {
		fresh(name)
	}
	for name := range theirs {
		fresh(name)
	}
	names := make([]string, 0, len(paths))
	for name := range paths {
		names = append(names, name)
	}
	slices.Sort(names)
	opened := make([]*Topic, len(names))
	loads := make([][]load, len(names))
	err := inParallel(len(names), sideBySide(), func(i int) (err error) {
		opened[i], loads[i], err = b.openTopic(names[i], paths[names[i]], rec.queues[names[i]], theirs[names[i]])
		return err
	})
	if err != nil {
		return nil, err
	}
	b.load(slices.Concat(loads...))
	return opened, nil
}

// ancestor reports whether a directory is that of a topic that has died, whatever
// there is of that name since.
func (rec *recovery) ancestor(topic, dir string) bool {
	n := rec.topics[topic]
	if n == nil || !n.Whole {
		return false
	}
	incarnation := incarnationOf(dir)
	return n.Dead || incarnation != 0 && incarnation < n.Value
}

// startJournal ends a recovery: see recovery, step 4.
func (b *Broker) startJournal(rec *recovery, opened []*Topic) error {
	err := inParallel(len(opened), sideBySide(), func(i int) error {
		if t := opened[i]; t.owed.Swap(0) != 0 {
			return t.writer.log.Sync()
		}
		return nil
	})
	if err != nil {
		return err
	}
	j := b.journal
	_, b.desk.since = j.Segments() // the engine's file may lack what they tell
	j.Start()
	b.pool.SetMark(j.Segment())
	batch := j.Batch()
	for _, t := range opened {
		t.noteSuspects(batch)
	}
	for _, q := range rec.ended {
		batch.End(q)
	}
	j.Submit(batch, nil)
	return j.Flush()
}

// queues returns the topic's queues. Before the loops run they do not change.
func (t *Topic) queues() []*queue {
	v := t.view.Load()
	all := queuesOf(v.channels)
	if v.hold != nil {
		all = append(all, v.hold)
	}
	return all
}
