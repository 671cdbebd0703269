package broker

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zsqio/zsq/mmapqueue"
)

// What becomes of topics and channels stands in the journal in every mode: births,
// deaths, pauses and a topic's own durability. It is written before whoever asked
// for it has an answer; a loop does not wait, its client does. A file of the
// engine's says the same of all topics at once, and the journal keeps its news until
// that file does:
//
//	engine                              broker
//	NewsMark                            what has been told so far, and the segment
//	reads the topics, writes the file
//	NewsSaved(mark)                     segments before that hold no news that counts
//
// A start hears the file first (Restore), then the journal's news in their order.
//
// newsDesk keeps the two in step. What is told is visible before mu is let go, so
// that whoever finds a topic finds its birth submitted, and whoever takes a mark
// sees all that was told before.
type newsDesk struct {
	mu    sync.Mutex
	count uint64 // of news told
	since uint64 // no news that the file lacks is in an older segment; 0: there is none
}

// NewsMark is a moment in what was told of topics and channels.
type NewsMark struct{ count, segment uint64 }

// NewsMark comes before the topics are read to be saved.
func (b *Broker) NewsMark() NewsMark {
	b.desk.mu.Lock()
	defer b.desk.mu.Unlock()
	return NewsMark{b.desk.count, b.segment()}
}

// NewsSaved says that the topics as they were behind the mark, or later, are saved,
// so that they survive what the mode promises.
func (b *Broker) NewsSaved(m NewsMark) {
	b.desk.mu.Lock()
	defer b.desk.mu.Unlock()
	switch {
	case b.desk.count == m.count:
		b.desk.since = 0
	case b.desk.since != 0:
		b.desk.since = max(b.desk.since, m.segment)
	}
}

// tell runs visible, which makes n true for everybody, and has it written down
// first. born, which may be nil, is cleared when that is done. The caller holds the
// mutex that orders changes of that topic.
func (b *Broker) tell(t *Topic, n mmapqueue.News, born *atomic.Bool, visible func()) {
	if b.journal == nil || t.ephemeral || isEphemeral(n.Channel) || !b.limited.Load() {
		visible()
		return
	}
	n.Topic = t.name
	batch := b.journal.Batch()
	batch.News(n)
	if t.syncs() {
		batch.Sync()
	}
	done := func(error) {}
	if born != nil {
		born.Store(true)
		done = func(err error) {
			if err == nil {
				born.Store(false)
			}
		}
	}
	b.desk.mu.Lock()
	defer b.desk.mu.Unlock()
	b.desk.count++
	if b.desk.since == 0 {
		b.desk.since = b.journal.Segment()
	}
	b.journal.Submit(batch, done)
	visible()
}

// Settle returns when all that was told before is written, or an error that says
// why something is not. It must not be called on a loop.
func (b *Broker) Settle() error {
	if b.journal == nil {
		return nil
	}
	return b.journal.Flush()
}

// AwaitBirth has p's Waiter hear no sooner than what is told of the channel's and
// its topic's birth is written, and what a channel of the topic has inherited bears
// that one's name in the backlog. It belongs to the round, like Publish.
func (s *Shard) AwaitBirth(p *Publisher, c *Channel) {
	n := len(s.unborn)
	for _, born := range []*atomic.Bool{&c.topic.unborn, &c.unborn} {
		if born.Load() {
			s.unborn = append(s.unborn, born)
		}
	}
	if len(s.unborn) > n {
		s.opened(p)
	}
	if c.topic.naming.Load() > 0 {
		s.opened(p)
		named := &ticket{shard: s, waiters: []waiter{p.join()}}
		c.topic.writer.submit(job{run: func(*mmapqueue.Backlog) { s.post(mail{ticket: named}) }})
	}
}

// AwaitBirth returns when what Shard.AwaitBirth waits for is written, or an error that
// says why it is not. It must not be called on a loop.
func (c *Channel) AwaitBirth() error {
	if c.topic.naming.Load() > 0 {
		c.topic.writer.wait()
	}
	return c.topic.b.Settle()
}

// births is what a ticket does for those who waited for births: these are written
// now.
type births []*atomic.Bool

func (all births) settle() {
	for _, born := range all {
		born.Store(false)
	}
}

