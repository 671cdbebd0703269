package broker

import (
	"encoding/binary"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/wire"
)

// A stored message has the wire's shape: a whole message frame, so that the
// first delivery is one copy. A message that must not be delivered before a
// certain time has eight bytes in front of it, and so has one that was read from
// the backlog and is not finished there:
//
//	[ due, wall ns, 8 ] [ sequence 8 ] size 4 | type 4 | timestamp 8 | attempts 2 | id 16 | body
//
// Its descriptor's Aux holds the number of deliveries so far in the low 16 bits
// (the shared bytes are never patched) and flags.
const (
	auxAttempts = 1<<16 - 1
	auxDue      = 1 << 16 // a due time stands in front
	auxSequence = 1 << 17 // and its sequence in the backlog of the queue it is in
	auxCold     = 1 << 18 // in flight: its bytes lie among those of other old ones
	auxJournal  = 1 << 19 // it stands in the journal for the queue it is in, unless that is an ephemeral channel's
	dueSize     = 8
)

// prefix returns how many bytes stand in front of a message's frame.
func prefix(aux uint32) int { return int(aux>>16&1+aux>>17&1) * dueSize }

// frameOf returns the frame of r. It aliases the arena and is valid while the
// reference is held.
func frameOf(pool *block.Pool, r block.Ref) []byte {
	return pool.Bytes(r)[prefix(r.Aux):]
}

// dueOf returns the wall-clock due time of r in nanoseconds, 0 for none.
func dueOf(pool *block.Pool, r block.Ref) int64 {
	if r.Aux&auxDue == 0 {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(pool.Bytes(r)))
}

// sequenceOf returns the sequence of r, which has auxSequence.
func sequenceOf(pool *block.Pool, r block.Ref) uint64 {
	return binary.LittleEndian.Uint64(pool.Bytes(r)[prefix(r.Aux)-dueSize:])
}

// dropSequence turns a descriptor of a bare frame behind its sequence into one
// of the frame.
func dropSequence(r block.Ref) block.Ref {
	if r.Aux&auxSequence != 0 {
		r.Off += dueSize
		r.Len -= dueSize
		r.Aux &^= auxSequence
	}
	return r
}

// store copies a message into the arena; the caller receives one reference. A
// zero dueWallNs means none.
func store(a *block.Arena, id uint64, wallNs, dueWallNs int64, body []byte) block.Ref {
	size := wire.MessageHeaderSize + len(body)
	if dueWallNs != 0 {
		return storeBehind(a, id, wallNs, dueWallNs, 0, body)
	}
	r, b := a.Alloc(size)
	wire.PutMessageHeader(b, wallNs, 1, id, len(body))
	copy(b[wire.MessageHeaderSize:], body)
	return r
}

// storeBehind is store with a sequence in the backlog, 0 for none.
func storeBehind(a *block.Arena, id uint64, wallNs, dueWallNs int64, sequence uint64, body []byte) block.Ref {
	aux := uint32(0)
	if dueWallNs != 0 {
		aux |= auxDue
	}
	if sequence != 0 {
		aux |= auxSequence
	}
	n := prefix(aux)
	r, b := a.Alloc(n + wire.MessageHeaderSize + len(body))
	if sequence != 0 {
		binary.LittleEndian.PutUint64(b[n-dueSize:], sequence)
	}
	if dueWallNs != 0 {
		binary.LittleEndian.PutUint64(b, uint64(dueWallNs))
	}
	wire.PutMessageHeader(b[n:], wallNs, 1, id, len(body))
	copy(b[n+wire.MessageHeaderSize:], body)
	r.Aux = aux
	return r
}

// copyTo copies a message, without its due time, into another arena.
func copyTo(a *block.Arena, pool *block.Pool, r block.Ref) block.Ref {
	return copyWhole(a, pool, stripDue(r))
}

// copyWhole copies a message with what stands in front of it.
func copyWhole(a *block.Arena, pool *block.Pool, r block.Ref) block.Ref {
	from := pool.Bytes(r)
	to, b := a.Alloc(len(from))
	copy(b, from)
	to.Aux = r.Aux & (auxAttempts | auxDue | auxSequence | auxJournal)
	return to
}
