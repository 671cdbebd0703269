package upgrade

import "github.com/valyala/bytebufferpool"

// A Filter is what TLS, Snappy, Deflate and Chain have in common. The interface
// that its user asks for is netloop's.
type Filter interface {
	Decode(dst, src []byte) (wrote, used int, err error)
	Encode(dst, plain []byte) ([]byte, error)
	Owes() bool
	Step() int
	End(dst []byte) []byte
	Close()
}

// chainPiece is what the outer filter of a chain decodes at once: one record.
const chainPiece = 16 << 10

// A Chain is compression inside TLS.
type Chain struct {
	outer, inner Filter
	mid          *bytebufferpool.ByteBuffer // from outer, for inner; nil when there is nothing
	off          int                        // mid.B[:off] is used
}

// NewChain returns a filter that decodes with outer first and encodes with it
// last. It owns both.
func NewChain(outer, inner Filter) *Chain { return &Chain{outer: outer, inner: inner} }

// Decode takes src through both filters. No more than one record lies between
// them at any time.
func (c *Chain) Decode(dst, src []byte) (wrote, used int, err error) {
	for wrote < len(dst) {
		var between []byte
		if c.mid != nil {
			between = c.mid.B[c.off:]
		}
		n, u, err := c.inner.Decode(dst[wrote:], between)
		wrote += n
		if c.off += u; c.mid != nil && c.off == len(c.mid.B) {
			drop(&c.mid)
			c.off = 0
		}
		switch {
		case n > 0:
			continue // inner may have more
		case err != nil:
			return c.result(wrote, used, err)
		}
		mid := bytebufferpool.Get()
		if cap(mid.B) < chainPiece {
			mid.B = make([]byte, chainPiece)
		}
		n, u, err = c.outer.Decode(mid.B[:chainPiece], src[used:])
		used += u
		if n == 0 || err != nil {
			bytebufferpool.Put(mid)
			return c.result(wrote, used, err)
		}
		mid.B = mid.B[:n]
		c.mid, c.off = mid, 0
	}
	return wrote, used, nil
}

// result holds an error back while there are bytes in front of it. The filters
// keep their errors, so the next call tells.
func (c *Chain) result(wrote, used int, err error) (int, int, error) {
	if wrote > 0 {
		err = nil
	}
	return wrote, used, err
}

// Encode takes plain through both filters.
func (c *Chain) Encode(dst, plain []byte) ([]byte, error) {
	mid := bytebufferpool.Get()
	defer bytebufferpool.Put(mid)
	var err error
	if mid.B, err = c.inner.Encode(mid.B[:0], plain); err != nil {
		return dst, err
	}
	return c.outer.Encode(dst, mid.B)
}

// Owes reports whether TLS has something to send.
func (c *Chain) Owes() bool { return c.outer.Owes() || c.inner.Owes() }

// Step is the smaller of both.
func (c *Chain) Step() int { return min(c.outer.Step(), c.inner.Step()) }

// End appends the goodbyes, the inner one inside the outer one.
func (c *Chain) End(dst []byte) []byte {
	if b := c.inner.End(nil); len(b) > 0 {
		if out, err := c.outer.Encode(dst, b); err == nil {
			dst = out
		}
	}
	return c.outer.End(dst)
}

// Close closes both.
func (c *Chain) Close() {
	c.inner.Close()
	c.outer.Close()
	drop(&c.mid)
}
