package broker

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// The wheel against a map of due times: never early, at most one tick late when
// it is advanced, limits resumed, nextDue never past what is due.
func TestWheelModel(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		now := rng.Int64N(1 << 44)
		if seed%3 == 0 {
			now = (int64(1)<<(8*(1+rng.IntN(3))) - 2) * tickNs // just before a cascade
		}
		var w wheel
		w.init(now)
		due := map[uint32]int64{}
		// stop removes one of them: not the first that a map happens to give, for a
		// seed is one run.
		stop := func() {
			if len(due) > 0 {
				keys := slices.Sorted(maps.Keys(due))
				i := keys[rng.IntN(len(keys))]
				w.remove(i)
				w.release(i)
				delete(due, i)
			}
		}
		spans := []int64{3, 300, 70_000, 20_000_000, 1 << 33}
		for range 1500 {
			switch rng.IntN(4) {
			case 0, 1:
				d := now + rng.Int64N(spans[rng.IntN(len(spans))])*tickNs + rng.Int64N(tickNs) - 2*tickNs
				if rng.IntN(4) == 0 {
					d = (d/tickNs | (1<<8 - 1)) * tickNs // at a boundary
				}
				i := w.alloc()
				w.slab[i].kind, w.slab[i].dueNs = kindTimer, d
				w.add(i)
				due[i] = max(d, now)
			case 2:
				stop()
			default:
				now += rng.Int64N(spans[rng.IntN(4)]) * tickNs / int64(1+rng.IntN(50))
				limit := 1 + rng.IntN(40)
				complete := w.advance(now, limit, func(i uint32) {
					if due[i] > now {
						t.Fatalf("seed %d: due at %d, fired at %d", seed, due[i], now)
					}
					delete(due, i)
					w.release(i)
					limit--
					if rng.IntN(8) == 0 { // a timer stops another one
						stop()
					}
				})
				for _, d := range due {
					if complete && d+tickNs <= now {
						t.Fatalf("seed %d: due at %d, not fired at %d", seed, d, now)
					}
				}
				if limit < 0 {
					t.Fatalf("seed %d: more entries than the limit", seed)
				}
			}
			if w.live != len(due) {
				t.Fatalf("seed %d: %d entries live, want %d", seed, w.live, len(due))
			}
			first := int64(0)
			for _, d := range due {
				if first == 0 || d < first {
					first = d
				}
			}
			if next := w.nextDue(); (next == 0) != (len(due) == 0) || next > max(first+tickNs, (w.tick+1)*tickNs) {
				t.Fatalf("seed %d: next due %d, first is %d", seed, next, first)
			}
		}
	}
}
