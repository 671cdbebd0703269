package engine_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

// patience bounds every wait of these tests, and a whole conversation with a
// client. Nothing comes near it unless something hangs, however slow the machine, and
// if it stands still for a minute.
const patience = 2 * time.Minute

// options are those of a daemon for one test: any ports, an own data path.
func options(t *testing.T) *engine.Options {
	t.Helper()
	o := engine.NewOptions()
	o.TCPAddress, o.HTTPAddress, o.HTTPSAddress = "127.0.0.1:0", "127.0.0.1:0", ""
	o.DataPath = t.TempDir()
	o.Loops = 1 // the default follows GOMAXPROCS, which daemons raise
	o.HTTPClientConnectTimeout, o.HTTPClientRequestTimeout = patience, patience
	o.ReapTimeout, o.MsgTimeout = time.Hour, 10*time.Minute // a machine that stands still ends nothing
	return o
}

// start runs a daemon until the test ends. Tests that stop it earlier use open.
func start(t *testing.T, o *engine.Options) *engine.Engine {
	t.Helper()
	e := open(t, o)
	t.Cleanup(func() {
		if err := e.Shutdown(); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return e
}

func open(t *testing.T, o *engine.Options) *engine.Engine {
	t.Helper()
	e, err := engine.New(o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	return e
}

// A peer is a client that knows frames and nothing else.
type peer struct {
	*net.TCPConn
	t *testing.T
	r *bufio.Reader
	// beats has it read heartbeats, which it passes over otherwise: those that nobody
	// asked for come when the machine stands still for half a minute.
	beats bool
}

// dial connects without greeting.
func dial(t *testing.T, e *engine.Engine) *peer {
	t.Helper()
	c, err := net.Dial("tcp", e.TCPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &peer{TCPConn: c.(*net.TCPConn), t: t, r: bufio.NewReader(c)}
}

// greet connects and sends the magic and what follows.
func greet(t *testing.T, e *engine.Engine, script ...string) *peer {
	t.Helper()
	p := dial(t, e)
	p.send(wire.Magic + strings.Join(script, ""))
	return p
}

func (p *peer) send(script string) {
	p.t.Helper()
	if _, err := io.WriteString(p, script); err != nil {
		p.t.Fatalf("sending %.40q: %v", script, err)
	}
}

// frame returns the next frame whole, or the error of reading it.
func (p *peer) frame() ([]byte, error) {
	f, err := readFrame(p.r)
	for err == nil && !p.beats && string(f) == wire.HeartbeatFrame {
		f, err = readFrame(p.r)
	}
	return f, err
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(wire.FrameHeaderSize)
	if err != nil {
		return nil, err
	}
	f := make([]byte, 4+binary.BigEndian.Uint32(head))
	_, err = io.ReadFull(r, f)
	return f, err
}

const ended = "(closed)"

// next returns the next frame as text: what a response or an error says, the
// body of a message, or ended.
func (p *peer) next() string {
	p.t.Helper()
	f, err := p.frame()
	switch {
	case errors.Is(err, io.EOF):
		return ended
	case err != nil:
		return fmt.Sprintf("(%v)", err)
	case wire.FrameType(binary.BigEndian.Uint32(f[4:])) == wire.FrameMessage:
		return "message " + string(wire.FrameBody(f))
	}
	text := string(f[wire.FrameHeaderSize:])
	isError := wire.FrameType(binary.BigEndian.Uint32(f[4:])) == wire.FrameError
	if isError != strings.HasPrefix(text, "E_") {
		p.t.Errorf("%q has frame type %d", text, f[7])
	}
	return text
}

// want reads frames and compares them.
func (p *peer) want(texts ...string) {
	p.t.Helper()
	for i, want := range texts {
		if got := p.next(); got != want {
			p.t.Fatalf("frame %d: got %q, want %q", i, got, want)
		}
	}
}

// message reads a message frame.
func (p *peer) message() []byte {
	p.t.Helper()
	f, err := p.frame()
	if err != nil {
		p.t.Fatalf("waiting for a message: %v", err)
	}
	if wire.FrameType(binary.BigEndian.Uint32(f[4:])) != wire.FrameMessage {
		p.t.Fatalf("got %q, want a message", f)
	}
	return f
}

func idOf(t *testing.T, frame []byte) uint64 {
	t.Helper()
	id, ok := wire.FrameID(frame)
	if !ok {
		t.Fatalf("message %q has no id of ours", frame)
	}
	return id
}

func pub(topic, body string) string {
	return string(wire.AppendPub(nil, topic, []byte(body)))
}

func mpub(topic string, bodies ...string) string {
	var b [][]byte
	for _, body := range bodies {
		b = append(b, []byte(body))
	}
	return string(wire.AppendMpub(nil, topic, b...))
}

func sub(topic, channel string) string { return "SUB " + topic + " " + channel + "\n" }

func fin(id uint64) string { return string(wire.AppendFin(nil, id)) }

func identify(json string) string {
	return string(wire.AppendIdentify(nil, []byte(json)))
}

// size is a body's length as it stands on the wire.
func size(n int32) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(n)))
}
