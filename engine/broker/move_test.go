package broker

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// moves watches that nothing goes from one queue's place in the journal to the
// backlog of others before the journal has the move.
type moves struct {
	mu       sync.Mutex
	watching bool
	moved    map[uint64]bool
	slow     int // rounds through the scheduler before the next write of moves; the journal's
	early    int // records that were
	written  int
}

// eachRecord calls f for the records in a write: kind, number of its cursor, id and
// body.
func eachRecord(b []byte, f func(kind byte, cursor uint32, id uint64, body []byte)) {
	for len(b) >= 56 {
		n := int(binary.LittleEndian.Uint32(b))
		if n < 32 || 24+n > len(b) {
			return // a header or a footer
		}
		f(b[4], binary.LittleEndian.Uint32(b[36:]), binary.LittleEndian.Uint64(b[40:]), b[56:24+n])
		b = b[min(len(b), (24+n+7)&^7):]
	}
}

type watchedFS struct {
	mmapqueue.FS
	write func(b []byte, do func())
}

type watchedFile struct {
	mmapqueue.File
	write func(b []byte, do func())
}

func (w watchedFS) Create(path string, size int64) (mmapqueue.File, error) {
	f, err := w.FS.Create(path, size)
	return watchedFile{f, w.write}, err
}

func (w watchedFS) Open(path string, write bool) (mmapqueue.File, error) {
	f, err := w.FS.Open(path, write)
	if err != nil {
		return nil, err
	}
	return watchedFile{f, w.write}, nil
}

func (w watchedFile) WriteAt(b []byte, offset int64) (n int, err error) {
	w.write(b, func() { n, err = w.File.WriteAt(b, offset) })
	return n, err
}

func (m *moves) journal(b []byte, do func()) {
	const kindMove = 7
	var ids []uint64
	eachRecord(b, func(kind byte, _ uint32, _ uint64, body []byte) {
		for body = body[min(len(body), 8):]; kind == kindMove && len(body) >= 8; body = body[8:] {
			ids = append(ids, binary.LittleEndian.Uint64(body))
		}
	})
	if len(ids) > 0 { // the writer's chance to be too early
		for range m.slow {
			runtime.Gosched()
		}
		m.slow = 500
	}
	do()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		m.moved[id] = true
	}
}

func (m *moves) backlog(b []byte, do func()) {
	m.mu.Lock()
	eachRecord(b, func(_ byte, cursor uint32, id uint64, _ []byte) {
		if cursor == 1<<32-1 || !m.watching {
			return // a name
		}
		m.written++
		if !m.moved[id] {
			m.early++
		}
	})
	m.mu.Unlock()
	do()
}

// What a topic has held back is written to its channels' backlogs when the journal
// says that they have it, not before: a crash in between would bring it twice. That is
// so for what does not fit into their memory, for what was mixed with deferred messages
// and for what leaves the memory later.
func TestMoveBeforeBacklog(t *testing.T) {
	for name, x := range map[string]struct {
		mem, deferred, drains, least int
	}{
		"overflow": {mem: 5, least: 50},
		"deferred": {mem: 5, deferred: 1, least: 50},
		"drained":  {mem: 1000, drains: 1, least: 200},
	} {
		t.Run(name, func(t *testing.T) {
			m := &moves{moved: map[uint64]bool{}, slow: 20_000}
			w := newWorldOn(t, 1, 1, x.mem, t.TempDir(), 1, DurabilityProcess, watchedFS{mmapqueue.OS, m.journal}, watchedFS{mmapqueue.OS, m.backlog})
			topic, _ := w.b.Topic("t")
			for _, name := range []string{"a", "b", "c"} {
				if _, err := topic.Channel(name); err != nil {
					t.Fatal(err)
				}
			}
			topic.SetPaused(true)
			p := w.producer(0)
			for range 20 {
				w.round(0, func(s *Shard) {
					p.publish(s, topic, 2, 0)
					p.publish(s, topic, x.deferred, w.now+int64(time.Hour))
					p.publish(s, topic, 2, 0)
				})
				w.settle("answer", func() bool { return !p.owed && w.quiet() })
			}
			m.mu.Lock()
			m.watching = true
			m.mu.Unlock()
			topic.SetPaused(false)
			for range x.drains {
				for _, c := range topic.Channels() {
					w.settle("moved on", func() bool { return c.q.ring.Len() > 0 })
					w.blocking("drain", func() {
						topic.writer.inOrder(func(*mmapqueue.Backlog) { topic.drain(c.q) })
					})
				}
			}
			w.settle("moved on", func() bool { return topic.view.Load().hold == nil && w.quiet() })
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.written < x.least || m.early > 0 {
				t.Errorf("of %d records that went to the backlog, %d did so before they were moved", m.written, m.early)
			}
		})
	}
}

