package netloop

import "time"

// Light traffic is that of a connection which sends and takes little at a time: a
// publisher of single messages, or their consumer. Who sends or takes much fills the
// loop's rounds, and would have it wait for as long as they are; so it goes first, and
// a handler that can make its rounds shorter should, while there is any.
const (
	bulk = 4 << 10 // bytes at once that are not light
	calm = int64(10 * time.Millisecond)
)

// LightTraffic reports whether there was light traffic in this round or in the last
// 10 ms. That all connections are busy is not light traffic, however small their
// reads are now and then.
func (l *Loop) LightTraffic() bool { return l.lightNs != 0 && l.now-l.lightNs < calm }

// weigh notes what a read of n bytes says of the loop's traffic.
func (c *Conn) weigh(n int) {
	l := c.loop
	switch {
	case n >= bulk:
		c.bulkNs = l.now
	case c.bulkNs == 0 || l.now-c.bulkNs >= calm:
		l.lightNs = l.now
	}
}

// lightFirst brings those with little output to the front.
func lightFirst(list []*Conn) {
	front := 0
	for i, c := range list {
		if c.buffered < bulk {
			list[i], list[front] = list[front], c
			front++
		}
	}
}
