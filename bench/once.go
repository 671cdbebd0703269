//go:build linux

package main

import (
	"fmt"
	"math/bits"
)

// finished is how many messages are off our hands on every channel.
func (g *generator) finished() uint64 {
	if len(g.consumers) == 0 {
		return g.answered
	}
	return g.received / uint64(g.channels)
}

// complete tells whether everything published has been answered and received.
func (g *generator) complete() bool {
	return g.answered == g.next && (len(g.consumers) == 0 || g.received >= g.next*uint64(g.channels))
}

// mark notes that message seq has come on a channel.
func (g *generator) mark(ch int, seq uint64) error {
	if seq >= g.next {
		return fmt.Errorf("message %d was never published", seq)
	}
	bit := uint64(1) << (seq % 64)
	word := &g.seen[ch][seq/64]
	if *word&bit != 0 {
		g.twice++
		return nil
	}
	*word |= bit
	g.received++
	return nil
}

// verify says whether every message came exactly once on every channel.
func (g *generator) verify() error {
	if g.twice > 0 {
		return fmt.Errorf("%d messages came twice", g.twice)
	}
	for ch, words := range g.seen {
		var n uint64
		for _, w := range words {
			n += uint64(bits.OnesCount64(w))
		}
		if n != g.next {
			return fmt.Errorf("channel %d: %d of %d messages came", ch, n, g.next)
		}
	}
	return nil
}
