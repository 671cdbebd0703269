//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
)

// A producer publishes from a ring of prebuilt frames. Only the sequence
// numbers are written anew before a frame goes out again.
//
// A frame's slot may be patched again once its answer has come, so the ring
// holds exactly one window. Positions count frames (bytes for written) since
// the start and only grow.
//
// Invariant: answered <= appended <= answered+slots, and
// written <= appended*frameSize.
type producer struct {
	*conn
	ring      []byte
	frame     pubFrame // layout; its bytes are those of the first slot
	slots     int
	delays    []int64 // ns, by slot; nil unless messages are deferred
	sent      []int64 // ns, by slot: when a sampled frame was published; nil unless answers are timed
	low       int     // refill when so many slots are free: fewer, larger writes
	appended  int
	answered  int
	written   int
	in        []byte
	carry     int // bytes of an unfinished frame at the front of in
	heartbeat bool
}

func (g *generator) addProducer(number int) error {
	c, err := g.dial(heartbeatMs)
	if err != nil {
		return err
	}
	p := &producer{conn: c, slots: max(1, g.window/g.batch), in: make([]byte, 64<<10)}
	p.low = max(1, p.slots/4)
	for i := range p.slots {
		delay := 0
		if g.deferred {
			delay = deferMin + i*(deferMax-deferMin)/p.slots
			p.delays = append(p.delays, int64(delay)*1e6)
		}
		topic := g.topic(number + i)
		if g.own {
			topic = g.topic(number)
		}
		p.frame = newPubFrame(topic, g.body, g.batch, delay)
		p.ring = append(p.ring, p.frame.bytes...)
	}
	if g.stampOK {
		p.sent = make([]int64, p.slots)
	}
	g.producers = append(g.producers, p)
	return c.watch(p)
}

func (p *producer) socket() *conn { return p.conn }

// refill publishes as much as the window and the run's limits allow, once that
// is worth a write.
func (p *producer) refill() error {
	g := p.g
	n := p.slots - (p.appended - p.answered)
	if n < p.low {
		return nil
	}
	if g.outstanding > 0 {
		n = min(n, (g.outstanding-int(g.next-g.finished()))/g.batch)
	}
	if n < p.low {
		return nil
	}
	n = min(n, int((g.messagesMax-g.next)/uint64(g.batch)))
	var stampNs int64
	if g.stamp || g.stampOK {
		stampNs = g.nowNs()
	}
	for range n {
		p.patch(stampNs)
	}
	return p.flush()
}

// append1 readies one frame; it answers false when the window is full.
func (p *producer) append1(stampNs int64) bool {
	if p.appended-p.answered == p.slots {
		return false
	}
	p.patch(stampNs)
	return true
}

// patch numbers the messages of the next frame.
func (p *producer) patch(stampNs int64) {
	g := p.g
	slot := p.appended % p.slots
	if p.sent != nil {
		p.sent[slot] = stampNs
	}
	if p.delays != nil {
		stampNs += p.delays[slot]
	}
	at := slot*len(p.frame.bytes) + p.frame.first
	for range g.batch {
		binary.LittleEndian.PutUint64(p.ring[at:], g.next)
		if g.stamp {
			binary.LittleEndian.PutUint64(p.ring[at+seqSize:], uint64(stampNs))
		}
		g.next++
		at += p.frame.stride
	}
	p.appended++
}

// flush writes what is ready, as far as the socket takes it.
func (p *producer) flush() error {
	if p.heartbeat {
		// A NOP may go between two frames only.
		if p.written%len(p.frame.bytes) == 0 {
			n, err := p.write([]byte(nop))
			if err != nil {
				return err
			}
			if n != 0 && n != len(nop) {
				return fmt.Errorf("socket took %d bytes of a NOP", n)
			}
			p.heartbeat = n == 0
		}
	}
	end := p.appended * len(p.frame.bytes)
	for p.written < end {
		from := p.written % len(p.ring)
		b := p.ring[from:min(len(p.ring), from+end-p.written)]
		n, err := p.write(b)
		if err != nil {
			return fmt.Errorf("producer: %w", err)
		}
		p.written += n
		if n < len(b) {
			return p.want(true)
		}
	}
	return p.want(p.heartbeat)
}

func (p *producer) ready(events uint32) error {
	n, err := p.read(p.in[p.carry:])
	if err != nil {
		return fmt.Errorf("producer: %w", err)
	}
	if n > 0 {
		if err := p.answers(p.in[:p.carry+n]); err != nil {
			return fmt.Errorf("producer: %w", err)
		}
	}
	if p.wantOut || p.heartbeat {
		return p.flush()
	}
	return nil
}

// answers counts the OK frames in b and keeps an unfinished one for later.
func (p *producer) answers(b []byte) error {
	oks := 0
	for len(b) > 0 {
		if len(b) >= len(okFrame) && string(b[:len(okFrame)]) == okFrame {
			oks++
			b = b[len(okFrame):]
			continue
		}
		_, size, err := nextFrame(b)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		if text := string(b[frameHeader:size]); text != heartbeat {
			return fmt.Errorf("broker answered: %s", text)
		}
		p.heartbeat = true
		b = b[size:]
	}
	p.carry = copy(p.in, b)
	p.answered += oks
	if p.answered > p.appended {
		return fmt.Errorf("%d answers to %d frames", p.answered, p.appended)
	}
	p.g.answered += uint64(oks * p.g.batch)
	if p.sent != nil && p.g.keep {
		p.timeAnswers(oks)
	}
	return nil
}

// okEvery is the sample of frames whose answers are timed: one in so many.
const okEvery = 8

// timeAnswers notes how long the last n frames answered have waited.
func (p *producer) timeAnswers(n int) {
	g := p.g
	now := g.nowNs()
	for i := p.answered - n; i < p.answered; i++ {
		if i%okEvery == 0 {
			g.latencies = append(g.latencies, now-p.sent[i%p.slots])
		}
	}
}
