package broker

import (
	"slices"
	"testing"
)

// A bound divides a long round into short ones, each of which serves every channel.
func TestBound(t *testing.T) {
	for _, topology := range []bool{false, true} {
		w := newWorld(t, 1, 1, 1000, t.TempDir(), 1)
		w.b.opts.Topology = topology
		p := w.producer(0)
		var got [2]int
		for i, name := range []string{"many", "few"} {
			topic, err := w.b.Topic(name)
			if err != nil {
				t.Fatal(err)
			}
			ch, err := topic.Channel("c")
			if err != nil {
				t.Fatal(err)
			}
			w.consumer(ch, 0, 0, func(*consumer, uint64, uint16) { got[i]++ })
			w.round(0, func(s *Shard) { p.publish(s, topic, []int{200, 1}[i], 0) })
		}
		w.settle("quiet", w.quiet)
		s := w.b.shards[0]
		var rounds [][2]int // what each delivered
		for again := true; again; {
			before := got
			s.Begin(w.now, w.now+wallOffset)
			if len(rounds) == 0 {
				for _, c := range w.cons {
					c.sub.SetReady(1000)
				}
			}
			s.Bound(2 * quantum)
			again = s.EndRound()
			w.drain()
			rounds = append(rounds, [2]int{got[0] - before[0], got[1] - before[1]})
		}
		// Half of the first round is for each, and all of the others for who is left.
		want := [][2]int{{32, 1}, {64, 0}, {64, 0}, {40, 0}}
		if !slices.Equal(rounds, want) {
			w.fatal("topology %t: the rounds delivered %v, want %v", topology, rounds, want)
		}
	}
}
