package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// journalFiles returns how many segments the journal has on disk.
func journalFiles(t *testing.T, dir string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, backlogsDir, journalDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// journalBytes returns what the journal's files take.
func journalBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, backlogsDir, journalDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // or it has just gone
			n += info.Size()
		}
	}
	return n
}

// A few old messages, in flight, deferred and waiting, do not keep the journal
// growing: they make way, and are still there after a crash.
func TestJournalStaysSmall(t *testing.T) {
	dir := t.TempDir()
	w := newWorldWith(t, 1, 1, 1000, dir, 1, DurabilityProcess)
	old, _ := w.b.Topic("old")
	lagging, _ := w.b.Topic("lagging")
	busy, _ := w.b.Topic("busy")
	idle, err := old.Channel("idle")
	if err != nil {
		t.Fatal(err)
	}
	held, _ := old.Channel("held")
	behind, _ := lagging.Channel("behind")
	flow, _ := busy.Channel("flow")
	p := w.producer(0)
	publish := func(topic *Topic, n int, due int64) {
		t.Helper()
		w.round(0, func(s *Shard) { p.publish(s, topic, n, due) })
		w.settle("answer", func() bool { return !p.owed })
	}
	keep := w.consumer(held, 0, 10, func(*consumer, uint64, uint16) {})
	publish(old, 10, 0)
	publish(old, 5, w.now+int64(time.Hour))
	for range 3 {
		publish(lagging, 900, 0) // past its memory
	}
	seen := 0
	c := w.consumer(flow, 0, 1<<20, func(*consumer, uint64, uint16) { seen++ })
	total := 0
	const limit = 14 * 64 << 10 // the budget is 4 segments of the largest size, and some are spare or being left
	for range 400 {
		publish(busy, 100, 0)
		total += 100
		w.settle("delivered", func() bool { w.drain(); return seen == total })
		w.round(0, func(s *Shard) {
			for _, id := range c.hold {
				if err := s.Finish(c.sub, id); err != nil {
					t.Fatal(err)
				}
			}
			c.hold = nil
		})
		w.save()
		w.blocking("sweep", func() { w.b.Sweep(w.now, false) })
		for w.b.shards[0].copyAt != 0 {
			w.round(0, nil)
		}
		if n := journalBytes(t, dir); n > limit {
			t.Fatalf("the journal has %d bytes after %d messages", n, total)
		}
	}
	if w.b.journal.Segment() < 28 {
		t.Fatalf("the journal came to segment %d only", w.b.journal.Segment())
	}
	w.settle("standing still", w.quiet)
	w.crashed(dir)
	if n := len(keep.hold); n != 10 {
		t.Errorf("%d messages in flight, want 10", n)
	}
	if n, _ := idle.Depth(); n != 10 {
		t.Errorf("%d messages wait, want 10", n)
	}
	if n, _ := behind.Depth(); n != 2700 {
		t.Errorf("%d messages lag, want 2700", n)
	}
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}

	// A clean stop leaves no journal, and all of it in the backlogs.
	if n := journalFiles(t, dir); n != 0 {
		t.Errorf("the journal has %d files after a clean stop, want none", n)
	}
	w = newWorldWith(t, 1, 1, 1000, dir, w.b.ids.next.Load(), DurabilityProcess)
	w.b.EndRestore()
	for name, want := range map[string]int64{"old/idle": 15, "old/held": 15, "lagging/behind": 2700} {
		topic, channel, _ := strings.Cut(name, "/")
		c := w.b.Find([]byte(topic)).Find(channel)
		if c == nil {
			t.Errorf("channel %s is gone", name)
			continue
		}
		if p, err := c.Places(); err != nil || p.held() != want {
			t.Errorf("%s holds %d messages (%v), want %d", name, p.held(), err, want)
		}
	}
	w.settle("standing still", w.quiet)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is deleted stays so through a crash, and its name can be used again.
