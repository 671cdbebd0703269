//go:build linux

package main

import (
	"context"
	"errors"
	"time"
)

// warmUp is how long connections run before they are measured: pools fill,
// stacks grow, the kernel sizes its socket buffers.
const warmUp = 300 * time.Millisecond

// stalledAfter is how long after the measurement the messages of a subscriber
// that never reads time out. They come to the others then.
const stalledAfter = 2 * time.Second

// run runs the cell once against b.
func (c cell) run(ctx context.Context, b *broker, measure time.Duration) (f figure, err error) {
	switch c.mode {
	case idle:
		return c.runIdle(ctx, b, measure)
	case kept, restart, created:
		return c.runKept(ctx, b)
	case slowed:
		return c.runSlowed(ctx, b, measure)
	}
	g, err := newGenerator(ctx, b.tcp, c.load)
	if err != nil {
		return f, err
	}
	defer g.close()
	defer func() { err = errors.Join(err, b.exited()) }()
	if err := b.makeChannels(ctx, c.load); err != nil {
		return f, err
	}
	for i := range c.load.consumers {
		if err := g.addConsumer(i); err != nil {
			return f, err
		}
	}
	for range c.load.stalled {
		if err := g.addStalled(warmUp + measure + stalledAfter); err != nil {
			return f, err
		}
	}
	for i := range c.load.producers {
		if err := g.addProducer(i); err != nil {
			return f, err
		}
	}
	switch c.mode {
	case drained:
		return c.runDrain(g, b)
	case timed:
		return c.runTimed(g, b)
	}

	// A warm-up may not use up the messages of a row that is bounded by them.
	warm := time.Now().Add(min(warmUp, measure))
	if err := g.runUntil(func() bool { return !time.Now().Before(warm) || g.next > g.messagesMax/8 }); err != nil {
		return f, err
	}
	g.keep = c.load.stamp || c.load.stampOK
	m, err := startMeter(g, b)
	if err != nil {
		return f, err
	}
	if err := g.runFor(measure); err != nil {
		return f, err
	}
	if err := m.stop(&f); err != nil {
		return f, err
	}
	g.keep = false
	f.quantiles(g.latencies)

	g.publishing = false
	if err := g.runUntil(g.complete); err != nil {
		return f, err
	}
	if c.mode == stored {
		if err := c.drain(g, b, &f); err != nil {
			return f, err
		}
	}
	// A message that comes twice may come late.
	if err := g.rest(20 * time.Millisecond); err != nil {
		return f, err
	}
	return f, g.verify()
}

// drain has a consumer of each topic, or of each of its channels, take what lies in
// the broker, in order to verify it.
func (c cell) drain(g *generator, b *broker, f *figure) error {
	if b.http != "" {
		if err := b.holds(g.ctx, g.next*uint64(g.channels)); err != nil {
			return err
		}
	}
	start := time.Now()
	for i := range c.load.topics * c.load.channels {
		if err := g.addConsumer(i); err != nil {
			return err
		}
	}
	err := g.runUntil(g.complete)
	f.Drained = time.Since(start).Seconds()
	return err
}

// runDrain lays down a backlog and measures how it is drained.
func (c cell) runDrain(g *generator, b *broker) (f figure, err error) {
	full := func() bool { return g.next == g.messagesMax && g.complete() }
	if err := g.runUntil(full); err != nil {
		return f, err
	}
	g.publishing = false
	m, err := startMeter(g, b)
	if err != nil {
		return f, err
	}
	m.messages = 0 // publishing does not count here, receiving does
	if err := g.addConsumer(0); err != nil {
		return f, err
	}
	if err := g.runUntil(g.complete); err != nil {
		return f, err
	}
	if err := m.stop(&f); err != nil {
		return f, err
	}
	return f, g.verify()
}

// runTimed publishes all of the cell's messages and waits until all have come,
// which is measured as a whole: late messages are what it is about.
func (c cell) runTimed(g *generator, b *broker) (f figure, err error) {
	m, err := startMeter(g, b)
	if err != nil {
		return f, err
	}
	g.keep = true
	if err := g.runUntil(func() bool { return g.next == g.messagesMax && g.complete() }); err != nil {
		return f, err
	}
	if err := m.stop(&f); err != nil {
		return f, err
	}
	f.quantiles(g.latencies)
	return f, g.verify()
}
