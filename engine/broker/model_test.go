package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// world drives a broker's shards from one goroutine: a seed says which loop has
// its turn. Only writers, refillers and pumps are goroutines of their own.
type world struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	b     *Broker
	now   int64
	mu    sync.Mutex
	woken []bool
	calls [][]func()
	prods []*producer
	cons  []*consumer
	log   []delivery
	errs  int
	bound int                   // of each round
	saved map[string]savedTopic // what the engine would have in its file
}

const wallOffset = int64(1_700_000_000_000_000_000)

func (w *world) Wake(i int) { w.mu.Lock(); w.woken[i] = true; w.mu.Unlock() }

func (w *world) Do(i int, f func()) {
	w.mu.Lock()
	w.calls[i] = append(w.calls[i], f)
	w.mu.Unlock()
}

func newWorld(t *testing.T, seed uint64, shards, mem int, dir string, mark uint64) *world {
	return newWorldWith(t, seed, shards, mem, dir, mark, DurabilityMemory)
}

// savedTopic is a topic as the engine's file has it.
type savedTopic struct {
	paused   bool
	channels map[string]bool
}

// save does what the engine does now and then.
func (w *world) save() {
	mark := w.b.NewsMark()
	w.saved = map[string]savedTopic{}
	for _, t := range w.b.Topics() {
		s := savedTopic{t.Paused(), map[string]bool{}}
		for _, c := range t.Channels() {
			s.channels[c.Name()] = c.Paused()
		}
		w.saved[t.Name()] = s
	}
	w.b.NewsSaved(mark)
}

// empty empties a channel.
func (w *world) empty(c *Channel) {
	w.t.Helper()
	w.blocking("empty", func() {
		if err := c.Empty(); err != nil {
			w.t.Errorf("empty: %v", err)
		}
	})
}

// newWorldWith is newWorld in one of the modes. In one with a journal the broker
// is opened.
func newWorldWith(t *testing.T, seed uint64, shards, mem int, dir string, mark uint64, d Durability) *world {
	w := newWorldClosed(t, seed, shards, mem, dir, mark, d)
	if d != DurabilityMemory {
		w.open(nil)
	}
	return w
}

// unsynced is a file system that says of everything that it is on the disk. The
// crashes of these tests are the process's, which a copy of its files plays: nothing
// need wait for a disk that others use as well.
type unsynced struct{ mmapqueue.FS }

type unsyncedFile struct{ mmapqueue.File }

func (u unsynced) Create(path string, size int64) (mmapqueue.File, error) {
	f, err := u.FS.Create(path, size)
	return unsyncedFile{f}, err
}

func (u unsynced) Open(path string, write bool) (mmapqueue.File, error) {
	f, err := u.FS.Open(path, write)
	return unsyncedFile{f}, err
}

func (unsynced) SyncDir(string) error { return nil }

func (unsyncedFile) Datasync() error { return nil }

// newWorldOn is newWorldWith with file systems for the journal and the backlogs.
func newWorldOn(t *testing.T, seed uint64, shards, mem int, dir string, mark uint64, d Durability, journal, backlogs mmapqueue.FS) *world {
	w := newWorldClosedOn(t, seed, shards, mem, dir, mark, d, journal, backlogs)
	w.open(nil)
	return w
}

// open opens the world's broker, with what an earlier one's engine has saved.
func (w *world) open(saved map[string]savedTopic) {
	w.t.Helper()
	if err := w.b.Open(); err != nil {
		w.fatal("%v", err)
	}
	for name, s := range saved {
		if err := w.b.Restore(name, s.paused, s.channels); err != nil {
			w.fatal("%v", err)
		}
	}
	w.b.EndRestore()
}

// newWorldClosed is newWorldWith with a broker that is not opened yet.
func newWorldClosed(t *testing.T, seed uint64, shards, mem int, dir string, mark uint64, d Durability) *world {
	disk := unsynced{mmapqueue.OS}
	return newWorldClosedOn(t, seed, shards, mem, dir, mark, d, disk, disk)
}

