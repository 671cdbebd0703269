package survival

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait; a test that passes does not wait for it, not even on a
// machine that stands still for a minute.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { daemon.Main(m) }

var zsq = daemon.Program{Package: "./cmd/nsqd", Env: "ZSQ_NSQD"}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nsqd is a process on a data path.
type nsqd struct{ *daemon.Daemon }

func run(t testing.TB, dir string, flags ...string) nsqd {
	t.Helper()
	flags = append([]string{"--data-path=" + dir, "--broadcast-address=127.0.0.1", "--log-level=warn"}, flags...)
	return nsqd{daemon.Start(t, daemon.Config{Program: zsq, Flags: flags})}
}

// ping returns what /ping says.
func (d nsqd) ping(t testing.TB) string {
	t.Helper()
	resp, err := http.Get("http://" + d.HTTP + "/ping")
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(text)
}

// body is the whole of a message: its key, and bytes that follow from it.
func body(key uint64, size int) []byte {
	b := make([]byte, max(size, 16))
	binary.BigEndian.PutUint64(b, key)
	for at, x := 8, key; at < len(b); at += 8 {
		x = x*6364136223846793005 + 1442695040888963407
		var word [8]byte
		binary.BigEndian.PutUint64(word[:], x)
		copy(b[at:], word[:])
	}
	return b
}

// mpub publishes the bodies of keys first to first+n-1 and returns an error if
// they were refused.
func (d nsqd) mpub(t testing.TB, topic string, first uint64, n, size int) error {
	t.Helper()
	var b []byte
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	for i := range uint64(n) {
		m := body(first+i, size)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	q := url.Values{"topic": {topic}, "binary": {"true"}}
	resp, err := http.Post("http://"+d.HTTP+"/mpub?"+q.Encode(), "application/octet-stream", bytes.NewReader(b))
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}

// publish publishes n messages from key first on, all of which must be accepted.
func (d nsqd) publish(t testing.TB, topic string, first uint64, n, size int) {
	t.Helper()
	for n > 0 {
		batch := min(n, 500)
		must(t, d.mpub(t, topic, first, batch, size))
		first += uint64(batch)
		n -= batch
	}
}

// peer is a client that knows frames and nothing else.
type peer struct {
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, d nsqd) *peer {
	t.Helper()
	c, err := net.Dial("tcp", d.TCP)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_, err = io.WriteString(c, "  V2")
	must(t, err)
	return &peer{c, bufio.NewReaderSize(c, 1<<16)}
}

// The kinds of frames.
const (
	response = 0
	failure  = 1
	message  = 2
)

// heartbeat is what a daemon sends to hear a NOP.
const heartbeat = "_heartbeat_"

// next returns the next frame, whose bytes stay the caller's. It answers a
// heartbeat.
func (p *peer) next() (kind uint32, b []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return 0, nil, err
	}
	b = make([]byte, binary.BigEndian.Uint32(head[:])-4)
	if _, err := io.ReadFull(p.r, b); err != nil {
		return 0, nil, err
	}
	kind = binary.BigEndian.Uint32(head[4:])
	if kind == response && string(b) == heartbeat {
		_, err = io.WriteString(p, "NOP\n")
	}
	return kind, b, err
}

// ok sends a command and wants its OK.
func (p *peer) ok(t testing.TB, command string) {
	t.Helper()
	_, err := io.WriteString(p, command)
	must(t, err)
	if kind, text, err := p.next(); err != nil || kind != response || string(text) != "OK" {
		t.Fatalf("%.40q: frame %d %q, %v", command, kind, text, err)
	}
}

func fin(m []byte) string { return "FIN " + string(m[10:26]) + "\n" }

