package upgrade

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/klauspost/compress/s2"
	"github.com/valyala/bytebufferpool"
)

// The snappy framing format is a row of chunks, their length in 24 bits, little
// endian:
//
//	0      1            4          8
//	├──────┼────────────┼──────────┼─────────────────┤
//	│ type │ length     │ checksum │ data            │  types 0x00 and 0x01
//	├──────┼────────────┼──────────┴─────────────────┤
//	│ type │ length     │ anything                   │  all others
//	└──────┴────────────┴────────────────────────────┘
//
// length counts what follows it. The checksum is a masked CRC-32C of the plain
// bytes, of which a chunk holds 64 KiB at most.
const (
	chunkHeader   = 4
	chunkChecksum = 4
	chunkPlainMax = 64 << 10
	// chunkDataMax is what the worst 64 KiB become in the block format:
	// 32 + n + n/6 bytes. The format's decoders go no further.
	chunkDataMax = 32 + chunkPlainMax + chunkPlainMax/6

	chunkCompressed   = 0x00
	chunkPlain        = 0x01
	chunkSkippableMin = 0x80
	chunkStream       = 0xff

	snappyStream = "\xff\x06\x00\x00sNaPpY"
)

// What a peer can get wrong in the snappy framing format.
var (
	ErrSnappyCorrupt     = errors.New("snappy: corrupt input")
	ErrSnappyUnsupported = errors.New("snappy: unsupported chunk")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func snappyChecksum(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return c>>15 | c<<17 + 0xa282ead8
}

// Snappy is the filter for the snappy framing format. The zero value is ready.
//
// Invariant: part is empty or holds less than one chunk; plain is empty unless a
// chunk did not fit where it should have gone.
type Snappy struct {
	part    *bytebufferpool.ByteBuffer // the chunk that has begun
	plain   *bytebufferpool.ByteBuffer // decoded, and not given out yet
	off     int                        // plain.B[:off] has been given out
	skip    int                        // bytes of a chunk that means nothing
	started bool                       // the peer's stream identifier came
	greeted bool                       // ours has gone out
	err     error
}

// Decode takes chunks apart. Its errors are final.
func (s *Snappy) Decode(dst, src []byte) (wrote, used int, err error) {
	for s.err == nil {
		if s.plain != nil {
			n := copy(dst[wrote:], s.plain.B[s.off:])
			wrote += n
			if s.off += n; s.off < len(s.plain.B) {
				return wrote, used, nil
			}
			drop(&s.plain)
			s.off = 0
		}
		n := min(s.skip, len(src)-used)
		s.skip -= n
		used += n
		if s.skip > 0 || wrote == len(dst) {
			return wrote, used, nil
		}
		chunk, n := s.chunk(src[used:])
		used += n
		if chunk == nil {
			if s.err == nil {
				return wrote, used, nil
			}
			break
		}
		wrote += s.open(dst[wrote:], chunk)
		if s.part != nil {
			drop(&s.part)
		}
	}
	if wrote > 0 {
		return wrote, used, nil
	}
	return 0, used, s.err
}

// chunk returns the next chunk with its header, when all of it is there, and how
// many bytes of src it took. A chunk to be skipped is returned as its header.
func (s *Snappy) chunk(src []byte) (chunk []byte, used int) {
	b := src
	if s.part != nil {
		// Only as much as is known to be part of this chunk moves.
		for need := s.need(s.part.B); need > 0; need = s.need(s.part.B) {
			n := min(need, len(src)-used)
			s.part.B = append(s.part.B, src[used:used+n]...)
			used += n
			if n < need {
				return nil, used
			}
		}
		b = s.part.B
		if s.err != nil {
			return nil, used
		}
		return b, used
	}
	if len(b) == 0 {
		return nil, 0
	}
	need := s.need(b)
	if s.err != nil {
		return nil, 0
	}
	if need > 0 {
		s.part = bytebufferpool.Get()
		s.part.B = append(s.part.B, b...)
		return nil, len(b)
	}
	size := chunkHeader
	if n := chunkLength(b); !skippable(b[0]) {
		size += n
	}
	return b[:size], size
}

func chunkLength(b []byte) int { return int(b[1]) | int(b[2])<<8 | int(b[3])<<16 }

func skippable(kind byte) bool { return kind >= chunkSkippableMin && kind != chunkStream }

// need says how many bytes b, the front of a chunk or more, lacks to be a whole
// one. It checks what the header says.
func (s *Snappy) need(b []byte) int {
	if len(b) < chunkHeader {
		return chunkHeader - len(b)
	}
	n := chunkLength(b)
	switch kind := b[0]; {
	case kind == chunkStream:
		if n != len(snappyStream)-chunkHeader {
			s.err = ErrSnappyCorrupt
		}
	case !s.started:
		s.err = ErrSnappyCorrupt
	case skippable(kind):
		return 0
	case kind != chunkCompressed && kind != chunkPlain:
		s.err = ErrSnappyUnsupported
	case n < chunkChecksum:
		s.err = ErrSnappyCorrupt
	case n > chunkChecksum+chunkDataMax, kind == chunkPlain && n > chunkChecksum+chunkPlainMax:
		s.err = ErrSnappyUnsupported
	}
	if s.err != nil {
		return 0
	}
	return max(0, chunkHeader+n-len(b))
}

// open decodes a whole chunk into dst, or into plain when dst is too small, and
// returns the bytes written to dst.
func (s *Snappy) open(dst, chunk []byte) int {
	kind := chunk[0]
	switch {
	case kind == chunkStream:
		if string(chunk) != snappyStream {
			s.err = ErrSnappyCorrupt
		}
		s.started = true
		return 0
	case skippable(kind):
		s.skip = chunkLength(chunk)
		return 0
	}
	sum := binary.LittleEndian.Uint32(chunk[chunkHeader:])
	data := chunk[chunkHeader+chunkChecksum:]
	size := len(data)
	if kind == chunkCompressed {
		var err error
		if size, err = s2.DecodedLen(data); err != nil || size > chunkPlainMax {
			s.err = ErrSnappyCorrupt
			return 0
		}
	}
	fits := size <= len(dst)
	if !fits {
		s.plain = bytebufferpool.Get()
		s.plain.B = append(s.plain.B[:0], make([]byte, size)...)
		dst = s.plain.B
	}
	dst = dst[:size]
	if kind == chunkPlain {
		copy(dst, data)
	} else if _, err := s2.Decode(dst, data); err != nil {
		s.err = ErrSnappyCorrupt
	}
	if s.err == nil && snappyChecksum(dst) != sum {
		s.err = ErrSnappyCorrupt
	}
	if s.err != nil {
		drop(&s.plain)
		return 0
	}
	if fits {
		return size
	}
	return 0
}

// Encode appends plain to dst as chunks.
func (s *Snappy) Encode(dst, plain []byte) ([]byte, error) {
	if len(plain) > 0 && !s.greeted {
		s.greeted = true
		dst = append(dst, snappyStream...)
	}
	for len(plain) > 0 {
		b := plain[:min(len(plain), chunkPlainMax)]
		plain = plain[len(b):]
		dst = appendChunk(dst, b)
	}
	return dst, nil
}

// appendChunk appends one chunk: compressed if that saves an eighth, which is
// what makes up for decompressing.
func appendChunk(dst, b []byte) []byte {
	start := len(dst)
	data := start + chunkHeader + chunkChecksum
	most := s2.MaxEncodedLen(len(b))
	if need := data + most; cap(dst) < need {
		dst = append(make([]byte, 0, max(need, 2*cap(dst))), dst...)
	}
	dst = dst[:data]
	enc := s2.EncodeSnappy(dst[data:data:cap(dst)], b)
	kind := byte(chunkCompressed)
	if len(enc) >= len(b)-len(b)/8 {
		kind = chunkPlain
		dst = append(dst, b...)
	} else {
		dst = dst[:data+len(enc)]
	}
	n := len(dst) - start - chunkHeader
	dst[start], dst[start+1], dst[start+2], dst[start+3] = kind, byte(n), byte(n>>8), byte(n>>16)
	binary.LittleEndian.PutUint32(dst[start+chunkHeader:], snappyChecksum(b))
	return dst
}

// Owes is never true: snappy says nothing by itself.
func (s *Snappy) Owes() bool { return false }

// Step is the number of plain bytes to encode at once: 0.3 ms of a loop's time.
func (s *Snappy) Step() int { return 128 << 10 }

// End appends nothing: the format has no end.
func (s *Snappy) End(dst []byte) []byte { return dst }

// Close gives the filter's buffers back.
func (s *Snappy) Close() {
	s.err = ErrClosed
	drop(&s.part)
	drop(&s.plain)
}

// drop gives a scratch buffer back, if there is one.
func drop(b **bytebufferpool.ByteBuffer) {
	if *b != nil {
		bytebufferpool.Put(*b)
		*b = nil
	}
}
