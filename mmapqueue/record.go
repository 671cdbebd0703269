package mmapqueue

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Kind says what a record means.
type Kind uint8

const (
	// KindPublish is a message for every cursor that stands at or before it.
	KindPublish Kind = 1
	// KindPut is a message for one cursor: what a single channel gave back.
	KindPut Kind = 2

	// The kinds below stand in a journal only; journal_batch.go says what they
	// hold. There, a KindPublish is a message for every queue of the group that
	// Cursor names.
	kindGroup    Kind = 3
	kindFinish   Kind = 4
	kindFinished Kind = 5
	kindUpdate   Kind = 6
	kindMove     Kind = 7
	kindEnd      Kind = 8
	kindStart    Kind = 9
	kindSuspect  Kind = 10
	kindNews     Kind = 11
	kindEmpty    Kind = 12

	// KindSome is a message for several cursors, but not for all: it is written once
	// for those channels that lag. It stands in a backlog only.
	KindSome Kind = 13

	kindReleased Kind = 14 // in a journal
)

// known reports whether a record can be of kind k. (A backlog holds some of them
// only; another cannot be found there, for its checksum would be wrong.)
func (k Kind) known() bool { return k-KindPublish <= kindReleased-KindPublish }

// Record is one entry of a log.
type Record struct {
	Kind      Kind
	Cursor    uint32 // for KindPut: the only cursor that reads it
	Attempts  uint16
	ID        uint64
	Timestamp int64  // ns, wall clock
	Due       int64  // ns, wall clock; 0 = at once
	Sequence  uint64 // topic sequence; set by Read, ignored by Append
	Body      []byte // Append copies it; from Read it aliases the mapping

	// To is, for KindSome, the cursors that read it. Append copies it; Read leaves
	// it nil, since the record is for the cursor that reads.
	To []uint32

	to []byte // To as it stands in a record
}

// sameReaders reports whether two records to be appended are read by the same
// cursors.
func (r *Record) sameReaders(o *Record) bool {
	return r.Kind == o.Kind && r.Cursor == o.Cursor && slices.Equal(r.To, o.To)
}

// isFor reports whether the cursor of that number has to read a decoded record.
func (r *Record) isFor(cursor uint32) bool {
	switch r.Kind {
	case KindPublish:
		return true
	case KindSome:
		for to := r.to; len(to) >= 4; to = to[4:] {
			if binary.LittleEndian.Uint32(to) == cursor {
				return true
			}
		}
		return false
	}
	return r.Cursor == cursor
}

// A record starts on an 8-byte boundary. All numbers are little-endian:
//
//	 0        4      5       8          16          24
//	├────────┼──────┼───────┼──────────┼───────────┼─────────┬──────────┐
//	│ length │ kind │ tag   │ sequence │ checksum  │ payload │ zeros    │
//	└────────┴──────┴───────┴──────────┴───────────┴─────────┴──────────┘
//	                                                24+length  pad to 8
//
// and its payload, for the kinds that are messages:
//
//	24        32       34    36       40     48     56
//	├─────────┼────────┼─────┼────────┼──────┼──────┼──────┐
//	│ ts      │attempts│ 0   │ cursor │ id   │ due  │ body │
//	└─────────┴────────┴─────┴────────┴──────┴──────┴──────┘
//
// In front of the body of a KindSome stand the numbers of its cursors, 4 bytes each,
// and zeros to the next 8; how many there are is where a put names its cursor.
//
// length is that of the payload, never zero: zeros there are space that was
// never written. sequence counts the topic's records from 1.
//
// checksum is the xxhash64 of the payload, mixed with the header, the record's
// offset in the file and the segment's salt. The salt is random and never
// leaves the file, so a body that contains bytes of a log, this one or another,
// is not mistaken for a record, and neither is what a file held before. (In a
// journal the offset is [journalPlace] for all.)
//
// tag is 24 bits of the same mix over the header alone. It lets a reader trust
// length before it has seen the payload: a damaged body costs one record and no
// search, and a search through hostile bytes hashes no payload in vain.
const (
	recordAlign  = 8
	recordHeader = 24
	recordFixed  = 32 // payload in front of the body

	offKind     = 4
	offSequence = 8
	offChecksum = 16
	offTime     = 24
	offAttempts = 32
	offCursor   = 36
	offID       = 40
	offDue      = 48
	offBody     = 56

	// bodySizeMax keeps a record's length well inside 32 bits.
	bodySizeMax = 1 << 30
)