// overlay applies the journal's news of a topic to what the engine's file says.
func overlay(n *mmapqueue.RecoveredTopic, paused *bool, channels map[string]bool) {
	if n.Whole {
		*paused = false
		clear(channels)
	}
	if n.Paused != nil {
		*paused = *n.Paused
	}
	for name, c := range n.Channels {
		if c.Dead {
			delete(channels, name)
			continue
		}
		p := channels[name]
		if c.Paused != nil {
			p = *c.Paused
		}
		channels[name] = p
	}
}

// Restore brings back a topic and its channels from an earlier run, before any
// loop runs: as given, and as the journal has it since. Calling it again for the
// same topic adds channels.
func (b *Broker) Restore(name string, paused bool, channels map[string]bool) error {
	channels = maps.Clone(channels)
	if channels == nil {
		channels = map[string]bool{}
	}
	if n := b.news[name]; n != nil {
		if n.Dead {
			return nil
		}
		overlay(n, &paused, channels)
		b.restored[name] = true
	}
	t, err := b.Topic(name)
	if err != nil {
		return err
	}
	// What the topic holds back is for all its channels, not for the first.
	t.SetPaused(true)
	for c, paused := range channels {
		ch, err := t.Channel(c)
		if err != nil {
			return err
		}
		ch.setPaused(paused)
	}
	t.opening = false
	t.SetPaused(paused)
	return nil
}

// EndRestore comes after the last Restore. It brings back what only the journal
// knows, and ends the pause of topics that hold messages back and that nobody
// paused. From then on the limits hold, and what becomes of topics is told.
func (b *Broker) EndRestore() {
	for _, name := range slices.Sorted(maps.Keys(b.news)) {
		if n := b.news[name]; !n.Dead && !b.restored[name] {
			if err := b.Restore(name, false, nil); err != nil {
				b.diskFailed(err)
			}
		}
	}
	b.news, b.restored = nil, nil
	b.limited.Store(true)
	for _, t := range b.Topics() {
		if t.opening {
			t.opening = false
			t.SetPaused(false)
		}
	}
}

// inherited returns the durability that a topic of that name has of its own from
// an earlier run.
func (b *Broker) inherited(name string) (d Durability, ok bool) {
	if n := b.news[name]; n != nil && !n.Dead && n.Durability != nil && *n.Durability <= uint64(DurabilityDisk) {
		return Durability(*n.Durability), true
	}
	return 0, false
}

// retell writes down once more what no file but the journal has: the durability of
// topics that have one of their own. It is called when older segments are to go.
func (b *Broker) retell() error {
	var batch *mmapqueue.JournalBatch
	for _, t := range b.Topics() {
		t.mu.Lock()
		if t.own.Load() && !t.exiting.Load() {
			if batch == nil {
				batch = b.journal.Batch()
			}
			batch.News(mmapqueue.News{Kind: mmapqueue.Durability, Topic: t.name, Value: uint64(t.mode.Load())})
			if t.syncs() {
				batch.Sync()
			}
		}
		t.mu.Unlock()
	}
	if batch == nil {
		return nil
	}
	return b.submitAndWait(batch)
}

// SetDurability gives a topic a durability of its own. When it returns without an
// error, everything that was accepted is as safe as that. It must not be called on a
// loop, and fails with ErrEphemeral for a topic that is never more than in memory.
//
// On the way up:
//
//  1. what is published from now on is written as the mode says, and so is what
//     somebody gives back; every loop has seen that;
//  2. what waits in memory goes to the backlog, and what consumers hold or is
//     deferred to the journal;
//  3. both are synced; then the journal is told of the mode.
func (b *Broker) SetDurability(t *Topic, d Durability) error {
	if t.ephemeral {
		return ErrEphemeral
	}
	if b.journal == nil {
		return errors.New("broker: not open")
	}
	if b.opts.MemQueueSize == 0 {
		d = max(d, DurabilityProcess)
	}
	t.modes.Lock() // one change at a time
	defer t.modes.Unlock()
	was := Durability(t.mode.Load())
	t.mu.Lock()
	if t.exiting.Load() {
		t.mu.Unlock()
		return ErrTopicNotFound
	}
	b.durable(d)
	if d >= DurabilityProcess {
		for _, q := range t.allQueues() {
			q.known.Store(q.journal != nil) // or a queue that is renamed would be its old self for the journal
		}
	}
	t.mode.Store(int32(d))
	v := *t.view.Load()
	t.setView(&v)
	t.mu.Unlock()
	if d > was {
		if err := t.secure(); err != nil {
			return err
		}
	}
	t.mu.Lock()
	if t.exiting.Load() {
		t.mu.Unlock()
		return ErrTopicNotFound
	}
	t.own.Store(true)
	b.tell(t, mmapqueue.News{Kind: mmapqueue.Durability, Value: uint64(d)}, nil, func() {})
	t.mu.Unlock()
	return b.Settle()
}