func newWorldClosedOn(t *testing.T, seed uint64, shards, mem int, dir string, mark uint64, d Durability, journal, backlogs mmapqueue.FS) *world {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), now: int64(time.Hour)}
	w.woken, w.calls = make([]bool, shards), make([][]func(), shards)
	w.b = New(Options{
		Shards: shards, MemQueueSize: mem, DataPath: dir, MaxMsgTimeout: int64(time.Hour),
		Wall: func() int64 { return w.now + wallOffset }, Waker: w,
		Log:        mmapqueue.Options{SyncEvery: -1, SyncTimeout: -1, FS: backlogs},
		Durability: d, Journal: mmapqueue.JournalOptions{SegmentBytes: 64 << 10, FS: journal}, JournalBudget: 256 << 10,
	}, mark)
	for _, s := range w.b.shards {
		s.Start(w.now, w.now+wallOffset, func(uint32) {})
	}
	t.Cleanup(func() { // or somebody makes files in a directory that is being removed
		if t.Failed() || w.b.closing.Swap(true) {
			return // after a clean stop nobody does
		}
		select {
		case <-w.b.closed: // by the test
		default:
			close(w.b.closed)
		}
		w.b.helpers.Wait()
		for _, topic := range w.b.Topics() {
			topic.writer.wait()
			if log := topic.writer.log; log != nil {
				_ = log.Close()
			}
		}
		if w.b.journal != nil {
			_ = w.b.journal.Close()
		}
	})
	return w
}

func (w *world) fatal(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
}

// round runs one round of shard i with f in it. A closed loop of rounds without
// f is how the world lets things happen.
func (w *world) round(i int, f func(s *Shard)) {
	s := w.b.shards[i]
	s.Begin(w.now, w.now+wallOffset)
	w.mu.Lock()
	woken, calls := w.woken[i], w.calls[i]
	w.woken[i], w.calls[i] = false, nil
	w.mu.Unlock()
	for _, call := range calls {
		call()
	}
	if woken {
		s.Woken()
	}
	s.Advance()
	if f != nil {
		f(s)
	}
	s.Bound(w.bound)
	if s.EndRound() {
		w.Wake(i)
	}
}

// settle runs rounds until done.
func (w *world) settle(what string, done func() bool) {
	w.t.Helper()
	var wait patient
	for looks := 0; looks%256 != 0 || !wait.over(time.Now(), w.moved()); looks++ {
		for i := range w.b.shards {
			w.mu.Lock()
			due := w.woken[i] || len(w.calls[i]) > 0
			w.mu.Unlock()
			if due {
				w.round(i, nil)
			}
		}
		if done() {
			return
		}
		runtime.Gosched()
	}
	for _, t := range w.b.Topics() {
		for _, c := range t.Channels() {
			p, err := c.Places()
			w.t.Logf("%s: %+v %v, left %d refilling %t draining %t parked %t", c.name, p, err, len(c.q.left), c.q.refilling.Load(), c.q.draining.Load(), c.q.parked.Load())
		}
		q := t.hold()
		w.t.Logf("%s: hold %d, of it %d in the writer and %d read; ring %d, draining %t, unreadable %t, dead %t; pumping %t",
			t.name, q.outstanding.Load(), q.inWriter.Load(), len(q.left), q.ring.Len(), q.draining.Load(), q.unreadable.Load(), q.dead.Load(), t.pumping)
		if q.cursor != nil {
			w.t.Logf("%s: %d in its backlog", t.name, q.cursor.Depth())
		}
	}
	stacks := make([]byte, 1<<20)
	w.t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
	w.fatal("never: %s (quiet %t)", what, w.quiet())
}

// blocking runs f, which waits for loops, beside the rounds it needs.
func (w *world) blocking(what string, f func()) {
	w.t.Helper()
	w.blockingBeside(what, f, func() {})
}