func TestJournalKnowsDeaths(t *testing.T) {
	dir := t.TempDir()
	w := newWorldWith(t, 1, 1, 10, dir, 1, DurabilityProcess)
	p := w.producer(0)
	make3 := func(topic string) *Topic {
		t.Helper()
		tp, err := w.b.Topic(topic)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []string{"a", "b"} {
			if _, err := tp.Channel(c); err != nil {
				t.Fatal(err)
			}
		}
		w.round(0, func(s *Shard) { p.publish(s, tp, 30, 0) })
		w.settle("answer", func() bool { return !p.owed && w.quiet() })
		return tp
	}
	kept := make3("kept")
	make3("gone")
	make3("again")
	w.blocking("delete", func() {
		if err := errors.Join(w.b.DeleteTopic("gone"), w.b.DeleteTopic("again"), w.b.DeleteChannel("kept", "b")); err != nil {
			t.Error(err)
		}
	})
	make3("again")
	w.empty(kept.Find("a"))
	w.settle("standing still", w.quiet)
	w.crashed(dir)
	w.blocking("delete", func() {
		if err := w.b.DeleteChannel("kept", "a"); err != nil {
			t.Error(err)
		}
	})
	w.crashed(dir) // a topic without channels and messages
	w.round(0, func(s *Shard) { p.publish(s, kept, 30, 0) })
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	w.crashed(dir)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// What a consumer holds of the backlog is there after a crash when only what waits was
// dropped. Empty itself drops it too, and hands nothing out meanwhile.
func TestEmptyLeavesWhatIsHeld(t *testing.T) {
	dir := t.TempDir()
	w := newWorldWith(t, 1, 1, 1, dir, 1, DurabilityProcess)
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 30, 0) })
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	c := w.consumer(ch, 0, 10, func(*consumer, uint64, uint16) {})
	w.settle("ten in flight", func() bool { w.drain(); w.round(0, nil); return len(c.hold) == 10 && w.quiet() })
	topic.writer.inOrder(func(*mmapqueue.Backlog) { ch.q.empty(w.b) }) // the last part of Empty
	if pl, err := ch.Places(); err != nil || pl.held() != 10 {
		t.Fatalf("the channel holds %d messages (%v), want 10", pl.held(), err)
	}
	w.crashed(dir)
	w.empty(ch)
	w.crashed(dir)
	if pl, err := ch.Places(); err != nil || pl.held() != 0 {
		t.Errorf("the channel holds %d messages (%v), want 0", pl.held(), err)
	}
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A message that is copied out of an old chunk keeps its segment of the journal
// until the copy's record is on its way.
func TestCopiesHoldTheJournal(t *testing.T) {
	w := newWorldWith(t, 1, 1, 100, t.TempDir(), 1, DurabilityProcess)
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.b.Settle(); err != nil { // or the first segment begins later, and marks the memory as its own
		t.Fatal(err)
	}
	w.b.pool.SetMark(5)
	if err := w.b.PublishForeign(topic, [][]byte{body(1, 1)}, 0); err != nil {
		t.Fatal(err)
	}
	w.b.pool.SetMark(9)
	w.b.foreign.renew(9)
	refs := make([]block.Ref, 1)
	if ch.q.pop(refs) != 1 {
		t.Fatal("no message")
	}
	var old block.Drops
	batch := w.b.journal.Batch()
	w.b.foreign.copyOld(batch, ch.q, refs, 9, &old)
	if m := w.b.pool.OldestMark(); m != 5 {
		t.Errorf("before the submit segments below %d may go, want 5", m)
	}
	w.b.journal.Submit(batch, nil)
	old.Flush(w.b.pool)
	if m := w.b.pool.OldestMark(); m != 9 {
		t.Errorf("then segments below %d may go, want 9", m)
	}
	ch.q.ring.TryPush(refs)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// Messages that a channel has read from its backlog, and that wait in memory for
// somebody who does not come, let go of the backlog's segments when these are too many.
func TestWaitingMessagesDoNotPin(t *testing.T) {
	for _, mem := range []int{0, 50, 100} {
		dir := t.TempDir()
		w := newWorldWith(t, 3, 1, mem, dir, 1, DurabilityProcess)
		topic, _ := w.b.Topic("t")
		c, err := topic.Channel("c")
		if err != nil {
			t.Fatal(err)
		}
		c.SetPaused(true)
		p := w.producer(0)
		for range 20 {
			w.round(0, func(s *Shard) { p.publish(s, topic, 10, 0) })
			w.settle("answer", func() bool { return !p.owed && w.quiet() })
		}
		to := w.consumer(c, 0, 120, func(*consumer, uint64, uint16) {})
		c.SetPaused(false)
		w.settle("delivered", func() bool { w.drain(); return len(to.hold) == 120 && w.quiet() })
		c.SetPaused(true)
		w.round(0, func(s *Shard) {
			for _, id := range to.hold {
				if err := s.Finish(to.sub, id); err != nil {
					t.Fatal(err)
				}
			}
		})
		settled := func() {
			t.Helper()
			for range 2 {
				if err := w.b.journal.Flush(); err != nil {
					t.Fatal(err)
				}
				topic.writer.wait()
			}
			w.settle("standing still", w.quiet)
		}
		settled()
		cursor := c.q.cursor
		if cursor.Unfinished() == 0 {
			t.Fatalf("mem %d: nothing in memory is from the backlog", mem)
		}
		w.blocking("sweep", func() { w.b.Sweep(w.now, false) })
		c.q.pinned.Store(1 << 62)
		w.blocking("sweep", func() { w.b.Sweep(w.now, false) })
		settled()
		if n := cursor.Unfinished(); n != 0 {
			t.Errorf("mem %d: %d messages in memory still keep the backlog", mem, n)
		}
		if p, err := c.Places(); err != nil || p.held() != 80 {
			t.Errorf("mem %d: %d messages are left (%v), want 80", mem, p.held(), err)
		}
		w.crashed(dir)
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// In every mode a few messages in a consumer's hands do not keep the backlog that has
// passed since.
func TestHeldMessagesDoNotPin(t *testing.T) {
	for _, mode := range []Durability{DurabilityMemory, DurabilityProcess} {
		dir := t.TempDir()
		w := newWorldClosed(t, 4, 1, 100, dir, 1, mode)
		w.b.opts.Log.SegmentBytesMax = 64 << 10
		w.open(nil)
		topic, _ := w.b.Topic("t")
		c, err := topic.Channel("c")
		if err != nil {
			t.Fatal(err)
		}
		p := w.producer(0)
		publish := func(n int) {
			t.Helper()
			w.round(0, func(s *Shard) { p.publish(s, topic, n, 0) })
			w.settle("answer", func() bool { return !p.owed && w.quiet() })
		}
		c.SetPaused(true)
		publish(200)
		keep := w.consumer(c, 0, 150, func(*consumer, uint64, uint16) {})
		c.SetPaused(false)
		w.settle("delivered", func() bool { w.drain(); return len(keep.hold) == 150 && w.quiet() })
		w.round(0, func(s *Shard) { keep.sub.SetReady(0) })
		to := w.consumer(c, 0, 2500, func(*consumer, uint64, uint16) {})
		most := int64(0)
		for range 40 {
			c.SetPaused(true)
			publish(2000)
			c.SetPaused(false)
			w.settle("drained", func() bool {
				w.drain()
				hold := to.hold
				to.hold = nil
				w.round(0, func(s *Shard) {
					for _, id := range hold {
						if err := s.Finish(to.sub, id); err != nil {
							t.Fatal(err)
						}
					}
				})
				total, _ := c.Depth()
				return total == 0 && len(hold) == 0 && w.quiet()
			})
			if err := w.b.journal.Flush(); err != nil {
				t.Fatal(err)
			}
			w.blocking("sweep", func() { w.b.Sweep(w.now, false) })
			w.round(0, nil) // copies
			w.blocking("journal", func() { _ = w.b.journal.Flush() })
			topic.writer.wait()
			most = max(most, topic.writer.log.Bytes())
		}
		if most > 1<<20 { // of more than 5 MB that have passed
			t.Errorf("mode %d: the backlog has grown to %d bytes", mode, most)
		}
		if n := len(keep.hold); n != 150 {
			t.Errorf("mode %d: %d messages are held, want 150", mode, n)
		}
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// When the journal's disk fails, publishes are refused and Health says why; when
// it works again, so do they, and all that was accepted is there.
func TestJournalFails(t *testing.T) {
	disk := faultfs.New()
	dir := t.TempDir()
	w := &world{t: t, now: int64(time.Hour), woken: make([]bool, 1), calls: make([][]func(), 1)}
	w.b = New(Options{
		Shards: 1, MemQueueSize: 100, DataPath: dir, MaxMsgTimeout: int64(time.Hour), Durability: DurabilityProcess,
		Wall: func() int64 { return w.now + wallOffset }, Waker: w, Journal: mmapqueue.JournalOptions{FS: disk},
	}, 1)
	w.b.shards[0].Start(w.now, w.now+wallOffset, func(uint32) {})
	if err := w.b.Open(); err != nil {
		t.Fatal(err)
	}
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 3, 0) })
	w.settle("answer", func() bool { return !p.owed })

	full := errors.New("disk full")
	disk.Set(faultfs.Faults{Write: full, Create: full})
	w.round(0, func(s *Shard) { p.publish(s, topic, 3, 0) })
	w.settle("refusal", func() bool { return !p.owed })
	if w.errs != 1 {
		t.Errorf("%d publishes refused, want 1", w.errs)
	}
	if err := w.b.Health(); !errors.Is(err, full) {
		t.Errorf("Health is %v", err)
	}
	if err := w.b.PublishForeign(topic, [][]byte{body(7, 0)}, 0); !errors.Is(err, full) {
		t.Errorf("a publish says %v", err)
	}

	disk.Set(faultfs.Faults{})
	w.b.renamed(ch.q, ch.name) // whatever is written next
	w.settle("healing", func() bool { return w.b.Health() == nil })
	if err := w.b.PublishForeign(topic, [][]byte{body(7, 1)}, 0); err != nil {
		t.Error(err)
	}
	// Those that were refused are in memory, and may be delivered.
	if n, _ := ch.Depth(); n != 7 {
		t.Errorf("%d messages wait, want 7", n)
	}
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// In memory mode a crash keeps what had overflowed and was not finished, whatever
// was in a consumer's hands.
func TestCrashKeepsOverflow(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, 1, 1, 10, dir, 1)
	topic, _ := w.b.Topic("t")
	ch, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 100, 0) })
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	c := w.consumer(ch, 0, 50, func(*consumer, uint64, uint16) {})
	w.settle("fifty in flight", func() bool { w.drain(); w.round(0, nil); return len(c.hold) == 50 })
	w.round(0, func(s *Shard) {
		for _, id := range c.hold[:30] {
			if err := s.Finish(c.sub, id); err != nil {
				t.Fatal(err)
			}
		}
		c.sub.SetReady(0)
	})
	w.settle("told to the backlog", w.quiet)
	if err := topic.writer.log.Sync(); err != nil {
		t.Fatal(err)
	}
	copied := copyOf(t, dir)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	other := newWorld(t, 1, 1, 10, copied, w.b.ids.next.Load())
	if err := other.b.Open(); err != nil {
		t.Fatal(err)
	}
	other.b.EndRestore()
	// Ten were in memory only; twenty of the ninety others are finished.
	if n, _ := other.b.Find([]byte("t")).Find("c").Depth(); n != 70 {
		t.Errorf("%d messages after the crash, want 70", n)
	}
	other.settle("quiet", other.quiet)
	if err := other.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A run in memory mode takes over what one with a journal left behind when it
