//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// keptSettle lets what follows the last OK end: a broker may still be moving
// messages from a topic to its channel, or giving memory back.
const keptSettle = 500 * time.Millisecond

// runKept lays down messages and measures what they cost the broker that has to
// keep them: memory, and the time to stop and to start with them.
func (c cell) runKept(ctx context.Context, b *broker) (f figure, err error) {
	g, err := newGenerator(ctx, b.tcp, c.load)
	if err != nil {
		return f, err
	}
	defer g.close()
	defer func() { err = errors.Join(err, b.exited()) }()
	if c.mode != created {
		if err := b.makeChannel(ctx, g.topic(0), g.load.channel(0)); err != nil {
			return f, err
		}
	}
	for i := range c.load.producers {
		if err := g.addProducer(i); err != nil {
			return f, err
		}
	}
	start := time.Now()
	if err := g.runUntil(func() bool { return g.next == g.messagesMax && g.complete() }); err != nil {
		return f, err
	}
	f.Messages, f.Seconds = g.next, time.Since(start).Seconds()
	if c.mode == created {
		f.Creating = f.Seconds
	}
	g.publishing = false
	g.hangUp()
	if err := g.rest(keptSettle); err != nil {
		return f, err
	}
	if c.mode != restart { // all messages of a restart are received and counted
		if err := b.holds(ctx, g.next); err != nil {
			return f, err
		}
	}
	if f.RSS, err = b.rss(); err != nil {
		return f, err
	}
	if f.Anonymous, err = b.anonymous(); err != nil {
		return f, err
	}
	if c.mode == kept {
		return f, nil
	}
	return f, c.runRestart(g, b, &f)
}

// runRestart stops and starts the broker and sees that every message is there.
func (c cell) runRestart(g *generator, b *broker, f *figure) error {
	start := time.Now()
	if err := b.halt(g.ctx); err != nil {
		return err
	}
	f.Stop = ms(time.Since(start))
	start = time.Now()
	if err := b.launch(g.ctx); err != nil {
		return err
	}
	f.Start = ms(time.Since(start))
	if c.mode == created {
		return b.holds(g.ctx, g.next)
	}
	if err := g.addConsumer(0); err != nil {
		return err
	}
	if err := g.runUntil(func() bool { return g.received > 0 }); err != nil {
		return err
	}
	f.First = ms(time.Since(start))
	if err := g.runUntil(g.complete); err != nil {
		return err
	}
	f.Drained = time.Since(start).Seconds()
	// A message that comes twice may come late.
	if err := g.rest(20 * time.Millisecond); err != nil {
		return err
	}
	return g.verify()
}

// holds says whether the broker keeps n messages.
func (b *broker) holds(ctx context.Context, n uint64) error {
	depth, err := b.depth(ctx)
	if err == nil && depth != n {
		err = fmt.Errorf("depth is %d after %d messages were accepted", depth, n)
	}
	return err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