// blockingBeside is blocking with something to be done again and again meanwhile.
func (w *world) blockingBeside(what string, f, beside func()) {
	w.t.Helper()
	done := make(chan struct{})
	go func() { f(); close(done) }()
	w.settle(what, func() bool {
		beside()
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
}

func (w *world) quiet() bool {
	if w.b.trimming.Load() {
		return false
	}
	for i := range w.woken {
		w.mu.Lock()
		due := w.woken[i] || len(w.calls[i]) > 0
		w.mu.Unlock()
		if due {
			return false
		}
	}
	for _, t := range w.b.Topics() {
		// In the order in which one gives the other work.
		t.mu.Lock()
		pumping := t.pumping
		t.mu.Unlock()
		t.writer.mu.Lock()
		running := t.writer.running
		t.writer.mu.Unlock()
		for _, c := range t.Channels() {
			running = running || c.q.refilling.Load()
		}
		if running || pumping || t.hold().refilling.Load() {
			return false
		}
	}
	return true
}

// stands checks all topics' counts.
func (w *world) stands() {
	w.t.Helper()
	for _, t := range w.b.Topics() {
		if err := t.Stands(); err != nil {
			w.fatal("topic %s: %v", t.name, err)
		}
	}
}

// producer publishes numbered bodies: producer 4 | sequence 4.
type producer struct {
	w     *world
	index uint32
	shard int
	seq   uint32
	pub   Publisher
	owed  bool
	last  uint64   // the shard's round in which it published last
	open  []uint64 // rounds that are not answered
}

func (p *producer) Accepted(err error) {
	if p.pub.Pending() != len(p.open)-1 {
		p.w.fatal("%d rounds are open after an answer to one of %d", p.pub.Pending(), len(p.open))
	}
	p.open = p.open[1:]
	p.owed = len(p.open) > 0
	if err != nil {
		p.w.errs++
	}
}

func (w *world) producer(shard int) *producer {
	p := &producer{w: w, index: uint32(len(w.prods)), shard: shard}
	p.pub.Waiter = p
	w.prods = append(w.prods, p)
	return p
}

func (p *producer) publish(s *Shard, t *Topic, n int, dueNs int64) {
	for range n {
		if err := s.Publish(t, &p.pub, body(p.index, p.seq), dueNs); err != nil {
			p.w.fatal("publish: %v", err)
		}
		if p.last != s.round {
			p.open = append(p.open, s.round)
		}
		p.last, p.owed = s.round, true
		p.seq++
	}
}

func body(producer, seq uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, producer)
	return binary.BigEndian.AppendUint32(b, seq)
}

// consumer is a sink that looks at what it got when the round is over.
type consumer struct {
	w      *world
	shard  int
	sub    *Subscriber
	full   bool
	kicked bool
	hold   []uint64 // ids in flight
	got    func(c *consumer, key uint64, attempts uint16)
}

func (c *consumer) Reserve(n int) []byte {
	b := make([]byte, n)
	c.w.log = append(c.w.log, delivery{c, b})
	return b
}
func (c *consumer) Full() bool { return c.full }
func (c *consumer) Kick()      { c.kicked = true }

// drain looks at what all consumers got, in the order of the deliveries.
func (w *world) drain() {
	for _, d := range w.log {
		id, _ := wire.FrameID(d.frame)
		d.c.hold = append(d.c.hold, id)
		d.c.got(d.c, binary.BigEndian.Uint64(wire.FrameBody(d.frame)), wire.FrameAttempts(d.frame))
	}
	w.log = w.log[:0]
}

type delivery struct {
	c     *consumer
	frame []byte
}

func (w *world) consumer(ch *Channel, shard int, ready int64, got func(c *consumer, key uint64, attempts uint16)) *consumer {
	c := &consumer{w: w, shard: shard, got: got}
	w.round(shard, func(s *Shard) {
		sub, err := s.Subscribe(ch, c, int64(time.Minute), 0)
		if err != nil {
			w.fatal("subscribe: %v", err)
		}
		c.sub = sub
		sub.SetNear(Near(w.rng.IntN(int(nearCount))))
		sub.SetReady(ready)
	})
	w.drain()
	w.cons = append(w.cons, c)
	return c
}

// books is what one channel was given and has delivered.
type books struct {
	seen     map[uint64]int
	causes   map[uint64]int // requeues and time-outs: further deliveries allowed
	last     map[uint64]int64
	deferred map[uint64]bool
}

func TestModel(t *testing.T) {
	for seed := range uint64(2) {
		runModelInMemory(t, seed*5)
	}
}

func runModelInMemory(t *testing.T, seed uint64) {
	for _, mem := range []int{0, 1, 8, 1000} {
		runModel(t, seed+uint64(mem%7), mem, DurabilityMemory)
	}
}

// TestModelWithJournal is TestModel in process mode, with crashes: copies of the
// directory hold all that the broker holds, and nothing else.
func TestModelWithJournal(t *testing.T) {
	for seed := range uint64(2) {
		runModelWithJournal(t, 1000+seed*4)
	}
}

func runModelWithJournal(t *testing.T, seed uint64) {
	for _, mem := range []int{1, 8, 1000} {
		runModel(t, seed+uint64(mem%7), mem, DurabilityProcess)
	}
}

// copyOf returns a copy of a directory in use, as a crash would leave it when nothing
// is under way in it but files that come or go: a background sync replaces one, the
// journal makes its next, or looks whether the disk works again.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	for range 50 {
		copied := filepath.Join(t.TempDir(), "copy")
		switch err := os.CopyFS(copied, os.DirFS(dir)); {
		case err == nil:
			return copied
		case !errors.Is(err, fs.ErrNotExist):
			t.Fatal(err)
		}
	}
	t.Fatalf("files in %s come and go", dir)
	return ""
}

