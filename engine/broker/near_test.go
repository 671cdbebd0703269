package broker

import (
	"testing"
	"time"
)

// Messages go to near subscribers while those have room, whichever loop they and
// the publisher are on, and then to the others.
func TestNearFirst(t *testing.T) {
	for seed := range uint64(30) {
		shards := 1 + int(seed%4)
		w := newWorld(t, seed, shards, 1000, t.TempDir(), 1)
		w.b.opts.Topology = true
		topic, _ := w.b.Topic("t")
		ch, err := topic.Channel("c")
		if err != nil {
			t.Fatal(err)
		}
		var got [nearCount]int
		var cons [nearCount]*consumer
		for _, near := range w.rng.Perm(int(nearCount)) {
			c := &consumer{w: w, shard: w.rng.IntN(shards), got: func(*consumer, uint64, uint16) { got[near]++ }}
			w.round(c.shard, func(s *Shard) {
				sub, err := s.Subscribe(ch, c, int64(time.Hour), 0)
				if err != nil {
					t.Fatal(err)
				}
				c.sub = sub
				sub.SetNear(Near(near))
				sub.SetReady(2)
			})
			cons[near] = c
		}
		p := w.producer(w.rng.IntN(shards))
		publish := func(n int) {
			w.round(p.shard, func(s *Shard) { p.publish(s, topic, n, 0) })
			w.settle("quiet", w.quiet)
			w.drain()
		}
		want := func(zone, region, none int) {
			t.Helper()
			if got != [nearCount]int{zone, region, none} {
				w.fatal("%d shards: delivered %v, want %d %d %d", shards, got, zone, region, none)
			}
		}
		publish(1)
		want(1, 0, 0)
		publish(2)
		want(2, 1, 0)
		publish(4)
		want(2, 2, 2)
		c := cons[NearZone]
		w.round(c.shard, func(s *Shard) {
			for _, id := range c.hold {
				if err := s.Finish(c.sub, id); err != nil {
					t.Fatal(err)
				}
			}
		})
		w.settle("quiet", w.quiet)
		w.drain()
		want(3, 2, 2) // the seventh waited for room
		publish(1)
		want(4, 2, 2)
		if zone, region, others := ch.Delivered(); zone != 4 || region != 2 || others != 2 {
			w.fatal("counted %d %d %d", zone, region, others)
		}
	}
}
