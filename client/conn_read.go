package nsq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	readBufferSize = 64 << 10
	// slabMax is how many messages may share an allocation, and bodySlab how many
	// bytes of bodies. A kept message keeps its neighbours, so they are small.
	slabMax  = 32
	bodySlab = 8 << 10
)

// frameHeadSize is the size and the type before a frame's data:
//
//	0       4       8
//	├───────┼───────┼────────────┤
//	│ size  │ type  │ data       │   size counts type and data
//	└───────┴───────┴────────────┘
const frameHeadSize = 8

// A frameReader takes a connection's frames out of as few reads as possible. The
// unread bytes are buf[start:end]; frames are decoded where they lie, and only
// message bodies are copied out, into memory that is theirs alone.
type frameReader struct {
	c          *Conn
	buf        []byte
	start, end int

	batch  []*Message // of the frames being decoded
	oks    int        // consecutive OK responses that were not told yet
	slab   []Message
	bodies []byte
}

// readLoop reads until reading is over or fails. io.EOF says that the server has
// closed.
func (c *Conn) readLoop() error {
	f := &frameReader{c: c, buf: make([]byte, readBufferSize)}
	for {
		need, err := f.decodeAll()
		if err != nil {
			return err
		}
		if err := f.fill(need); err != nil {
			return err
		}
	}
}

// fill reads at least once, and makes room for a frame of need bytes before. A
// frame that does not fit the buffer is read on its own.
func (f *frameReader) fill(need int) error {
	if need > len(f.buf) {
		return f.readLarge(need)
	}
	if f.start > 0 {
		copy(f.buf, f.buf[f.start:f.end])
		f.end -= f.start
		f.start = 0
	}
	n, err := f.c.Read(f.buf[f.end:])
	f.end += n
	if n > 0 {
		return nil
	}
	return err
}

// readLarge reads the frame whose first part is in the buffer into memory of its
// own, which then belongs to the message.
func (f *frameReader) readLarge(size int) error {
	b := make([]byte, max(min(size, stepSize), f.end-f.start))
	have := copy(b, f.buf[f.start:f.end])
	f.start, f.end = 0, 0
	b, err := readRest(f.c, b, have, size)
	if err != nil {
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		return err
	}
	kind := int32(binary.BigEndian.Uint32(b[4:]))
	if kind != FrameTypeMessage {
		f.c.onFrame(kind, b[frameHeadSize:])
		return nil
	}
	m := new(Message)
	if !m.decode(b[frameHeadSize:]) {
		return errShortMessage
	}
	f.batch = append(f.batch, m)
	f.deliver()
	return nil
}

var errShortMessage = errors.New("not enough data to decode valid message")

// decodeAll decodes all whole frames that are there. It returns how many bytes the
// next one has, as far as that is known.
func (f *frameReader) decodeAll() (need int, err error) {
	whole, messages, bytes, err := f.scan()
	// What came whole before a bad frame counts.
	if bad := f.decode(whole, messages, bytes); err == nil {
		err = bad
	}
	if err != nil {
		return 0, err
	}
	if f.end-f.start < 4 {
		return frameHeadSize, nil
	}
	return 4 + int(binary.BigEndian.Uint32(f.buf[f.start:])), nil
}

// scan finds where the whole frames end, and counts the messages among them and
// the bytes of their bodies, so that decode can allocate what is needed and no
// more. It checks all sizes, that of a frame that is not whole, too.
func (f *frameReader) scan() (at, messages, bytes int, err error) {
	for at = f.start; f.end-at >= 4; {
		size, err := checkSize(f.buf[at:f.end], f.c.config.MaxMsgSize)
		if err == nil && size < 4 {
			err = errShortResponse
		}
		if err != nil {
			return at, messages, bytes, err
		}
		if f.end-at < 4+size {
			break
		}
		if int32(binary.BigEndian.Uint32(f.buf[at+4:])) == FrameTypeMessage {
			messages++
			bytes += max(0, size-4-messageHeadSize)
		}
		at += 4 + size
	}
	return at, messages, bytes, nil
}