// crashed compares a broker that stands still with one that finds a copy of its
// directory.
func (w *world) crashed(dir string) {
	for range 2 { // what is written may have more written behind it
		if err := w.b.journal.Flush(); err != nil {
			w.fatal("journal: %v", err)
		}
	}
	// Not before: what ended in a round with something for the journal is told to the
	// backlog when that is written.
	for _, t := range w.b.Topics() {
		if t.durable() {
			continue
		}
		t.writer.inOrder(func(log *mmapqueue.Backlog) { // or what was finished since the last one would come again
			if log != nil && log.Sync() != nil {
				w.fatal("no sync")
			}
		})
	}
	w.stands()
	w.settle("no file comes or goes", func() bool { return !w.b.trimming.Load() })
	copied := copyOf(w.t, dir)
	now := w.now
	other := newWorldClosed(w.t, w.seed, 1, 5, copied, w.b.ids.next.Load(), w.b.opts.Durability)
	other.open(w.saved)
	other.now = now
	other.settle("recovered", other.quiet)
	other.stands()
	other.round(0, nil)
	defer other.unharmed()
	for _, t := range w.b.Topics() {
		found := other.b.Find([]byte(t.name))
		if found == nil {
			w.fatal("topic %s is gone", t.name)
		}
		if found.Paused() != t.Paused() {
			w.fatal("after the crash the topic's pause is %t", found.Paused())
		}
		mode, own := t.Durability()
		if d, is := found.Durability(); d != mode || is != own {
			w.fatal("after the crash topic %s has durability %d (%t), want %d (%t)", t.name, d, is, mode, own)
		}
		differs := func(got, want int64) bool { return got > want || got < want && mode != DurabilityMemory }
		held, _ := t.Depth()
		if got := int64(len(other.heldBy(found.hold(), nil))); differs(got, held) && len(t.Channels()) == 0 {
			w.fatal("after the crash the topic holds %d messages, want %d", got, held)
		}
		for _, c := range t.Channels() {
			p, err := c.Places()
			if err != nil {
				return // something moves after all
			}
			fc := found.Find(c.name)
			if fc == nil {
				w.fatal("channel %s is gone", c.name)
			}
			if fc.Paused() != c.Paused() {
				w.fatal("after the crash the pause of channel %s is %t", c.name, fc.Paused())
			}
			q, err := fc.Places()
			if err != nil {
				w.fatal("after the crash: %v", err)
			}
			if got := other.heldBy(fc.q, fc); differs(int64(len(got)), p.held()) {
				w.fatal("channel %s: %d messages after the crash, want %d: %+v, %+v", c.name, len(got), p.held(), q, p)
			}
		}
	}
	for _, t := range other.b.Topics() {
		was := w.b.Find([]byte(t.name))
		if was == nil {
			w.fatal("topic %s is back from the dead", t.name)
		}
		for _, c := range t.Channels() {
			if was.Find(c.name) == nil {
				w.fatal("channel %s is back from the dead", c.name)
			}
		}
	}
	if err := other.b.Close(); err != nil {
		w.fatal("close the copy: %v", err)
	}
}

