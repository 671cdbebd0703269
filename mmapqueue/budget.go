package mmapqueue

import (
	"math"
	"sync/atomic"
)

// Budget bounds what the logs that share it take on disk. A log that has no room
// left fails the append that needs more with ErrFull; what is there stays, and
// reading it makes room again, a segment at a time.
type Budget struct {
	total, perLog int64
	used          atomic.Int64
	lifted        atomic.Bool
}

// NewBudget returns a budget of total bytes for all logs, and of perLog for each
// of them. Zero is no limit.
func NewBudget(total, perLog int64) *Budget {
	if total <= 0 {
		total = math.MaxInt64
	}
	if perLog <= 0 {
		perLog = math.MaxInt64
	}
	return &Budget{total: total, perLog: perLog}
}

// Used returns the bytes that all logs take.
func (u *Budget) Used() int64 { return u.used.Load() }

// Lift ends the limits: a stop saves everything.
func (u *Budget) Lift() { u.lifted.Store(true) }

// room returns how many bytes more a log may take that has taken some. A nil
// budget has no limits.
func (u *Budget) room(taken int64) int64 {
	if u == nil || u.lifted.Load() {
		return math.MaxInt64
	}
	return min(u.total-u.used.Load(), u.perLog-taken)
}

// grow counts n bytes more, or fewer, that the log takes.
func (b *Backlog) grow(n int64) {
	b.bytes.Add(n)
	if u := b.o.Budget; u != nil {
		u.used.Add(n)
	}
}
