package broker

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/zsqio/zsq/internal/block"
)

// What is old gives its memory back, and comes in order when somebody asks.
func TestSweepMovesWhatIsOld(t *testing.T) {
	w := newWorld(t, 1, 1, 100_000, t.TempDir(), 1)
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	p := w.producer(0)
	const count = 50_000
	w.round(0, func(s *Shard) { p.publish(s, topic, count, 0) })
	before := w.b.Memory()

	w.blocking("first sweep", func() { w.b.Sweep(w.now, true) })
	if _, backend := ch.Depth(); backend != 0 {
		t.Fatalf("%d messages moved that are not old yet", backend)
	}
	w.blocking("second sweep", func() { w.b.Sweep(w.now+agedNs-1, true) })
	if _, backend := ch.Depth(); backend != 0 {
		t.Fatalf("%d messages moved that are not quite old", backend)
	}
	w.blocking("third sweep", func() { w.b.Sweep(w.now+agedNs, true) })
	total, backend := ch.Depth()
	if total != count || backend != count {
		t.Fatalf("depth is %d, %d of it on disk, want all %d on disk", total, backend, count)
	}
	w.round(0, func(s *Shard) { p.publish(s, topic, 10, 0) })
	w.settle("the last ones behind them", w.quiet)
	// The open chunk stays.
	if after := w.b.Memory(); after >= before {
		t.Errorf("message memory is %d bytes, was %d before the sweep", after, before)
	}
	if _, backend := ch.Depth(); backend != count+10 {
		t.Errorf("%d on disk, want %d: nobody has asked for them", backend, count+10)
	}

	next := uint64(0)
	c := w.consumer(ch, 0, 100, func(_ *consumer, key uint64, _ uint16) {
		if key != next {
			t.Fatalf("message %d where %d was due", key, next)
		}
		next++
	})
	w.settle("all delivered", func() bool {
		w.drain()
		hold := c.hold
		c.hold = nil
		w.round(0, func(s *Shard) {
			for _, id := range hold {
				if err := s.Finish(c.sub, id); err != nil {
					t.Fatal(err)
				}
			}
		})
		return next == count+10
	})
	w.settle("finished on disk", w.quiet)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A message that stays in a subscriber's hands does not keep its neighbours'
// chunk.
func TestSweepCopiesOldMessagesInFlight(t *testing.T) {
	w := newWorld(t, 1, 1, 100_000, t.TempDir(), 1)
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	p := w.producer(0)
	got := 0
	c := w.consumer(ch, 0, 1<<20, func(*consumer, uint64, uint16) { got++ })
	const count = 50_000
	w.round(0, func(s *Shard) { p.publish(s, topic, count, 0) })
	w.settle("all delivered", func() bool { w.drain(); return got == count })
	kept := c.hold[:0]
	w.round(0, func(s *Shard) {
		for i, id := range c.hold {
			if i%1000 == 0 {
				kept = append(kept, id)
			} else if err := s.Finish(c.sub, id); err != nil {
				t.Fatal(err)
			}
		}
	})
	before := w.b.Memory()
	w.now += agedNs
	w.blocking("sweep", func() { w.b.Sweep(w.now, true) })
	for w.round(0, nil); w.b.shards[0].copyAt != 0; {
		w.round(0, nil)
	}
	if after := w.b.Memory(); after > before/4 {
		t.Errorf("%d messages keep %d bytes, %d before the sweep", len(kept), after, before)
	}
	w.round(0, func(s *Shard) {
		for _, id := range kept {
			if err := s.Finish(c.sub, id); err != nil {
				t.Errorf("finish after the copy: %v", err)
			}
		}
	})
}

// The mark on disk stays ahead of the ids in use, for as long as a run lasts.
func TestIDMarkRunsAhead(t *testing.T) {
	path := t.TempDir() + "/zsq/ids"
	mark, err := TakeIDMark(path, wallOffset)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 1, 1, 10, t.TempDir(), mark)
	for range 10 {
		last := w.b.ids.take(idMarkAhead*2/5) + idMarkAhead*2/5 - 1
		if err := w.b.ExtendIDMark(path); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		next, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if err != nil || next <= last&^idTop {
			t.Fatalf("the mark is %q (%v), id %d is taken", b, err, last&^idTop)
		}
	}
}

