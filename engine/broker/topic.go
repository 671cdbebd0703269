package broker

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/mmapqueue"
)

// A Topic takes messages from publishers and gives each to all its channels.
//
// Publishers read one immutable view. While the topic has no channel, or is
// paused, the view has a hold queue, and messages wait there.
type Topic struct {
	b           *Broker
	name        string
	incarnation uint64 // its directory's
	ephemeral   bool
	view        atomic.Pointer[view]
	exiting     atomic.Bool
	mode        atomic.Int32  // a Durability; memory without a journal
	moves       atomic.Uint64 // submitted to the journal; see writer.awaitMoves
	messages    atomic.Uint64
	bytes       atomic.Uint64
	writer      writer
	locals      []topicLocal // by shard; each belongs to its loop

	mu      sync.Mutex // guards changes of view, channels and pumping
	paused  atomic.Bool
	pumping bool
	opening bool // paused by Open until a Restore; only before the loops run

	own      atomic.Bool  // mode was asked for
	modes    sync.Mutex   // one change of mode at a time
	securing bool         // see renew; in the writer's order
	unborn   atomic.Bool  // its birth is not written yet
	naming   atomic.Int32 // what channels have inherited and the writer has yet to give their name

	owed    atomic.Uint64 // the journal's segment since which channels have finished what the backlog may have to read again; 0: none
	waiting bool          // for Release: messages are held back as by a pause that nobody sees
}

// view is what publishers need, all of it from one instant.
type view struct {
	channels []*Channel // sorted by name
	hold     *queue     // not nil: messages wait here, counted by its gate

	// What the journal knows these queues by; nil where it needs not.
	group  *mmapqueue.JournalGroup // of hold, or of the channels, if publishes are to stand there
	onward *mmapqueue.JournalGroup // of the channels, while there is a hold
}

// gate counts the messages in a paused topic's hold queue, in the pump's hand
// included. The pump closes it when it is zero, and from then on publishers go
// straight to the channels: a producer's next message cannot pass its last.
type gate struct{ count atomic.Int64 }

const gateClosed = -1 << 62

// enter counts n messages in; false means that the gate is closed.
func (g *gate) enter(n int64) bool {
	for {
		c := g.count.Load()
		if c < 0 {
			return false
		}
		if g.count.CompareAndSwap(c, c+n) {
			return true
		}
	}
}

// topicLocal is one shard's part of a topic.
type topicLocal struct {
	batch   []block.Ref
	bytes   uint64
	waiters []waiter
	queued  bool
	view    *view    // at the end of a round: whom the batch is for; nil: the topic is going
	roomAt  int      // index of its decisions in Shard.room
	_       [64]byte // keep the shards apart
}

// Name returns the topic's name.
func (t *Topic) Name() string { return t.name }

// newQueue returns a queue for the channel of that name, "" for the topic's own.
func (t *Topic) newQueue(channel string) *queue {
	q := &queue{topic: t}
	q.init(t.b, t.ephemeral || isEphemeral(channel))
	if t.b.journal != nil && !q.ephemeral {
		q.journal = t.b.journal.NewQueue(t.name, channel)
		q.known.Store(t.durable())
	}
	return q
}

// setView makes v what publishers see. The caller holds mu.
func (t *Topic) setView(v *view) {
	v.group, v.onward = nil, nil
	if t.b.journal != nil && !t.ephemeral {
		var queues []*mmapqueue.JournalQueue
		for _, c := range v.channels {
			if c.q.journal != nil {
				queues = append(queues, c.q.journal)
			}
		}
		switch {
		case v.hold != nil:
			if len(queues) > 0 {
				v.onward = t.b.journal.NewGroup(queues)
			}
			if t.durable() {
				v.group = v.hold.journal.Alone()
			}
		case len(queues) > 0 && t.durable():
			v.group = t.b.journal.NewGroup(queues)
		}
	}
	t.view.Store(v)
}

