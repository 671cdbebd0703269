//go:build long

package engine

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// PieceCosts does on every loop what /stats has done there, piece by piece, and
// returns the processor time that each piece took from its loop. The wall's time
// would tell of whoever else wants the processors.
func (e *Engine) PieceCosts() (costs []time.Duration, connections int) {
	for i, l := range e.group.Loops() {
		h := e.handlers[i]
		seen := make([]seenClient, 0, clientsAtOnce)
		type piece struct {
			cost time.Duration
			n    int
			more bool
		}
		done := make(chan piece, 1)
		for from, more := 0, true; more; from += clientsAtOnce {
			l.Do(func() {
				runtime.LockOSThread() // the clock is the thread's
				defer runtime.UnlockOSThread()
				begun := threadTime()
				seen = h.describe(seen[:0], from, "")
				done <- piece{threadTime() - begun, len(seen), from+clientsAtOnce < len(h.conns)}
			})
			p := <-done
			costs = append(costs, p.cost)
			connections += p.n
			more = p.more
		}
	}
	return costs, connections
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic("BUG: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
