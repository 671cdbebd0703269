package nsq

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// What the answers to messages say of how things go.
type outcome uint8

const (
	success outcome = iota
	failure
	neither
)

// How connections take turns when there is not enough for all of them.
const (
	// dwellMin and dwellMax bound how long a connection that has no messages
	// keeps what it got: short at first, longer with each fruitless round.
	dwellMin, dwellMax = 3 * time.Millisecond, 100 * time.Millisecond
	// busyFor is how long a connection counts as busy after a message.
	busyFor = 100 * time.Millisecond
	// probeBusy is the time between two probes while others are busy, and
	// probeQuiet while none is.
	probeBusy, probeQuiet = 250 * time.Millisecond, 20 * time.Millisecond
	// settle is the time between two looks while one has to be given back.
	settle = 4 * time.Millisecond
	// turn is how long one of too many busy connections keeps what it got.
	turn = time.Second
)

// ready decides how many messages each connection may have in flight.
//
// Invariant: what all connections hold, or may be sent, sums up to the consumer's
// maximum at most. What is taken from one is therefore given to another only when
// its messages are answered, and those that may be on their way have had the time
// to arrive. (Only a maximum that is lowered lies below what is in flight already.)
//
// With enough for all, every connection has the same share. With more connections
// than the maximum, those that have messages share it, and one at a time of the
// others is probed with a ready count of one.
//
// Backing off, the maximum is 0 while the consumer waits, and 1 after that, until
// a single message has shown how things go.
type ready struct {
	r     *Consumer
	level atomic.Int32 // of backoff; 0 means that there is none
	tight atomic.Bool  // there is not enough for all

	mu      sync.Mutex
	max     int
	peers   []*peer
	waiting bool // backing off: for timer
	timer   *time.Timer
	stopped bool

	cursor    int           // the last that was probed
	dwell     time.Duration // of a probe
	fruitless int           // probes since the last one that found messages
	probing   bool          // one is to be probed while others have messages
	granted   bool          // and has been
	nextProbe time.Time

	wake chan struct{}
}

// share is a connection's part of what is ready's.
type share struct {
	removed   bool
	since     time.Time // got a ready count above zero
	heldUntil time.Time // messages may arrive that were sent before a reduction
	held      int64     // how many that ready count was
	target    int64     // what it is to have
}

func (s *ready) init(r *Consumer) {
	s.r = r
	s.max = r.config.MaxInFlight
	s.dwell = dwellMin
	s.wake = make(chan struct{}, 1)
}

// run gives connections their turns until the consumer has stopped.
func (s *ready) run() {
	timer := time.NewTimer(s.r.config.RDYRedistributeInterval)
	defer timer.Stop()
	for {
		select {
		case <-s.wake:
		case <-timer.C:
		case <-s.r.ctx.Done():
			s.r.logf(LogLevelInfo, "rdyLoop exiting")
			return
		}
		s.mu.Lock()
		next := s.deal(time.Now())
		s.mu.Unlock()
		timer.Reset(max(next, time.Millisecond))
	}
}

// look makes run deal again, if turns are taken at all.
func (s *ready) look() {
	if s.tight.Load() {
		s.kick()
	}
}

func (s *ready) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *ready) limit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.max
}

func (s *ready) setMax(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.max == n {
		return
	}
	s.max = n
	if s.level.Load() == 0 || n == 0 {
		s.deal(time.Now())
		s.kick()
	}
}

// add gives a connection its share, unless it has ended already.
func (s *ready) add(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.removed {
		return
	}
	s.peers = append(s.peers, p)
	s.dwell, s.fruitless = dwellMin, 0
	s.deal(time.Now())
	s.kick()
}

// remove gives a connection's share to the others.
func (s *ready) remove(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.removed = true
	for i, q := range s.peers {
		if p == q {
			s.peers = append(s.peers[:i], s.peers[i+1:]...)
			break
		}
	}
	s.deal(time.Now())
	s.kick()
}

// stop ends all changes of ready counts.
func (s *ready) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// budget is what there is to deal.
func (s *ready) budget() int64 {
	switch {
	case s.waiting:
		return 0
	case s.level.Load() > 0:
		return int64(min(1, s.max))
	}
	return int64(max(0, s.max))
}

// even is every connection's share when there is enough for all.
func (s *ready) even(budget int64, connections int) int64 {
	return min(max(1, budget/int64(max(1, connections))), budget)
}

// deal sets all ready counts anew and returns when to do so again.
func (s *ready) deal(now time.Time) time.Duration {
	if s.stopped {
		return s.r.config.RDYRedistributeInterval
	}
	live := make([]*peer, 0, len(s.peers))
	for _, p := range s.peers {
		if !p.c.IsClosing() {
			live = append(live, p)
		}
	}
	budget := s.budget()
	tight := budget > 0 && int64(len(live)) > budget
	s.tight.Store(tight)
	if tight {
		return min(s.takeTurns(now, live, budget), s.r.config.RDYRedistributeInterval)
	}
	t := &turns{now: now, next: s.r.config.RDYRedistributeInterval}
	for _, p := range live {
		p.target = s.even(budget, len(live))
	}
	s.lower(now, live)
	s.raise(t, live, s.free(t, budget))
	return t.next
}

