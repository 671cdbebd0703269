package broker

import (
	"math/rand/v2"
	"testing"
)

func TestTableModel(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var tab table
		model := map[uint64]uint32{}
		for range 4000 {
			id := uint64(idTop) + rng.Uint64N(200)*(1+rng.Uint64N(2)*4096)
			want := model[id]
			switch rng.IntN(3) {
			case 0:
				if want == 0 {
					v := 1 + rng.Uint32N(1<<30)
					tab.put(id, v)
					model[id] = v
				}
			case 1:
				if got := tab.remove(id); got != want {
					t.Fatalf("seed %d: remove = %d, want %d", seed, got, want)
				}
				delete(model, id)
			default:
				if got := tab.get(id); got != want {
					t.Fatalf("seed %d: get = %d, want %d", seed, got, want)
				}
			}
			if tab.count != len(model) {
				t.Fatalf("seed %d: count %d, want %d", seed, tab.count, len(model))
			}
		}
		n := 0
		tab.each(func(id uint64, v uint32) {
			if n++; model[id] != v {
				t.Fatalf("seed %d: each: %d, want %d", seed, v, model[id])
			}
		})
		if n != len(model) {
			t.Fatalf("seed %d: each saw %d, want %d", seed, n, len(model))
		}
		if tab.reset(); tab.get(idTop) != 0 || tab.keys != nil {
			t.Fatal("reset kept something")
		}
	}
}
