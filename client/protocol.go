package nsq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/zsqio/zsq/internal/wire"
)

// MagicV1 opens a connection to an nsqlookupd.
var MagicV1 = []byte("  V1")

// MagicV2 opens a connection to an nsqd.
var MagicV2 = []byte("  V2")

// What a frame of the server holds.
const (
	FrameTypeResponse int32 = 0
	FrameTypeError    int32 = 1
	FrameTypeMessage  int32 = 2
)

// httpSize is what "HTTP", the beginning of an answer to something quite
// different, looks like when read as a size.
const httpSize = 'H'<<24 | 'T'<<16 | 'T'<<8 | 'P'

// stepSize is how much memory a frame gets before that much of it has arrived.
const stepSize = 1 << 20

// IsValidTopicName reports whether name can name a topic: 1 to 64 letters, digits,
// dots, underscores and dashes, at the end perhaps "#ephemeral".
func IsValidTopicName(name string) bool {
	return wire.ValidName(name)
}

// IsValidChannelName reports whether name can name a channel; the rule is that of
// topics.
func IsValidChannelName(name string) bool {
	return wire.ValidName(name)
}

// ReadResponse reads one frame: a size, and as many bytes. It returns those
// bytes, the frame's type first. A size above maxMsgSize, if that is given and
// positive, is an error, as is a negative one.
//
// (The parameter is variadic because go-nsq's readers have it in one version
// and not in the other.)
func ReadResponse(r io.Reader, maxMsgSize ...int32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	var limit int32
	if len(maxMsgSize) > 0 {
		limit = maxMsgSize[0]
	}
	size, err := checkSize(head[:], limit)
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, stepSize))
	return readRest(r, b, 0, size)
}

// readRest reads until b has size bytes, of which there are have already. b grows
// as bytes arrive, so that a wrong size costs no memory.
func readRest(r io.Reader, b []byte, have, size int) ([]byte, error) {
	for {
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			return nil, err
		}
		if have = len(b); have == size {
			return b, nil
		}
		grown := make([]byte, min(size, 2*have))
		copy(grown, b)
		b = grown
	}
}

// checkSize reads a frame's size from its first four bytes.
func checkSize(head []byte, limit int32) (int, error) {
	size := int32(binary.BigEndian.Uint32(head))
	switch {
	case size < 0:
		return 0, fmt.Errorf("response msg size is negative: %v", size)
	case size == httpSize:
		return 0, errors.New("unexpected HTTP response, a nsqd TCP endpoint is required")
	case limit > 0 && size > limit:
		return 0, fmt.Errorf("response msg size %v exceeds configured maximum (%v)", size, limit)
	}
	return int(size), nil
}

var errShortResponse = errors.New("length of response is too small")

// UnpackResponse splits what ReadResponse returns into the frame's type and its
// data. The data aliases response.
func UnpackResponse(response []byte) (int32, []byte, error) {
	if len(response) < 4 {
		return -1, nil, errShortResponse
	}
	return int32(binary.BigEndian.Uint32(response)), response[4:], nil
}

// ReadUnpackedResponse is ReadResponse and then UnpackResponse.
func ReadUnpackedResponse(r io.Reader, maxMsgSize ...int32) (int32, []byte, error) {
	response, err := ReadResponse(r, maxMsgSize...)
	if err != nil {
		return -1, nil, err
	}
	return UnpackResponse(response)
}
