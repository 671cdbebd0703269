//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The part of protocol V2 that a generator needs, written apart from
// internal/wire on purpose: a mistake there must not hide itself here.
//
// A frame of the server, integers big endian:
//
//	0       4       8           16         18       34
//	├───────┼───────┼───────────┼──────────┼────────┼──────┤
//	│ size  │ type  │ timestamp │ attempts │ id     │ body │   type 2
//	├───────┼───────┼───────────┴──────────┴────────┴──────┤
//	│ size  │ type  │ text                                 │   types 0 and 1
//	└───────┴───────┴──────────────────────────────────────┘
//
// size counts everything behind itself. Our bodies open with an 8-byte sequence
// number and, where a row is about latency, 8 bytes of publish time.
const (
	frameHeader = 8
	attemptsAt  = 16
	idAt        = 18
	bodyAt      = 34
	idSize      = 16
	seqSize     = 8
	bodyMin     = 16

	typeResponse = 0
	typeError    = 1
	typeMessage  = 2

	// frameMax is far above any frame a row asks for; a size beyond it means
	// that the stream is out of step.
	frameMax = 1 << 20
)

const (
	okFrame   = "\x00\x00\x00\x06\x00\x00\x00\x00OK"
	heartbeat = "_heartbeat_"
	nop       = "NOP\n"
	magic     = "  V2"
	finSize   = len("FIN ") + idSize + 1
)

var errOutOfStep = errors.New("frame size out of range: the stream is out of step")

// nextFrame looks at the front of b. It returns the frame's type and its whole
// size in bytes, or a zero size when b does not hold all of it yet.
func nextFrame(b []byte) (kind uint32, size int, err error) {
	if len(b) < frameHeader {
		return 0, 0, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n < 4 || n > frameMax {
		return 0, 0, errOutOfStep
	}
	if len(b) < 4+int(n) {
		return 0, 0, nil
	}
	return binary.BigEndian.Uint32(b[4:]), 4 + int(n), nil
}

// deflateLevel is upstream's default, in both directions.
const deflateLevel = 6

// identify is IDENTIFY as go-nsq sends it, with its defaults spelled out.
func identify(heartbeatMs int, l load) []byte {
	body := fmt.Sprintf(`{"client_id":"bench","deflate":%t,"deflate_level":%d,"feature_negotiation":true,`+
		`"heartbeat_interval":%d,"hostname":"bench","long_id":"bench","msg_timeout":%d,"output_buffer_size":16384,`+
		`"output_buffer_timeout":250,"sample_rate":0,"short_id":"bench","snappy":%t,"tls_v1":%t,`+
		`"user_agent":"zsq-bench/1"}`, l.deflate, deflateLevel, heartbeatMs, l.timeoutMs, l.snappy, l.tls)
	b := append([]byte(nil), "IDENTIFY\n"...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

// A pubFrame is one PUB or MPUB with places for its sequence numbers.
type pubFrame struct {
	bytes  []byte
	first  int // offset of the first body
	stride int // from one body to the next
}

// Delays of deferred messages, in milliseconds: all have the same number of digits.
const (
	deferMin = 1000
	deferMax = 9999
)

// newPubFrame builds a PUB when batch is 1, an MPUB of batch messages otherwise. A
// deferMs other than 0 makes it a DPUB.
func newPubFrame(topic string, body, batch, deferMs int) pubFrame {
	fill := make([]byte, body)
	for i := range fill {
		fill[i] = byte('a' + i%26)
	}
	var b []byte
	if batch == 1 {
		if deferMs > 0 {
			b = fmt.Appendf(b, "DPUB %s %d\n", topic, deferMs)
		} else {
			b = append(b, "PUB "+topic+"\n"...)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(body))
		return pubFrame{bytes: append(b, fill...), first: len(b), stride: body}
	}
	b = append(b, "MPUB "+topic+"\n"...)
	b = binary.BigEndian.AppendUint32(b, uint32(4+batch*(4+body)))
	b = binary.BigEndian.AppendUint32(b, uint32(batch))
	first := len(b) + 4
	for range batch {
		b = binary.BigEndian.AppendUint32(b, uint32(body))
		b = append(b, fill...)
	}
	return pubFrame{bytes: b, first: first, stride: 4 + body}
}
