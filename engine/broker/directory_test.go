package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestDirectory holds the directory against a map through random changes.
func TestDirectory(t *testing.T) {
	for seed := range uint64(3) {
		directoryModel(t, seed)
	}
}

func directoryModel(t *testing.T, seed uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	var d directory
	d.init()
	want := map[string]*Topic{}
	for i := range 5000 {
		name := fmt.Sprint("t", rnd.IntN(1000))
		if topic := (&Topic{name: name}); rnd.IntN(3) > 0 {
			d.set(name, topic)
			want[name] = topic
		} else {
			d.set(name, nil)
			delete(want, name)
		}
		name = fmt.Sprint("t", rnd.IntN(1000))
		if got := d.find([]byte(name)); got != want[name] {
			t.Fatalf("seed %d, step %d: find(%q) is %v, want %v", seed, i, name, got, want[name])
		}
	}
	var names []string
	for _, topic := range d.all() {
		names = append(names, topic.name)
	}
	slices.Sort(names)
	if sorted := slices.Sorted(maps.Keys(want)); !slices.Equal(names, sorted) {
		t.Errorf("seed %d: all() has %d topics, want these %d, each once", seed, len(names), len(sorted))
	}
}
