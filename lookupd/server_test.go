package lookupd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/logbuf"
	"github.com/zsqio/zsq/lookupd"
)

// patience bounds every wait; a test that passes does not wait for it, not even on a
// machine that stands still for a minute.
const patience = 2 * time.Minute

// A node is a server under test and its log.
type node struct {
	*lookupd.Server
	*testing.T
	log *logText
	buf *logbuf.Buffer // in front of log
}

// logText is a log for several goroutines.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// logged returns what the log has so far.
func (n *node) logged() string {
	n.Helper()
	eventually(n.T, "the log is written", n.buf.Flush)
	return n.log.String()
}

// start runs a server on free loopback ports until the test ends.
func start(t *testing.T, change ...func(*lookupd.Options)) *node {
	t.Helper()
	o := lookupd.NewOptions()
	o.TCPAddress, o.HTTPAddress, o.BroadcastAddress = "127.0.0.1:0", "127.0.0.1:0", "lookup.test"
	o.ReapTimeout, o.InactiveProducerTimeout = time.Hour, time.Hour // a machine that stands still ends nothing
	for _, f := range change {
		f(o)
	}
	n := &node{T: t, log: new(logText)}
	n.buf = logbuf.New(n.log, o.LogPrefix, logbuf.Text)
	s, err := lookupd.New(o, n.buf)
	if err != nil {
		t.Fatal(err)
	}
	n.Server = s
	s.Start()
	t.Cleanup(s.Shutdown)
	return n
}

// A client is one connection to the TCP port.
type client struct {
	net.Conn
	t *testing.T
}

// dial connects and says nothing yet.
func (n *node) dial() *client {
	n.Helper()
	c, err := net.Dial("tcp", n.TCPAddr().String())
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		n.Fatal(err)
	}
	return &client{c, n.T}
}

// join connects a producer that has identified itself.
func (n *node) join(host string) *client {
	n.Helper()
	c := n.dial()
	c.send("  V1" + identify(fmt.Sprintf(`{"broadcast_address":%q,"tcp_port":1,"http_port":2,"version":"v","hostname":"h"}`, host)))
	if got := c.answer(); !strings.HasPrefix(got, "{") {
		n.Fatalf("IDENTIFY: %s", got)
	}
	return c
}

// identify is the command with a body.
func identify(body string) string { return "IDENTIFY\n" + sized(len(body)) + body }

func sized(n int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(n))) }

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads one answer.
func (c *client) answer() string {
	c.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	text := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, text); err != nil {
		c.t.Fatalf("half an answer: %v", err)
	}
	return string(text)
}

// do sends one command and expects an answer.
func (c *client) do(command, want string) {
	c.t.Helper()
	c.send(command + "\n")
	if got := c.answer(); got != want {
		c.t.Fatalf("%s: %s, want %s", command, got, want)
	}
}

// ends expects that the server has nothing more to say and closes, and closes
// too.
func (c *client) ends() {
	c.t.Helper()
	defer c.Close()
	rest, err := io.ReadAll(c)
	// A server that is shut down may reset.
	if len(rest) > 0 || (err != nil && !errors.Is(err, syscall.ECONNRESET)) {
		c.t.Fatalf("%q, %v; want the end", rest, err)
	}
}

// call makes one request and returns its status and body.
func (n *node) call(method, path string) (code int, body string) {
	n.Helper()
	resp := n.request(method, path)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (n *node) request(method, path string) *http.Response {
	n.Helper()
	req, err := http.NewRequest(method, "http://"+n.HTTPAddr().String()+path, nil)
	if err != nil {
		n.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
	if err != nil {
		n.Fatal(err)
	}
	return resp
}

// get expects 200 and a body.
func (n *node) get(path, want string) {
	n.Helper()
	if code, body := n.call("GET", path); code != 200 || body != want {
		n.Fatalf("GET %s: %d %s\nwant %s", path, code, body, want)
	}
}

// post expects 200 and no body.
func (n *node) post(path string) {
	n.Helper()
	if code, body := n.call("POST", path); code != 200 || body != "" {
		n.Fatalf("POST %s: %d %s", path, code, body)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// producer is a producer of join's in /lookup.
func producer(c *client, host string) string {
	return fmt.Sprintf(`{"remote_address":%q,"hostname":"h","broadcast_address":%q,"tcp_port":1,"http_port":2,"version":"v"}`, c.LocalAddr(), host)
}
