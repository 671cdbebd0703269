package broker

import (
	"errors"
	"fmt"

	"github.com/zsqio/zsq/mmapqueue"
)

// place is where the messages of a channel are. Everything must stand still.
type place struct{ taken, ring, outstanding, inFlight, deferred, back, mailed int64 }

func (p place) held() int64 {
	return p.ring + p.outstanding + p.inFlight + p.deferred + p.back + p.mailed
}

// Places counts a channel's messages and checks the counters against the
// tables. The topic's writer may be at work: a message on its way from its
// hands to the log can be seen in both, so a count that does not add up is taken
// again when the writer has nothing left to do.
func (c *Channel) Places() (place, error) {
	p, err := c.places()
	for range 3 {
		if err == nil {
			break
		}
		c.topic.writer.wait()
		p, err = c.places()
	}
	return p, err
}

// Stands checks the counts of what the topic holds back, as Places does, and that no
// two of its queues read one cursor. No sweep may be under way.
func (t *Topic) Stands() error {
	err := t.stands()
	for range 3 {
		if err == nil {
			break
		}
		t.writer.wait()
		err = t.stands()
	}
	return err
}

func (t *Topic) stands() error {
	t.mu.Lock() // the pump has nothing in its hand
	defer t.mu.Unlock()
	whose := map[*mmapqueue.Cursor]string{}
	v := t.view.Load()
	for _, q := range t.allQueues() {
		name := ""
		if c := q.owner.Load(); c != nil {
			name = c.name
		}
		q.mu.Lock()
		cursor := q.cursor
		q.mu.Unlock()
		if other, taken := whose[cursor]; taken && cursor != nil {
			return fmt.Errorf("%q and %q read one cursor", other, name)
		}
		whose[cursor] = name
		if q.draining.Load() || q.dead.Load() {
			return fmt.Errorf("%q: draining %t, dead %t", name, q.draining.Load(), q.dead.Load())
		}
	}
	if v.hold == nil {
		return nil
	}
	ring, outstanding, err := v.hold.stands()
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	if n := v.hold.gate.count.Load(); n != ring+outstanding {
		return fmt.Errorf("the gate counts %d, %d are in the ring and %d outstanding", n, ring, outstanding)
	}
	return nil
}

// stands checks a queue's counts. No sweep may be under way.
func (q *queue) stands() (ring, outstanding int64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ring, outstanding = int64(q.ring.Len()), q.outstanding.Load()
	out := int64(len(q.left)) + q.inWriter.Load()
	if q.cursor != nil {
		out += q.cursor.Depth()
	}
	switch {
	case out != outstanding:
		err = fmt.Errorf("outstanding is %d, writer, backlog and refiller hold %d", outstanding, out)
	case q.moves.Load()&1 != 0:
		err = errors.New("the refiller moves something for ever")
	}
	return ring, outstanding, err
}

func (c *Channel) places() (p place, err error) {
	p.taken = int64(c.q.taken.Load())
	if p.ring, p.outstanding, err = c.q.stands(); err != nil {
		return p, err
	}
	for _, s := range c.topic.b.shards {
		s.mailMu.Lock() // writers post tickets meanwhile
		for _, m := range s.mailbox {
			if m.channel == c && m.deferred.Len != 0 {
				p.mailed++
			}
		}
		s.mailMu.Unlock()
		l := c.locals[s.index].Load()
		if l == nil {
			continue
		}
		inFlight := int64(0)
		for _, subs := range [][]*Subscriber{l.subs, l.orphans} {
			for _, sub := range subs {
				inFlight += int64(sub.table.count)
				if sub.inFlight != int64(sub.table.count) {
					return p, fmt.Errorf("a subscriber counts %d in flight, its table %d", sub.inFlight, sub.table.count)
				}
			}
		}
		deferred := int64(0)
		for i := l.deferred; i != 0; i = s.wheel.slab[i].listNext {
			deferred++
		}
		if inFlight != l.inFlightCount || deferred != l.deferredCount {
			return p, fmt.Errorf("shard %d counts %d in flight and %d deferred, holds %d and %d",
				s.index, l.inFlightCount, l.deferredCount, inFlight, deferred)
		}
		p.inFlight += inFlight
		p.deferred += deferred
		p.back += int64(len(l.back))
	}
	return p, nil
}
