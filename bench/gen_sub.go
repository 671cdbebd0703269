//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readSize is what a consumer asks the kernel for at once.
	readSize = 256 << 10
	// readyCount is every consumer's RDY.
	readyCount = 2500
	// heartbeatMs is go-nsq's default.
	heartbeatMs = 30000
)

// A consumer finishes what it is given: one read, then the frames parsed where
// they lie, then one write of all FINs.
type consumer struct {
	*conn
	channel int
	in      []byte
	carry   int // bytes of an unfinished frame at the front of in
	out     []byte
	written int // how much of out the socket has
}

func (g *generator) addConsumer(number int) error {
	c, err := g.dial(heartbeatMs)
	if err != nil {
		return err
	}
	// Consumers are dealt out over topics first, then over channels.
	channel := number / g.topics % g.channels
	if err := c.ask([]byte("SUB " + g.topic(number) + " " + g.load.channel(channel) + "\n")); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	s := &consumer{conn: c, channel: channel, in: make([]byte, readSize)}
	g.consumers = append(g.consumers, s)
	if err := c.tell(fmt.Appendf(nil, "RDY %d\n", readyCount)); err != nil {
		return err
	}
	return c.watch(s)
}

// addStalled adds a subscriber that takes its share and never reads it. Its
// socket's buffer is as small as the kernel allows. Closing it would not bring
// the messages back, for a broker leaves them to their time-out; so that is short.
func (g *generator) addStalled(timeout time.Duration) error {
	l := g.load
	l.timeoutMs = int(timeout.Milliseconds())
	c, err := g.dialAs(l, heartbeatMs)
	if err != nil {
		return err
	}
	g.stuck = append(g.stuck, c)
	err = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	if err == nil {
		err = c.ask([]byte("SUB " + g.topic(0) + " " + g.load.channel(0) + "\n"))
	}
	if err != nil {
		return fmt.Errorf("stalled subscriber: %w", err)
	}
	return c.tell(fmt.Appendf(nil, "RDY %d\n", readyCount))
}

func (s *consumer) socket() *conn { return s.conn }

func (s *consumer) ready(events uint32) error {
	n, err := s.read(s.in[s.carry:])
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	if n > 0 {
		rest, err := s.frames(s.in[:s.carry+n])
		if err != nil {
			return fmt.Errorf("consumer: %w", err)
		}
		s.carry = copy(s.in, rest)
	}
	if len(s.out) == 0 {
		return nil
	}
	n, err = s.write(s.out[s.written:])
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	s.written += n
	if s.written < len(s.out) {
		return s.want(true)
	}
	s.out, s.written = s.out[:0], 0
	return s.want(false)
}

// frames takes the whole frames off the front of b and returns the rest.
func (s *consumer) frames(b []byte) ([]byte, error) {
	g := s.g
	var now int64
	if g.keep {
		now = g.nowNs()
	}
	for {
		kind, size, err := nextFrame(b)
		if err != nil || size == 0 {
			return b, err
		}
		f := b[:size]
		b = b[size:]
		if kind != typeMessage {
			if text := string(f[frameHeader:]); text != heartbeat {
				return b, fmt.Errorf("broker answered: %s", text)
			}
			s.out = append(s.out, nop...)
			continue
		}
		if size != bodyAt+g.body {
			return b, fmt.Errorf("a body of %d bytes, published were %d", size-bodyAt, g.body)
		}
		if g.due != nil && binary.BigEndian.Uint16(f[attemptsAt:]) == 1 {
			g.due[binary.LittleEndian.Uint64(f[bodyAt:])] = now + int64(g.timeoutMs)*1e6
			continue
		}
		if g.requeue && binary.BigEndian.Uint16(f[attemptsAt:]) == 1 {
			s.out = append(s.out, "REQ "...)
			s.out = append(s.out, f[idAt:idAt+idSize]...)
			s.out = append(s.out, " 0\n"...)
			continue
		}
		s.out = append(s.out, "FIN "...)
		s.out = append(s.out, f[idAt:idAt+idSize]...)
		s.out = append(s.out, '\n')
		if err := g.mark(s.channel, binary.LittleEndian.Uint64(f[bodyAt:])); err != nil {
			return b, err
		}
		if g.keep {
			from := int64(binary.LittleEndian.Uint64(f[bodyAt+seqSize:]))
			if g.due != nil {
				from = g.due[binary.LittleEndian.Uint64(f[bodyAt:])]
			}
			g.latencies = append(g.latencies, now-from)
		}
	}
}
