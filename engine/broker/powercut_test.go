package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// cutBooks are what a channel of a broker in disk mode owes its users.
type cutBooks struct {
	finished map[uint64]bool // a consumer has said so
	certain  map[uint64]bool // and a later publish on its loop was accepted
	asked    []uint64        // finished since the last publish
}

// cutWorld is a broker in disk mode on a disk that forgets.
type cutWorld struct {
	*world
	disk     *faultfs.Disk
	root     string
	topic    *Topic
	channels map[string]*Channel
	books    map[string]*cutBooks
	pending  map[*producer]func() // what an accepted publish says
	accepted map[uint64]bool
	keys     map[*consumer]map[uint64]uint64
	log      string // of the last start after a cut
	again    int    // messages that came after a cut though their finish was answered for
}

func newCutWorld(t *testing.T, seed uint64, faults faultfs.Faults) *cutWorld {
	t.Helper()
	c := &cutWorld{
		disk: faultfs.New(), root: t.TempDir(), channels: map[string]*Channel{}, books: map[string]*cutBooks{},
		pending: map[*producer]func(){}, accepted: map[uint64]bool{}, keys: map[*consumer]map[uint64]uint64{},
	}
	c.disk.Set(faults)
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 13)), now: int64(time.Hour), woken: make([]bool, 1), calls: make([][]func(), 1)}
	c.world = w
	w.b = New(Options{
		Shards: 1, MemQueueSize: []int{1, 8, 60, 1000}[seed%4], DataPath: filepath.Join(c.root, "data"), MaxMsgTimeout: int64(time.Hour),
		Durability: DurabilityDisk, Wall: func() int64 { return w.now + wallOffset }, Waker: w,
		Log:     mmapqueue.Options{FS: c.disk, SegmentBytesMin: 4 << 10, SegmentBytesMax: 32 << 10, SyncEvery: -1, SyncTimeout: -1},
		Journal: mmapqueue.JournalOptions{FS: c.disk, SegmentBytes: 32 << 10}, JournalBudget: 128 << 10,
	}, 1)
	w.b.shards[0].Start(w.now, w.now+wallOffset, func(uint32) {})
	err := os.Mkdir(w.b.opts.DataPath, 0o755) // as an operator does, long before
	if err == nil {
		err = w.b.Open()
	}
	if err == nil {
		c.topic, err = w.b.Topic("t")
	}
	for _, name := range []string{"a", "b"} {
		if err == nil {
			c.channels[name], err = c.topic.Channel(name)
		}
		c.books[name] = &cutBooks{finished: map[uint64]bool{}, certain: map[uint64]bool{}}
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.producer(0)
	}
	for _, name := range []string{"a", "b"} {
		w.consumer(c.channels[name], 0, 20, c.note)
	}
	return c
}

func (c *cutWorld) note(to *consumer, key uint64, _ uint16) {
	if c.keys[to] == nil {
		c.keys[to] = map[uint64]uint64{}
	}
	c.keys[to][to.hold[len(to.hold)-1]] = key
}

// step does one thing at random, and books what was answered.
func (c *cutWorld) step() {
	w := c.world
	switch op := w.rng.IntN(16); {
	case op < 5:
		p := w.prods[w.rng.IntN(len(w.prods))]
		if p.owed {
			break
		}
		due := int64(0)
		if w.rng.IntN(5) == 0 {
			due = w.now + 1 + w.rng.Int64N(int64(time.Minute))
		}
		c.publish(p, 1+w.rng.IntN(40), due)
	case op < 11:
		w.drain()
		c.answer(w.cons[w.rng.IntN(len(w.cons))])
	case op == 11:
		w.now += w.rng.Int64N(int64(20 * time.Second)) // less than a time-out
		w.round(0, nil)
	case op == 12:
		w.blocking("sweep", func() { w.b.Sweep(w.now, w.rng.IntN(2) == 0) })
	default:
		w.round(0, nil)
	}
	w.drain()
	for p, f := range c.pending {
		if !p.owed {
			f()
			delete(c.pending, p)
		}
	}
}

