package broker

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/wire"
)

// engine runs every shard on a goroutine of its own.
type engine struct {
	b     *Broker
	loops []*loop
	wg    sync.WaitGroup
	stop  atomic.Bool
	now   atomic.Int64 // virtual, so that no test waits for a time-out
}

type loop struct {
	mu    sync.Mutex
	calls []func()
	woken bool
	bell  chan struct{}
}

func (e *engine) ring(i int, f func()) {
	l := e.loops[i]
	l.mu.Lock()
	if f != nil {
		l.calls = append(l.calls, f)
	} else {
		l.woken = true
	}
	l.mu.Unlock()
	select {
	case l.bell <- struct{}{}:
	default:
	}
}
func (e *engine) Wake(i int)         { e.ring(i, nil) }
func (e *engine) Do(i int, f func()) { e.ring(i, f) }

func newEngine(shards, mem int, dir string, topology bool) *engine {
	e := new(engine)
	e.now.Store(int64(time.Hour))
	e.b = New(Options{
		Shards: shards, MemQueueSize: mem, DataPath: dir, MaxMsgTimeout: int64(time.Hour),
		Wall: func() int64 { return e.now.Load() + wallOffset }, Waker: e, Topology: topology,
	}, 1)
	for range e.b.shards {
		e.loops = append(e.loops, &loop{bell: make(chan struct{}, 1)})
	}
	for i, s := range e.b.shards {
		s.Start(e.now.Load(), e.now.Load()+wallOffset, func(uint32) {})
		e.wg.Go(func() { e.run(i, s) })
	}
	return e
}

func (e *engine) run(i int, s *Shard) {
	l := e.loops[i]
	for range l.bell {
		if e.stop.Load() {
			return
		}
		now := e.now.Load()
		s.Begin(now, now+wallOffset)
		l.mu.Lock()
		calls, woken := l.calls, l.woken
		l.calls, l.woken = nil, false
		l.mu.Unlock()
		for _, f := range calls {
			f()
		}
		if woken {
			s.Woken()
		}
		done := s.Advance()
		s.Bound(i * 8) // loop 0 has no bound
		if again := s.EndRound(); again || !done {
			e.ring(i, func() {})
		}
	}
}

func (e *engine) close() {
	e.stop.Store(true)
	for i := range e.loops {
		e.ring(i, nil)
	}
	e.wg.Wait()
	if err := e.b.Close(); err != nil {
		panic(err)
	}
}

// on runs f on loop i and waits for it.
func (e *engine) on(i int, f func(s *Shard)) {
	done := make(chan struct{})
	e.Do(i, func() { f(e.b.shards[i]); close(done) })
	<-done
}

// ledger is what a channel's consumers may and must get.
type ledger struct {
	mu       sync.Mutex
	seen     map[uint64]int
	causes   map[uint64]int
	finished map[uint64]bool
	empties  int       // that have ended
	gone     [3]uint32 // by producer: what is below it was accepted before one of them began
	emptied  [3]uint32 // by producer: what is below it was published before one of them ended
	bad      string
}

// empty empties the channel, which all of pubs publish to. What the topic keeps while it
// is paused is not the channel's yet.
func (k *ledger) empty(c *Channel, pubs []*pubber) error {
	gone := k.gone
	var accepted [3]uint32
	for i, p := range pubs {
		accepted[i] = p.accepted.Load()
	}
	if c.topic.view.Load().hold == nil { // else the pump may have some in its hand, which no depth counts
		gone = accepted
	}
	err := c.Empty()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = gone
	for i, p := range pubs {
		k.emptied[i] = p.begun.Load()
	}
	k.empties++
	return err
}

// missing returns how many messages have still to come.
func (k *ledger) missing(count uint32) (n int) {
	for i, from := range k.emptied {
		for seq := from; seq < count; seq++ {
			if !k.finished[uint64(i)<<32|uint64(seq)] {
				n++
			}
		}
	}
	return n
}

// reader is a consumer that decides about each message in the next round of its
// loop.
type reader struct {
	e      *engine
	k      *ledger
	shard  int
	sub    *Subscriber
	rng    *rand.Rand
	frames [][]byte
	gone   [][3]uint32 // for each frame: what must not be in it
	armed  bool
	last   [3]uint64   // by producer
	calm   atomic.Bool // finish everything
}

func (r *reader) Full() bool { return false }
func (r *reader) Kick()      {}
func (r *reader) Reserve(n int) []byte {
	b := make([]byte, n)
	r.frames = append(r.frames, b)
	r.k.mu.Lock()
	r.gone = append(r.gone, r.k.gone)
	r.k.mu.Unlock()
	if !r.armed {
		r.armed = true
		r.e.Do(r.shard, r.answer)
	}
	return b
}

