package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/mmapqueue"
)

// A channel that is made anew while its namesake is still being deleted begins with
// nothing and loses nothing: what overflows meanwhile is its own, also when it inherits
// what the topic has kept since, and what publishers still give to the old one is gone
// with that.
func TestChannelMadeAnewBesideItsDeletion(t *testing.T) {
	for _, mode := range []Durability{DurabilityMemory, DurabilityProcess, DurabilityDisk} {
		for _, mem := range []int{0, 3} {
			for _, inherits := range []bool{false, true} {
				t.Run(fmt.Sprintf("mode %d, mem %d, inherits %t", mode, mem, inherits), func(t *testing.T) {
					testMadeAnew(t, mode, mem, inherits)
				})
			}
		}
	}
}

func testMadeAnew(t *testing.T, mode Durability, mem int, inherits bool) {
	dir := t.TempDir()
	w := newWorldWith(t, 1, 2, mem, dir, 1, mode)
	topic, err := w.b.Topic("t")
	if err != nil {
		t.Fatal(err)
	}
	channel := func(name string) *Channel {
		c, err := topic.Channel(name)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if !inherits {
		channel("a")
	}
	channel("b")
	p := w.producer(0)
	publish := func(n int) { w.roundAsideOf(0, func(s *Shard) { p.publish(s, topic, n, 0) }) }
	publish(20)
	w.settle("answer", func() bool { return !p.owed && w.quiet() })

	open := make(chan struct{})
	topic.writer.submit(job{run: func(*mmapqueue.Backlog) { <-open }})
	deleted := make(chan struct{})
	go func() { defer close(deleted); _ = w.b.DeleteChannel("t", "b") }()
	w.await("the channel leaves the view", func() bool { return topic.Find("b") == nil })
	w.await("the loops are asked", func() bool { return w.asked(0) && w.asked(1) })
	from := p.seq
	if inherits {
		publish(20)
	}
	b := channel("b")
	publish(20)
	close(open)
	topic.writer.wait() // the messages are written, and no loop has parted from the old channel
	w.settle("deletion", func() bool {
		select {
		case <-deleted:
			return !p.owed && w.quiet()
		default:
			return false
		}
	})
	if w.errs > 0 {
		t.Fatalf("%d publishes were refused", w.errs)
	}
	if depth, _ := b.Depth(); depth != int64(p.seq-from) {
		t.Errorf("the new channel's depth is %d, want %d", depth, p.seq-from)
	}
	if mode != DurabilityMemory {
		w.crashed(dir)
	}
	var got []uint32
	w.consumer(b, 1, 1000, func(_ *consumer, key uint64, _ uint16) { got = append(got, uint32(key)) })
	w.settle("deliveries", func() bool { w.drain(); return w.quiet() && len(got) >= int(p.seq-from) })
	var want []uint32
	for seq := from; seq < p.seq; seq++ {
		want = append(want, seq)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the new channel delivered %v, want %v", got, want)
	}
}

// A batch that is still on its way to a channel that has been deleted is dropped, and
// its publisher has his answer.
func TestBatchForTheDead(t *testing.T) {
	w := newWorld(t, 1, 2, 3, t.TempDir(), 1)
	topic, _ := w.b.Topic("t")
	var channels []*Channel
	for _, name := range []string{"a", "b"} {
		c, err := topic.Channel(name)
		if err != nil {
			t.Fatal(err)
		}
		channels = append(channels, c)
	}
	open := make(chan struct{})
	topic.writer.submit(job{run: func(*mmapqueue.Backlog) { <-open }})
	topic.part(channels[1].q) // the deletion's, ahead of a publisher that has the old view
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 20, 0) })
	close(open)
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	if w.errs > 0 {
		t.Errorf("%d publishes were refused", w.errs)
	}
	if names := topic.writer.log.Names(); !slices.Equal(names, []string{"a"}) {
		t.Errorf("the backlog has cursors %q, want only a's", names)
	}
	for i, want := range []int64{17, 0} {
		if n := channels[i].q.outstanding.Load(); n != want {
			t.Errorf("channel %s has %d on disk, want %d", channels[i].name, n, want)
		}
	}
	w.blocking("deletion", func() { _ = w.b.DeleteTopic("t") })
	if live := w.b.pool.Live(); invariant.Enabled && live != 0 {
		t.Errorf("%d messages were never released", live)
	}
}

// The pump may bring messages back into the ring of a queue that a channel has just
// inherited: who starves for them hears of it.
func TestPumpWakesTheHeir(t *testing.T) {
	w := newWorld(t, 1, 2, 3, t.TempDir(), 1)
	topic, _ := w.b.Topic("t")
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 20, 0) })
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	hold := topic.hold() // what the pump has in its hand
	c, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	hold.refilling.Store(true) // a refiller that is just ending: nobody else brings anything
	got := 0
	w.consumer(c, 1, 1000, func(*consumer, uint64, uint16) { got++ })
	w.settle("the ring", func() bool { w.drain(); return got == 3 && c.hungry.Load() != 0 })
	if hold.refillStep(w.b) == 0 {
		t.Fatal("nothing was brought back")
	}
	w.settle("deliveries", func() bool { w.drain(); return got > 3 })
	hold.refilling.Store(false)
}