func (c *cutWorld) publish(p *producer, n int, due int64) {
	first := p.seq
	asked := map[string][]uint64{}
	for name, k := range c.books {
		asked[name], k.asked = k.asked, nil
	}
	c.round(0, func(s *Shard) { p.publish(s, c.topic, n, due) })
	c.pending[p] = func() {
		for seq := first; seq < first+uint32(n); seq++ {
			c.accepted[uint64(p.index)<<32|uint64(seq)] = true
		}
		for name, keys := range asked {
			for _, key := range keys {
				c.books[name].certain[key] = true
			}
		}
	}
}

// answer has a consumer decide about what it holds.
func (c *cutWorld) answer(of *consumer) {
	k := c.books[of.sub.Channel().Name()]
	hold := of.hold
	of.hold = nil
	c.round(0, func(s *Shard) {
		for _, id := range hold {
			key := c.keys[of][id]
			var err error
			switch r := c.rng.IntN(10); {
			case r < 6:
				if err = s.Finish(of.sub, id); err == nil {
					k.finished[key] = true
					k.asked = append(k.asked, key)
				}
			case r == 6:
				err = s.Requeue(of.sub, id, 0)
			case r == 7:
				err = s.Requeue(of.sub, id, 1+c.rng.Int64N(int64(time.Minute)))
			default:
				of.hold = append(of.hold, id)
				continue
			}
			if err != nil {
				_ = err // it had timed out, and comes again
			}
		}
	})
}

// cut takes the power away, for a moment that only the disk sees, and returns what
// a broker that starts then has wrong.
func (c *cutWorld) cut(n int) (wrong []string) {
	accepted, certain := maps.Clone(c.accepted), map[string]map[uint64]bool{}
	for name, k := range c.books {
		certain[name] = maps.Clone(k.certain)
	}
	image := filepath.Join(c.root, fmt.Sprint("cut ", n))
	if err := c.disk.PowerCut(c.rng, c.root, image); err != nil {
		c.fatal("%v", err)
	}
	got := c.after(filepath.Join(image, "data"))
	for name, k := range c.books {
		for key := range accepted {
			if !k.finished[key] && !got[name][key] {
				wrong = append(wrong, fmt.Sprintf("channel %s: message %x was acknowledged and is lost", name, key))
			}
		}
		for key := range certain[name] {
			if got[name][key] {
				c.again++
			}
		}
		for key := range got[name] {
			if p := key >> 32; p >= uint64(len(c.prods)) || uint32(key) >= c.prods[p].seq {
				wrong = append(wrong, fmt.Sprintf("channel %s: nobody published message %x", name, key))
			}
		}
	}
	if err := os.RemoveAll(image); err != nil {
		c.fatal("%v", err)
	}
	return wrong
}