func (r *reader) answer() {
	r.armed = false
	k := r.k
	k.mu.Lock()
	defer k.mu.Unlock()
	frames, gone := r.frames, r.gone
	r.frames, r.gone = nil, nil
	s := r.e.b.shards[r.shard]
	for i, f := range frames {
		id, _ := wire.FrameID(f)
		key := binary.BigEndian.Uint64(wire.FrameBody(f))
		if uint32(key) < gone[i][key>>32] {
			k.bad = "a message was delivered after its channel had been emptied"
		}
		k.seen[key]++
		if k.seen[key] > 1+k.causes[key] {
			k.bad = "a message was delivered twice without cause"
		}
		if wire.FrameAttempts(f) == 1 {
			if seq := key&(1<<32-1) + 1; seq <= r.last[key>>32] {
				k.bad = "a producer's messages came out of order"
			} else {
				r.last[key>>32] = seq
			}
		}
		var err error
		switch n := r.rng.IntN(40); {
		case r.calm.Load() || n > 4:
			if err = s.Finish(r.sub, id); err == nil {
				k.finished[key] = true
			}
		case n == 0:
			k.causes[key]++
			err = s.Requeue(r.sub, id, 0)
		case n == 1:
			k.causes[key]++
			err = s.Requeue(r.sub, id, int64(time.Second))
		default:
			k.causes[key]++ // left to time out
		}
		if err != nil {
			k.causes[key]++ // it timed out before the answer
		}
	}
}

func (r *reader) start(c *Channel) {
	r.e.on(r.shard, func(s *Shard) {
		sub, err := s.Subscribe(c, r, int64(10*time.Second), 0)
		if err != nil {
			panic(err)
		}
		r.sub = sub
		sub.SetNear(Near(r.rng.IntN(int(nearCount))))
		sub.SetReady(1 + r.rng.Int64N(60))
	})
}

// pubber publishes batches, each when the last one is accepted.
type pubber struct {
	e     *engine
	t     *Topic
	index uint32
	shard int
	seq   uint32
	limit uint32
	pub   Publisher
	bad   atomic.Int64
	done  chan struct{}

	begun, accepted atomic.Uint32 // messages
}

func (p *pubber) Accepted(err error) {
	if err != nil {
		p.bad.Add(1)
	}
	p.accepted.Store(p.seq)
	if p.seq == p.limit {
		close(p.done)
		return
	}
	p.e.Do(p.shard, p.publish)
}

func (p *pubber) publish() {
	for range min(7, p.limit-p.seq) {
		_ = p.e.b.shards[p.shard].Publish(p.t, &p.pub, body(p.index, p.seq), 0)
		p.seq++
	}
	p.begun.Store(p.seq)
}