const _ = uint(offBody - recordHeader - recordFixed) // the drawing adds up

// recordSize returns the bytes that a record with a body of n bytes takes.
func recordSize(n int) int64 {
	return (offBody + int64(n) + recordAlign - 1) &^ (recordAlign - 1)
}

// size returns the bytes that a record takes.
func (r *Record) size() int64 { return recordSize(toSize(len(r.To)) + len(r.Body)) }

// toSize returns the bytes of n numbers in front of a body.
func toSize(n int) int { return (4*n + recordAlign - 1) &^ (recordAlign - 1) }

// batchSize returns the bytes that recs take, or an error when one of them can
// not be written.
func batchSize(recs []Record) (size int64, err error) {
	for i := range recs {
		r := &recs[i]
		if len(r.Body) > bodySizeMax {
			return 0, fmt.Errorf("mmapqueue: body of %d bytes, the limit is %d", len(r.Body), bodySizeMax)
		}
		if r.Kind != KindPublish && r.Kind != KindPut && r.Kind != KindSome || (r.Kind == KindSome) != (len(r.To) > 0) {
			return 0, fmt.Errorf("mmapqueue: append record of unknown kind %d, for %d cursors", r.Kind, len(r.To))
		}
		size += r.size()
	}
	return size, nil
}

// encode writes r to the front of b, as the record that stands at offset of the
// segment with this salt, and returns its size.
func encode(b []byte, r *Record, sequence uint64, offset int64, salt uint64) int {
	size := draft(b, r)
	seal(b, sequence, offset, salt)
	return size
}

// draft writes r to the front of b without what depends on its place, and
// returns its size. seal makes a record of it.
func draft(b []byte, r *Record) int {
	size := int(r.size())
	body := offBody + toSize(len(r.To))
	end := body + len(r.Body)
	_ = b[size-1]
	binary.LittleEndian.PutUint64(b, uint64(end-recordHeader)|uint64(r.Kind)<<32)
	binary.LittleEndian.PutUint64(b[offTime:], uint64(r.Timestamp))
	binary.LittleEndian.PutUint32(b[offAttempts:], uint32(r.Attempts))
	binary.LittleEndian.PutUint32(b[offCursor:], r.Cursor)
	binary.LittleEndian.PutUint64(b[offID:], r.ID)
	binary.LittleEndian.PutUint64(b[offDue:], uint64(r.Due))
	if r.Kind == KindSome {
		binary.LittleEndian.PutUint32(b[offCursor:], uint32(len(r.To)))
		binary.LittleEndian.PutUint32(b[body-4:], 0)
		for i, id := range r.To {
			binary.LittleEndian.PutUint32(b[offBody+4*i:], id)
		}
	}
	copy(b[body:], r.Body)
	clear(b[end:size])
	binary.LittleEndian.PutUint64(b[offChecksum:], xxhash.Sum64(b[recordHeader:end]))
	return size
}

// seal completes the draft at the front of b for its place, and returns its
// size.
func seal(b []byte, sequence uint64, offset int64, salt uint64) int {
	key := mix(salt + uint64(offset))
	word := binary.LittleEndian.Uint64(b) & (1<<40 - 1)
	word |= tag(key, word, sequence) << 40
	sum := binary.LittleEndian.Uint64(b[offChecksum:]) ^ mix(mix(key^word)^sequence)
	binary.LittleEndian.PutUint64(b, word)
	binary.LittleEndian.PutUint64(b[offSequence:], sequence)
	binary.LittleEndian.PutUint64(b[offChecksum:], sum)
	return int(recordSize(int(uint32(word)) - recordFixed))
}

