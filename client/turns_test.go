package nsq

import (
	"fmt"
	"testing"
	"time"
)

// A stage is a consumer's connections without sockets, and servers on a clock of
// their own: each delivers at once what its ready count allows.
type stage struct {
	now   time.Time
	ready *ready
	peers []*peer
	due   map[*peer][]time.Time // when each message in flight will be answered, in order
	had   map[*peer]int         // messages that each has delivered
}

const tick = 250 * time.Microsecond

func newStage(maxInFlight, connections int) *stage {
	cfg := NewConfig()
	cfg.MaxInFlight = maxInFlight
	r := &Consumer{config: cfg}
	r.ready.init(r)
	s := &stage{now: time.Unix(1e9, 0), ready: &r.ready, due: make(map[*peer][]time.Time), had: make(map[*peer]int)}
	for i := range connections {
		p := &peer{r: r}
		p.c = NewConn(fmt.Sprint(i), cfg, p)
		p.c.out.open(p.c, nil) // nobody flushes it
		p.c.lastMsg.Store(s.now.UnixNano())
		p.rtt.Store(int64(200 * time.Microsecond))
		s.peers = append(s.peers, p)
	}
	r.ready.peers = s.peers
	return s
}

// play lets the time go by. The servers of these connections have as many messages
// as they may deliver, each of which takes a millisecond to handle. It returns
// when the first one came, and how many were in flight at a time on an average.
func (s *stage) play(t *testing.T, length time.Duration, busy ...*peer) (first time.Duration, used float64) {
	t.Helper()
	begin, next := s.now, s.now
	first = -1
	var sum int64
	for ; s.now.Sub(begin) < length; s.now = s.now.Add(tick) {
		for p, due := range s.due {
			for len(due) > 0 && !s.now.Before(due[0]) {
				due = due[1:]
				p.c.inFlight.Add(-1)
			}
			s.due[p] = due
		}
		for _, p := range busy {
			for p.c.inFlight.Load() < p.c.RDY() {
				if first < 0 {
					first = s.now.Sub(begin)
				}
				p.c.inFlight.Add(1)
				s.had[p]++
				p.c.lastMsg.Store(s.now.UnixNano())
				s.due[p] = append(s.due[p], s.now.Add(time.Millisecond))
				p.received.Store(true)
				if !p.warm.Load() {
					s.ready.look()
				}
			}
		}
		select {
		case <-s.ready.wake:
			next = s.now
		default:
		}
		if !s.now.Before(next) {
			next = s.now.Add(max(s.ready.deal(s.now), time.Millisecond))
		}
		held := int64(0)
		for _, p := range s.peers {
			sum += p.c.inFlight.Load()
			held += max(p.c.inFlight.Load(), p.c.RDY())
		}
		if limit := int64(s.ready.max); held > limit {
			t.Fatalf("%d in flight or ready after %v, above the maximum of %d", held, s.now.Sub(begin), limit)
		}
	}
	return first, float64(sum) / float64(length/tick)
}

// TestTurns has 20 servers of which one has messages: they come soon, nearly all of
// the maximum serves that one, and the maximum is never passed. Then another one has
// some, too, and gets its part.
func TestTurns(t *testing.T) {
	f := func(maxInFlight int) {
		t.Helper()
		s := newStage(maxInFlight, 20)
		busy, late := s.peers[13], s.peers[5]
		first, _ := s.play(t, time.Second, busy)
		if first < 0 || first > 200*time.Millisecond {
			t.Errorf("maximum %d: the first message comes after %v", maxInFlight, first)
		}
		_, used := s.play(t, 5*time.Second, busy)
		share := used / float64(maxInFlight)
		t.Logf("maximum %d: first message after %v, then %.1f %% of the maximum used", maxInFlight, first, 100*share)
		if share < 0.8 {
			t.Errorf("maximum %d: %.1f %% of it is used", maxInFlight, 100*share)
		}
		clear(s.had)
		s.play(t, 10*time.Second, busy, late)
		t.Logf("maximum %d: %d messages of one, %d of the other", maxInFlight, s.had[busy], s.had[late])
		if all := s.had[busy] + s.had[late]; s.had[late] < all/3 || s.had[busy] < all/3 {
			t.Errorf("maximum %d: of the two that have messages one delivers %d, the other %d", maxInFlight, s.had[busy], s.had[late])
		}
	}
	f(1)
	f(8)
}