// Durability returns what the topic's messages survive, and whether that differs
// from the broker's own.
func (t *Topic) Durability() (d Durability, own bool) {
	d = Durability(t.mode.Load())
	return d, !t.ephemeral && t.own.Load() && d != t.b.opts.Durability
}

// durable prepares the journal for topics in a mode.
func (b *Broker) durable(d Durability) {
	if d < DurabilityProcess {
		return
	}
	if d >= DurabilityDisk {
		b.syncing.Store(true)
	}
	b.marking.Store(true)
	if least := b.segmentBytes(0); b.journal.SegmentBytes() < least {
		b.journal.SetSegmentBytes(least)
	}
}

// secure makes what a topic has in memory as safe as its mode, which every loop is
// about to see.
func (t *Topic) secure() error {
	b := t.b
	if !b.onAll(func(*Shard) {}) {
		return ErrExiting
	}
	b.foreign.grace()
	var err error
	for _, q := range t.allQueues() {
		if !q.ephemeral {
			t.writer.inOrder(func(log *mmapqueue.Backlog) {
				if log != nil && q.direct {
					t.securing = true
					t.drain(q)
					t.securing = false
				}
				err = errors.Join(err, t.secureLeft(q))
			})
		}
	}
	if !b.onAll(func(s *Shard) { s.secureAll(t) }) || !b.onAll(func(*Shard) {}) { // those rounds have ended, and submitted it
		return errors.Join(err, ErrExiting)
	}
	t.pumpGrace()
	t.writer.inOrder(func(log *mmapqueue.Backlog) {
		if log != nil { // in any case: the journal does not know what was finished there
			err = errors.Join(err, log.Sync())
		}
	})
	return err
}

// pumpGrace returns when what the pump had in its hand has gone on.
func (t *Topic) pumpGrace() {
	t.mu.Lock()
	defer t.mu.Unlock()
}

// allQueues returns the topic's queues as they are now.
func (t *Topic) allQueues() []*queue {
	v := t.view.Load()
	all := queuesOf(v.channels)
	if v.hold != nil {
		all = append(all, v.hold)
	}
	return all
}

// secureLeft writes what a queue holds outside its ring, or could not be drained,
// to the journal. It runs in the order of the writer, and waits for the disk.
func (t *Topic) secureLeft(q *queue) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := t.b.journal.Batch()
	for i, r := range q.left {
		if r.Aux&(auxSequence|auxJournal) == 0 {
			t.b.put(batch, q, r, dueOf(t.b.pool, r))
			q.left[i].Aux |= auxJournal
		}
	}
	return t.b.submitAndWait(batch)
}

// secureAll writes what the shard holds of a topic's channels, deferred or in
// flight, to the journal.
func (s *Shard) secureAll(t *Topic) {
	for i := range s.wheel.slab {
		switch e := &s.wheel.slab[i]; e.kind {
		case kindInFlight:
			if c := s.subs[e.owner].local.c; c.topic == t {
				e.ref = s.secured(c, e.ref, 0)
			}
		case kindDeferred:
			if c := s.locals[e.owner].c; c.topic == t {
				e.ref = s.secured(c, e.ref, e.dueNs-s.nowNs+s.wallNs)
			}
		}
	}
	for _, l := range s.locals {
		if l != nil && l.c.topic == t {
			for i, r := range l.back {
				l.back[i] = s.secured(l.c, r, 0)
			}
		}
	}
}
