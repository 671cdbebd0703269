package upgrade

import (
	"bufio"
	"errors"
	"io"
	"iter"

	"github.com/klauspost/compress/flate"
)

// Deflate is the filter for a raw RFC 1951 stream in each direction. Every
// Encode ends in a sync flush.
//
// Its inflater and its compressor are made when the first byte needs them. With
// both a connection holds 0.8 to 1.4 MB, depending on the level: nearly all of it
// is the compressor's memory of what it has sent, without which a flush of one
// small message would hardly be compressed at all.
type Deflate struct {
	level int

	// The inflater is a coroutine; what follows is how it and Decode talk.
	// Only one of them runs at a time.
	resume func() (struct{}, bool)
	stop   func()
	dst    []byte
	src    []byte
	wrote  int
	err    error

	enc *flate.Writer
	out appender
}

// NewDeflate returns a filter that compresses at a level from 1 to 9.
func NewDeflate(level int) *Deflate { return &Deflate{level: level} }

// Decode inflates. Its errors are final; io.EOF is the end of the stream.
func (d *Deflate) Decode(dst, src []byte) (wrote, used int, err error) {
	if d.resume == nil {
		if len(src) == 0 || d.err != nil {
			return 0, 0, d.err
		}
		d.resume, d.stop = iter.Pull(d.inflate)
	}
	d.dst, d.src, d.wrote = dst, src, 0
	if d.err == nil {
		d.resume()
	}
	wrote, used = d.wrote, len(src)-len(d.src)
	d.dst, d.src = nil, nil
	if wrote > 0 {
		return wrote, used, nil
	}
	return 0, used, d.err
}

// errStopped ends an inflater whose filter is closed.
var errStopped = errors.New("deflate: closed")

// inflate is the coroutine. It yields when it has used src or filled dst.
func (d *Deflate) inflate(yield func(struct{}) bool) {
	c := inflating{d: d, yield: yield}
	r := flate.NewReader(bufio.NewReaderSize(c, 4<<10))
	// WriteTo, not Read: Read would keep the place it was first given while it
	// waits for input, and each Decode brings another.
	_, err := r.(io.WriterTo).WriteTo(c)
	if err == nil {
		err = io.EOF
	}
	d.err = err
}

// inflating is the inflater's view of its filter: where its bytes come from and
// where they go.
type inflating struct {
	d     *Deflate
	yield func(struct{}) bool
}

func (c inflating) Read(p []byte) (int, error) {
	for len(c.d.src) == 0 {
		if !c.yield(struct{}{}) {
			return 0, errStopped
		}
	}
	n := copy(p, c.d.src)
	c.d.src = c.d.src[n:]
	return n, nil
}

func (c inflating) Write(p []byte) (n int, err error) {
	for n < len(p) {
		for c.d.wrote == len(c.d.dst) {
			if !c.yield(struct{}{}) {
				return n, errStopped
			}
		}
		k := copy(c.d.dst[c.d.wrote:], p[n:])
		c.d.wrote += k
		n += k
	}
	return n, nil
}

// Encode compresses plain and appends it to dst.
func (d *Deflate) Encode(dst, plain []byte) ([]byte, error) {
	if len(plain) == 0 {
		return dst, nil
	}
	d.out.b = dst
	var err error
	if d.enc == nil {
		d.enc, err = flate.NewWriter(&d.out, d.level)
	}
	if err == nil {
		_, err = d.enc.Write(plain)
	}
	if err == nil {
		err = d.enc.Flush()
	}
	dst, d.out.b = d.out.b, nil
	return dst, err
}

// An appender is a Writer on a slice.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// Owes is never true: deflate says nothing by itself.
func (d *Deflate) Owes() bool { return false }

// Step is the number of plain bytes to encode at once: half a millisecond of a
// loop's time at the default level.
func (d *Deflate) Step() int { return 32 << 10 }

// End appends nothing: clients, like nsqd, leave the stream open.
func (d *Deflate) End(dst []byte) []byte { return dst }

// Close ends the inflater.
func (d *Deflate) Close() {
	if d.err == nil {
		d.err = errStopped
	}
	if d.stop != nil {
		d.stop()
	}
	d.enc = nil
}
