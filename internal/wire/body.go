package wire

import "encoding/binary"

// sizeSize is the size of each size and count field in bytes.
const sizeSize = 4

// ParseBody takes the body of a command that passed CheckParams. b starts
// right after the line; n is the size of the body with all size fields, and 0
// for a command without one. For NeedMore, Need is set and Stalled
// may be asked; the caller calls again with the same b grown. Its errors are all fatal.
func (c *Command) ParseBody(b []byte, lim *Limits) (n int, s Status, err *Error) {
	switch c.Op {
	case OpPub:
		return c.parseMessage(b, lim, ErrPubSizeUnreadable, ErrPubBodyUnreadable)
	case OpDpub:
		return c.parseMessage(b, lim, ErrDpubSizeUnreadable, ErrDpubBodyUnreadable)
	case OpMpub:
		return c.parseBatch(b, lim)
	case OpIdentify:
		return c.parseBlob(b, lim, ErrIdentifySizeUnreadable, ErrIdentifyBodyUnreadable)
	case OpAuth:
		return c.parseBlob(b, lim, ErrAuthSizeUnreadable, ErrAuthBodyUnreadable)
	}
	return 0, OK, nil
}

// parseMessage takes size|body of PUB and DPUB.
func (c *Command) parseMessage(b []byte, lim *Limits, noSize, noBody *Error) (int, Status, *Error) {
	if len(b) < sizeSize {
		return c.needMore(sizeSize, noSize)
	}
	size := readInt32(b)
	if size <= 0 || int64(size) > lim.MaxMsgSize {
		return 0, OK, badMessageSize(c.Op, size, lim.MaxMsgSize)
	}
	n := sizeSize + int(size)
	if len(b) < n {
		return c.needMore(n, noBody)
	}
	c.Body = b[sizeSize:n:n]
	return n, OK, nil
}

// parseBlob takes size|body of IDENTIFY and AUTH.
func (c *Command) parseBlob(b []byte, lim *Limits, noSize, noBody *Error) (int, Status, *Error) {
	if len(b) < sizeSize {
		return c.needMore(sizeSize, noSize)
	}
	size := readInt32(b)
	if size <= 0 || int64(size) > lim.MaxBodySize {
		return 0, OK, badBodySize(c.Op, size, lim.MaxBodySize)
	}
	n := sizeSize + int(size)
	if len(b) < n {
		return c.needMore(n, noBody)
	}
	c.Body = b[sizeSize:n:n]
	return n, OK, nil
}

func (c *Command) needMore(need int, stalled *Error) (int, Status, *Error) {
	c.Need, c.stalled = need, stalled
	return 0, NeedMore, nil
}

func readInt32(b []byte) int32 { return int32(binary.BigEndian.Uint32(b)) }
