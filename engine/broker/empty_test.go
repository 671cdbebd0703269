package broker

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// await returns when done reports true, without a round of any loop.
func (w *world) await(what string, done func() bool) {
	w.t.Helper()
	for wait := (patient{}); !done(); runtime.Gosched() {
		if wait.over(time.Now(), "") {
			w.fatal("never: %s", what)
		}
	}
}

// asked reports whether somebody waits for shard i.
func (w *world) asked(i int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.calls[i]) > 0
}

// roundAsideOf runs a round of shard i before the loop hears of what it is asked.
func (w *world) roundAsideOf(i int, f func(s *Shard)) {
	w.mu.Lock()
	calls := w.calls[i]
	w.calls[i] = nil
	w.mu.Unlock()
	w.round(i, f)
	w.mu.Lock()
	w.calls[i] = append(calls, w.calls[i]...)
	w.mu.Unlock()
}

// What was accepted before Empty began does not come after it, though each time that
// Empty asks the loops, the message goes from one whose turn is still to come to the
// other, which has had it. Nor does a crash bring it back.
func TestEmptyCatchesHops(t *testing.T) {
	for _, tt := range []struct {
		mem     int
		mode    Durability
		delayNs int64
	}{
		{mem: 5},
		{mem: 0}, // it hops through the backlog
		{mem: 5, delayNs: 1e6},
		{mem: 5, mode: DurabilityProcess},
		{mem: 5, mode: DurabilityProcess, delayNs: 1e6}, // the journal gets all of it once more
		{mem: 0, mode: DurabilityProcess},
	} {
		t.Run(fmt.Sprintf("mem=%d mode=%d delay=%d", tt.mem, tt.mode, tt.delayNs), func(t *testing.T) {
			emptyAgainstHops(t, tt.mem, tt.mode, tt.delayNs)
		})
	}
}

func emptyAgainstHops(t *testing.T, mem int, mode Durability, delayNs int64) {
	dir := t.TempDir()
	var crash atomic.Bool // what is not written by then comes too late
	copied := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(copied) })
	defer goOn()
	disk := watchedFS{unsynced{mmapqueue.OS}, func(_ []byte, do func()) {
		for range 500 {
			runtime.Gosched() // Empty's chance not to wait for it
		}
		if crash.Load() {
			<-copied
		}
		do()
	}}
	w := newWorldClosedOn(t, 1, 2, mem, dir, 1, mode, disk, disk)
	if mode != DurabilityMemory {
		w.open(nil)
	}
	topic, err := w.b.Topic("t")
	if err != nil {
		t.Fatal(err)
	}
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(*consumer, uint64, uint16) {}
	cons := []*consumer{w.consumer(ch, 0, 1, nothing), w.consumer(ch, 1, 1, nothing)}
	holder := func() int {
		return slices.IndexFunc(cons, func(c *consumer) bool { return c.sub.InFlight() > 0 })
	}
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 1, 0) })
	w.settle("in flight", func() bool { return !p.owed && holder() >= 0 && w.quiet() })
	id, _ := wire.FrameID(w.log[0].frame)
	w.log = nil

	done := make(chan error, 1)
	go func() {
		err := ch.Empty()
		crash.Store(true)
		done <- err
	}()
	given := 0
	for ended := false; !ended; {
		w.await("asked", func() bool {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				ended = true
			default:
			}
			return ended || w.asked(0) && w.asked(1)
		})
		if ended {
			break
		}
		from := holder()
		to := 1 - max(0, from)
		w.round(to, nil)
		if from >= 0 {
			given++
			w.roundAsideOf(from, func(s *Shard) {
				cons[from].sub.SetReady(0)
				if err := s.Requeue(cons[from].sub, id, delayNs); err != nil {
					t.Fatal(err)
				}
			})
			if delayNs > 0 {
				w.now += 2 * delayNs
				w.roundAsideOf(from, nil)
			}
			w.await("on its way", func() bool { return ch.q.ring.Len() > 0 })
			w.roundAsideOf(to, func(*Shard) { cons[to].sub.SetReady(1) })
		}
		w.round(1-to, nil)
	}
	if given == 0 {
		t.Fatal("the message was given back to nobody")
	}
	left := copyOf(t, dir)
	goOn()
	other := newWorldClosed(t, 1, 1, 5, left, w.b.ids.next.Load(), mode)
	other.open(map[string]savedTopic{"t": {channels: map[string]bool{"c": false}}})
	other.settle("recovered", other.quiet)
	if c := other.b.Find([]byte("t")).Find("c"); len(other.heldBy(c.q, c)) > 0 {
		t.Error("a crash brings back what the channel was emptied of")
	}
	if err := other.b.Close(); err != nil {
		t.Fatal(err)
	}
	w.log = nil
	w.now += int64(time.Hour) // by now all time-outs have passed
	for i, c := range cons {
		w.round(i, func(*Shard) { c.sub.SetReady(1) })
	}
	w.settle("standing still", w.quiet)
	if len(w.log) > 0 {
		t.Error("a message was delivered after its channel had been emptied")
	}
	if pl, err := ch.Places(); err != nil || pl.held() != 0 {
		t.Errorf("the channel holds %+v (%v)", pl, err)
	}
}