// consume takes up to n messages of a channel, finishes them and returns how
// often each came, by key. It ends earlier when the channel is empty. A body that
// nobody wrote fails the test.
func (d nsqd) consume(t testing.TB, topic, channel string, n, size int) map[uint64]int {
	t.Helper()
	p := dial(t, d)
	defer p.Close()
	p.ok(t, "SUB "+topic+" "+channel+"\n")
	_, err := fmt.Fprintf(p, "RDY %d\n", min(n, 1000))
	must(t, err)
	got := map[uint64]int{}
	var out []byte
	last := time.Now()
	take := func(m []byte) {
		key := binary.BigEndian.Uint64(m[26:])
		if !bytes.Equal(m[26:], body(key, size)) {
			t.Errorf("%s/%s: a body of %d bytes, key %x, that nobody wrote", topic, channel, len(m)-26, key)
		}
		got[key]++
		out = append(out, fin(m)...)
		last = time.Now()
		n--
	}
	for n > 0 {
		must(t, p.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		if _, err := p.r.Peek(8); errors.Is(err, os.ErrDeadlineExceeded) {
			ch, ok := d.Channel(t, topic, channel)
			if ok && ch.Depth+ch.InFlightCount+ch.DeferredCount == 0 {
				// What a loop was just then giving to us was in none of these figures.
				came := p.before(t)
				if len(came) == 0 {
					return got
				}
				for _, m := range came {
					take(m)
				}
			}
			if time.Since(last) > patience {
				t.Fatalf("%s/%s: nothing comes any more after %d messages: %+v", topic, channel, len(got), ch)
			}
		} else {
			must(t, p.SetReadDeadline(time.Now().Add(patience)))
			kind, m, err := p.next()
			must(t, err)
			switch {
			case kind == message:
				take(m)
			case kind != response || string(m) != heartbeat:
				t.Fatalf("%s/%s: frame %d %q", topic, channel, kind, m)
			}
		}
		if n <= 0 {
			out = append(out, "RDY 0\n"...)
		}
		if p.r.Buffered() == 0 || n <= 0 {
			_, err := p.Write(out)
			must(t, err)
			out = out[:0]
		}
	}
	// A FIN has no answer of its own. What came beyond n goes back.
	out = nil
	for _, m := range p.settled(t) {
		out = append(out, "REQ "+string(m[10:26])+" 0\n"...)
	}
	_, err = p.Write(out)
	must(t, err)
	p.settled(t)
	return got
}

// settled returns when all that was sent has been dealt with, with the messages
// that came meanwhile.
func (p *peer) settled(t testing.TB) (messages [][]byte) {
	t.Helper()
	return p.until(t, "PUB marks\n\x00\x00\x00\x01x", response, "OK")
}

// before returns the messages that the daemon had begun to send when it was asked. It
// is asked with a FIN of nothing, which a full disk lets through.
func (p *peer) before(t testing.TB) (messages [][]byte) {
	t.Helper()
	return p.until(t, "FIN 0000000000000001\n", failure, "E_FIN_FAILED ")
}

// until sends a command and returns the messages that come before its answer, a frame
// of the kind and text given. Any other error ends the test.
func (p *peer) until(t testing.TB, command string, answer uint32, text string) (messages [][]byte) {
	t.Helper()
	must(t, p.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(p, command)
	must(t, err)
	for {
		kind, b, err := p.next()
		must(t, err)
		switch {
		case kind == message:
			messages = append(messages, b)
		case kind == answer && bytes.HasPrefix(b, []byte(text)):
			return messages
		case kind == failure:
			t.Fatalf("%s", b)
		}
	}
}

// files returns the files below a data path whose names match a pattern such as
// "*.seg".
func files(t testing.TB, dir, pattern string) (paths []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since the directory was read
		}
		if err != nil {
			return err
		}
		if ok, _ := filepath.Match(pattern, e.Name()); ok && !e.IsDir() {
			paths = append(paths, path)
		}
		return nil
	}))
	return paths
}

// copyOf returns a copy of a data path.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 11)) }

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	daemon.Eventually(t, patience, what, cond)
}
