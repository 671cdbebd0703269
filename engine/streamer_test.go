package engine_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/snappy"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

// A streamer is a peer whose bytes may go through TLS and compression.
type streamer struct {
	t *testing.T
	r *bufio.Reader
	w io.Writer
	c net.Conn
}

// dripping writes a byte at a time.
type dripping struct{ net.Conn }

func (d dripping) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// eager sends its prelude together with the first write, and takes the frame that
// answers it off the front of what it reads.
type eager struct {
	net.Conn
	prelude string
	answer  []byte
}

func (e *eager) Write(b []byte) (int, error) {
	if e.prelude == "" {
		return e.Conn.Write(b)
	}
	_, err := e.Conn.Write(append([]byte(e.prelude), b...))
	e.prelude = ""
	return len(b), err
}

func (e *eager) Read(b []byte) (int, error) {
	if e.answer == nil {
		head := make([]byte, wire.FrameHeaderSize)
		if _, err := io.ReadFull(e.Conn, head); err != nil {
			return 0, err
		}
		e.answer = make([]byte, int(head[2])<<8+int(head[3])-4)
		if _, err := io.ReadFull(e.Conn, e.answer); err != nil {
			return 0, err
		}
	}
	return e.Conn.Read(b)
}

// plain greets the daemon over c.
func plain(t *testing.T, c net.Conn) *streamer {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &streamer{t: t, r: bufio.NewReader(c), w: c, c: c}
}

func connect(t *testing.T, e *engine.Engine) net.Conn {
	t.Helper()
	a := e.TCPAddr()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *streamer) send(script string) {
	s.t.Helper()
	if _, err := io.WriteString(s.w, script); err != nil {
		s.t.Fatalf("sending %.40q: %v", script, err)
	}
	if f, ok := s.w.(interface{ Flush() error }); ok {
		if err := f.Flush(); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *streamer) frame() ([]byte, error) {
	f, err := readFrame(s.r)
	for err == nil && string(f) == wire.HeartbeatFrame { // as a peer does
		f, err = readFrame(s.r)
	}
	return f, err
}

func (s *streamer) next() string {
	s.t.Helper()
	f, err := s.frame()
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(f[wire.FrameHeaderSize:])
}

func (s *streamer) want(texts ...string) {
	s.t.Helper()
	for i, want := range texts {
		if got := s.next(); got != want {
			s.t.Fatalf("frame %d: got %q, want %q", i, got, want)
		}
	}
}

// startTLS takes the client's side of the handshake.
func (s *streamer) startTLS(cfg *tls.Config) *tls.Conn {
	s.t.Helper()
	c := tls.Client(s.c, cfg)
	if err := c.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	s.r, s.w, s.c = bufio.NewReader(c), c, c
	return c
}

func (s *streamer) startSnappy() {
	s.r, s.w = bufio.NewReader(snappy.NewReader(s.r)), snappy.NewBufferedWriter(s.c)
}

func (s *streamer) startDeflate() {
	s.t.Helper()
	w, err := flate.NewWriter(s.c, 6)
	if err != nil {
		s.t.Fatal(err)
	}
	s.r, s.w = bufio.NewReader(flate.NewReader(s.r)), w
}

// grants is what the answer to IDENTIFY says about transports.
type grants struct {
	TLS          bool `json:"tls_v1"`
	Snappy       bool `json:"snappy"`
	Deflate      bool `json:"deflate"`
	DeflateLevel int  `json:"deflate_level"`
}

// upgrade identifies and takes the upgrades that are granted.
func (s *streamer) upgrade(request string, cfg *tls.Config) (g grants) {
	s.t.Helper()
	s.send(wire.Magic + identify(`{"feature_negotiation":true,`+request+`}`))
	if text := s.next(); json.Unmarshal([]byte(text), &g) != nil {
		s.t.Fatalf("IDENTIFY was answered with %q", text)
	}
	if g.TLS {
		s.startTLS(cfg)
		s.want("OK")
	}
	switch {
	case g.Snappy:
		s.startSnappy()
		s.want("OK")
	case g.Deflate:
		s.startDeflate()
		s.want("OK")
	}
	return g
}

// exercise publishes and consumes over s: small messages in one flush, then one
// of more than 64 KiB.
func (s *streamer) exercise(topic string) {
	s.t.Helper()
	large := strings.Repeat("0123456789abcdef", 10_000)
	s.send(pub(topic, "one") + pub(topic, "two") + pub(topic, large))
	s.want("OK", "OK", "OK")
	s.send(sub(topic, "c") + "RDY 3\n")
	s.want("OK")
	for _, want := range []string{"one", "two", large} {
		f, err := s.frame()
		if err != nil {
			s.t.Fatal(err)
		}
		if got := wire.FrameBody(f); string(got) != want {
			s.t.Fatalf("got a body of %d bytes, want %d", len(got), len(want))
		}
		s.send(fin(idOf(s.t, f)))
	}
	s.send("NOP\n" + pub(topic+"-end", "x"))
	s.want("OK")
}
