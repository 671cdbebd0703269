package broker

import (
	"encoding/binary"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/wire"
)

// A stored message has the wire's shape: a whole message frame, so that the
// first delivery is one copy. A message that must not be delivered before a
// certain time has eight bytes in front of it:
//
//	[ due, wall ns, 8 ] size 4 | type 4 | timestamp 8 | attempts 2 | id 16 | body
//
// Its descriptor's Aux holds the number of deliveries so far in the low 16 bits
// (the shared bytes are never patched) and flags.
const (
	auxAttempts = 1<<16 - 1
	auxDue      = 1 << 16 // a due time stands in front
	auxCold     = 1 << 17 // in flight: its bytes lie among those of other old ones
	dueSize     = 8
)

// frameOf returns the frame of r. It aliases the arena and is valid while the
// reference is held.
func frameOf(pool *block.Pool, r block.Ref) []byte {
	b := pool.Bytes(r)
	if r.Aux&auxDue != 0 {
		b = b[dueSize:]
	}
	return b
}

// dueOf returns the wall-clock due time of r in nanoseconds, 0 for none.
func dueOf(pool *block.Pool, r block.Ref) int64 {
	if r.Aux&auxDue == 0 {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(pool.Bytes(r)))
}

// store copies a message into the arena; the caller receives one reference. A
// zero dueWallNs means none.
func store(a *block.Arena, id uint64, wallNs, dueWallNs int64, body []byte) block.Ref {
	size := wire.MessageHeaderSize + len(body)
	if dueWallNs == 0 {
		r, b := a.Alloc(size)
		wire.PutMessageHeader(b, wallNs, 1, id, len(body))
		copy(b[wire.MessageHeaderSize:], body)
		return r
	}
	r, b := a.Alloc(dueSize + size)
	binary.LittleEndian.PutUint64(b, uint64(dueWallNs))
	wire.PutMessageHeader(b[dueSize:], wallNs, 1, id, len(body))
	copy(b[dueSize+wire.MessageHeaderSize:], body)
	r.Aux = auxDue
	return r
}

// copyTo copies a message, without its due time, into another arena.
func copyTo(a *block.Arena, pool *block.Pool, r block.Ref) block.Ref {
	frame := frameOf(pool, r)
	to, b := a.Alloc(len(frame))
	copy(b, frame)
	to.Aux = r.Aux & auxAttempts
	return to
}