// decode takes the frames up to whole.
func (f *frameReader) decode(whole, messages, bytes int) error {
	for f.start < whole {
		size := int(binary.BigEndian.Uint32(f.buf[f.start:]))
		kind := int32(binary.BigEndian.Uint32(f.buf[f.start+4:]))
		data := f.buf[f.start+frameHeadSize : f.start+4+size]
		f.start += 4 + size
		switch {
		case kind == FrameTypeMessage:
			f.tellOKs()
			m := f.message(messages)
			if !m.decode(data) {
				f.deliver()
				return errShortMessage
			}
			m.Body = f.body(m.Body, bytes)
			bytes -= len(m.Body)
			messages--
			f.batch = append(f.batch, m)
		case kind == FrameTypeResponse && string(data) == "OK" && f.c.internal != nil:
			f.deliver()
			f.oks++
		default:
			f.deliver()
			f.tellOKs()
			f.c.onFrame(kind, data)
		}
	}
	f.deliver()
	f.tellOKs()
	return nil
}

// message returns a message of which there are left more to come, itself included.
func (f *frameReader) message(left int) *Message {
	if len(f.slab) == 0 {
		f.slab = make([]Message, min(left, slabMax))
	}
	m := &f.slab[0]
	f.slab = f.slab[1:]
	return m
}

// body copies b to where it stays; left bytes are still to come, b included.
func (f *frameReader) body(b []byte, left int) []byte {
	if len(b) >= bodySlab/4 {
		return bytes.Clone(b)
	}
	if len(f.bodies) < len(b) {
		f.bodies = make([]byte, max(len(b), min(left, bodySlab)))
	}
	own := f.bodies[:len(b):len(b)]
	copy(own, b)
	f.bodies = f.bodies[len(b):]
	return own
}

// deliver hands over the messages decoded so far. They count as in flight before
// anyone can answer them.
func (f *frameReader) deliver() {
	c, batch := f.c, f.batch
	if len(batch) == 0 {
		return
	}
	f.batch = batch[:0]
	if c.closing.Load() {
		// The server has them back as soon as it sees the end.
		clear(batch)
		return
	}
	c.inFlight.Add(int64(len(batch)))
	c.lastMsg.Store(time.Now().UnixNano())
	for _, m := range batch {
		m.Delegate = &c.answers
		m.NSQDAddress = c.addr
	}
	if c.internal != nil {
		c.internal.onMessages(c, batch)
	} else {
		for _, m := range batch {
			c.delegate.OnMessage(c, m)
		}
	}
	clear(batch)
}

func (f *frameReader) tellOKs() {
	if f.oks > 0 {
		n := f.oks
		f.oks = 0
		f.c.internal.onOKs(f.c, n)
	}
}

// onFrame takes a frame that is not a message.
func (c *Conn) onFrame(kind int32, data []byte) {
	switch {
	case kind == FrameTypeResponse && isHeartbeat(data):
		if c.log.enabled(LogLevelDebug) {
			c.logf(LogLevelDebug, "heartbeat received")
		}
		c.delegate.OnHeartbeat(c)
		c.send(func(b []byte) []byte { return append(b, "NOP\n"...) })
	case kind == FrameTypeResponse:
		c.delegate.OnResponse(c, data)
	case kind == FrameTypeError:
		c.logf(LogLevelError, "protocol error - %s", data)
		c.delegate.OnError(c, data)
	default:
		err := fmt.Errorf("unknown frame type %d", kind)
		c.logf(LogLevelError, "IO error - %s", err)
		c.delegate.OnIOError(c, err)
	}
}

// send appends a command and leaves the writing to the writer.
func (c *Conn) send(build func([]byte) []byte) error {
	if err := c.out.lock(); err != nil {
		return err
	}
	before := len(c.out.buf)
	c.out.buf = build(c.out.buf)
	c.out.unlock(before)
	return nil
}