// lower takes from those that have more than their target.
func (s *ready) lower(now time.Time, live []*peer) {
	for _, p := range live {
		if p.c.RDY() > p.target {
			s.set(p, p.target, now)
		}
	}
}

// set sends a connection its ready count, if that is a new one.
func (s *ready) set(p *peer, count int64, now time.Time) {
	count = min(count, p.c.MaxRDY())
	was := p.c.RDY()
	if count == was {
		return
	}
	if s.r.log.enabled(LogLevelDebug) {
		s.r.logf(LogLevelDebug, "(%s) sending RDY %d", p.c, count)
	}
	if err := p.c.send(func(b []byte) []byte { return appendRdy(b, count) }); err != nil {
		s.r.logf(LogLevelDebug, "(%s) error sending RDY %d - %s", p.c, count, err)
		return
	}
	p.c.SetRDY(count)
	switch {
	case count < was:
		p.held = was
		p.heldUntil = now.Add(p.flight())
	case was == 0:
		p.since = now
	}
}

// flight is how long a message may be on its way after a ready count is sent: there
// and back, and a margin for busy servers. It is small for a connection that was
// only probed, since the next probe waits for it.
func (p *peer) flight() time.Duration {
	rtt := time.Duration(p.rtt.Load())
	if rtt == 0 {
		rtt = 10 * time.Millisecond
	}
	margin := 5 * time.Millisecond
	if p.held == 1 && !p.warm.Load() {
		margin = time.Millisecond
	}
	return min(2*rtt+margin, 500*time.Millisecond)
}

// holds is how many messages the connection has, or may have soon.
func (p *peer) holds(now time.Time) int64 {
	n := max(p.c.RDY(), p.c.inFlight.Load())
	if now.Before(p.heldUntil) {
		n = max(n, p.held)
	}
	return n
}

// takeTurns deals what is not enough for all.
func (s *ready) takeTurns(now time.Time, live []*peer, budget int64) time.Duration {
	t := &turns{now: now, next: s.r.config.RDYRedistributeInterval}
	s.sort(t, live)
	probes := s.probes(t, budget)
	s.shareOut(t, budget-probes)
	s.lower(now, live)

	free := s.raise(t, t.warm, s.free(t, budget))
	s.probe(t, live, min(free, probes))
	return t.next
}

// free is what is left of the budget. What is on its way to us is not, nor what a
// closing connection waits for.
func (s *ready) free(t *turns, budget int64) int64 {
	for _, p := range s.peers {
		switch {
		case s.level.Load() > 0 && p.c.IsClosing():
			continue
		case s.level.Load() > 0:
			budget -= p.c.RDY() // what is still being handled says nothing of now
			continue
		case p.c.IsClosing():
			budget -= p.c.inFlight.Load()
			continue
		}
		budget -= p.holds(t.now)
		if t.now.Before(p.heldUntil) {
			t.until(p.heldUntil)
		}
	}
	return budget
}

// raise gives to those that have less than their target, and returns what is left.
// What a connection holds anyway it can have as its ready count.
func (s *ready) raise(t *turns, peers []*peer, free int64) int64 {
	for _, p := range peers {
		target := min(p.target, p.c.MaxRDY())
		if p.c.RDY() >= target {
			continue
		}
		holds := p.holds(t.now)
		if s.level.Load() > 0 {
			holds = p.c.RDY()
		}
		add := max(0, min(target-holds, free))
		free -= add
		s.set(p, min(target, holds+add), t.now)
		if p.c.RDY() < target {
			t.until(t.now.Add(settle))
		}
	}
	return free
}

// turns is one look at the connections.
type turns struct {
	now        time.Time
	next       time.Duration // until the next look
	warm, cold []*peer       // with and without messages of late
	busy       bool          // one of the warm ones is busy
}

// until makes the next look happen at that time, if not before.
func (t *turns) until(at time.Time) {
	t.next = min(t.next, max(time.Millisecond, at.Sub(t.now)))
}

// sort finds out which connections have messages.
func (s *ready) sort(t *turns, live []*peer) {
	for _, p := range live {
		occupied := p.c.inFlight.Load() > 0
		quiet := t.now.Sub(p.c.LastMessageTime())
		warm := occupied || p.received.Load() && quiet < s.r.config.LowRdyIdleTimeout
		if warm && !p.warm.Load() {
			s.dwell, s.fruitless = dwellMin, 0
			s.nextProbe = t.now.Add(probeQuiet)
		}
		p.warm.Store(warm)
		if warm {
			t.busy = t.busy || occupied || quiet < busyFor
			t.warm = append(t.warm, p)
		} else {
			t.cold = append(t.cold, p)
		}
	}
}

