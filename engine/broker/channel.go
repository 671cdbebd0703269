package broker

import (
	"strings"
	"sync/atomic"
)

// A Channel hands every message to exactly one of its subscribers.
type Channel struct {
	topic     *Topic
	name      string
	ephemeral bool
	q         *queue
	paused    atomic.Bool
	exiting   atomic.Bool
	clients   atomic.Int64

	messages atomic.Uint64 // taken from the topic, deferred ones included
	requeues atomic.Uint64
	timeouts atomic.Uint64
	inFlight atomic.Int64 // summed by the shards once per round
	deferred atomic.Int64

	// hungry has shard i's bit set while that shard has credit for the channel
	// and found nothing. The shard sets it and then looks once more; a
	// publisher pushes and then loads it; so one of the two sees the other.
	hungry atomic.Uint64
	locals []atomic.Pointer[channelLocal] // by shard; stored by its loop
}

func (t *Topic) newChannel(name string) *Channel {
	c := &Channel{topic: t, name: name, ephemeral: strings.HasSuffix(name, ephemeralSuffix)}
	c.locals = make([]atomic.Pointer[channelLocal], len(t.b.shards))
	return c
}

const ephemeralSuffix = "#ephemeral"

// Name returns the channel's name.
func (c *Channel) Name() string { return c.name }

// Topic returns the channel's topic.
func (c *Channel) Topic() *Topic { return c.topic }

// Paused reports whether deliveries are held back.
func (c *Channel) Paused() bool { return c.paused.Load() }

// SetPaused pauses or unpauses deliveries. Time-outs and due times go on.
func (c *Channel) SetPaused(paused bool) {
	if c.paused.Swap(paused) == paused {
		return
	}
	if !paused {
		c.topic.b.wakeAll(c)
	}
	c.topic.b.changed(c.ephemeral || c.topic.ephemeral)
}

// Empty drops everything the channel holds: waiting, deferred and in flight. It
// returns after every loop has done its part, and must not be called on a loop.
func (c *Channel) Empty() {
	b := c.topic.b
	b.onAll(func(s *Shard) {
		if l := c.locals[s.index].Load(); l != nil {
			s.emptyLocal(l)
		}
	})
	c.topic.writer.wait()
	c.q.empty(b.pool)
}

// delete ends the channel after it has left the topic's view.
func (c *Channel) delete() {
	b := c.topic.b
	c.exiting.Store(true)
	b.onAll(func(s *Shard) {
		if l := c.locals[s.index].Load(); l != nil {
			s.closeLocal(l)
		}
	})
	// Every loop has ended the round in which it may have used the old view.
	c.topic.writer.wait()
	c.q.dead.Store(true)
	c.q.empty(b.pool)
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if c.q.cursor != nil {
		if err := c.q.cursor.Delete(); err != nil {
			b.diskFailed(err)
		}
		c.q.cursor = nil
	}
}
