package wire

import "encoding/binary"

// FrameType says what a frame from the server carries.
type FrameType uint32

// The types of frames.
const (
	FrameResponse FrameType = 0 // OK, a heartbeat, CLOSE_WAIT or a JSON object
	FrameError    FrameType = 1 // code and description
	FrameMessage  FrameType = 2 // see message.go
)

// FrameHeaderSize is the size of a frame's size and type fields.
const FrameHeaderSize = 8

// Whole response frames that never change.
const (
	OKFrame        = "\x00\x00\x00\x06\x00\x00\x00\x00OK"
	CloseWaitFrame = "\x00\x00\x00\x0e\x00\x00\x00\x00CLOSE_WAIT"
	HeartbeatFrame = "\x00\x00\x00\x0f\x00\x00\x00\x00_heartbeat_"
)

// AppendFrame appends a frame with the given payload, which is copied.
func AppendFrame[T string | []byte](dst []byte, t FrameType, payload T) []byte {
	dst = appendFrameHeader(dst, t, len(payload))
	return append(dst, payload...)
}

// AppendError appends the error frame of e.
func AppendError(dst []byte, e *Error) []byte {
	if e.Desc == "" {
		return AppendFrame(dst, FrameError, e.Code)
	}
	dst = appendFrameHeader(dst, FrameError, len(e.Code)+1+len(e.Desc))
	dst = append(dst, e.Code...)
	dst = append(dst, ' ')
	return append(dst, e.Desc...)
}

func appendFrameHeader(dst []byte, t FrameType, payloadSize int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(4+payloadSize))
	return binary.BigEndian.AppendUint32(dst, uint32(t))
}