// runLedger reports what was wrong, "" for nothing.
func runLedger(t *testing.T, seed uint64, count uint32) string {
	rng := rand.New(rand.NewPCG(seed, 9))
	e := newEngine(2, []int{0, 5, 50, 5000}[seed%4], t.TempDir(), seed/4%2 == 1)
	defer e.close()
	opened := seed%8 >= 4 // with a journal, and changes of durability
	if opened {
		if err := e.b.Open(); err != nil {
			t.Fatal(err)
		}
		e.b.EndRestore()
	}
	topic, err := e.b.Topic("t")
	if err != nil {
		t.Fatal(err)
	}
	ledgers := map[string]*ledger{}
	var readers []*reader
	join := func(name string) {
		c, err := topic.Channel(name)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{e: e, k: ledgers[name], shard: rng.IntN(2), rng: rand.New(rand.NewPCG(seed, rng.Uint64()))}
		r.start(c)
		readers = append(readers, r)
	}
	for _, name := range []string{"a", "b"} {
		ledgers[name] = &ledger{seen: map[uint64]int{}, causes: map[uint64]int{}, finished: map[uint64]bool{}}
		if _, err := topic.Channel(name); err != nil {
			t.Fatal(err)
		}
	}
	topic.SetPaused(false)
	join("a")
	join("b")
	var pubs []*pubber
	for i := range 3 {
		p := &pubber{e: e, t: topic, index: uint32(i), shard: i % 2, limit: count, done: make(chan struct{})}
		p.pub.Waiter = p
		pubs = append(pubs, p)
		e.Do(p.shard, p.publish)
	}
	tick := func(d time.Duration) {
		e.now.Add(int64(d))
		for i := range e.loops {
			e.on(i, func(*Shard) {})
		}
	}
	published := func() bool {
		for _, p := range pubs {
			select {
			case <-p.done:
			default:
				return false
			}
		}
		return true
	}
	for step := 0; !published(); step++ {
		switch rng.IntN(10) {
		case 7:
			if rng.IntN(3) == 0 {
				c := topic.Channels()[rng.IntN(2)]
				if err := ledgers[c.name].empty(c, pubs); err != nil {
					t.Fatal(err)
				}
			}
		case 5:
			now := e.now.Load()
			e.b.Sweep(now, true)
			e.b.Sweep(now+agedNs, true)
		case 6:
			if opened {
				if err := e.b.SetDurability(topic, Durability(rng.IntN(int(DurabilityDisk)+1))); err != nil {
					t.Fatal(err)
				}
			}
			tick(time.Millisecond)
		case 0:
			topic.SetPaused(rng.IntN(2) == 0)
		case 1:
			topic.Channels()[rng.IntN(2)].SetPaused(rng.IntN(2) == 0)
		case 2:
			if len(readers) < 8 {
				join([]string{"a", "b"}[rng.IntN(2)])
			}
		case 3:
			if len(readers) > 2 {
				r := readers[0]
				readers = readers[1:]
				e.on(r.shard, func(s *Shard) {
					r.answer()
					s.Unsubscribe(r.sub)
				})
			}
		case 4:
			r := readers[rng.IntN(len(readers))]
			n := rng.Int64N(100)
			e.on(r.shard, func(*Shard) { r.sub.SetReady(n) })
		default:
			tick(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
	}
	topic.SetPaused(false)
	for _, c := range topic.Channels() {
		c.SetPaused(false)
	}
	join("a")
	join("b")
	for _, r := range readers {
		r.calm.Store(true)
		e.on(r.shard, func(*Shard) { r.sub.SetReady(2500) })
	}
	lost := 0
	for wait := (patient{}); !wait.over(time.Now(), ""); {
		// Half of what a time-out may bring back: no calm reader is ever late.
		tick(20 * time.Millisecond)
		lost = 0
		waiting := int64(0)
		for name, k := range ledgers {
			k.mu.Lock()
			lost += k.missing(count)
			bad := k.bad
			k.mu.Unlock()
			if bad != "" {
				return bad
			}
			c := topic.Find(name)
			total, _ := c.Depth()
			f := c.Figures()
			waiting += total + f.InFlight + f.Deferred
		}
		if lost == 0 && waiting == 0 {
			for _, p := range pubs {
				if p.bad.Load() > 0 {
					return "a publish was refused"
				}
			}
			return ""
		}
		time.Sleep(50 * time.Microsecond) // let the disk's helpers run
	}
	return "messages are missing or stuck"
}

func TestLedger(t *testing.T) {
	for seed := range uint64(3) {
		if bad := runLedger(t, seed, 2000); bad != "" {
			t.Errorf("seed %d: %s", seed, bad)
		}
	}
}

// A strict ping-pong between two loops must not stall: each message is
// published when the one before is finished.
func TestPingPong(t *testing.T) {
	for _, topology := range []bool{false, true} {
		pingPong(t, topology)
	}
}

func pingPong(t *testing.T, topology bool) {
	e := newEngine(2, 100, t.TempDir(), topology)
	defer e.close()
	topic, _ := e.b.Topic("t")
	c, err := topic.Channel("c")
	if err != nil {
		t.Fatal(err)
	}
	p := &ponger{e: e, t: topic, left: 20_000, done: make(chan struct{})}
	p.pub.Waiter = p
	e.on(1, func(s *Shard) {
		if p.sub, err = s.Subscribe(c, p, int64(time.Minute), 0); err == nil {
			p.sub.SetReady(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Do(0, p.publish)
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("stalled")
	}
}

type ponger struct {
	e    *engine
	t    *Topic
	pub  Publisher
	sub  *Subscriber
	buf  []byte
	left int
	done chan struct{}
}

func (p *ponger) Accepted(error) {}
func (p *ponger) Full() bool     { return false }
func (p *ponger) Kick()          {}
func (p *ponger) publish()       { _ = p.e.b.shards[0].Publish(p.t, &p.pub, body(0, 0), 0) }
func (p *ponger) Reserve(n int) []byte {
	p.buf = make([]byte, n)
	p.e.Do(1, func() {
		id, _ := wire.FrameID(p.buf)
		if err := p.e.b.shards[1].Finish(p.sub, id); err != nil {
			panic(err)
		}
		if p.left--; p.left == 0 {
			close(p.done)
			return
		}
		p.e.Do(0, p.publish)
	})
	return p.buf
}
