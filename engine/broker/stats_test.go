package broker

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// sum returns how many messages /stats says there are in a channel.
func (f Figures) sum() int64 { return f.Depth + f.InFlight + f.Deferred }

// looking is a consumer whose sink looks at the figures while it is given a message.
type looking struct {
	*consumer
	look func()
}

func (l looking) Reserve(n int) []byte {
	l.look()
	return l.consumer.Reserve(n)
}

// What a consumer is just being given is in the figures, and so is what it puts off and
// what somebody who is no loop has put off; all of it is there once when the round is
// over.
func TestFiguresWhileDelivering(t *testing.T) {
	w := newWorld(t, 1, 1, 1000, t.TempDir(), 1)
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 200, 0) })
	looks := 0
	c := looking{&consumer{w: w, got: func(*consumer, uint64, uint16) {}}, func() {
		looks++
		if f := ch.Figures(); f.sum() < 200 || f.sum() > 400 {
			t.Errorf("look %d: %+v, 200 messages", looks, f)
		}
	}}
	w.round(0, func(s *Shard) {
		if c.sub, err = s.Subscribe(ch, c, int64(time.Minute), 0); err == nil {
			c.sub.SetReady(150)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.drain()
	want := func(depth, inFlight, deferred int64) {
		t.Helper()
		if f := ch.Figures(); f.Depth != depth || f.InFlight != inFlight || f.Deferred != deferred {
			t.Errorf("got %+v, want %d, %d and %d", f, depth, inFlight, deferred)
		}
	}
	want(50, 150, 0)
	w.round(0, func(s *Shard) { // 50 take the places of those that are given back
		for i, id := range c.hold[:100] {
			if err := s.Requeue(c.sub, id, int64(i%2)*int64(time.Hour)); err != nil {
				t.Error(err)
			}
		}
	})
	want(0, 150, 50)
	if looks != 250 {
		t.Errorf("%d looks, want 250", looks)
	}
	if err := w.b.PublishForeign(topic, [][]byte{body(9, 9)}, w.now+wallOffset+int64(time.Hour)); err != nil {
		t.Fatal(err)
	}
	want(0, 150, 51)
	w.settle("deferred", w.quiet)
	want(0, 150, 51)
	if err := w.b.PublishForeign(topic, [][]byte{body(9, 9)}, w.now+wallOffset+int64(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.empty(ch)
	want(0, 0, 0)
}

// giver is a consumer that gives back what it gets, at once or for later, or lets it
// time out. It finishes nothing.
type giver struct {
	e     *engine
	shard int
	sub   *Subscriber
	rng   *rand.Rand
	ids   [][]byte
	armed bool
}

func (g *giver) Full() bool { return false }
func (g *giver) Kick()      {}
func (g *giver) Reserve(n int) []byte {
	b := make([]byte, n)
	g.ids = append(g.ids, b)
	if !g.armed {
		g.armed = true
		g.e.Do(g.shard, g.answer)
	}
	return b
}

func (g *giver) answer() {
	g.armed = false
	frames := g.ids
	g.ids = nil
	for _, f := range frames {
		id, _ := wire.FrameID(f)
		delay := int64(0)
		switch g.rng.IntN(10) {
		case 0:
			continue // it times out
		case 1, 2:
			delay = g.rng.Int64N(int64(20 * time.Millisecond))
		}
		_ = g.e.b.shards[g.shard].Requeue(g.sub, id, delay) // or it has timed out
	}
}

// runFigures has messages go round between ring, backlog, consumers and delays, none of
// which is finished, and returns the least and the last sum of as many looks.
func runFigures(t *testing.T, mem, looks int, messages int64, topology bool) (least, last int64) {
	t.Helper()
	e := newEngine(2, mem, t.TempDir(), topology)
	defer e.close()
	topic, _ := e.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if err := e.b.PublishForeign(topic, [][]byte{body(0, uint32(i))}, 0); err != nil {
			t.Fatal(err)
		}
	}
	var givers []*giver
	for i := range 4 {
		g := &giver{e: e, shard: i % 2, rng: rand.New(rand.NewPCG(uint64(i), 1))}
		givers = append(givers, g)
		e.on(g.shard, func(s *Shard) {
			if g.sub, err = s.Subscribe(ch, g, int64(30*time.Millisecond), 0); err == nil {
				g.sub.SetNear(Near(i % int(nearCount)))
				g.sub.SetReady(messages/4 - int64(i))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			now := e.now.Add(int64(time.Millisecond))
			for i := range e.loops {
				e.on(i, func(*Shard) {})
			}
			switch n % 16 {
			case 0:
				e.b.Sweep(now, true)
				e.b.Sweep(now+agedNs, true)
			case 5:
				topic.SetPaused(true) // no message is the topic's
			case 6:
				topic.SetPaused(false)
			}
		}
	})
	least = messages
	for range looks {
		least = min(least, ch.Figures().sum())
		runtime.Gosched()
	}
	close(stop)
	wg.Wait()
	for _, g := range givers {
		e.on(g.shard, func(*Shard) { g.sub.SetReady(0) })
	}
	for end := time.Now().Add(patience); time.Now().Before(end); runtime.Gosched() {
		e.now.Add(int64(time.Millisecond))
		for i := range e.loops {
			e.on(i, func(*Shard) {})
		}
		if f := ch.Figures(); f.Depth == messages {
			break
		}
	}
	return least, ch.Figures().sum()
}

// However the messages move, depth, in flight and deferred together are never less than
// there are.
func TestFiguresMissNothing(t *testing.T) {
	for _, mem := range []int{0, 5, 1000} {
		for _, topology := range []bool{false, true} {
			if least, last := runFigures(t, mem, 10_000, 100, topology); least < 100 || last != 100 {
				t.Errorf("memory for %d, topology %t: %d messages were seen at one time and %d at the end, want 100", mem, topology, least, last)
			}
		}
	}
}

// What leaves memory for the backlog, or is copied there, is in the figures meanwhile.
func TestFiguresWhileDraining(t *testing.T) {
	for name, mem := range map[string]int{"drained": 1000, "renewed": 5} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(1, mem, t.TempDir(), false)
			defer e.close()
			if err := e.b.Open(); err != nil {
				t.Fatal(err)
			}
			e.b.EndRestore()
			topic, _ := e.b.Topic("t")
			ch, err := topic.Channel("c")
			if err == nil {
				err = e.b.SetDurability(topic, DurabilityProcess)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := e.b.PublishForeign(topic, make([][]byte, 100), 0); err != nil {
				t.Fatal(err)
			}
			var over atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() {
				for range 100 {
					topic.writer.inOrder(func(*mmapqueue.Backlog) {
						e.b.keepFrom.Store(1 << 62) // what cannot be drained is copied
						topic.drain(ch.q)
					})
					ch.q.parked.Store(false)
					e.b.kickRefill(ch.q)
				}
				over.Store(true)
			})
			for !over.Load() {
				if f := ch.Figures(); f.sum() < 100 {
					t.Errorf("%+v, want 100 messages", f)
					break
				}
			}
			wg.Wait()
		})
	}
}
