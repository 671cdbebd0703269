package nsq

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
)

// recorder is a delegate that notes what it is told, as text.
type recorder struct {
	ConnDelegate // nil: whatever is not below is not called
	told         strings.Builder
}

func (r *recorder) OnResponse(_ *Conn, b []byte) { fmt.Fprintf(&r.told, "response %q\n", b) }
func (r *recorder) OnError(_ *Conn, b []byte)    { fmt.Fprintf(&r.told, "error %q\n", b) }
func (r *recorder) OnMessage(_ *Conn, m *Message) {
	fmt.Fprintf(&r.told, "message %q %d %q\n", m.ID, m.Attempts, m.Body)
}
func (r *recorder) OnHeartbeat(*Conn)            { r.told.WriteString("heartbeat\n") }
func (r *recorder) OnIOError(_ *Conn, err error) { fmt.Fprintf(&r.told, "I/O error %v\n", err) }

// pieces reads b in pieces of random sizes.
type pieces struct {
	b   []byte
	rng *rand.Rand
}

// Read returns the next piece.
func (p *pieces) Read(into []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(into, p.b[:1+p.rng.IntN(min(len(p.b), 1+p.rng.IntN(300)))])
	p.b = p.b[n:]
	return n, nil
}

// FuzzFrames reads any bytes, cut anywhere: nothing panics, and what the delegate is
// told does not depend on the cuts.
func FuzzFrames(f *testing.F) {
	frame := func(kind uint32, data string) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(4+len(data)))
		return append(binary.BigEndian.AppendUint32(b, kind), data...)
	}
	message := string(bytes.Repeat([]byte("m"), messageHeadSize)) + "body"
	good := bytes.Join([][]byte{
		frame(0, "OK"), frame(0, "_heartbeat_"), frame(2, message), frame(2, message+strings.Repeat("x", 3000)),
		frame(1, "E_BAD"), frame(7, "?"), frame(2, message+strings.Repeat("y", 70_000)), frame(0, ""),
	}, nil)
	f.Add(good, uint64(1))
	f.Add(append(good, 0xff, 0xff, 0xff, 0xff), uint64(2))
	f.Add(append(good, frame(2, "short")...), uint64(3))
	f.Add([]byte("HTTP/1.1 400 Bad Request"), uint64(4))
	f.Add(good[:len(good)-2], uint64(5))
	f.Add([]byte{0, 0, 0, 3, 0, 0, 0}, uint64(6))
	// Some bytes of the good ones are changed, so that the short tier sees bad
	// frames of many kinds, too.
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 1))
		bad := bytes.Clone(good[:rng.IntN(5000)])
		for range min(len(bad), 3) {
			bad[rng.IntN(len(bad))] = byte(rng.IntN(256))
		}
		f.Add(bad, seed)
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		whole := told(bytes.NewReader(b))
		cut := told(&pieces{b, rand.New(rand.NewPCG(seed, 0))})
		if whole != cut {
			t.Errorf("whole:\n%s\ncut:\n%s", whole, cut)
		}
	})
}

// told reads frames from r and returns what the delegate is told of them, and
// whether that ended well.
func told(r io.Reader) string {
	rec := new(recorder)
	c := NewConn("fuzz", NewConfig(), rec)
	near, far := net.Pipe() // has deadlines, no bytes
	defer near.Close()
	defer far.Close()
	c.nc, c.r = near, r
	c.out.open(c, near)
	err := c.readLoop()
	ended := "error"
	if err == io.EOF {
		ended = "EOF"
	}
	return rec.told.String() + ended
}