// unharmed demands that nothing was taken for damage.
func (w *world) unharmed() {
	if d := w.b.Damage(); d != (Damage{}) {
		w.fatal("what a crash left was taken for damage: %+v", d)
	}
}

// crashedInMemory is crashed in memory mode: what is in the backlog, or was read
// from there and is not finished, is there again, and nothing else. Nothing that
// is gone keeps its place there.
func (w *world) crashedInMemory(topic *Topic, dir string) {
	want := map[string]int{}
	for _, c := range topic.Channels() {
		c.q.mu.Lock()
		cursor := c.q.cursor
		c.q.mu.Unlock()
		if cursor == nil {
			continue
		}
		n := w.readBy(c)
		if u := cursor.Unfinished(); int64(n) != u {
			w.fatal("channel %s: %d messages are from the backlog, which waits for %d", c.name, n, u)
		}
		want[c.name] = n + int(cursor.Depth())
	}
	topic.writer.inOrder(func(log *mmapqueue.Backlog) {
		if err := log.Sync(); err != nil {
			w.fatal("sync: %v", err)
		}
	})
	copied := copyOf(w.t, dir)
	other := newWorld(w.t, w.seed, 1, 5, copied, w.b.ids.next.Load())
	if err := other.b.Open(); err != nil {
		w.fatal("%v", err)
	}
	other.settle("recovered", other.quiet)
	defer other.unharmed()
	found := other.b.Find([]byte(topic.name))
	for name, n := range want {
		got := 0
		if found != nil && found.Find(name) != nil {
			c := found.Find(name)
			got = len(other.heldBy(c.q, c))
		}
		if got != n {
			w.fatal("channel %s: %d messages after a crash in memory mode, want %d", name, got, n)
		}
	}
	if err := other.b.Close(); err != nil {
		w.fatal("close the copy: %v", err)
	}
}

// readBy returns how many messages that a channel has in memory are from its
// backlog.
func (w *world) readBy(c *Channel) (n int) {
	count := func(r block.Ref) {
		if r.Aux&auxSequence != 0 {
			n++
		}
	}
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	refs := make([]block.Ref, c.q.ring.Len())
	refs = refs[:c.q.ring.TryPop(refs)]
	for _, r := range append(slices.Clone(refs), c.q.left...) {
		count(r)
	}
	c.q.ring.TryPush(refs)
	for _, s := range w.b.shards {
		for i := range s.wheel.slab {
			switch e := &s.wheel.slab[i]; {
			case e.kind == kindInFlight && s.subs[e.owner].local.c == c, e.kind == kindDeferred && s.locals[e.owner].c == c:
				count(e.ref)
			}
		}
	}
	return n
}

// crashOneIn is how many of the model's turns for a crash come to one.
var crashOneIn = 4

