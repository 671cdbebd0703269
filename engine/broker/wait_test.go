package broker

import "testing"

// A topic that waits for its channels keeps what is published, through pauses
// and SUBs, and gives all of it to every channel that it has in the end, in
// order.
func TestTopicWaits(t *testing.T) {
	for _, mem := range []int{0, 3, 1000} {
		w := newWorld(t, uint64(mem), 2, mem, t.TempDir(), 1)
		var created []string
		w.b.opts.Created = func(t *Topic) bool { created = append(created, t.Name()); return true }
		topic, err := w.b.Topic("t")
		if err != nil || len(created) != 1 || created[0] != "t" {
			t.Fatal(created, err)
		}
		got := map[string][]uint64{}
		record := func(c *consumer, key uint64, _ uint16) {
			name := c.sub.Channel().Name()
			got[name] = append(got[name], key)
		}
		sub := func(name string) {
			c, err := topic.Channel(name)
			if err != nil {
				t.Fatal(err)
			}
			w.consumer(c, 0, 100, record)
		}
		p := w.producer(0) // one loop, for the order of a producer's messages
		publish := func(n int) {
			w.round(0, func(s *Shard) { p.publish(s, topic, n, 0) })
			w.settle("answer", func() bool { return !p.owed && w.quiet() })
		}
		publish(5)
		sub("a")
		publish(5)
		topic.SetPaused(true)
		topic.SetPaused(false)
		sub("b#ephemeral")
		publish(5)
		w.drain()
		if depth, _ := topic.Depth(); depth != 15 || len(got) != 0 {
			t.Fatalf("mem %d: depth %d, %v delivered while waiting", mem, depth, got)
		}
		topic.Release()
		topic.Release()
		publish(5)
		total := func() int { w.drain(); return len(got["a"]) + len(got["b#ephemeral"]) }
		w.settle("deliveries", func() bool { return w.quiet() && len(got["a"]) <= 20 && total() >= 20 && len(got["a"]) == 20 })
		for i, key := range got["a"] {
			if uint32(key) != uint32(i) {
				t.Errorf("mem %d: message %d came at %d", mem, uint32(key), i)
			}
		}
		if mem == 1000 && len(got["b#ephemeral"]) != 20 {
			t.Errorf("the ephemeral channel got %d messages", len(got["b#ephemeral"]))
		}
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A topic that still waits when the broker closes keeps everything.
func TestWaitingTopicIsSaved(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, 1, 1, 3, dir, 1)
	w.b.opts.Created = func(*Topic) bool { return true }
	topic, _ := w.b.Topic("t")
	if _, err := topic.Channel("a"); err != nil {
		t.Fatal(err)
	}
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 10, 0) })
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	w = newWorld(t, 2, 1, 3, dir, 1000)
	w.b.opts.Created = func(t *Topic) bool { panic("an old topic is no new one: " + t.Name()) }
	if err := w.b.Open(); err != nil {
		t.Fatal(err)
	}
	if err := w.b.Restore("t", false, map[string]bool{"a": false}); err != nil {
		t.Fatal(err)
	}
	w.b.EndRestore()
	seen := 0
	w.consumer(w.b.Find([]byte("t")).Find("a"), 0, 100, func(*consumer, uint64, uint16) { seen++ })
	w.settle("deliveries", func() bool { w.drain(); return w.quiet() && seen == 10 })
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}