// after returns what a broker delivers that finds such a directory.
func (c *cutWorld) after(dir string) map[string]map[uint64]bool {
	now := c.now
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.fatal("%v", err)
	}
	w := &world{t: c.t, seed: c.seed, rng: c.rng, now: now, woken: make([]bool, 1), calls: make([][]func(), 1)}
	var mu sync.Mutex
	var log strings.Builder
	logf := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&log, format+"\n", args...)
	}
	w.b = New(Options{
		Shards: 1, MemQueueSize: 50, DataPath: dir, MaxMsgTimeout: int64(time.Hour),
		Durability: DurabilityDisk, Wall: func() int64 { return w.now + wallOffset }, Waker: w,
		Log:     mmapqueue.Options{SyncEvery: -1, SyncTimeout: -1, Logf: logf, FS: unsynced{mmapqueue.OS}},
		Journal: mmapqueue.JournalOptions{SegmentBytes: 32 << 10, Logf: logf, FS: unsynced{mmapqueue.OS}}, JournalBudget: 128 << 10,
	}, c.b.ids.next.Load())
	w.b.shards[0].Start(w.now, w.now+wallOffset, func(uint32) {})
	if err := w.b.Open(); err != nil {
		w.fatal("%v", err)
	}
	w.b.EndRestore()
	mu.Lock()
	c.log = log.String()
	mu.Unlock()
	got := map[string]map[uint64]bool{"a": {}, "b": {}}
	topic := w.b.Find([]byte("t"))
	if topic == nil {
		_ = w.b.Close()
		return got
	}
	for _, name := range []string{"a", "b"} {
		if ch := topic.Find(name); ch != nil {
			w.consumer(ch, 0, 2500, func(_ *consumer, key uint64, _ uint16) { got[name][key] = true })
		}
	}
	rounds := 0
	w.settle("all delivered after the cut", func() bool {
		w.drain()
		for _, to := range w.cons {
			hold := to.hold
			to.hold = nil
			w.round(0, func(s *Shard) {
				for _, id := range hold {
					if err := s.Finish(to.sub, id); err != nil {
						w.fatal("finish: %v", err)
					}
				}
			})
		}
		if rounds++; rounds%16 == 0 {
			w.now += int64(5 * time.Second) // deferred ones become due
			w.round(0, nil)
		}
		if !w.quiet() {
			return false
		}
		for _, ch := range topic.Channels() {
			if p, err := ch.Places(); err != nil || p.held() > 0 {
				return false
			}
		}
		return true
	})
	if err := w.b.Close(); err != nil {
		w.fatal("close: %v", err)
	}
	return got
}

// powerCuts runs a random load and cuts the power now and then.
func powerCuts(t *testing.T, seed uint64, cuts int, faults faultfs.Faults) (wrong []string) {
	t.Helper()
	c := newCutWorld(t, seed, faults)
	for n := range cuts {
		for range 20 + c.rng.IntN(120) {
			c.step()
		}
		// The steps may have been over before a slow disk answered the first of them.
		c.settle("publishes are accepted", func() bool { c.step(); return len(c.accepted) >= 20*(n+1) })
		if wrong = append(wrong, c.cut(n)...); len(wrong) > 0 {
			t.Logf("seed %d, cut %d: the start after it said:\n%s", seed, n, c.log)
			break
		}
	}
	c.disk.Set(faultfs.Faults{})
	if err := c.b.Close(); err != nil {
		c.fatal("close: %v", err)
	}
	if c.again > 0 {
		t.Logf("seed %d: %d of %d messages came again after a cut", seed, c.again, len(c.accepted))
	}
	return wrong
}

// In disk mode what was acknowledged survives the power. What was finished may come
// again: nobody says of a file that is removed when its name is gone for good.
// TestLongPowerCuts cuts it 500 times.
func TestPowerCuts(t *testing.T) { manyPowerCuts(t, 2, 4) }

func manyPowerCuts(t *testing.T, seeds uint64, cuts int) {
	for seed := range seeds {
		if wrong := powerCuts(t, seed, cuts, faultfs.Faults{}); len(wrong) > 0 {
			t.Fatalf("seed %d: %d things are wrong, the first: %s", seed, len(wrong), wrong[0])
		}
	}
}

// TestPowerCutsFindFaults shows that the power cuts find a disk that says yes to a
// sync and does nothing.
func TestPowerCutsFindFaults(t *testing.T) {
	for what, faults := range map[string]faultfs.Faults{
		"a Datasync that does nothing": {LieDatasync: true},
		"a SyncDir that does nothing":  {LieSyncDir: true},
	} {
		found := 0
		for seed := uint64(0); found == 0 && seed < 8; seed++ {
			found = len(powerCuts(t, seed, 3, faults))
		}
		if found == 0 {
			t.Errorf("%s was not found", what)
		}
	}
}
