package wire

import "math"

// A batch is the body of an MPUB without its outer size:
//
//	0       4        8
//	├───────┼────────┼──────────┼────────┼──────────┤
//	│ count │ size 0 │ body 0   │ size 1 │ body 1   │ ...
//	└───────┴────────┴──────────┴────────┴──────────┘

// BatchState is how far a batch has been looked at. It holds offsets only,
// so it stays valid when the bytes move, as long as they stay contiguous from
// the start of the batch. The zero value is the beginning.
type BatchState struct {
	offset int // of the next size field, from the start of the batch; 0: count not read
	index  int // which message that is
	count  int
}

// Batch walks over the messages of a batch that has been checked. It aliases
// the bytes of the batch.
type Batch struct {
	rest  []byte
	count int
}

// Count returns how many messages Next has yet to return.
func (m *Batch) Count() int { return m.count }

// Size returns how many bytes the bodies that Next has yet to return have
// together.
func (m *Batch) Size() int { return len(m.rest) - m.count*sizeSize }

// Next returns the body of the next message, or false after the last one. The
// body aliases the bytes that were parsed.
func (m *Batch) Next() (body []byte, ok bool) {
	if m.count == 0 {
		return nil, false
	}
	n := sizeSize + int(readInt32(m.rest))
	body, m.rest = m.rest[sizeSize:n:n], m.rest[n:]
	m.count--
	return body, true
}

// Messages returns the messages of an MPUB after ParseBody said OK.
func (c *Command) Messages() Batch {
	return Batch{rest: c.Body, count: c.Resume.count}
}

// ParseBatch checks a batch that came without an outer size, all of it
// present, as the body of HTTP's binary /mpub does. Bytes behind the last
// message are ignored. The size of b as a whole is for the caller to limit.
func ParseBatch(b []byte, lim *Limits) (Batch, *Error) {
	var st BatchState
	n, need, err := st.advance(b, math.MaxInt, lim)
	if err != nil {
		return Batch{}, err
	}
	if need > 0 {
		return Batch{}, st.stalled(b)
	}
	return Batch{rest: b[sizeSize:n:n], count: st.count}, nil
}

// parseBatch takes size|batch of MPUB. The size bounds the batch from above
// only: the messages say where it ends.
func (c *Command) parseBatch(b []byte, lim *Limits) (int, Status, *Error) {
	if len(b) < sizeSize {
		return c.needMore(sizeSize, ErrMpubSizeUnreadable)
	}
	size := readInt32(b)
	if size <= 0 || int64(size) > lim.MaxBodySize {
		return 0, OK, badBodySize(c.Op, size, lim.MaxBodySize)
	}
	b = b[sizeSize:]
	n, need, err := c.Resume.advance(b, int(size), lim)
	if err != nil {
		return 0, OK, err
	}
	if need > 0 {
		// The text depends on where the batch stands: left to Stalled, so that
		// a batch that comes in many small reads does not format one for each.
		c.batchSoFar = b
		return c.needMore(sizeSize+need, nil)
	}
	c.Body = b[sizeSize:n:n]
	return sizeSize + n, OK, nil
}

// advance checks all messages of which b has the size field, from where st
// stands. It returns the batch's size n, or else how many bytes of b it needs
// to get further.
func (st *BatchState) advance(b []byte, sizeMax int, lim *Limits) (n, need int, err *Error) {
	if st.offset > len(b) {
		*st = BatchState{} // b is not what st was left for
	}
	if st.offset == 0 {
		if len(b) < sizeSize {
			return 0, sizeSize, nil
		}
		count := readInt32(b)
		// The smallest message is one byte behind its size.
		if count <= 0 || int64(count) > (lim.MaxBodySize-sizeSize)/(sizeSize+1) {
			return 0, 0, fatalf(codeBadBody, "MPUB invalid message count %d", count)
		}
		st.offset, st.count = sizeSize, int(count)
	}
	off := st.offset
	for ; st.index < st.count; st.index++ {
		if len(b)-off < sizeSize {
			st.offset = off
			return 0, off + sizeSize, nil
		}
		size := readInt32(b[off:])
		next := off + sizeSize + int(size)
		if size <= 0 || int64(size) > lim.MaxMsgSize || next > sizeMax {
			return 0, 0, badBatchMessage(st.index, size, sizeMax, lim)
		}
		if len(b) < next {
			st.offset = off
			return 0, next, nil
		}
		off = next
	}
	st.offset = off
	return off, 0, nil
}

// badBatchMessage says what is wrong with the size of the message at index.
// The last text is ours, for the reason in the package comment.
func badBatchMessage(index int, size int32, sizeMax int, lim *Limits) *Error {
	switch {
	case size <= 0:
		return fatalf(codeBadMessage, "MPUB invalid message(%d) body size %d", index, size)
	case int64(size) > lim.MaxMsgSize:
		return fatalf(codeBadMessage, "MPUB message too big %d > %d", size, lim.MaxMsgSize)
	}
	return fatalf(codeBadBody, "MPUB message(%d) exceeds body size %d", index, sizeMax)
}

// stalled is what the client is told if the batch ends with b.
func (st *BatchState) stalled(b []byte) *Error {
	switch {
	case st.offset == 0:
		return ErrMpubCountUnreadable
	case len(b)-st.offset >= sizeSize:
		return ErrMpubMessageUnreadable
	}
	return fatalf(codeBadMessage, "MPUB failed to read message(%d) body size", st.index)
}
