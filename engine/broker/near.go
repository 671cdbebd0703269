package broker

import "github.com/zsqio/zsq/internal/block"

// Near says how far a subscriber is from this daemon. With Options.Topology the
// nearer ones are served first; who is farther gets what they have no room for.
type Near uint8

// The distances, nearest first.
const (
	NearZone Near = iota // in this daemon's zone
	NearRegion
	NearNone
	nearCount
)

// SetNear says how far the subscriber is, before its first message.
func (sub *Subscriber) SetNear(n Near) { sub.near = n }

// deliverNear is deliver with Options.Topology. Inside a loop the nearer ones go
// first. Between loops, a loop leaves messages to one that starves for a nearer
// subscriber; whoever is woken takes what it can and wakes the next for the rest,
// as without topology, so that nothing is left lying:
//
//	loop A, with a far subscriber       loop B, with a near one that starves
//	finds B's bit in near
//	sets its own bit in hungry
//	wakes B, takes nothing
//	                                    takes; has no room for the rest
//	                                    clears its bits, finds A's: wakes it
//	takes the rest
func (s *Shard) deliverNear(l *channelLocal) {
	c := l.c
	bit := uint64(1) << s.index
	for near := NearZone; near < nearCount; near++ {
		if near > NearZone && s.leaveToNearer(l, near) {
			return
		}
		if !s.deliverTo(l, near) {
			s.drained(l)
			return
		}
	}
	if c.hungry.Load()&bit != 0 {
		c.hungry.And(^bit)
	}
	if c.q.ring.Len() > 0 {
		s.b.wake(c, s)
		s.b.kickRefill(c.q)
		return
	}
	s.drained(l)
}

// deliverTo serves the subscribers at one distance, in turns. It returns false
// when the ring has run empty, or the channel has got its share of the round.
func (s *Shard) deliverTo(l *channelLocal, near Near) bool {
	idle := 0
	for idle < len(l.subs) {
		if s.spent(l) {
			return false
		}
		if l.turn >= len(l.subs) {
			l.turn = 0
		}
		sub := l.subs[l.turn]
		l.turn++
		room := sub.room()
		if sub.near != near || room <= 0 {
			idle++
			continue
		}
		var refs [quantum]block.Ref
		n := s.pull(l, refs[:min(room, max(1, quantumBytes/max(1, sub.lastSize)))])
		if n == 0 {
			if s.starve(l) && l.c.q.waits() {
				l.turn--
				continue
			}
			return false
		}
		idle = 0
		s.send(sub, refs[:n])
	}
	return true
}

// room is how many messages the subscriber takes now, at most a quantum.
func (sub *Subscriber) room() int {
	if sub.sink.Full() {
		return 0
	}
	return int(min(sub.ready-sub.inFlight, quantum))
}

// starve says that this shard has room and found nothing, and for whom. It
// returns true when that is news, and the ring must be looked at once more.
func (s *Shard) starve(l *channelLocal) bool {
	c := l.c
	bit := uint64(1) << s.index
	var has [nearCount]bool
	for _, sub := range l.subs {
		has[sub.near] = has[sub.near] || sub.room() > 0
	}
	// First for whom: who sees the bit in hungry sees the others too.
	for near := range c.near {
		if has[near] {
			c.near[near].Or(bit)
		} else {
			c.near[near].And(^bit)
		}
	}
	if c.hungry.Load()&bit != 0 {
		return false
	}
	c.hungry.Or(bit)
	return true
}

// leaveToNearer leaves the channel's messages to other loops that starve for
// subscribers nearer than these, if there are such loops.
func (s *Shard) leaveToNearer(l *channelLocal, near Near) bool {
	c := l.c
	others := c.hungry.Load() &^ (1 << s.index)
	if others == 0 || c.q.ring.Len() == 0 {
		return false
	}
	nearer := c.near[NearZone].Load()
	if near > NearRegion {
		nearer |= c.near[NearRegion].Load()
	}
	if others&nearer == 0 {
		return false
	}
	s.starve(l)
	s.b.wake(c, s)
	return true
}

// nearest returns those of the hungry shards that have the nearest subscribers.
func (c *Channel) nearest(hungry uint64) uint64 {
	for near := range c.near {
		if n := hungry & c.near[near].Load(); n != 0 {
			return n
		}
	}
	return hungry
}

// Delivered returns how many messages went to subscribers of the channel by
// their distance, with Options.Topology.
func (c *Channel) Delivered() (zone, region, others uint64) {
	return c.delivered[NearZone].Load(), c.delivered[NearRegion].Load(), c.delivered[NearNone].Load()
}
