package tool

import (
	"fmt"
	"log"
	"slices"
	"sync"
	"time"
)

// Timings prints a status line for every so many results: how many there were
// and how long they took. It is safe for concurrent use.
type Timings struct {
	prefix string
	log    *log.Logger
	every  int // 0: never print

	mu    sync.Mutex
	times []time.Duration // since the last line; len(times) <= every
}

// NewTimings returns timings that print a line with the prefix for every so many
// results; none when every is not positive. A small number is warned about.
func NewTimings(every int, prefix string, l *log.Logger) *Timings {
	if every > 0 && every < 100 {
		l.Printf("Warning: use more than 100 status values for accurate percentiles (configured with %d)", every)
	}
	return &Timings{prefix: prefix, log: l, every: max(0, every)}
}

// Add notes one result that took d. The line for a full set is printed when the
// next result arrives, as upstream does.
func (t *Timings) Add(d time.Duration) {
	if t.every == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.times) == t.every {
		t.log.Print(t.line())
		t.times = t.times[:0]
	}
	t.times = append(t.times, d)
}

// line sorts the times and describes them.
func (t *Timings) line() string {
	slices.Sort(t.times)
	var sum time.Duration
	for _, d := range t.times {
		sum += d
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("%s finished %d - 99th: %.2fms - 95th: %.2fms - avg: %.2fms", t.prefix, len(t.times),
		ms(percentile(t.times, 99)), ms(percentile(t.times, 95)), ms(sum)/float64(len(t.times)))
}

// percentile returns the value below which p percent of the sorted values lie.
func percentile(sorted []time.Duration, p int) time.Duration {
	i := (p*len(sorted) + 50) / 100 // to the nearest
	return sorted[min(i, len(sorted)-1)]
}

// A StatusBoard keeps the timings of all destinations and of each one.
type StatusBoard struct {
	all *Timings
	per []*Timings // nil when there is one destination only
}

// NewStatusBoard returns a board for the destinations; with a single one there
// is no line besides the aggregate.
func NewStatusBoard(every int, destinations []string, l *log.Logger) *StatusBoard {
	b := &StatusBoard{all: NewTimings(every, "[aggregate]:", l)}
	if len(destinations) > 1 {
		for _, d := range destinations {
			b.per = append(b.per, NewTimings(every, "["+d+"]:", l))
		}
	}
	return b
}

// AddOne notes a result of the destination with that index.
func (b *StatusBoard) AddOne(destination int, d time.Duration) {
	if b.per != nil {
		b.per[destination].Add(d)
	}
}

// AddAll notes a result in the aggregate.
func (b *StatusBoard) AddAll(d time.Duration) { b.all.Add(d) }
