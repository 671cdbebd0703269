package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// What waits, is in flight, deferred or held back when a broker closes is there
// once when the next one opens its directory, with attempts and due times.
func TestRestart(t *testing.T) {
	for _, mem := range []int{0, 3, 1000} {
		dir := t.TempDir()
		seen := map[uint64]uint16{}
		got := func(_ *consumer, key uint64, attempts uint16) { seen[key] = attempts }

		w := newWorld(t, uint64(mem), 2, mem, dir, 1)
		topic, _ := w.b.Topic("t")
		ch, err := topic.Channel("a")
		if err != nil {
			t.Fatal(err)
		}
		paused, _ := w.b.Topic("paused")
		for _, name := range []string{"b", "c"} {
			if _, err := paused.Channel(name); err != nil {
				t.Fatal(err)
			}
		}
		paused.SetPaused(true)
		alone, _ := w.b.Topic("alone")

		c := w.consumer(ch, 1, 4, got)
		p := w.producer(0)
		w.round(0, func(s *Shard) { p.publish(s, topic, 20, 0) }) // 0..19, four of them in flight
		w.settle("answer", func() bool { return !p.owed && w.quiet() })
		w.round(0, func(s *Shard) { p.publish(s, topic, 2, w.now+int64(time.Hour)) }) // 20, 21
		w.settle("answer", func() bool { return !p.owed && w.quiet() })
		w.round(0, func(s *Shard) { p.publish(s, paused, 5, 0) }) // 22..26
		w.settle("answer", func() bool { return !p.owed && w.quiet() })
		w.round(0, func(s *Shard) { p.publish(s, alone, 3, 0) }) // 27..29
		w.settle("answer", func() bool { return !p.owed && w.quiet() && len(w.log) == 4 })
		w.drain()
		if err := w.b.PublishForeign(topic, [][]byte{body(9, 0)}, w.now+wallOffset+int64(time.Hour)); err != nil {
			t.Fatal(err)
		}
		w.round(1, func(s *Shard) {
			if err := s.Finish(c.sub, c.hold[0]); err != nil {
				t.Fatal(err)
			}
			c.sub.SetReady(0)
			if err := s.Requeue(c.sub, c.hold[1], int64(2*time.Hour)); err != nil {
				t.Fatal(err)
			}
		})
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 4 {
			t.Fatalf("mem %d: %d messages before the restart, want 4", mem, len(seen))
		}

		seen = map[uint64]uint16{}
		now := w.now
		w = newWorld(t, uint64(mem), 2, mem, dir, w.b.ids.next.Load())
		w.now = now + int64(time.Minute)
		for _, s := range w.b.shards {
			s.Begin(w.now, w.now+wallOffset)
		}
		if err := w.b.Open(); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			w.b.Restore("t", false, map[string]bool{"a": false}),
			w.b.Restore("paused", true, map[string]bool{"b": false, "c": false}),
			w.b.Restore("alone", false, nil),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		w.b.EndRestore()
		counts := map[string]int{}
		count := func(c *consumer, key uint64, attempts uint16) {
			counts[c.sub.Channel().Topic().Name()+"/"+c.sub.Channel().Name()]++
			got(c, key, attempts)
		}
		a := w.b.Find([]byte("t")).Find("a")
		w.consumer(a, 0, 1000, count)
		for _, name := range []string{"b", "c"} {
			w.consumer(w.b.Find([]byte("paused")).Find(name), 0, 1000, count)
		}
		alone = w.b.Find([]byte("alone"))
		ch, err = alone.Channel("d")
		if err != nil {
			t.Fatal(err)
		}
		w.consumer(ch, 1, 1000, count)
		want := func(name string, n int) {
			t.Helper()
			w.settle(name, func() bool { w.drain(); return counts[name] >= n && w.quiet() })
			if counts[name] != n {
				t.Fatalf("mem %d: %s got %d messages, want %d", mem, name, counts[name], n)
			}
		}
		want("t/a", 18) // 20 less one finished and one deferred
		want("alone/d", 3)
		want("paused/b", 0)
		w.b.Find([]byte("paused")).SetPaused(false)
		want("paused/b", 5)
		want("paused/c", 5)
		again := 0
		for _, attempts := range seen {
			if attempts == 2 {
				again++
			}
		}
		if again != 2 {
			t.Errorf("mem %d: %d second deliveries, want 2", mem, again)
		}
		later := func(d time.Duration) {
			for _, c := range w.cons { // nothing may be left to time out
				w.round(c.shard, func(s *Shard) {
					for _, id := range c.hold {
						if err := s.Finish(c.sub, id); err != nil {
							t.Fatal(err)
						}
					}
					c.hold = nil
				})
			}
			w.now = now + int64(d)
			for i := range w.b.shards {
				w.round(i, nil)
			}
		}
		want("t/a", 18)
		later(time.Hour - time.Millisecond)
		want("t/a", 18)
		later(time.Hour + 2*time.Millisecond)
		want("t/a", 21)
		later(2*time.Hour + 4*time.Millisecond)
		want("t/a", 22)
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Many topics are synced together when the broker closes; each keeps what is its.
func TestRestartMany(t *testing.T) {
	dir := t.TempDir()
	const topics = syncTogether + 44
	w := newWorld(t, 1, 1, 10, dir, 1)
	for i := range topics {
		topic, err := w.b.Topic(fmt.Sprint("t", i))
		if err == nil {
			err = w.b.PublishForeign(topic, slices.Repeat([][]byte{body(uint32(i), 0)}, i%3), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	w = newWorld(t, 1, 1, 10, dir, w.b.ids.next.Load())
	if err := w.b.Open(); err != nil {
		t.Fatal(err)
	}
	w.b.EndRestore()
	for i := range topics {
		depth := int64(0)
		if topic := w.b.Find(fmt.Append(nil, "t", i)); topic != nil {
			depth, _ = topic.Depth()
		}
		if depth != int64(i%3) {
			t.Errorf("topic %d holds %d messages after the restart, want %d", i, depth, i%3)
		}
	}
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}