// heldBy returns the ids of what a queue, and a channel's consumers if c is not nil,
// will deliver. It takes them all. A message that stands in the journal and in the
// backlog must be one that is dropped when it is met there.
func (w *world) heldBy(q *queue, c *Channel) map[uint64]bool {
	ids := map[uint64]bool{}
	note := func(id uint64) {
		if ids[id] {
			w.fatal("message %x would come twice after the crash", id)
		}
		ids[id] = true
	}
	inMemory := func(r block.Ref) {
		id, _ := wire.FrameID(frameOf(w.b.pool, r))
		note(id)
	}
	if c != nil {
		for _, s := range w.b.shards {
			for i := range s.wheel.slab {
				if e := &s.wheel.slab[i]; e.kind == kindDeferred && s.locals[e.owner].c == c {
					inMemory(e.ref)
				}
			}
		}
	}
	if q.topic == nil {
		return ids // no hold queue
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	refs := make([]block.Ref, q.ring.Len())
	for _, r := range append(refs[:q.ring.TryPop(refs)], q.left...) {
		inMemory(r)
	}
	for q.cursor != nil && q.cursor.Depth() > 0 {
		if _, err := q.cursor.Read(1000, func(r *mmapqueue.Record) {
			if !q.suspects.known(r) {
				note(r.ID)
			}
		}); err != nil {
			w.fatal("after the crash: %v", err)
		}
	}
	return ids
}

// side lets another topic come, take messages and go.
func (w *world) side() {
	p := w.prods[w.rng.IntN(len(w.prods))]
	t := w.b.Find([]byte("side"))
	switch what := w.rng.IntN(4); {
	case t == nil:
		if _, err := w.b.Topic("side"); err != nil {
			w.fatal("topic: %v", err)
		}
	case what == 0:
		w.blocking("delete a topic", func() { _ = w.b.DeleteTopic("side") })
	case what == 1 && t.Find("c") == nil:
		if _, err := t.Channel("c"); err != nil {
			w.fatal("channel: %v", err)
		}
	case what == 1:
		w.blocking("delete a channel", func() { _ = w.b.DeleteChannel("side", "c") })
	case what == 2:
		t.SetPaused(!t.Paused())
	case !p.owed:
		w.round(p.shard, func(s *Shard) { p.publish(s, t, 1+w.rng.IntN(20), 0) })
	}
}

func runModel(t *testing.T, seed uint64, mem int, d Durability) {
	shards := 1 + int(seed%3)
	dir := t.TempDir()
	w := newWorldWith(t, seed, shards, mem, dir, 1, d)
	if d == DurabilityMemory && seed%4 == 3 {
		w.open(nil)
	}
	moded := false // the topic's durability was changed
	w.b.opts.Topology = seed%2 == 1
	w.bound = int(seed/2%3) * 20
	topic, err := w.b.Topic("t")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*books{}
	lossy := map[string]bool{}
	channel := func(name string) *Channel {
		ch, err := topic.Channel(name)
		if err != nil {
			w.fatal("channel: %v", err)
		}
		if all[name] == nil {
			all[name] = &books{map[uint64]int{}, map[uint64]int{}, map[uint64]int64{}, map[uint64]bool{}}
		}
		return ch
	}
	deferred := map[uint64]bool{}
	got := func(c *consumer, key uint64, attempts uint16) {
		k := all[c.sub.Channel().Name()]
		k.seen[key]++
		if k.seen[key] > 1+k.causes[key] {
			w.fatal("mem %d: message %x came %d times, %d causes", mem, key, k.seen[key], k.causes[key])
		}
		if int(attempts) != k.seen[key] {
			w.fatal("mem %d: message %x: attempt %d at delivery %d", mem, key, attempts, k.seen[key])
		}
		if attempts == 1 && !deferred[key] && shards == 1 {
			if last, ok := k.last[key>>32]; ok && int64(key&(1<<32-1)) < last {
				w.fatal("mem %d: producer %d: %d after %d", mem, key>>32, key&(1<<32-1), last)
			}
			k.last[key>>32] = int64(key & (1<<32 - 1))
		}
	}
	keys := map[*consumer]map[uint64]uint64{}
	record := func(c *consumer, key uint64, attempts uint16) {
		if keys[c] == nil {
			keys[c] = map[uint64]uint64{}
		}
		keys[c][c.hold[len(c.hold)-1]] = key
		got(c, key, attempts)
	}
	for i := range 3 {
		w.producer(i % shards)
	}
	check := func() {
		for _, ch := range topic.Channels() {
			if !w.quiet() {
				return
			}
			if _, err := ch.Places(); err != nil {
				w.fatal("mem %d: channel %s: %v", mem, ch.Name(), err)
			}
		}
		if w.quiet() {
			w.stands()
		}
	}
	names := []string{"a", "b"}
	for range 400 {
		switch op := w.rng.IntN(25); op {
		case 0, 1, 2, 3, 4:
			p := w.prods[w.rng.IntN(len(w.prods))]
			if len(p.open) == 5 {
				break
			}
			due := int64(0)
			if w.rng.IntN(6) == 0 {
				due = w.now + 1 + w.rng.Int64N(int64(3*time.Minute))
			}
			n := 1 + w.rng.IntN(30)
			if due != 0 {
				for i := range n {
					deferred[uint64(p.index)<<32|uint64(p.seq+uint32(i))] = true
				}
			}
			w.round(p.shard, func(s *Shard) { p.publish(s, topic, n, due) })
		case 5:
			name := names[w.rng.IntN(2)]
			if len(w.cons) < 6 {
				w.consumer(channel(name), w.rng.IntN(shards), int64(w.rng.IntN(40)), record)
			}
		case 6:
			if len(w.cons) > 0 {
				i := w.rng.IntN(len(w.cons))
				c := w.cons[i]
				w.round(c.shard, func(s *Shard) { s.Unsubscribe(c.sub) })
				w.drain()
				for _, id := range c.hold { // they will time out
					all[c.sub.Channel().Name()].causes[keys[c][id]]++
				}
				w.cons = append(w.cons[:i], w.cons[i+1:]...)
			}
		case 7, 8:
			if len(w.cons) > 0 {
				c := w.cons[w.rng.IntN(len(w.cons))]
				n := int64(w.rng.IntN(60))
				w.round(c.shard, func(*Shard) { c.sub.SetReady(n) })
			}
		case 9, 10, 11, 12, 13:
			if len(w.cons) == 0 {
				break
			}
			c := w.cons[w.rng.IntN(len(w.cons))]
			w.drain()
			k := all[c.sub.Channel().Name()]
			hold := c.hold
			c.hold = nil
			w.round(c.shard, func(s *Shard) {
				for _, id := range hold {
					var err error
					switch r := w.rng.IntN(10); {
					case r < 5:
						err = s.Finish(c.sub, id)
					case r == 5:
						if err = s.Requeue(c.sub, id, 0); err == nil {
							k.causes[keys[c][id]]++
						}
					case r == 6:
						if err = s.Requeue(c.sub, id, 1+w.rng.Int64N(int64(time.Minute))); err == nil {
							k.causes[keys[c][id]]++
						}
					case r == 7:
						err = s.Touch(c.sub, id)
						c.hold = append(c.hold, id)
					default:
						c.hold = append(c.hold, id)
					}
					if err != nil && !errors.Is(err, ErrNotInFlight) && !errors.Is(err, ErrNotOwner) {
						w.fatal("answer: %v", err)
					}
				}
			})
		case 14:
			w.now += w.rng.Int64N(int64(40 * time.Second))
			// Whatever is held may have timed out.
			for i := range w.b.shards {
				for _, c := range w.cons {
					if c.shard == i {
						w.drain()
						k := all[c.sub.Channel().Name()]
						for id := range keys[c] {
							if e := c.sub.table.get(id); e != 0 && w.b.shards[i].wheel.slab[e].dueNs <= w.now {
								k.causes[keys[c][id]]++
							}
						}
					}
				}
				w.round(i, nil)
			}
		case 15:
			topic.SetPaused(w.rng.IntN(2) == 0)
		case 16:
			if ch := topic.Find(names[w.rng.IntN(2)]); ch != nil {
				ch.SetPaused(w.rng.IntN(2) == 0)
			}
		case 17:
			if ch := topic.Find(names[w.rng.IntN(2)]); ch != nil && w.rng.IntN(8) == 0 {
				lossy[ch.Name()] = true
				w.empty(ch)
			}
		case 18:
			if ch := topic.Find("b"); ch != nil && w.rng.IntN(8) == 0 {
				lossy["b"] = true
				anew := w.rng.IntN(2) == 0
				p := w.prods[w.rng.IntN(len(w.prods))]
				w.blockingBeside("delete channel", func() { _ = w.b.DeleteChannel("t", "b") }, func() {
					if anew && topic.Find("b") == nil {
						anew = false
						channel("b")
						if len(p.open) < 5 {
							w.round(p.shard, func(s *Shard) { p.publish(s, topic, 10, 0) })
						}
					}
				})
				cons := w.cons
				w.cons = nil
				for _, c := range cons {
					if c.sub.Channel() == ch {
						if !c.kicked {
							w.fatal("not kicked")
						}
						continue
					}
					w.cons = append(w.cons, c)
				}
			}
		case 19:
			w.blocking("sweep", func() { w.b.Sweep(w.now, true) })
			if w.rng.IntN(2) == 0 {
				w.blocking("sweep again", func() { w.b.Sweep(w.now+agedNs, true) })
			}
		case 20:
			oneIn := crashOneIn
			if d == DurabilityMemory {
				oneIn *= 8 // there are four times as many runs
			}
			if w.rng.IntN(oneIn) == 0 {
				w.settle("standing still", func() bool { w.drain(); return w.quiet() })
				if w.b.journal != nil {
					w.crashed(dir)
				}
				if (w.b.journal == nil || w.b.opts.Durability == DurabilityMemory) && !moded {
					w.crashedInMemory(topic, dir)
				}
			}
		case 21:
			if w.rng.IntN(3) == 0 {
				w.save()
			}
		case 22:
			if w.b.journal != nil && w.rng.IntN(4) == 0 {
				moded = true
				mode := Durability(w.rng.IntN(int(DurabilityDisk) + 1))
				w.blocking("set the durability", func() {
					if err := w.b.SetDurability(topic, mode); err != nil {
						w.t.Errorf("seed %d: %v", w.seed, err)
					}
				})
			}
		case 23:
			if w.b.journal != nil {
				w.side()
			}
		default:
			w.round(w.rng.IntN(shards), nil)
		}
		w.drain()
		check()
	}
	// The end: everything flows, everybody finishes.
	topic.SetPaused(false)
	for _, name := range names {
		ch := channel(name)
		ch.SetPaused(false)
		w.consumer(ch, w.rng.IntN(shards), 2500, record)
	}
	for _, c := range w.cons {
		w.round(c.shard, func(*Shard) { c.sub.SetReady(2500) })
	}
	rounds := 0
	w.settle(fmt.Sprintf("mem %d: everything delivered", mem), func() bool {
		if rounds++; rounds%64 == 0 {
			// Time passes: what is orphaned or deferred comes back.
			// What is held is finished first, so that nothing of it times out.
			for _, c := range w.cons {
				w.drain()
				hold := c.hold
				c.hold = nil
				w.round(c.shard, func(s *Shard) {
					for _, id := range hold {
						if err := s.Finish(c.sub, id); err != nil && !errors.Is(err, ErrNotInFlight) && !errors.Is(err, ErrNotOwner) {
							w.fatal("finish: %v", err)
						}
					}
				})
			}
			w.now += int64(time.Second) * 5
			for i := range w.b.shards {
				w.round(i, nil)
			}
		}
		if !w.quiet() || topic.view.Load().hold != nil {
			return false
		}
		for _, ch := range topic.Channels() {
			p, err := ch.Places()
			if err != nil {
				w.fatal("mem %d: %v", mem, err)
			}
			if p.held() > 0 {
				return false
			}
		}
		return true
	})
	if w.errs > 0 {
		w.fatal("%d publishes refused", w.errs)
	}
	w.settle("answers", func() bool { // they wait for the journal, messages do not
		return !slices.ContainsFunc(w.prods, func(p *producer) bool { return p.owed })
	})
	for _, p := range w.prods {
		if p.owed {
			w.fatal("mem %d: producer %d has no answer", mem, p.index)
		}
	}
	if k := all["a"]; !lossy["a"] && topic.Find("a").q.taken.Load() > 0 {
		missing := 0
		for _, p := range w.prods {
			for seq := range p.seq {
				if k.seen[uint64(p.index)<<32|uint64(seq)] == 0 {
					missing++
				}
			}
		}
		// Channel b may have existed alone and taken what came before a.
		if all := topic.Find("a").q.taken.Load(); int(all) > len(k.seen) {
			w.fatal("mem %d: channel a took %d messages and delivered %d, %d missing", mem, all, len(k.seen), missing)
		}
	}
	if invariant.Enabled {
		w.blocking("delete a topic", func() { _ = w.b.DeleteTopic("side") })
		if n := w.b.pool.Live(); n != 0 {
			w.fatal("mem %d: %d messages never released", mem, n)
		}
	}
}
