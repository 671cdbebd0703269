package netloop

import (
	"slices"
	"testing"
)

// A connection that sends little is light traffic, unless it has sent or taken
// much a moment ago.
func TestLightTraffic(t *testing.T) {
	type seen struct {
		size  int
		light bool
		bulk  bool // the connection was noted as such
	}
	traffic := make(chan seen, 1)
	var conn *Conn
	opened := make(chan struct{}, 1)
	g, addr := start(t, Options{}, &script{
		open: func(c *Conn) {
			conn = c
			opened <- struct{}{}
		},
		traffic: func(c *Conn, b []byte) int {
			traffic <- seen{len(b), c.loop.LightTraffic(), c.bulkNs != 0}
			return len(b)
		},
	})
	l := g.Loops()[0]
	c := dial(t, "tcp", addr)
	wait(t, opened)
	f := func(size int, want seen) {
		t.Helper()
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if got := wait(t, traffic); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	f(10, seen{10, true, false})
	on(t, l, func() { l.lightNs, conn.bulkNs = 0, Now()+int64(1)<<40 })
	f(10, seen{10, false, true})
	on(t, l, func() { conn.bulkNs = 0 })
	f(bulk, seen{bulk, false, true})
	on(t, l, func() { conn.bulkNs = 0 })
	f(bulk-1, seen{bulk - 1, true, false})
	// Output counts like input.
	on(t, l, func() { conn.Write(make([]byte, bulk)) })
	on(t, l, func() {
		if conn.bulkNs == 0 {
			t.Error("a large write was not noted")
		}
	})
}

func TestLightFirst(t *testing.T) {
	f := func(sizes, want []int64) {
		t.Helper()
		var list []*Conn
		for _, n := range sizes {
			list = append(list, &Conn{buffered: n})
		}
		lightFirst(list)
		var got []int64
		for _, c := range list {
			got = append(got, c.buffered)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d became %d, want %d", sizes, got, want)
		}
	}
	f([]int64{1}, []int64{1})
	f([]int64{bulk, 1}, []int64{1, bulk})
	f([]int64{2, bulk, 1}, []int64{2, 1, bulk})
	f([]int64{bulk, bulk + 1, 0, 3}, []int64{0, 3, bulk, bulk + 1})
}
