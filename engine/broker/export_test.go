package broker

import "fmt"

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

func (c *Channel) places() (p place, err error) {
	p.taken = int64(c.q.taken.Load())
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	p.ring, p.outstanding = int64(c.q.ring.Len()), c.q.outstanding.Load()
	out := int64(len(c.q.left)) + c.q.inWriter.Load()
	if c.q.cursor != nil {
		out += c.q.cursor.Depth()
	}
	if out != p.outstanding {
		return p, fmt.Errorf("outstanding is %d, writer, backlog and refiller hold %d", p.outstanding, out)
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