// stalling is a Waker whose first Wake, once it is armed, waits.
type stalling struct {
	*world
	armed             atomic.Bool
	stalled, released chan struct{}
}

func (s *stalling) Wake(i int) {
	if s.armed.CompareAndSwap(true, false) {
		close(s.stalled)
		<-s.released
	}
	s.world.Wake(i)
}

// Whoever waits for foreign publishers waits for the pump too: what it has in hand is
// the journal's already, and in no channel yet.
func TestGraceAwaitsThePump(t *testing.T) {
	w := newWorldWith(t, 1, 1, 100, t.TempDir(), 1, DurabilityProcess)
	s := &stalling{world: w, stalled: make(chan struct{}), released: make(chan struct{})}
	w.b.opts.Waker = s
	topic, _ := w.b.Topic("t")
	for _, name := range []string{"a", "b"} {
		ch, err := topic.Channel(name)
		if err != nil {
			t.Fatal(err)
		}
		w.consumer(ch, 0, 10, func(*consumer, uint64, uint16) {}) // it starves
	}
	topic.SetPaused(true)
	p := w.producer(0)
	w.round(0, func(s *Shard) { p.publish(s, topic, 4, 0) })
	w.settle("answer", func() bool { return !p.owed && w.quiet() })
	s.armed.Store(true)
	topic.SetPaused(false)
	<-s.stalled // channel b has nothing yet
	if d, _ := topic.Depth(); d != 4 {
		t.Errorf("the topic has %d messages while its pump has them in hand, want 4", d)
	}
	var over atomic.Bool
	early := make(chan bool)
	go func() {
		w.b.foreign.grace()
		early <- !over.Load()
	}()
	for range 20_000 { // its chance to be too early
		runtime.Gosched()
	}
	over.Store(true)
	close(s.released)
	if <-early {
		t.Error("the pump was not waited for")
	}
	w.settle("moved on", func() bool { w.drain(); return topic.view.Load().hold == nil && w.quiet() })
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
}

// What a topic has held back in its backlog, and gives to its channels while the
// journal fails, a crash does not lose: it stands in theirs.
func TestMoveWithoutJournal(t *testing.T) {
	dir, disk := t.TempDir(), faultfs.New()
	w := newWorldOn(t, 2, 1, 5, dir, 1, DurabilityProcess, disk, nil)
	topic, _ := w.b.Topic("t")
	for _, name := range []string{"a", "b"} {
		if _, err := topic.Channel(name); err != nil {
			t.Fatal(err)
		}
	}
	topic.SetPaused(true)
	p := w.producer(0)
	for range 20 {
		w.round(0, func(s *Shard) { p.publish(s, topic, 4, 0) })
		w.settle("answer", func() bool { return !p.owed && w.quiet() })
	}
	disk.Set(faultfs.Faults{Write: syscall.EIO})
	topic.SetPaused(false)
	w.settle("moved on", func() bool { return topic.view.Load().hold == nil && w.quiet() })
	copied := copyOf(t, dir)
	disk.Set(faultfs.Faults{})
	other := newWorldClosed(t, 2, 1, 5, copied, w.b.ids.next.Load(), DurabilityProcess)
	if err := other.b.Open(); err != nil {
		t.Fatal(err)
	}
	other.settle("recovered", other.quiet)
	found := other.b.Find([]byte("t"))
	held := other.heldBy(found.hold(), nil)
	for _, name := range []string{"a", "b"} {
		c := found.Find(name)
		if c == nil {
			t.Fatalf("channel %s is gone", name)
		}
		all := other.heldBy(c.q, c)
		for id := range held {
			all[id] = true
		}
		if len(all) != 80 {
			t.Errorf("channel %s: %d messages after the crash, want 80", name, len(all))
		}
	}
}