// probes ends the probes that have had their time, and returns how much of the
// budget probes may have: all of it while nobody has messages, and one, now and
// then, while others do.
func (s *ready) probes(t *turns, budget int64) int64 {
	dwell := s.dwell
	if len(t.warm) > 0 {
		dwell = 3 * dwellMin
	}
	running := false
	for _, p := range t.cold {
		p.target = p.c.RDY()
		if p.target > 0 && t.now.Sub(p.since) >= dwell {
			p.target = 0
			s.fruitless++
		}
		if p.target > 0 {
			running = true
			t.until(p.since.Add(dwell))
		}
		running = running || p.c.RDY() > 0 || t.now.Before(p.heldUntil)
	}
	if s.fruitless >= len(t.cold) {
		s.fruitless = 0
		s.dwell = min(2*s.dwell, dwellMax)
	}
	switch {
	case len(t.cold) == 0:
		s.probing = false
		return 0
	case len(t.warm) == 0:
		s.probing = false
		return budget
	case s.probing && s.granted && !running:
		s.probing = false
		wait := probeQuiet
		if t.busy {
			wait = probeBusy
		}
		s.nextProbe = t.now.Add(wait)
	case !s.probing && !t.now.Before(s.nextProbe):
		s.probing, s.granted = true, false
	}
	if !s.probing {
		t.until(s.nextProbe)
		return 0
	}
	if !s.granted {
		t.until(t.now.Add(settle)) // until the busy ones have given one back
	}
	return 1
}

// shareOut sets the targets of the connections that have messages. If there are
// too many of them, each has one for a while.
func (s *ready) shareOut(t *turns, budget int64) {
	count := int64(len(t.warm))
	if count <= budget {
		for i, p := range t.warm {
			p.target = budget / count
			if int64(i) < budget%count {
				p.target++
			}
		}
		return
	}
	length := min(turn, s.r.config.LowRdyTimeout)
	for _, p := range t.warm {
		p.target = 0
		if budget > 0 && p.c.RDY() > 0 && t.now.Sub(p.since) < length {
			p.target = 1
			budget--
			t.until(p.since.Add(length))
		}
	}
	// The one whose last turn is the longest ago comes first.
	for ; budget > 0; budget-- {
		var first *peer
		for _, p := range t.warm {
			if p.target == 0 && (first == nil || p.since.Before(first.since)) {
				first = p
			}
		}
		first.target = 1
		if first.c.RDY() > 0 {
			first.since = t.now // again
		}
	}
}

// probe gives one each to as many connections without messages, the next ones in
// the ring of all.
func (s *ready) probe(t *turns, live []*peer, count int64) {
	for range live {
		if count <= 0 {
			return
		}
		s.cursor = (s.cursor + 1) % len(live)
		p := live[s.cursor]
		if p.warm.Load() || p.c.RDY() > 0 || p.holds(t.now) > 0 {
			continue
		}
		s.set(p, 1, t.now)
		s.granted = true
		count--
		t.until(t.now.Add(s.dwell))
	}
}

// signal takes the outcome of a message.
func (s *ready) signal(o outcome) {
	if o != failure && s.level.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting || s.stopped {
		return
	}
	level := s.level.Load()
	cfg := s.r.config
	switch {
	case o == failure && cfg.BackoffStrategy.Calculate(int(level)+1) <= cfg.MaxBackoffDuration:
		level++
	case o == success && level > 0:
		level--
	}
	exiting := level == 0 && s.level.Load() > 0
	s.level.Store(level)
	switch {
	case exiting:
		s.r.logf(LogLevelWarning, "exiting backoff, returning all to RDY %d", s.even(int64(s.max), len(s.peers)))
		s.deal(time.Now())
		s.kick()
	case level > 0:
		s.wait()
	}
}

// wait stops all deliveries for the time that the level of backoff says.
func (s *ready) wait() {
	level := s.level.Load()
	d := min(s.r.config.BackoffStrategy.Calculate(int(level)), s.r.config.MaxBackoffDuration)
	s.r.logf(LogLevelWarning, "backing off for %s (backoff level %d), setting all to RDY 0", d, level)
	s.waiting = true
	s.deal(time.Now())
	s.timer = time.AfterFunc(d, s.resume)
}

// resume lets one message through.
func (s *ready) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	if len(s.peers) == 0 {
		s.r.logf(LogLevelWarning, "no connection available to resume")
		s.r.logf(LogLevelWarning, "backing off for %s", time.Second)
		s.timer = time.AfterFunc(time.Second, s.resume)
		return
	}
	s.waiting = false
	s.cursor = rand.IntN(len(s.peers))
	s.deal(time.Now())
	s.kick()
	for _, p := range s.peers {
		if p.c.RDY() > 0 {
			s.r.logf(LogLevelWarning, "(%s) backoff timeout expired, sending RDY 1", p.c)
		}
	}
}