// Channel returns the channel of that name, which it creates if there is none.
// The first channel of a topic inherits what the topic has kept.
func (t *Topic) Channel(name string) (*Channel, error) {
	if c := t.Find(name); c != nil {
		return c, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exiting.Load() {
		return nil, ErrExiting
	}
	if c := t.Find(name); c != nil {
		return c, nil
	}
	v := *t.view.Load()
	if most := t.b.opts.MaxChannels; most > 0 && len(v.channels) >= most && t.b.limited.Load() {
		return nil, ErrTooManyChannels
	}
	c := t.newChannel(name)
	inherit := len(v.channels) == 0 && !t.holdsLocked()
	if inherit && (t.ephemeral || !c.ephemeral) {
		c.q = v.hold
		v.hold = nil
		c.q.owner.Store(c) // before the rename: see queue.open
		if c.q.journal != nil {
			t.b.renamed(c.q, name)
		}
		if !t.ephemeral {
			t.inherit(c)
		}
	} else {
		c.q = t.newQueue(name)
		c.q.owner.Store(c)
	}
	v.channels = slices.Clone(v.channels)
	v.channels = append(v.channels, c)
	slices.SortFunc(v.channels, func(a, b *Channel) int { return strings.Compare(a.name, b.name) })
	t.b.tell(t, mmapqueue.News{Kind: mmapqueue.Birth, Channel: name}, &c.unborn, func() { t.setView(&v) })
	if inherit && v.hold != nil {
		t.letGoLocked() // an ephemeral channel's queue has no backlog: what was kept is copied
	}
	t.b.info("TOPIC(%s): new channel(%s)", t.name, name)
	t.b.changed(t.name, t.ephemeral || c.ephemeral)
	return c, nil
}

// inherit gives what a channel has got from its topic the channel's name in the
// backlog. Before that is done a crash would have it under the topic's name again, for
// all channels there are by then, and what was finished of it would come again. So
// until then no birth of a channel is answered, and nothing of it is handed out.
func (t *Topic) inherit(c *Channel) {
	unnamed := c.q.spilled.Load() // or it has no cursor, and gets one by its owner's name
	if unnamed {
		t.naming.Add(1)
		c.held.Or(heldUnnamed)
	}
	t.writer.submit(job{run: func(*mmapqueue.Backlog) {
		c.q.rename(t.b, c.name)
		t.writer.named()
		if unnamed {
			c.held.And(^heldUnnamed)
			t.naming.Add(-1)
			t.b.wakeAll(c)
		}
	}})
}

func (q *queue) rename(b *Broker, name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.cursor != nil {
		if err := q.cursor.Rename(name); err != nil {
			b.diskFailed(err)
		}
	}
}

// Find returns the channel of that name, nil when there is none.
func (t *Topic) Find(name string) *Channel {
	for _, c := range t.view.Load().channels {
		if c.name == name {
			return c
		}
	}
	return nil
}

// Exiting reports whether the topic is being deleted.
func (t *Topic) Exiting() bool { return t.exiting.Load() }

// Paused reports whether the topic holds its messages back.
func (t *Topic) Paused() bool { return t.paused.Load() }

// SetPaused pauses or unpauses the topic. What was published meanwhile follows
// in order when the pause ends.
func (t *Topic) SetPaused(paused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.paused.Load() == paused {
		return
	}
	t.b.tell(t, mmapqueue.News{Kind: pauseNews(paused)}, nil, func() { t.paused.Store(paused) })
	v := *t.view.Load()
	switch {
	case paused && v.hold == nil:
		v.hold = t.newQueue("")
		t.setView(&v)
	case !paused && !t.waiting && len(v.channels) > 0 && v.hold != nil:
		t.letGoLocked()
	}
	t.b.changed(t.name, t.ephemeral)
}

func pauseNews(paused bool) mmapqueue.NewsKind {
	if paused {
		return mmapqueue.Paused
	}
	return mmapqueue.Unpaused
}

// holdsLocked reports whether messages stay in the topic although it may have
// channels.
func (t *Topic) holdsLocked() bool { return t.waiting || t.paused.Load() }

// Release ends the wait that Options.Created asked for: the topic has the
// channels that it should begin with, and what was published meanwhile follows
// in order. Calling it again, or on a topic that does not wait, does nothing.
func (t *Topic) Release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waiting {
		return
	}
	t.waiting = false
	if v := t.view.Load(); !t.paused.Load() && len(v.channels) > 0 && v.hold != nil {
		t.letGoLocked()
	}
}

// letGoLocked ends the holding back: at once if nothing is held, else through
// the pump.
func (t *Topic) letGoLocked() {
	if !t.pumping && !t.closeGateLocked() {
		t.pumping = true
		t.b.helpers.Go(t.pump)
	}
}