// A topic that fills the memory goes to disk; its neighbours do not have to wait
// for that disk.
func TestShortMemoryIsForShortQueues(t *testing.T) {
	w := newWorld(t, 1, 1, 1<<20, t.TempDir(), 1)
	const budget = 8 << 20
	w.b.pool = block.NewPool(budget)
	w.b.shards[0].arena = block.NewArena(w.b.pool)
	greedy, _ := w.b.Topic("greedy")
	modest, _ := w.b.Topic("modest")
	g, _ := greedy.Channel("c")
	m, err := modest.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	p, q := w.producer(0), w.producer(0)
	for range 400 {
		w.round(0, func(s *Shard) { p.publish(s, greedy, 1000, 0) })
		w.settle("accepted", func() bool { return !p.owed })
	}
	if used := w.b.Memory(); used > budget {
		t.Errorf("%d bytes in use, the budget is %d", used, budget)
	}
	if total, backend := g.Depth(); total != 400_000 || backend == 0 {
		t.Errorf("the greedy topic holds %d, %d of them on disk", total, backend)
	}
	w.round(0, func(s *Shard) { q.publish(s, modest, shortRing, 0) })
	if _, backend := m.Depth(); backend != 0 {
		t.Errorf("%d messages of the modest topic went to disk", backend)
	}
	w.round(0, func(s *Shard) { q.publish(s, modest, 1, 0) })
	if _, backend := m.Depth(); backend != 1 {
		t.Errorf("%d messages of the modest topic went to disk, want the one beyond its share", backend)
	}
	w.settle("written", w.quiet)
}

// A few messages that came from the backlog and stay, in flight and deferred, do not
// keep what comes behind them; a crash brings them again.
func TestSweepUnpinsTheBacklog(t *testing.T) {
	for _, d := range []Durability{DurabilityMemory, DurabilityProcess} {
		dir := t.TempDir()
		w := newWorldWith(t, 1, 1, 5, dir, 1, d)
		w.b.opts.Log.SegmentBytesMax = 64 << 10
		topic, _ := w.b.Topic("t")
		ch, err := topic.Channel("c")
		if err != nil {
			t.Fatal(err)
		}
		p := w.producer(0)
		c := w.consumer(ch, 0, 1<<20, func(*consumer, uint64, uint16) {})
		kept := map[uint64]bool{}
		const batch, late = 1000, 3
		most := int64(0)
		for i := range 40 {
			w.round(0, func(s *Shard) { p.publish(s, topic, batch, 0) })
			w.settle("all delivered", func() bool { w.drain(); return !p.owed && len(c.hold) == len(kept)+batch })
			w.round(0, func(s *Shard) {
				for at, id := range c.hold {
					switch {
					case kept[id]:
					case i == 0 && at >= batch-late: // these came from the backlog
						kept[id] = true
					case i == 0 && at >= batch-2*late:
						if err := s.Requeue(c.sub, id, 3600e9); err != nil {
							t.Fatal(err)
						}
					default:
						if err := s.Finish(c.sub, id); err != nil {
							t.Fatal(err)
						}
					}
				}
			})
			hold := c.hold[:0]
			for _, id := range c.hold {
				if kept[id] {
					hold = append(hold, id)
				}
			}
			c.hold = hold
			w.settle("finished", w.quiet)
			w.blocking("sweep", func() { w.b.Sweep(w.now, false) })
			for w.round(0, nil); w.b.shards[0].copyAt != 0; {
				w.round(0, nil)
			}
			w.settle("moved", w.quiet)
			most = max(most, topic.writer.log.Bytes())
		}
		if most > 1<<20 {
			t.Errorf("mode %d: the backlog took %d bytes for %d messages", d, most, 2*late)
		}
		if d == DurabilityMemory {
			w.crashedInMemory(topic, dir)
		} else {
			w.crashed(dir)
		}
		w.round(0, func(s *Shard) {
			for _, id := range c.hold {
				if err := s.Finish(c.sub, id); err != nil {
					t.Error(err)
				}
			}
		})
		w.settle("finished", w.quiet)
		if n := topic.writer.log.Bytes(); d == DurabilityMemory && n == 0 {
			t.Errorf("the deferred messages are not in the backlog")
		}
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