// died.
func TestJournalThenMemory(t *testing.T) {
	dir := t.TempDir()
	w := newWorldWith(t, 1, 1, 1000, dir, 1, DurabilityProcess)
	topic, _ := w.b.Topic("t")
	if _, err := topic.Channel("c"); err != nil {
		t.Fatal(err)
	}
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 20, 0) })
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	copied := copyOf(t, dir)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	dir = copied
	for left := 20; left > 0; left -= 10 {
		w = newWorldClosed(t, 1, 1, 1000, dir, w.b.ids.next.Load(), DurabilityMemory)
		w.open(nil)
		w.settle("quiet", w.quiet)
		c := w.b.Find([]byte("t")).Find("c")
		if n, _ := c.Depth(); int(n) != left {
			t.Fatalf("%d messages, want %d", n, left)
		}
		// A message of this run is the memory's only.
		topic := w.b.Find([]byte("t"))
		p := w.producer(0)
		w.round(0, func(s *Shard) { p.publish(s, topic, 1, 0) })
		w.settle("answer", func() bool { return !p.owed })
		sub := w.consumer(c, 0, 10, func(*consumer, uint64, uint16) {})
		w.settle("in flight", func() bool { w.drain(); return len(sub.hold) == 10 })
		w.round(0, func(s *Shard) {
			for _, id := range sub.hold {
				if err := s.Finish(sub.sub, id); err != nil {
					t.Fatal(err)
				}
			}
			sub.sub.SetReady(0)
		})
		if err := w.b.Settle(); err != nil {
			t.Fatal(err)
		}
		dir = copyOf(t, dir)
		// The stop leaves the message of this run, too.
		w.save()
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w = newWorldClosed(t, 1, 1, 1000, dir, w.b.ids.next.Load(), DurabilityMemory)
	w.open(nil)
	if n, _ := w.b.Find([]byte("t")).Find("c").Depth(); n != 0 {
		t.Errorf("%d messages, want none", n)
	}
	w.save()
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	if n := journalFiles(t, dir); n != 0 {
		t.Errorf("the journal has %d files after a clean stop, want none", n)
	}
}

