package broker

import (
	"slices"
	"testing"
	"time"
)

// TestDeferredForHours defers messages by up to a month, when they are published and when they
// are given back, and has the broker crash again and again meanwhile: each comes
// when it is due, to the tick of the wheel, and once.
func TestDeferredForHours(t *testing.T) {
	for _, mode := range []Durability{DurabilityProcess, DurabilityDisk} {
		dir := t.TempDir()
		w := newWorldClosed(t, 1, 1, 1000, dir, 1, mode)
		w.open(nil)
		topic, err := w.b.Topic("t")
		if err != nil {
			t.Fatal(err)
		}
		c, err := topic.Channel("c")
		if err != nil {
			t.Fatal(err)
		}
		due := map[uint64]int64{} // by key: when it is due, and has not come
		var came []uint64
		note := func(_ *consumer, key uint64, _ uint16) { came = append(came, key) }
		p := w.producer(0)
		for _, d := range []time.Duration{
			time.Hour, time.Hour + time.Millisecond, 90 * time.Minute, 3*time.Hour + 7*time.Second,
			11 * time.Hour, 24*time.Hour - time.Millisecond, 49*time.Hour + 17*time.Minute, 30 * 24 * time.Hour,
		} {
			due[uint64(p.seq)] = w.now + int64(d)
			w.round(0, func(s *Shard) { p.publish(s, topic, 1, w.now+int64(d)) })
		}
		w.round(0, func(s *Shard) { p.publish(s, topic, 1, 0) })
		w.settle("accepted", func() bool { return !p.owed && w.quiet() })
		first := w.consumer(c, 0, 10, note)
		w.settle("delivered", func() bool { w.drain(); return len(first.hold) == 1 })
		const back = 5*time.Hour + 30*time.Minute
		w.round(0, func(s *Shard) {
			if err := s.Requeue(first.sub, first.hold[0], int64(back)); err != nil {
				t.Fatal(err)
			}
		})
		due[came[0]] = w.now + int64(back)
		came = nil

		for lives := 0; len(due) > 0; lives++ {
			dir = w.crashCopy(dir)
			o := newWorldClosed(t, 1, 1, 1000, dir, w.b.ids.next.Load(), mode)
			o.now = w.now + int64(lives)*int64(time.Minute) // it was down for a while
			o.open(nil)
			o.settle("recovered", o.quiet)
			o.unharmed()
			reader := o.consumer(o.b.Find([]byte("t")).Find("c"), 0, 100, note)
			for left := 2; left > 0 && len(due) > 0; left-- { // two due times a life
				next := int64(0)
				var keys []uint64
				for key, at := range due {
					if next == 0 || at < next {
						next, keys = at, nil
					}
					if at == next {
						keys = append(keys, key)
					}
				}
				look := func(at int64) []uint64 {
					came = nil
					if o.now < at {
						o.now = at
					}
					o.round(0, nil)
					o.settle("delivered", o.quiet)
					o.round(0, nil)
					o.drain()
					return came
				}
				if o.now < next {
					if got := look(next - int64(time.Millisecond)); len(got) > 0 {
						t.Fatalf("mode %d, life %d: messages %d came early", mode, lives, got)
					}
				}
				got := look(next + int64(time.Millisecond)) // a tick
				for _, key := range got {
					if at, ok := due[key]; !ok || at > o.now {
						t.Fatalf("mode %d, life %d: message %d is due in %v", mode, lives, key, time.Duration(at-o.now))
					}
					delete(due, key)
				}
				if !slices.Contains(got, keys[0]) {
					t.Fatalf("mode %d, life %d: message %d did not come when it was due: %d", mode, lives, keys[0], got)
				}
				o.round(0, func(s *Shard) {
					for _, id := range reader.hold {
						if err := s.Finish(reader.sub, id); err != nil {
							t.Fatal(err)
						}
					}
				})
				reader.hold = nil
			}
			w = o
			w.settle("finished", w.quiet)
		}
	}
}
