package wire

import "encoding/binary"

// A message frame carries what the upstream disk queue stores, byte for byte,
// behind a frame header:
//
//	0      4      8           16         18        34
//	├──────┼──────┼───────────┼──────────┼─────────┼──────┤
//	│ size │ type │ timestamp │ attempts │ id      │ body │
//	│ u32  │ u32  │ i64       │ u16      │ 16 hex  │      │
//	└──────┴──────┴───────────┴──────────┴─────────┴──────┘
//
// size counts everything behind itself, type is FrameMessage, timestamp is
// the time of publication in Unix nanoseconds, and attempts is 1 on the first
// delivery.
const (
	timestampOffset = FrameHeaderSize
	attemptsOffset  = timestampOffset + 8
	idOffset        = attemptsOffset + 2

	// MessageHeaderSize is how many bytes of a message frame precede its body.
	MessageHeaderSize = idOffset + MessageIDSize
)

// PutMessageHeader writes the first MessageHeaderSize bytes of a message frame
// to dst. ts is in Unix nanoseconds and bodySize in bytes.
func PutMessageHeader(dst []byte, ts int64, attempts uint16, id uint64, bodySize int) {
	_ = dst[MessageHeaderSize-1]
	binary.BigEndian.PutUint32(dst, uint32(MessageHeaderSize-4+bodySize))
	binary.BigEndian.PutUint32(dst[4:], uint32(FrameMessage))
	binary.BigEndian.PutUint64(dst[timestampOffset:], uint64(ts))
	binary.BigEndian.PutUint16(dst[attemptsOffset:], attempts)
	PutMessageID(dst[idOffset:], id)
}

// PatchAttempts sets the attempts of a message frame. The frame must not be
// shared with another reader.
func PatchAttempts(frame []byte, attempts uint16) {
	binary.BigEndian.PutUint16(frame[attemptsOffset:], attempts)
}

// FrameTimestamp returns the time of publication in Unix nanoseconds.
func FrameTimestamp(frame []byte) int64 {
	return int64(binary.BigEndian.Uint64(frame[timestampOffset:]))
}

// FrameAttempts returns the attempts of a message frame.
func FrameAttempts(frame []byte) uint16 {
	return binary.BigEndian.Uint16(frame[attemptsOffset:])
}

// FrameID returns the message id, and false if its text is not one of ours.
func FrameID(frame []byte) (id uint64, ok bool) {
	return ParseMessageID(frame[idOffset:])
}

// FrameBody returns the body of a whole message frame; it aliases frame.
func FrameBody(frame []byte) []byte { return frame[MessageHeaderSize:] }
