package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

const (
	// readSize is how much input is read at once, in bytes.
	readSize = 64 << 10
	// batchBytes and batchRecords bound what goes into one MPUB, far below what
	// nsqd takes in one command (5 MiB) unless it is told otherwise.
	batchBytes   = 256 << 10
	batchRecords = 1000
)

// A producer is what we need of *nsq.Producer.
type producer interface {
	Publish(topic string, body []byte) error
	MultiPublish(topic string, bodies [][]byte) error
	Stop()
}

// A destination is one nsqd.
type destination struct {
	dial func() (producer, error)
	producer
}

func (d *destination) open() (err error) {
	d.producer, err = d.dial()
	return err
}

func (d *destination) close() {
	if d.producer != nil {
		d.Stop()
	}
}

// reopen starts afresh on a connection that no earlier command has spoilt.
func (d *destination) reopen() error {
	d.Stop()
	return d.open()
}

// A publisher sends records to every destination, in their order.
//
// Records that have been read already go together in one MPUB, which nsqd takes
// as a whole or not at all. A record behind which nothing has come yet goes at
// once, so that a slow input is published line by line.
type publisher struct {
	topic string
	to    []*destination
	pace  *pace // nil: as fast as the destinations take them

	records, bytes atomic.Int64 // published everywhere

	stopC   chan struct{} // closed by stop
	sending sync.Mutex    // held while records are under way, and by stop for ever
}

// stop waits until records under way are answered and lets no more go.
func (p *publisher) stop() {
	close(p.stopC)
	p.sending.Lock()
}

// publishAll publishes the records of the input until it ends, stop is called or
// a destination fails.
//
// The delimiter is no part of a record, empty records are skipped, and the last
// one needs no delimiter.
func (p *publisher) publishAll(input io.Reader, delimiter byte) error {
	r := bufio.NewReaderSize(input, readSize)
	var batch [][]byte
	size := 0
	for {
		if p.pace != nil && !p.pace.wait(p.stopC) {
			return nil
		}
		record, readErr := r.ReadBytes(delimiter)
		record = bytes.TrimSuffix(record, []byte{delimiter})
		if len(record) > 0 {
			batch = append(batch, record)
			size += len(record)
		}
		buffered, _ := r.Peek(r.Buffered())
		more := readErr == nil && p.pace == nil && bytes.IndexByte(buffered, delimiter) >= 0
		if len(batch) > 0 && (!more || size >= batchBytes || len(batch) >= batchRecords) {
			if err := p.send(batch, size); err != nil {
				return err
			}
			batch, size = nil, 0
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

// send publishes the batch everywhere, or returns the first error.
func (p *publisher) send(batch [][]byte, size int) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	for i, d := range p.to {
		if len(batch) == 1 {
			if err := d.Publish(p.topic, batch[0]); err != nil {
				return err
			}
			continue
		}
		err := d.MultiPublish(p.topic, batch)
		var refused nsq.ErrProtocol
		if errors.As(err, &refused) {
			return p.sendSingly(p.to[i:], batch, err)
		}
		if err != nil {
			return err
		}
	}
	p.records.Add(int64(len(batch)))
	p.bytes.Add(int64(size))
	return nil
}

// sendSingly publishes one by one what a destination has refused as a whole,
// because of one record that is too large for it, say. The records before that
// one get through, as they would have without batches, and the error names it.
// An nsqd that takes no batch of this size, but each record, is content.
func (p *publisher) sendSingly(to []*destination, batch [][]byte, refusal error) error {
	for _, d := range to {
		if err := d.reopen(); err != nil {
			return errors.Join(refusal, err)
		}
	}
	for _, record := range batch {
		for _, d := range to {
			if err := d.Publish(p.topic, record); err != nil {
				return err
			}
		}
		p.records.Add(1)
		p.bytes.Add(int64(len(record)))
	}
	return nil
}

// A pace is a token bucket: a record costs one token, rate tokens come a second,
// and at most a second's worth is kept for a burst.
type pace struct {
	rate   float64
	tokens float64 // tokens <= max(rate, 1); negative: already spent
	last   time.Time
}

// newPace starts with the token of the first record.
func newPace(rate int64, now time.Time) *pace {
	return &pace{rate: float64(rate), tokens: 1, last: now}
}

// wait returns when the next record may go, or false when stopC is closed first.
func (p *pace) wait(stopC <-chan struct{}) bool {
	d := p.take(time.Now())
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stopC:
		return false
	}
}

// take spends a token and returns how long it is until that token comes.
func (p *pace) take(now time.Time) time.Duration {
	p.tokens = min(p.tokens+now.Sub(p.last).Seconds()*p.rate, max(p.rate, 1))
	p.last = now
	p.tokens--
	return time.Duration(-p.tokens / p.rate * float64(time.Second))
}