// snapshots takes copies of a directory when something is about to be written to a
// backlog, which is when a crash may come. Nothing is written meanwhile.
type snapshots struct {
	mu     sync.Mutex
	dir    string
	most   int
	copies []string
	err    error
}

func (s *snapshots) journal(_ []byte, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *snapshots) backlog(_ []byte, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.copies) < s.most {
		to := s.dir + " " + string(rune('a'+len(s.copies)))
		s.err = errors.Join(s.err, os.CopyFS(to, os.DirFS(s.dir)))
		s.copies = append(s.copies, to)
	}
	do()
}

// What a paused topic has read of its backlog in memory mode, and gives to its channels
// in one with a journal, comes once after a crash at any time.
func TestMoveAfterChangeOfMode(t *testing.T) {
	for name, mem := range map[string]int{"all read": 100, "some read": 5} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			shots := &snapshots{dir: dir}
			journal, backlogs := watchedFS{unsynced{mmapqueue.OS}, shots.journal}, watchedFS{unsynced{mmapqueue.OS}, shots.backlog}
			w := newWorldOn(t, 3, 1, mem, dir, 1, DurabilityMemory, journal, backlogs)
			topic, _ := w.b.Topic("t")
			for _, name := range []string{"a", "b"} {
				if _, err := topic.Channel(name); err != nil {
					t.Fatal(err)
				}
			}
			topic.SetPaused(true)
			p := w.producer(0)
			w.round(0, func(s *Shard) { p.publish(s, topic, 40, 0); p.publish(s, topic, 2, w.now+int64(time.Hour)) })
			w.settle("answer", func() bool { return !p.owed && w.quiet() })
			w.save()
			saved := w.saved
			if err := w.b.Close(); err != nil {
				t.Fatal(err)
			}
			w = newWorldClosedOn(t, 3, 1, mem, dir, w.b.ids.next.Load(), DurabilityMemory, journal, backlogs)
			w.open(saved)
			w.settle("read", w.quiet)
			topic = w.b.Find([]byte("t"))
			hold := topic.hold()
			read := func() (n int) { // of the backlog, not finished there
				hold.mu.Lock()
				defer hold.mu.Unlock()
				return int(hold.cursor.Unfinished())
			}
			if want := min(mem, 42); read() < want {
				t.Fatalf("%d messages were read, want %d", read(), want)
			}
			w.blocking("change of mode", func() {
				if err := w.b.SetDurability(topic, DurabilityProcess); err != nil {
					t.Error(err)
				}
			})
			shots.mu.Lock()
			shots.most = 8
			shots.mu.Unlock()
			topic.SetPaused(false)
			w.settle("moved on", func() bool { return topic.view.Load().hold == nil && w.quiet() })
			if err := w.b.Close(); err != nil || shots.err != nil {
				t.Fatal(err, shots.err)
			}
			for i, copied := range append(shots.copies, copyOf(t, dir)) {
				other := newWorldClosed(t, 3, 1, 5, copied, w.b.ids.next.Load(), DurabilityMemory)
				other.open(saved)
				topic := other.b.Find([]byte("t"))
				topic.SetPaused(false) // in case the journal had not heard of it
				other.settle("moved on", func() bool { return topic.view.Load().hold == nil && other.quiet() })
				for _, c := range topic.Channels() {
					if n := len(other.heldBy(c.q, c)); n != 42 {
						t.Errorf("crash %d: channel %s has %d messages, want 42", i, c.name, n)
					}
				}
			}
		})
	}
}
