package netloop

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// base is where Now counts from; one nanosecond early, so that Now is never 0.
var base = time.Now().Add(-1)

// Now returns the monotonic clock in nanoseconds since the process started. It
// is never zero. Handlers use Loop.Now, which costs nothing.
func Now() int64 { return int64(time.Since(base)) }

// SetTimer asks for a call of Handler.Timer at due, a reading of Now's clock in
// nanoseconds. The earliest due time asked for wins; Timer's result is the next
// one. Zero asks for nothing. It must be called on the loop.
func (l *Loop) SetTimer(due int64) {
	if due != 0 && (l.due == 0 || due < l.due) {
		l.due = due
	}
}

// runTimer calls the handler when its time has come.
func (l *Loop) runTimer() {
	if l.due == 0 || l.now < l.due {
		return
	}
	l.due = 0
	l.SetTimer(l.handler.Timer(l, l.now))
}

// arm makes the timerfd fire for the earliest of what the loop waits for. An
// alarm that is set for an earlier time stays: it costs one idle wake-up, and
// moving it would cost a system call each time.
func (l *Loop) arm() {
	next := l.due
	if l.lingerDue != 0 && (next == 0 || l.lingerDue < next) {
		next = l.lingerDue
	}
	if next == 0 || l.armed != 0 && l.armed <= next {
		return
	}
	// The interval is never zero: that would disarm the timer.
	wait := unix.NsecToTimespec(max(1, next-Now()))
	l.timerSpec.Value = wait
	if err := unix.TimerfdSettime(l.timerFd, 0, &l.timerSpec, nil); err != nil {
		panic(fmt.Sprintf("BUG: timerfd_settime %+v: %v", l.timerSpec, err))
	}
	l.armed = next
}
