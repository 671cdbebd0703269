package wire

import (
	"bytes"
	"time"
)

// Parse is ParseLine, CheckParams and ParseBody in one, for callers that have
// no state to check in between. n counts the bytes of the command and is
// valid for OK without an error. It always starts a batch from its beginning.
func (c *Command) Parse(b []byte, lim *Limits) (n int, s Status, err *Error) {
	n, s = c.ParseLine(b)
	if s != OK {
		return 0, s, nil
	}
	if err = c.CheckParams(lim); err != nil {
		return n, OK, err
	}
	m, s, err := c.ParseBody(b[n:], lim)
	return n + m, s, err
}

// ParseLine takes the command line off the front of b: n is its size with the
// LF. It judges nothing; an unknown name is OpUnknown, which CheckParams
// refuses. For NeedMore the caller waits for more bytes behind b.
func (c *Command) ParseLine(b []byte) (n int, s Status) {
	c.Resume = BatchState{}
	c.plain = false
	if len(b) > 4 && b[3] == ' ' {
		switch {
		case b[0] == 'F' && b[1] == 'I' && b[2] == 'N':
			if n := c.fastFin(b); n > 0 {
				return n, OK
			}
		case b[0] == 'P' && b[1] == 'U' && b[2] == 'B':
			if n := c.fastPub(b); n > 0 {
				return n, OK
			}
		case b[0] == 'R' && b[1] == 'E' && b[2] == 'Q':
			if n := c.fastReq(b); n > 0 {
				return n, OK
			}
		}
	}
	return c.splitLine(b)
}

// fastFin takes "FIN id\n" with one of our ids, in which no byte can be a
// separator. It answers 0 for every other line.
func (c *Command) fastFin(b []byte) int {
	const size = len("FIN ") + MessageIDSize + len("\n")
	if len(b) < size || b[size-1] != '\n' {
		return 0
	}
	text := b[4 : size-1 : size-1]
	id, ok := ParseMessageID(text)
	if !ok {
		return 0
	}
	c.Op, c.plain, c.NParams = OpFin, true, 1
	c.Name, c.Params = b[:3:3], text
	c.IDText, c.ID, c.IDOK = text, id, true
	return size
}

// fastPub takes "PUB name\n" where name has no suffix: checking the name
// finds the end of the line on the way. It answers 0 for every other line.
func (c *Command) fastPub(b []byte) int {
	for i, v := range b[4:min(len(b), 4+NameSizeMax+1)] {
		if nameBytes[v] {
			continue
		}
		if v != '\n' || i == 0 {
			return 0
		}
		c.Op, c.plain, c.NParams = OpPub, true, 1
		c.Name, c.Params = b[:3:3], b[4:4+i:4+i]
		return 4 + i + 1
	}
	return 0
}

// fastReq takes "REQ id ms\n" with one of our ids and a few digits, found and
// checked in one pass. It answers 0 for every other line.
func (c *Command) fastReq(b []byte) int {
	const (
		digits    = len("REQ ") + MessageIDSize + len(" ")
		digitsMax = 10
	)
	if len(b) < digits || b[digits-1] != ' ' {
		return 0
	}
	text := b[4 : digits-1 : digits-1]
	id, ok := ParseMessageID(text)
	if !ok {
		return 0
	}
	for i, v := range b[digits:min(len(b), digits+digitsMax+1)] {
		if v-'0' <= 9 {
			continue
		}
		if v != '\n' || i == 0 {
			return 0
		}
		c.Op, c.plain, c.NParams = OpReq, true, 2
		c.Name, c.Params = b[:3:3], b[4:digits+i:digits+i]
		c.IDText, c.ID, c.IDOK = text, id, true
		return digits + i + 1
	}
	return 0
}

// splitLine is ParseLine for any line. Separators are single spaces; exactly
// one CR before the LF goes.
func (c *Command) splitLine(b []byte) (n int, s Status) {
	end := bytes.IndexByte(b[:min(len(b), LineSizeMax)], '\n')
	if end < 0 {
		if len(b) >= LineSizeMax {
			return 0, LineTooLong
		}
		return 0, NeedMore
	}
	line := b[:end:end]
	if end > 0 && line[end-1] == '\r' {
		line = line[: end-1 : end-1]
	}
	c.Name, c.Params, c.NParams = line, nil, 0
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		c.Name, c.Params, c.NParams = line[:i:i], line[i+1:], 1
		if bytes.IndexByte(c.Params, ' ') >= 0 {
			c.NParams = 2
		}
	}
	c.Op = opOf(c.Name)
	return end + 1, OK
}

