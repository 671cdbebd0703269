//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// idleHeartbeatMs is how often idle connections want a heartbeat.
	idleHeartbeatMs = 5000
	// idleWarm connections are made first, so that what the broker loads once
	// is not charged to the others.
	idleWarm = 50
	// idleSettle lets the last connections' work end before memory is read.
	idleSettle = 500 * time.Millisecond
)

// An idler is a subscribed connection that does nothing but answer heartbeats.
type idler struct {
	*conn
	buf   [64]byte
	carry int
	beats int
}

func (i *idler) socket() *conn { return i.conn }

func (i *idler) ready(uint32) error {
	n, err := i.read(i.buf[i.carry:])
	if err != nil {
		return fmt.Errorf("idle connection: %w", err)
	}
	b := i.buf[:i.carry+n]
	for {
		_, size, err := nextFrame(b)
		if err != nil {
			return err
		}
		if size == 0 {
			i.carry = copy(i.buf[:], b)
			return nil
		}
		if text := string(b[frameHeader:size]); text != heartbeat {
			return fmt.Errorf("idle connection was sent %q", text)
		}
		b = b[size:]
		i.beats++
		if n, err := i.write([]byte(nop)); err != nil || n != len(nop) {
			return errors.Join(err, errors.New("idle connection: no room for a NOP"))
		}
	}
}

// runIdle connects, subscribes and waits for two heartbeats of every connection
// at least, or as long as a measurement is to take.
func (c cell) runIdle(ctx context.Context, b *broker, measure time.Duration) (f figure, err error) {
	g, err := newGenerator(ctx, b.tcp, c.load)
	if err != nil {
		return f, err
	}
	defer g.close()
	defer func() { err = errors.Join(err, b.exited()) }()
	var idlers []*idler
	connect := func(n int) error {
		for range n {
			conn, err := g.dial(idleHeartbeatMs)
			if err != nil {
				return fmt.Errorf("connection %d: %w", len(idlers), err)
			}
			if err := conn.ask([]byte("SUB " + g.topic(0) + " " + g.load.channel(0) + "\n")); err != nil {
				return err
			}
			i := &idler{conn: conn}
			idlers = append(idlers, i)
			if err := errors.Join(conn.tell([]byte("RDY 1\n")), conn.watch(i)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := connect(idleWarm); err != nil {
		return f, err
	}
	if err := g.rest(idleSettle); err != nil {
		return f, err
	}

	rss, err := b.rss()
	if err != nil {
		return f, err
	}
	cpu, err := b.cpu()
	if err != nil {
		return f, err
	}
	start := time.Now()
	if err := connect(c.load.consumers); err != nil {
		return f, err
	}
	took := time.Since(start)
	connected, err := b.cpu()
	if err != nil {
		return f, err
	}
	if err := g.rest(idleSettle); err != nil {
		return f, err
	}
	grown, err := b.rss()
	if err != nil {
		return f, err
	}

	before, err := b.cpu()
	if err != nil {
		return f, err
	}
	start = time.Now()
	// Two whole periods, so that it does not matter where in one we begin.
	if err := g.rest(max(measure, 2*idleHeartbeatMs*time.Millisecond)); err != nil {
		return f, err
	}
	after, err := b.cpu()
	if err != nil {
		return f, err
	}
	n := float64(c.load.consumers)
	f.Seconds = time.Since(start).Seconds()
	f.RSSPerConn = float64(grown-rss) / n
	f.CPUPerConn = float64((after - before).Nanoseconds()) / 1e3 / f.Seconds / (n + idleWarm)
	f.ConnectCPU = float64((connected - cpu).Nanoseconds()) / 1e3 / n
	f.ConnectsRate = n / took.Seconds()
	for i, idler := range idlers {
		if idler.beats == 0 {
			return f, fmt.Errorf("connection %d had no heartbeat in %.0f s", i, f.Seconds)
		}
	}
	return f, nil
}
