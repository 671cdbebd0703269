package nsq

import (
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// MsgIDLength is the length of a message's ID in bytes.
const MsgIDLength = 16

// MessageID names a message on its nsqd: 16 ASCII bytes.
type MessageID [MsgIDLength]byte

// messageHeadSize is what stands before the body of an encoded message:
//
//	0            8          10              26
//	├────────────┼──────────┼───────────────┼──────────────┤
//	│ timestamp  │ attempts │ ID            │ body         │
//	└────────────┴──────────┴───────────────┴──────────────┘
//
// Timestamp and attempts are big-endian.
const messageHeadSize = 8 + 2 + MsgIDLength

// Message is a message as a consumer receives it. The first of Finish, Requeue
// and RequeueWithoutBackoff answers it; the others then have no effect. All
// methods may be called from any goroutine.
//
// The flags at the end are plain words, and not typed atomics, since programs
// copy messages by value.
type Message struct {
	ID        MessageID
	Body      []byte // belongs to the program; never reused
	Timestamp int64  // of the publish, nanoseconds since 1970
	Attempts  uint16 // deliveries so far, this one included

	NSQDAddress string // the address through which it came, as it was given

	Delegate MessageDelegate // takes the answer

	autoResponseDisabled int32
	responded            int32
}

// NewMessage returns a message that was published now and has no delegate.
func NewMessage(id MessageID, body []byte) *Message {
	return &Message{ID: id, Body: body, Timestamp: time.Now().UnixNano()}
}

// DisableAutoResponse keeps the handler's result from answering the message;
// the program then does it itself, later and from any goroutine.
func (m *Message) DisableAutoResponse() {
	atomic.StoreInt32(&m.autoResponseDisabled, 1)
}

// IsAutoResponseDisabled reports whether DisableAutoResponse was called.
func (m *Message) IsAutoResponseDisabled() bool {
	return atomic.LoadInt32(&m.autoResponseDisabled) == 1
}

// HasResponded reports whether the message has been answered.
func (m *Message) HasResponded() bool {
	return atomic.LoadInt32(&m.responded) == 1
}

// Finish says that the message is done with.
func (m *Message) Finish() {
	if m.answer() {
		m.Delegate.OnFinish(m)
	}
}

// Touch asks the server for a whole message timeout from now on.
func (m *Message) Touch() {
	if !m.HasResponded() {
		m.Delegate.OnTouch(m)
	}
}

// Requeue gives the message back, to be delivered again after delay, in steps of
// a millisecond. A delay of -1 means Config.DefaultRequeueDelay times the
// attempts so far, at most Config.MaxRequeueDelay. The consumer backs off.
func (m *Message) Requeue(delay time.Duration) {
	if m.answer() {
		m.Delegate.OnRequeue(m, delay, true)
	}
}

// RequeueWithoutBackoff is Requeue, except that the consumer does not begin to
// back off. One that is backing off stays at its level.
func (m *Message) RequeueWithoutBackoff(delay time.Duration) {
	if m.answer() {
		m.Delegate.OnRequeue(m, delay, false)
	}
}

// answer reports whether the caller is the first to answer the message.
func (m *Message) answer() bool {
	return atomic.CompareAndSwapInt32(&m.responded, 0, 1)
}

// WriteTo writes the message as the server encodes it.
func (m *Message) WriteTo(w io.Writer) (int64, error) {
	var head [messageHeadSize]byte
	binary.BigEndian.PutUint64(head[:8], uint64(m.Timestamp))
	binary.BigEndian.PutUint16(head[8:10], m.Attempts)
	copy(head[10:], m.ID[:])
	n, err := w.Write(head[:])
	if err != nil {
		return int64(n), err
	}
	k, err := w.Write(m.Body)
	return int64(n) + int64(k), err
}

// DecodeMessage decodes what WriteTo writes. The body aliases b.
func DecodeMessage(b []byte) (*Message, error) {
	m := new(Message)
	if !m.decode(b) {
		return nil, errors.New("not enough data to decode valid message")
	}
	return m, nil
}

// decode sets all that stands in b; the body aliases it. It answers false when b
// is too short to be a message.
func (m *Message) decode(b []byte) bool {
	if len(b) < messageHeadSize {
		return false
	}
	m.Timestamp = int64(binary.BigEndian.Uint64(b[:8]))
	m.Attempts = binary.BigEndian.Uint16(b[8:10])
	m.ID = MessageID(b[10:messageHeadSize])
	m.Body = b[messageHeadSize:]
	return true
}