// CheckParams checks the parameters in the order in which nsqd does, and
// fills the fields of the op. Its errors are all fatal.
func (c *Command) CheckParams(lim *Limits) *Error {
	switch c.Op {
	case OpPub:
		return c.checkTopic(ErrPubParams)
	case OpFin:
		return c.checkID(ErrFinParams)
	case OpMpub:
		return c.checkTopic(ErrMpubParams)
	case OpRdy:
		return c.checkRdy(lim)
	case OpReq:
		return c.checkReq(lim)
	case OpTouch:
		return c.checkID(ErrTouchParams)
	case OpDpub:
		return c.checkDpub(lim)
	case OpSub:
		return c.checkSub()
	case OpAuth:
		if c.NParams != 0 {
			return ErrAuthParams
		}
	case OpUnknown:
		return InvalidCommand(c.Name)
	}
	return nil
}

// twoParams returns the first two parameters; those that are missing are
// empty, and further ones are ignored.
func (c *Command) twoParams() (first, second []byte) {
	if c.NParams < 2 {
		return c.Params, nil
	}
	first, rest, _ := bytes.Cut(c.Params, space)
	second, _, _ = bytes.Cut(rest, space)
	return first, second
}

var space = []byte{' '}

func (c *Command) checkTopic(missing *Error) *Error {
	if c.plain {
		c.Topic = c.Params
		return nil
	}
	if c.NParams < 1 {
		return missing
	}
	c.Topic, _ = c.twoParams()
	if !ValidName(c.Topic) {
		return badTopic(c.Op, c.Topic)
	}
	return nil
}

func (c *Command) checkDpub(lim *Limits) *Error {
	if c.NParams < 2 {
		return ErrDpubParams
	}
	var ms []byte
	c.Topic, ms = c.twoParams()
	if !ValidName(c.Topic) {
		return badTopic(c.Op, c.Topic)
	}
	n, ok := parseNumber(ms)
	if !ok {
		return fatal(codeInvalid, "DPUB could not parse timeout "+string(ms))
	}
	c.Delay = milliseconds(n)
	if c.Delay < 0 || c.Delay > lim.MaxReqTimeout {
		return fatalf(codeInvalid, "DPUB timeout %d out of range 0-%d", n, lim.MaxReqTimeout/time.Millisecond)
	}
	return nil
}

func (c *Command) checkSub() *Error {
	if c.NParams < 2 {
		return ErrSubParams
	}
	c.Topic, c.Channel = c.twoParams()
	if !ValidName(c.Topic) {
		return badTopic(c.Op, c.Topic)
	}
	if !ValidName(c.Channel) {
		return badChannel(c.Op, c.Channel)
	}
	return nil
}

func (c *Command) checkRdy(lim *Limits) *Error {
	if c.NParams == 0 {
		c.Count = 1
	} else {
		text, _ := c.twoParams()
		n, ok := parseNumber(text)
		if !ok {
			return fatal(codeInvalid, "RDY could not parse count "+string(text))
		}
		c.Count = int64(n)
	}
	// A missing count is checked too: the limit may be 0.
	if c.Count < 0 || c.Count > lim.MaxRdyCount {
		return fatalf(codeInvalid, "RDY count %d out of range 0-%d", c.Count, lim.MaxRdyCount)
	}
	return nil
}

func (c *Command) checkID(missing *Error) *Error {
	if c.plain {
		return nil
	}
	if c.NParams < 1 {
		return missing
	}
	c.IDText, _ = c.twoParams()
	if len(c.IDText) != MessageIDSize {
		return ErrMessageID
	}
	c.ID, c.IDOK = ParseMessageID(c.IDText)
	return nil
}

func (c *Command) checkReq(lim *Limits) *Error {
	if c.NParams < 2 {
		return ErrReqParams
	}
	if err := c.checkID(nil); err != nil {
		return err
	}
	var ms []byte
	if c.plain {
		ms = c.Params[MessageIDSize+len(space):]
	} else {
		_, ms = c.twoParams()
	}
	n, ok := parseNumber(ms)
	if !ok {
		return fatal(codeInvalid, "REQ could not parse timeout "+string(ms))
	}
	c.Delay = min(max(milliseconds(n), 0), lim.MaxReqTimeout)
	return nil
}

// parseNumber reads decimal digits as nsqd does: no sign, an empty text is 0,
// and what does not fit wraps modulo 2^64.
func parseNumber(b []byte) (n uint64, ok bool) {
	for _, d := range b {
		d -= '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + uint64(d)
	}
	return n, true
}

// milliseconds converts to a duration and wraps as nsqd's conversion does.
func milliseconds(n uint64) time.Duration {
	return time.Duration(n) * time.Millisecond
}
