package broker

import (
	"encoding/binary"
	"testing"
	"time"
)

// patience bounds every wait: where nothing moves for so long something hangs.
const patience = time.Minute

// lookMost is what a look at what is waited for counts for at most.
const lookMost = 100 * time.Millisecond

// patient measures a wait. Only what the waiting goroutine sees pass counts: one that
// stood still for a minute, because its process was stopped or its machine had other
// things to do, has not seen that nothing moves. The zero value is ready for use.
type patient struct {
	seen time.Duration
	last time.Time
	at   string // what had moved by then
}

// over notes a look and reports whether patience is at its end. moved says how far
// the others have come: where it changes the wait begins anew.
func (p *patient) over(now time.Time, moved string) bool {
	if p.last.IsZero() || moved != p.at {
		*p = patient{last: now, at: moved}
		return false
	}
	p.seen += max(0, min(now.Sub(p.last), lookMost))
	p.last = now
	return p.seen >= patience
}

// moved tells states of the world apart between which something has come on. A pump
// that looks again and again and finds nothing is not in it.
func (w *world) moved() string {
	buf := make([]byte, 0, 256)
	for _, t := range w.b.Topics() {
		t.writer.mu.Lock()
		buf = binary.AppendUvarint(buf, t.writer.done)
		t.writer.mu.Unlock()
		for _, q := range t.allQueues() {
			buf = binary.AppendVarint(buf, q.outstanding.Load())
			buf = binary.AppendVarint(buf, int64(q.ring.Len()))
		}
		for _, c := range t.Channels() {
			f := c.Figures()
			buf = binary.AppendVarint(buf, f.InFlight)
			buf = binary.AppendVarint(buf, f.Deferred)
		}
	}
	return string(buf)
}

// Patience ends where somebody looks for a minute and nothing moves; not where the
// clock jumps or the process stands still, nor where something moves at any pace.
func TestPatience(t *testing.T) {
	looks := func(later time.Duration, moved func(look int) string) (n int) {
		now := time.Unix(1, 0)
		for p := (patient{}); n < 1e5 && !p.over(now, moved(n)); n++ {
			now = now.Add(later)
		}
		return n
	}
	still := func(int) string { return "" }
	for _, c := range []struct {
		what  string
		later time.Duration
		moved func(look int) string
		want  int
	}{
		{"looks", time.Millisecond, still, int(patience / time.Millisecond)},
		{"stops of an hour", time.Hour, still, int(patience / lookMost)},
		{"a clock that goes back", -time.Millisecond, still, 1e5},
		{"something moves now and then", lookMost, func(n int) string { return string(rune(n / 500)) }, 1e5},
		{"something has moved once", lookMost, func(n int) string { return string(rune(min(n/500, 1))) }, 500 + int(patience/lookMost)},
	} {
		if got := looks(c.later, c.moved); got != c.want {
			t.Errorf("%s: over after %d looks, want %d", c.what, got, c.want)
		}
	}
}