// reseal makes the sealed record at the front of b, whose place is [journalPlace], one
// of another salt.
func reseal(b []byte, from, to uint64) {
	sequence := binary.LittleEndian.Uint64(b[offSequence:])
	word, key := binary.LittleEndian.Uint64(b), mix(from+journalPlace)
	sum := binary.LittleEndian.Uint64(b[offChecksum:]) ^ mix(mix(key^word)^sequence)
	binary.LittleEndian.PutUint64(b[offChecksum:], sum)
	seal(b, sequence, journalPlace, to)
}

// verdict is what decode found.
type verdict uint8

const (
	whole   verdict = iota // a record
	damaged                // a header that is ours in front of a payload that is not
	nothing                // no header of ours
)

// decode reads the record at the front of b, which stands at offset. The body
// aliases b. size is where the next record starts; it is valid unless the
// verdict is nothing.
func decode(b []byte, r *Record, offset int64, salt uint64) (size int64, v verdict) {
	if len(b) < offBody {
		return 0, nothing
	}
	word := binary.LittleEndian.Uint64(b)
	n, kind := int64(uint32(word)), Kind(word>>32)
	if n < recordFixed || !kind.known() {
		return 0, nothing // the common case while searching, so before any mixing
	}
	size = recordSize(int(n) - recordFixed)
	sequence := binary.LittleEndian.Uint64(b[offSequence:])
	key := mix(salt + uint64(offset))
	if tag(key, word&(1<<40-1), sequence) != word>>40 || size > int64(len(b)) {
		return 0, nothing
	}
	payload := b[recordHeader : recordHeader+n]
	if checksum(payload, key, word, sequence) != binary.LittleEndian.Uint64(b[offChecksum:]) {
		return size, damaged
	}
	*r = Record{
		Kind:      kind,
		Cursor:    binary.LittleEndian.Uint32(b[offCursor:]),
		Attempts:  binary.LittleEndian.Uint16(b[offAttempts:]),
		ID:        binary.LittleEndian.Uint64(b[offID:]),
		Timestamp: int64(binary.LittleEndian.Uint64(b[offTime:])),
		Due:       int64(binary.LittleEndian.Uint64(b[offDue:])),
		Sequence:  sequence,
		Body:      payload[recordFixed:n:n],
	}
	if kind == KindSome {
		to := int64(r.Cursor)
		if to > (n-recordFixed)/4 || int64(toSize(int(to))) > n-recordFixed {
			return size, damaged // not of our making
		}
		r.to, r.Body, r.Cursor = r.Body[:4*to], r.Body[toSize(int(to)):], 0
	}
	return size, whole
}

// resync returns the first offset after from at which data holds a whole
// record, or len(data) when there is none.
func resync(data []byte, from int64, salt uint64) int64 {
	return search(data, from, func(b []byte, offset int64, r *Record) verdict {
		_, v := decode(b, r, offset, salt)
		return v
	})
}

// resyncJournal is resync for a journal's records.
func resyncJournal(data []byte, from int64, salt uint64) int64 {
	return search(data, from, func(b []byte, _ int64, r *Record) verdict {
		_, v := decode(b, r, journalPlace, salt)
		return v
	})
}

func search(data []byte, from int64, look func(b []byte, offset int64, r *Record) verdict) int64 {
	var r Record
	for offset := from + recordAlign; offset+offBody <= int64(len(data)); offset += recordAlign {
		if look(data[offset:], offset, &r) == whole {
			return offset
		}
	}
	return int64(len(data))
}

// tag returns 24 bits over a record's header; word has its upper 24 bits clear.
func tag(key, word, sequence uint64) uint64 {
	return mix(mix(key^word)+sequence) >> 40
}

// checksum returns the checksum of a payload behind the given header.
func checksum(payload []byte, key, word, sequence uint64) uint64 {
	return xxhash.Sum64(payload) ^ mix(mix(key^word)^sequence)
}

// mix spreads every bit of x over the whole word; it is a bijection (the
// finaliser of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
