package tool

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Rules by which a HostPool chooses.
const (
	ModeRoundRobin    = "round-robin"
	ModeHostPool      = "hostpool"
	ModeEpsilonGreedy = "epsilon-greedy"
)

// How long a failed host is left alone, at first and at most.
const (
	deadFor    = 30 * time.Second
	deadForMax = 900 * time.Second
)

// Epsilon-greedy tries hosts at random with a probability that shrinks from
// epsilonStart to epsilonMin, and otherwise prefers quick ones by what it saw in
// the last five minutes, the latest counting most.
const (
	epsilonStart = 0.3
	epsilonDecay = 0.90
	epsilonMin   = 0.01
	bucketCount  = 120
	bucketTime   = 5 * time.Minute / bucketCount
)

// A HostPool chooses one of several destinations for each message. It is safe
// for concurrent use.
//
// Round robin takes the hosts in turn, whatever happens to them. The other two
// leave a failed host alone for a while:
//
//	alive ── Mark(failure) ──► dead for 30 s ── Pick, time is up ──► one try
//	  ▲                            ▲                                   │
//	  │                            └── dead for twice as long ◄────────┤ (900 s at most)
//	  └──────────────────────────────────────── Mark(success) ◄────────┘
//
// When all are dead, all are alive again: better a bad host than none.
type HostPool struct {
	mode string

	// now and random are time.Now and rand.Float64; tests have their own.
	now    func() time.Time
	random func() float64

	mu      sync.Mutex
	hosts   []host
	next    int // the host whose turn it is
	epsilon float64
	bucket  int64 // the current bucket's number, counted from the epoch
}

// A host is one destination's record.
type host struct {
	dead    bool
	deadFor time.Duration
	retry   time.Time // when a dead host may be tried

	// Successful answers by bucket, bucket number modulo bucketCount.
	counts [bucketCount]int
	times  [bucketCount]time.Duration
}

// NewHostPool returns a pool of count hosts, 0 < count. A mode that is none of
// the three is round robin.
func NewHostPool(mode string, count int) *HostPool {
	p := &HostPool{
		mode: mode, now: time.Now, random: rand.Float64,
		hosts: make([]host, count), epsilon: epsilonStart,
	}
	if p.roundRobin() {
		p.next = 1 % count // upstream starts with the second
	}
	return p
}

func (p *HostPool) roundRobin() bool { return p.mode != ModeHostPool && p.mode != ModeEpsilonGreedy }

// Pick returns the index of the host for the next message. Tell Mark how it went.
func (p *HostPool) Pick() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.roundRobin() {
		i := p.next
		p.next = (i + 1) % len(p.hosts)
		return i
	}
	now := p.now()
	if p.mode == ModeEpsilonGreedy {
		p.turnBuckets(now)
		if p.random() >= p.epsilon {
			if i := p.quick(now); i >= 0 {
				return i
			}
		} else {
			p.epsilon = max(p.epsilon*epsilonDecay, epsilonMin)
		}
	}
	return p.inTurn(now)
}

// Mark notes how a message to host i went and how long it took.
func (p *HostPool) Mark(i int, took time.Duration, err error) {
	if p.roundRobin() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &p.hosts[i]
	switch {
	case err == nil:
		h.dead = false
		if p.mode == ModeEpsilonGreedy {
			p.turnBuckets(p.now())
			slot := p.bucket % bucketCount
			h.counts[slot]++
			h.times[slot] += took
		}
	case !h.dead:
		h.dead, h.deadFor = true, deadFor
		h.retry = p.now().Add(deadFor)
	}
}

// inTurn returns the next host that may be tried.
func (p *HostPool) inTurn(now time.Time) int {
	for n := range p.hosts {
		i := (p.next + n) % len(p.hosts)
		if p.hosts[i].mayTry(now) {
			p.next = (i + 1) % len(p.hosts)
			p.hosts[i].try(now)
			return i
		}
	}
	for i := range p.hosts {
		p.hosts[i].dead = false
	}
	p.next = 1 % len(p.hosts)
	return 0
}

// quick draws a host, each with a chance in proportion to its speed. It returns
// -1 if no host that may be tried has a known speed.
func (p *HostPool) quick(now time.Time) int {
	weights := make([]float64, len(p.hosts))
	sum := 0.0
	for i := range p.hosts {
		h := &p.hosts[i]
		if mean := h.meanTime(p.bucket); mean > 0 && h.mayTry(now) {
			weights[i] = 1 / mean
			sum += weights[i]
		}
	}
	last, draw := -1, p.random()*sum
	for i, w := range weights {
		if w == 0 {
			continue
		}
		last = i // also when rounding has left something of draw
		if draw -= w; draw < 0 {
			break
		}
	}
	if last >= 0 {
		p.hosts[last].try(now)
	}
	return last
}

// turnBuckets empties the buckets whose time has come round again.
func (p *HostPool) turnBuckets(now time.Time) {
	current := now.UnixNano() / int64(bucketTime)
	for n := max(p.bucket+1, current-bucketCount+1); n <= current; n++ {
		for i := range p.hosts {
			p.hosts[i].counts[n%bucketCount] = 0
			p.hosts[i].times[n%bucketCount] = 0
		}
	}
	p.bucket = max(p.bucket, current)
}

func (h *host) mayTry(now time.Time) bool { return !h.dead || h.retry.Before(now) }

// try notes that a host is about to be used; a dead one has this chance only.
func (h *host) try(now time.Time) {
	if h.dead {
		h.deadFor = min(2*h.deadFor, deadForMax)
		h.retry = now.Add(h.deadFor)
	}
}

// meanTime is the weighted sum of the mean times of all buckets: the i-th oldest
// counts i/bucketCount, and one without answers repeats the one before it.
func (h *host) meanTime(current int64) float64 {
	sum, last := 0.0, 0.0
	for i := int64(1); i <= bucketCount; i++ {
		slot := (current + i) % bucketCount
		if n := h.counts[slot]; n > 0 {
			last = float64(h.times[slot]) / float64(n)
		}
		sum += last * float64(i) / bucketCount
	}
	return sum
}
