package broker

import (
	"runtime"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/internal/wire"
)

// steady is one shard that publishes, delivers and finishes.
type steady struct {
	b    *Broker
	t    *Topic
	p    Publisher
	sub  *Subscriber
	out  []byte
	ids  []uint64
	body []byte
	now  int64

	rounds, answers int
}

func (s *steady) Accepted(err error) {
	if s.answers++; err != nil {
		panic(err)
	}
}

func (*steady) Wake(int)       {}
func (*steady) Do(int, func()) {}
func (*steady) Full() bool     { return false }
func (*steady) Kick()          {}
func (s *steady) round(n int) {
	sh := s.b.shards[0]
	s.now += int64(50 * time.Microsecond)
	sh.Begin(s.now, s.now)
	sh.Advance()
	for _, id := range s.ids {
		if err := sh.Finish(s.sub, id); err != nil {
			panic(err)
		}
	}
	s.ids = s.ids[:0]
	for range n {
		if err := sh.Publish(s.t, &s.p, s.body, 0); err != nil {
			panic(err)
		}
	}
	s.out = s.out[:0]
	sh.EndRound()
	for s.rounds++; s.answers < s.rounds-steadyOpen; { // the journal is behind
		runtime.Gosched()
		sh.Woken()
	}
	for b := s.out; len(b) > 0; b = b[wire.MessageHeaderSize+len(s.body):] {
		id, _ := wire.FrameID(b)
		s.ids = append(s.ids, id)
	}
}

func (s *steady) Reserve(n int) []byte {
	at := len(s.out)
	s.out = s.out[:at+n]
	return s.out[at:]
}

// steadyOpen is how many rounds may wait for the journal.
const steadyOpen = 8

// newSteady counts end-to-end latencies by channel if the window, in ns, is above
// zero.
func newSteady(tb testing.TB, window int64, d Durability) *steady {
	s := &steady{body: make([]byte, 200), out: make([]byte, 0, 1<<20)}
	s.b = New(Options{Durability: d, Shards: 1, MemQueueSize: 10_000, DataPath: tb.TempDir(), MaxMsgTimeout: int64(time.Hour), E2EWindow: window, Wall: func() int64 { return s.now }, Waker: s}, 1)
	if err := s.b.Open(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.b.Close() })
	sh := s.b.shards[0]
	sh.Start(1, 1, func(uint32) {})
	s.p.Waiter = s
	s.t, _ = s.b.Topic("t")
	c, err := s.t.Channel("c")
	if err != nil {
		tb.Fatal(err)
	}
	if s.sub, err = sh.Subscribe(c, s, int64(time.Minute), 0); err != nil {
		tb.Fatal(err)
	}
	s.sub.SetReady(2500)
	for range 20_000 { // warm: tables, slabs and batches have their sizes
		s.round(64)
	}
	return s
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	if invariant.Enabled {
		t.Skip("checks allocate")
	}
	for _, window := range []int64{0, int64(time.Hour)} {
		s := newSteady(t, window, DurabilityMemory)
		if n := testing.AllocsPerRun(200, func() { s.round(64) }); n != 0 {
			t.Errorf("window %d: %v allocations per round of 64 messages, want 0", window, n)
		}
	}
}

// With a journal a segment is begun now and then, and lists find their size: that
// is less than one allocation a round, for loop and writer together.
func TestSteadyStateWithJournalAllocatesNothing(t *testing.T) {
	if invariant.Enabled {
		t.Skip("checks allocate")
	}
	s := newSteady(t, 0, DurabilityProcess)
	if n := testing.AllocsPerRun(2000, func() { s.round(64) }); n != 0 {
		t.Errorf("%v allocations per round of 64 messages, want 0", n)
	}
}

func BenchmarkSteadyState(b *testing.B) { benchmarkSteadyState(b, 0, DurabilityMemory) }
func BenchmarkSteadyStateE2E(b *testing.B) {
	benchmarkSteadyState(b, int64(time.Hour), DurabilityMemory)
}
func BenchmarkSteadyStateJournal(b *testing.B) { benchmarkSteadyState(b, 0, DurabilityProcess) }

func benchmarkSteadyState(b *testing.B, window int64, d Durability) {
	s := newSteady(b, window, d)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += 64 {
		s.round(64)
	}
}
