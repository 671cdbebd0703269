package broker

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/zsqio/zsq/mmapqueue"
)

// A Channel hands every message to exactly one of its subscribers.
type Channel struct {
	topic     *Topic
	name      string
	ephemeral bool
	q         *queue
	held      atomic.Int32 // not 0: no loop hands anything out; see heldPaused
	exiting   atomic.Bool
	unborn    atomic.Bool // its birth is not written yet
	clients   atomic.Int64
	deleting  sync.Once

	requeues atomic.Uint64
	timeouts atomic.Uint64
	inFlight flow // summed by the shards once per round; see Channel.Figures
	deferred flow

	// hungry has shard i's bit set while that shard has credit for the channel
	// and found nothing. The shard sets it and then looks once more; a
	// publisher pushes and then loads it; so one of the two sees the other.
	hungry atomic.Uint64
	// near says of a shard whose bit is in hungry for whom it starves; elsewhere
	// its bits mean nothing.
	near      [NearNone]atomic.Uint64
	delivered [nearCount]atomic.Uint64
	locals    []atomic.Pointer[channelLocal] // by shard; stored by its loop
}

func (t *Topic) newChannel(name string) *Channel {
	c := &Channel{topic: t, name: name, ephemeral: isEphemeral(name)}
	c.locals = make([]atomic.Pointer[channelLocal], len(t.b.shards))
	return c
}

// Why a channel's deliveries are held back, in Channel.held.
const (
	heldPaused   = 1 << iota // it is paused
	heldUnnamed              // what it has inherited bears the topic's name in the backlog; see Topic.inherit
	heldEmptying             // this many times the calls of Empty under way
)

const ephemeralSuffix = "#ephemeral"

func isEphemeral(name string) bool { return strings.HasSuffix(name, ephemeralSuffix) }

// Name returns the channel's name.
func (c *Channel) Name() string { return c.name }

// Topic returns the channel's topic.
func (c *Channel) Topic() *Topic { return c.topic }

// Paused reports whether deliveries are held back until somebody unpauses them.
func (c *Channel) Paused() bool { return c.held.Load()&heldPaused != 0 }

func (c *Channel) setPaused(paused bool) {
	if paused {
		c.held.Or(heldPaused)
	} else {
		c.held.And(^heldPaused)
	}
}

// SetPaused pauses or unpauses deliveries. Time-outs and due times go on.
func (c *Channel) SetPaused(paused bool) {
	t := c.topic
	t.mu.Lock()
	if c.exiting.Load() || c.Paused() == paused {
		t.mu.Unlock()
		return
	}
	t.b.tell(t, mmapqueue.News{Kind: pauseNews(paused), Channel: c.name}, nil, func() { c.setPaused(paused) })
	t.mu.Unlock()
	if !paused {
		t.b.wakeAll(c)
	}
	c.topic.b.changed(c.topic.name, c.ephemeral || c.topic.ephemeral)
}

// Empty drops everything the channel holds: waiting, deferred and in flight. It
// returns after every loop has done its part and a crash brings nothing of it back,
// or with what keeps that from being so. It must not be called on a loop.
//
// Meanwhile the loops hand out nothing. A message that a consumer gives back, or
// that times out, could else stay a hop ahead of the emptying:
//
//	Empty                   loop A                    loop B
//	                                                  m is requeued, to the writer
//	B forgets what it holds
//	A forgets what it holds
//	                        m from backlog to ring to a consumer
//	drops what waits
//	                        m is requeued
//
// While deliveries are held, messages go only one way, from the loops to the queue.
func (c *Channel) Empty() error {
	b := c.topic.b
	if !b.emptied(c.q) {
		return ErrExiting
	}
	c.held.Add(heldEmptying)
	all := true
	for _, round := range []func(s *Shard){
		func(*Shard) {}, // in rounds that began earlier some were still handed out
		func(s *Shard) {
			s.dropMail(c)
			if l := c.locals[s.index].Load(); l != nil {
				s.emptyLocal(l)
			}
		},
		func(*Shard) {}, // those rounds have ended, and told what is gone
	} {
		all = all && b.onAll(round)
	}
	if all {
		c.topic.writer.inOrder(func(*mmapqueue.Backlog) { c.q.empty(b) })
	}
	if c.held.Add(-heldEmptying) == 0 && all {
		b.wakeAll(c)
	}
	if !all {
		return ErrExiting
	}
	return c.topic.keepEmpty()
}

// delete ends the channel after it has left the topic's view. It returns when
// that is done, by whomever.
func (c *Channel) delete() { c.deleting.Do(c.end) }

func (c *Channel) end() {
	b := c.topic.b
	c.exiting.Store(true)
	all := b.onAll(func(s *Shard) {
		if l := c.locals[s.index].Load(); l != nil {
			s.closeLocal(l)
		}
	})
	if !all {
		return // the next start ends it: the journal has its death
	}
	b.foreign.grace()
	// Nobody uses the old view any more.
	c.topic.writer.inOrder(func(*mmapqueue.Backlog) { c.q.end(b) })
}

// part has a queue leave the backlog, in the order of the writer: its channel has just
// left the view. What comes behind that may be for another channel of the same name,
// whose cursor must not be this one; and what publishers of the old view still have on
// its way is for nobody. The caller holds t.mu, so that no such channel is there yet.
func (t *Topic) part(q *queue) {
	if q.ephemeral {
		return
	}
	t.writer.submit(job{run: func(*mmapqueue.Backlog) {
		q.dead.Store(true)
		q.mu.Lock()
		q.deleteCursor(t.b)
		q.mu.Unlock()
		t.writer.named()
	}})
}

// end drops what a queue holds, its cursor included, and makes it dead. It runs
// in the writer's order.
func (q *queue) end(b *Broker) {
	q.dead.Store(true)
	q.empty(b)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deleteCursor(b)
	b.end(q)
}

// deleteCursor takes the queue's cursor away, if it has one, and what it had to read.
// The caller holds q.mu.
func (q *queue) deleteCursor(b *Broker) {
	if q.cursor == nil {
		return
	}
	q.outstanding.Add(-q.cursor.Depth())
	if err := q.cursor.Delete(); err != nil {
		b.diskFailed(err)
	}
	q.cursor = nil
}