// closeGateLocked sends publishers straight to the channels if the hold queue is
// empty, and reports whether it was.
func (t *Topic) closeGateLocked() bool {
	v := *t.view.Load()
	hold := v.hold
	if !hold.gate.count.CompareAndSwap(0, gateClosed) {
		return false
	}
	v.hold = nil
	t.setView(&v)
	hold.ring.Trim()
	if hold.spilled.Load() {
		// The next hold queue's cursor has the same name: two queues must not
		// read one cursor. Behind the gate is nobody, and the next hold queue's
		// batches come later.
		t.writer.submit(job{run: func(*mmapqueue.Backlog) {
			hold.end(t.b)
			t.writer.named()
		}})
	} else {
		t.b.end(hold)
	}
	return true
}

// pump moves what a pause has kept to the channels. It ends when the hold queue
// is empty, or when the topic is paused again, loses its last channel or is
// deleted.
func (t *Topic) pump() {
	for {
		hold, moved := t.pumpStep()
		if hold == nil {
			return
		}
		if !moved && hold.outstanding.Load() > 0 {
			t.writer.wait()
			switch {
			case hold.refillStep(t.b) > 0:
			case hold.waits(): // a refiller was quicker
			case hold.unreadable.Load():
				time.Sleep(refillPause)
			default:
				time.Sleep(time.Millisecond) // a batch is on its way to the writer
			}
		}
	}
}

// pumpStep moves one batch. It holds mu, so that it never uses a view that was
// replaced; it does not wait. No queue is returned when the pump is to end.
func (t *Topic) pumpStep() (hold *queue, moved bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.view.Load()
	if t.holdsLocked() || t.exiting.Load() || v.hold == nil || len(v.channels) == 0 || t.b.closing.Load() {
		t.pumping = false
		return nil, false
	}
	var refs [256]block.Ref
	n := v.hold.pop(refs[:])
	if n == 0 {
		if t.closeGateLocked() {
			t.pumping = false
			return nil, false
		}
		return v.hold, false
	}
	t.b.foreign.move(t, v, refs[:n])
	v.hold.taken.Add(-uint64(n))
	v.hold.gate.count.Add(-int64(n))
	t.b.kickRefill(v.hold)
	return v.hold, true
}

// Empty drops what the topic itself keeps; its channels stay as they are. It
// returns when a crash brings nothing of it back, or with what keeps that from being
// so. It must not be called on a loop.
func (t *Topic) Empty() error {
	t.mu.Lock()
	hold := t.view.Load().hold
	t.mu.Unlock()
	if hold == nil {
		return nil
	}
	if !t.b.emptied(hold) {
		return ErrExiting
	}
	t.writer.inOrder(func(*mmapqueue.Backlog) {
		n := hold.empty(t.b)
		hold.taken.Add(-uint64(n))
		hold.gate.count.Add(-int64(n))
	})
	return t.keepEmpty()
}

// emptied tells the journal that a queue is being emptied. Whatever stands there
// before that is where it can be emptied when this returns: nothing stays that the
// journal no longer knows. It returns false when the broker is closed meanwhile.
func (b *Broker) emptied(q *queue) bool {
	if !q.known.Load() {
		return true
	}
	batch := b.journal.Batch()
	batch.EmptyQueue(q.journal)
	b.journal.Submit(batch, nil)
	all := b.onAll(func(*Shard) {}) // publishers had a round in which they pushed
	b.foreign.grace()
	return all
}

// settle returns when what was told of the topic's messages is written, and as safe
// as its mode says.
func (t *Topic) settle() error {
	if t.b.journal == nil {
		return nil
	}
	batch := t.b.journal.Batch()
	batch.Flush()
	if t.syncs() {
		batch.Sync()
	}
	return t.b.submitAndWait(batch)
}

// keepEmpty returns when neither journal nor backlog brings back what was dropped.
// The journal comes first: what it has written to be finished is then on its way to
// the backlog.
func (t *Topic) keepEmpty() error {
	err := t.settle()
	t.writer.inOrder(func(log *mmapqueue.Backlog) {
		if log != nil {
			err = errors.Join(err, log.Sync())
		}
	})
	return err
}
