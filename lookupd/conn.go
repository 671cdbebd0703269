package lookupd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// A conn is one connection to the TCP port. It belongs to its goroutine, which
// runs from accept to close; only shutdown closes c from elsewhere.
type conn struct {
	s    *Server
	c    net.Conn
	addr string // the client's, its name in the log and the producer's identity

	r        *bufio.Reader
	out      []byte    // answers not sent yet
	producer *producer // nil before IDENTIFY
}

const (
	// outMax is how many bytes of answers gather while more commands wait.
	outMax = 1024
	// lingerMax and lingerBytes bound how long, and how much, we still read from
	// a client that has made a mistake. Closing with bytes unread would reset
	// the connection, and the client might not see why.
	lingerMax   = time.Second
	lingerBytes = 256 << 10
)

// run serves the connection and closes it.
func (c *conn) run() {
	if c.handshake() {
		c.conclude(c.serve())
	}
	_ = c.c.Close() // whatever it says, the connection is gone
}

// readLine returns the next command's line. Answers are sent before it waits.
func (c *conn) readLine() (string, error) {
	if !c.lineWaits() {
		if err := c.flush(); err != nil {
			return "", err
		}
		c.deadline()
	}
	line, err := c.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", errLineTooLong
	}
	if err != nil {
		return "", err
	}
	return string(line), nil
}

// lineWaits reports whether a whole line has been read already.
func (c *conn) lineWaits() bool {
	b, err := c.r.Peek(c.r.Buffered())
	return err == nil && bytes.IndexByte(b, '\n') >= 0
}

// answer queues one answer, its size and its bytes, and sends what there is when
// that is much.
func (c *conn) answer(text []byte) error {
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(text)))
	c.out = append(c.out, text...)
	if len(c.out) < outMax {
		return nil
	}
	return c.flush()
}

// flush sends what has been answered. It fails when the client does not take it
// in time; half an answer may be out then, and nothing must follow.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_ = c.c.SetWriteDeadline(time.Now().Add(c.s.opts.ReapTimeout)) // as in deadline
	_, err := c.c.Write(c.out)
	c.out = c.out[:0]
	return err
}

// refuse sends the last answer, an error, and waits until the client has had a
// chance to read it.
func (c *conn) refuse(text string) {
	c.s.metrics.errors.Inc()
	if c.answer([]byte(text)) == nil && c.flush() == nil {
		c.linger()
	}
}

// linger ends our side and reads on for a moment, see lingerMax.
func (c *conn) linger() {
	half, ok := c.c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.c.SetReadDeadline(time.Now().Add(min(lingerMax, c.s.opts.ReapTimeout))) // as in deadline
	_, _ = io.CopyN(io.Discard, c.c, lingerBytes)
}