// A clean stop leaves a few messages of a topic in the journal, with their due
// times and attempts, and no directory of the topic; many go to the backlog.
func TestCloseLeavesLittle(t *testing.T) {
	for _, d := range []Durability{DurabilityMemory, DurabilityProcess} {
		dir := t.TempDir()
		w := newWorldClosed(t, 1, 1, 1000, dir, 1, d)
		w.open(nil)
		p := w.producer(0)
		for i, n := range []int{3, 3, leaveMessages + 1} {
			topic, err := w.b.Topic(fmt.Sprint("t", i))
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				if _, err := topic.Channel("c"); err != nil {
					t.Fatal(err)
				}
			}
			w.round(0, func(s *Shard) { p.publish(s, topic, n, 0) })
			w.settle("answer", func() bool { return !p.owed && w.quiet() })
		}
		held := w.consumer(w.b.Find([]byte("t1")).Find("c"), 0, 2, func(*consumer, uint64, uint16) {})
		w.settle("in flight", func() bool { w.drain(); return len(held.hold) == 2 })
		w.round(0, func(s *Shard) {
			if err := s.Requeue(held.sub, held.hold[0], int64(time.Hour)); err != nil {
				t.Fatal(err)
			}
			held.sub.SetReady(0)
		})
		w.save()
		for range 2 {
			if err := w.b.Close(); err != nil {
				t.Fatal(err)
			}
			if n := journalFiles(t, dir); n != 1 {
				t.Errorf("mode %d: the journal has %d files, want 1", d, n)
			}
			if dirs, err := filepath.Glob(filepath.Join(dir, backlogsDir, "t*@*")); err != nil || len(dirs) != 1 || !strings.Contains(dirs[0], "t2@") {
				t.Errorf("mode %d: backlogs %q, %v", d, dirs, err)
			}
			saved := w.saved
			w = newWorldClosed(t, 1, 1, 1000, dir, w.b.ids.next.Load(), d)
			w.open(saved)
			w.saved = saved
			w.settle("quiet", w.quiet)
			w.round(0, nil)
			w.save()
		}
		if n, _ := w.b.Find([]byte("t0")).Depth(); n != 3 {
			t.Errorf("mode %d: topic t0 holds %d messages, want 3", d, n)
		}
		c := w.b.Find([]byte("t1")).Find("c")
		if n, _ := c.Depth(); n != 2 || c.Figures().Deferred != 1 {
			t.Errorf("mode %d: t1/c has %d messages and %d deferred, want 2 and 1", d, n, c.Figures().Deferred)
		}
		attempts := map[uint16]int{}
		again := w.consumer(c, 0, 10, func(_ *consumer, _ uint64, a uint16) { attempts[a]++ })
		w.settle("in flight", func() bool { w.drain(); return len(again.hold) == 2 })
		w.now += int64(time.Hour) + 1e9
		w.round(0, nil)
		w.settle("the deferred one", func() bool { w.drain(); w.round(0, nil); return len(again.hold) >= 3 })
		if attempts[2] < 2 || attempts[1] != 1 {
			t.Errorf("mode %d: attempts %v", d, attempts)
		}
		if n, _ := w.b.Find([]byte("t2")).Find("c").Depth(); n != leaveMessages+1 {
			t.Errorf("mode %d: t2/c holds %d messages, want %d", d, n, leaveMessages+1)
		}
		w.save()
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSegmentsGrow shows that the journal's segments are small while little is in
// memory, grow with it and with the topics, shrink when that is four times too much,
// and are large in disk mode.
func TestSegmentsGrow(t *testing.T) {
	const most = 1 << 20
	b := New(Options{
		Shards: 1, MemQueueSize: 1, DataPath: t.TempDir(), Wall: func() int64 { return wallOffset },
		Durability: DurabilityProcess, Journal: mmapqueue.JournalOptions{SegmentBytes: most},
	}, 1<<63)
	if err := b.Open(); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.EndRestore()
	is := func(when string, want int64) {
		t.Helper()
		if got := b.journal.SegmentBytes(); got != want {
			t.Errorf("%s: segments of %d bytes, want %d", when, got, want)
		}
	}
	is("at first", most/8)
	b.durable(DurabilityProcess)
	b.sizeSegments(10)
	is("with ten topics", most/8)
	b.sizeSegments(20)
	is("with twenty", most/4)
	b.sizeSegments(10)
	is("with ten again", most/4)
	b.sizeSegments(4)
	is("with four", most/8)
	arena := block.NewArena(b.pool)
	var drops block.Drops
	for b.pool.Used() < 2*most {
		r, _ := arena.Alloc(1 << 10)
		drops.Add(r.Chunk)
	}
	b.sizeSegments(4)
	is("with 2 MB in memory", most/4)
	for b.pool.Used() < 32*most {
		r, _ := arena.Alloc(1 << 10)
		drops.Add(r.Chunk)
	}
	b.sizeSegments(4)
	is("with 32 MB", most)
	drops.Flush(b.pool)
	arena.Close()
	b.sizeSegments(4)
	is("when they are gone", most/8)
	b.durable(DurabilityDisk)
	is("in disk mode", most)
	b.sizeSegments(4)
	is("still", most)
}
