package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// crashCopy copies the directory of a world that stands still.
func (w *world) crashCopy(dir string) string {
	w.t.Helper()
	w.settle("standing still", w.quiet)
	if err := w.b.Settle(); err != nil {
		w.fatal("%v", err)
	}
	return copyOf(w.t, dir)
}

// A topic is given another durability while messages wait, are held by a consumer,
// deferred and held back by a pause: after a crash all of them are there, and the
// topic has its durability. On the way down nothing that was accepted before comes
// again when it is finished.
func TestSetDurability(t *testing.T) {
	for _, mem := range []int{5, 1000} {
		dir := t.TempDir()
		w := newWorldClosed(t, 1, 2, mem, dir, 1, DurabilityMemory)
		w.open(nil)
		p := w.producer(0)
		topic, _ := w.b.Topic("t")
		other, _ := w.b.Topic("other")
		c, err := topic.Channel("c")
		if err != nil {
			t.Fatal(err)
		}
		publish := func(topic *Topic, n int, due int64) {
			t.Helper()
			w.round(0, func(s *Shard) { p.publish(s, topic, n, due) })
			w.settle("answer", func() bool { return !p.owed && w.quiet() })
		}
		publish(other, 10, 0)
		publish(topic, 20, 0)
		publish(topic, 5, w.now+int64(time.Hour))
		hold := w.consumer(c, 1, 4, func(*consumer, uint64, uint16) {})
		w.settle("in flight", func() bool { w.drain(); return len(hold.hold) == 4 })
		w.round(1, func(s *Shard) {
			if err := s.Requeue(hold.sub, hold.hold[0], int64(time.Minute)); err != nil {
				t.Fatal(err)
			}
			hold.hold = hold.hold[1:]
			hold.sub.SetReady(3)
		})
		topic.SetPaused(true)
		publish(topic, 7, 0)
		set := func(d Durability) {
			t.Helper()
			w.blocking("set the durability", func() {
				if err := w.b.SetDurability(topic, d); err != nil {
					t.Error(err)
				}
			})
		}
		set(DurabilityDisk)
		count := func(dir string, wantHeld, wantChannel int, own bool) {
			t.Helper()
			o := newWorldClosed(t, 1, 1, 5, dir, w.b.ids.next.Load(), DurabilityMemory)
			o.open(nil)
			o.now = w.now
			o.settle("recovered", o.quiet)
			o.round(0, nil)
			found := o.b.Find([]byte("t"))
			if d, is := found.Durability(); is != own || own && d != Durability(topic.mode.Load()) {
				t.Errorf("mem %d: the topic has durability %d, its own: %t", mem, d, is)
			}
			fc := found.Find("c")
			if _, err := fc.Places(); err != nil {
				t.Errorf("mem %d: %v", mem, err)
			}
			if n := len(o.heldBy(found.hold(), nil)); n != wantHeld {
				t.Errorf("mem %d: the topic holds %d messages, want %d", mem, n, wantHeld)
			}
			if n := len(o.heldBy(fc.q, fc)); n != wantChannel {
				t.Errorf("mem %d: the channel holds %d messages, want %d", mem, n, wantChannel)
			}
		}
		count(w.crashCopy(dir), 7, 25, true)
		publish(topic, 3, 0)
		count(w.crashCopy(dir), 10, 25, true)

		set(DurabilityMemory)
		if d, own := topic.Durability(); d != DurabilityMemory || own {
			t.Errorf("the topic has durability %d, its own: %t", d, own)
		}
		w.round(1, func(s *Shard) {
			for _, id := range hold.hold {
				if err := s.Finish(hold.sub, id); err != nil {
					t.Fatal(err)
				}
			}
			hold.hold = nil
			hold.sub.SetReady(0)
		})
		w.settle("finished", w.quiet)
		topic.writer.inOrder(func(log *mmapqueue.Backlog) {
			if log != nil && log.Sync() != nil {
				t.Error("no sync")
			}
		})
		// Those published since are the memory's.
		count(w.crashCopy(dir), 10, 22, false)
		w.save()
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What a topic has kept since it was given another durability is for the channel that
// inherits it, through a crash, and not for one that comes later.
func TestInheritedBehindSetDurability(t *testing.T) {
	dir := t.TempDir()
	w := newWorldClosed(t, 1, 1, 10, dir, 1, DurabilityMemory)
	w.open(nil)
	p := w.producer(0)
	topic, err := w.b.Topic("t")
	if err != nil {
		t.Fatal(err)
	}
	set := func(d Durability) {
		t.Helper()
		w.blocking("set", func() {
			if err := w.b.SetDurability(topic, d); err != nil {
				t.Error(err)
			}
		})
	}
	set(DurabilityProcess)
	w.round(0, func(s *Shard) { p.publish(s, topic, 5, 0) })
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	for _, name := range []string{"heir", "late"} {
		if _, err := topic.Channel(name); err != nil {
			t.Fatal(err)
		}
	}
	w.settle("standing still", w.quiet)
	w.crashed(dir)
	fleeting, err := topic.Channel("fleeting#ephemeral") // of which the journal knows nothing
	if err != nil {
		t.Fatal(err)
	}
	set(DurabilityDisk)
	w.empty(fleeting)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A topic keeps its own durability however far the journal has rolled on, and
// through a clean stop.
func TestDurabilityStays(t *testing.T) {
	dir := t.TempDir()
	w := newWorldClosed(t, 1, 1, 10, dir, 1, DurabilityMemory)
	w.open(nil)
	topic, _ := w.b.Topic("t")
	w.blocking("set", func() {
		if err := w.b.SetDurability(topic, DurabilityProcess); err != nil {
			t.Error(err)
		}
	})
	w.save()
	for i := 0; w.b.journal.Segment() < 6; i++ {
		w.blocking("topics come and go", func() {
			name := fmt.Sprint("a", i)
			if _, err := w.b.Topic(name); err != nil {
				t.Error(err)
			}
			if err := w.b.DeleteTopic(name); err != nil {
				t.Error(err)
			}
		})
		w.save()
		w.blocking("trim", func() { w.b.trimJournal() })
	}
	if count, oldest := w.b.journal.Segments(); oldest < 3 {
		t.Errorf("the journal keeps %d segments from %d on", count, oldest)
	}
	for range 2 {
		o := newWorldClosed(t, 1, 1, 10, w.crashCopy(dir), w.b.ids.next.Load(), DurabilityMemory)
		o.open(w.saved)
		if d, own := o.b.Find([]byte("t")).Durability(); d != DurabilityProcess || !own {
			t.Errorf("the topic has durability %d, its own: %t", d, own)
		}
		saved := w.saved
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
		w = newWorldClosed(t, 1, 1, 10, dir, w.b.ids.next.Load(), DurabilityMemory)
		w.open(saved)
		w.save()
	}
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// In memory mode a publish that makes a topic is refused while the birth cannot be
// written, and one to a topic that is born needs no disk; when the disk works
// again, so does the other, and the birth survives.
func TestBirthFails(t *testing.T) {
	disk := faultfs.New()
	w := &world{t: t, now: int64(time.Hour), woken: make([]bool, 1), calls: make([][]func(), 1)}
	dir := t.TempDir()
	options := Options{
		Shards: 1, MemQueueSize: 100, DataPath: dir, MaxMsgTimeout: int64(time.Hour),
		Wall: func() int64 { return w.now + wallOffset }, Waker: w, Journal: mmapqueue.JournalOptions{FS: disk},
	}
	w.b = New(options, 1)
	w.b.shards[0].Start(w.now, w.now+wallOffset, func(uint32) {})
	w.open(nil)
	p := w.producer(0)
	publish := func(name string, wantErrs int) {
		t.Helper()
		topic, err := w.b.Topic(name)
		if err != nil {
			t.Fatal(err)
		}
		w.round(0, func(s *Shard) { p.publish(s, topic, 1, 0) })
		w.settle("answer", func() bool { return !p.owed })
		if w.errs != wantErrs {
			t.Fatalf("%d publishes refused, want %d", w.errs, wantErrs)
		}
	}
	publish("old", 0)
	full := errors.New("disk full")
	disk.Set(faultfs.Faults{Write: full, Create: full})
	publish("new", 1)
	publish("new", 2)
	publish("old", 2)
	if err := w.b.Settle(); !errors.Is(err, full) {
		t.Errorf("what was told is written: %v", err)
	}
	disk.Set(faultfs.Faults{})
	publish("new", 2)
	if err := w.b.Settle(); err != nil {
		t.Error(err)
	}
	copied := w.crashCopy(dir)
	o := newWorldClosed(t, 1, 1, 5, copied, w.b.ids.next.Load(), DurabilityMemory)
	o.open(nil)
	for _, name := range []string{"old", "new"} {
		if o.b.Find([]byte(name)) == nil {
			t.Errorf("topic %s is gone", name)
		}
	}
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}