// A deferred message that was published by no loop, and of which its loop has not
// heard, is dropped with the rest.
func TestEmptyReadsTheMail(t *testing.T) {
	w := newWorld(t, 1, 2, 5, t.TempDir(), 1)
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.b.PublishForeign(topic, [][]byte{body(0, 0)}, w.now+wallOffset+int64(time.Minute)); err != nil {
		t.Fatal(err)
	}
	w.woken[0] = false // who rings is still on the way to the bell
	w.empty(ch)
	w.Wake(0)
	w.settle("standing still", w.quiet)
	if pl, err := ch.Places(); err != nil || pl.held() != 0 {
		t.Errorf("the channel holds %+v (%v)", pl, err)
	}
}

// While a channel is being emptied nothing is handed out; after that everything is,
// unless the channel is paused.
func TestEmptyHoldsAndLetsGo(t *testing.T) {
	w := newWorld(t, 1, 1, 5, t.TempDir(), 1)
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	c := w.consumer(ch, 0, 10, func(*consumer, uint64, uint16) { got++ })
	p := w.producer(0)
	publish := func() {
		w.round(0, func(s *Shard) { p.publish(s, topic, 1, 0) })
		w.drain()
	}
	ch.SetPaused(true)
	w.blocking("two at a time", func() {
		done := make(chan error, 2)
		for range cap(done) {
			go func() { done <- ch.Empty() }()
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	if publish(); got != 0 || !ch.Paused() {
		t.Errorf("a paused channel (%t) has delivered %d messages behind Empty, want 0", ch.Paused(), got)
	}
	ch.SetPaused(false)
	w.settle("delivered", func() bool { w.drain(); return got == 1 })

	done := make(chan error, 1)
	go func() { done <- ch.Empty() }()
	w.await("asked", func() bool { return w.asked(0) })
	w.round(0, nil) // the first time: from now on nothing is handed out
	w.await("asked", func() bool { return w.asked(0) })
	w.roundAsideOf(0, func(s *Shard) { p.publish(s, topic, 1, 0) })
	ch.SetPaused(true)
	ch.SetPaused(false)
	w.roundAsideOf(0, nil)
	if w.drain(); got != 1 || ch.Paused() {
		t.Errorf("a channel (paused %t) has delivered %d messages while it was emptied, want none", ch.Paused(), got-1)
	}
	w.round(0, nil)
	w.await("asked", func() bool { return w.asked(0) })
	w.round(0, nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !w.woken[0] {
		t.Error("nobody tells the loop that it may hand out what has come meanwhile")
	}
	if publish(); got != 2 || len(c.hold) != 2 {
		t.Errorf("%d messages were delivered after the channel had been emptied, want 1", got-1)
	}

	// The loops have ended. Nothing is held by an Empty that has given up.
	close(w.b.closed)
	if err := ch.Empty(); !errors.Is(err, ErrExiting) || ch.held.Load() != 0 {
		t.Errorf("Empty beside Close: %v, held %d", err, ch.held.Load())
	}
}

// A channel can be emptied and deleted at the same time: both end, and what waits,
// is in flight or deferred goes once.
func TestEmptyBesideDelete(t *testing.T) {
	w := newWorld(t, 1, 2, 5, t.TempDir(), 1)
	topic, _ := w.b.Topic("t")
	p := w.producer(0)
	for range 20 {
		ch, err := topic.Channel("c")
		if err != nil {
			t.Fatal(err)
		}
		c := w.consumer(ch, 1, 2, func(*consumer, uint64, uint16) {})
		w.round(0, func(s *Shard) { p.publish(s, topic, 9, 0); p.publish(s, topic, 1, w.now+int64(time.Minute)) })
		w.settle("in flight", func() bool { return !p.owed && c.sub.InFlight() == 2 && w.quiet() })
		w.blocking("emptied and deleted", func() {
			done := make(chan error)
			go func() { done <- ch.Empty() }()
			if err := errors.Join(w.b.DeleteChannel("t", "c"), <-done); err != nil {
				t.Error(err)
			}
		})
		w.settle("standing still", w.quiet)
		if pl, err := ch.Places(); err != nil || pl.held() != 0 || !c.kicked {
			t.Fatalf("a deleted channel holds %+v (%v), and its consumer is told: %t", pl, err, c.kicked)
		}
	}
}
