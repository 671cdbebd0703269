package nsq_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

// patience bounds every wait of a test; one that passes does not wait for it, not even
// on a machine that stands still for a minute.
const patience = 2 * time.Minute

// A fake is a scripted server. Each connection runs the next script, and the last
// script again and again.
type fake struct {
	t       *testing.T
	l       net.Listener
	scripts []func(*fakeConn)

	mu      sync.Mutex
	count   int // connections so far
	conns   map[net.Conn]struct{}
	refuses bool
	work    sync.WaitGroup
}

// newFake starts a server that ends with the test, after whatever the test itself
// cleans up, and before leakCheck looks.
func newFake(t *testing.T, scripts ...func(*fakeConn)) *fake {
	t.Helper()
	leakCheck(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, l: l, scripts: scripts, conns: make(map[net.Conn]struct{})}
	f.work.Go(f.serve)
	t.Cleanup(f.stop)
	return f
}

func (f *fake) addr() string { return f.l.Addr().String() }

func (f *fake) stop() {
	f.l.Close()
	f.refuse()
	f.work.Wait()
}

// refuse closes all connections, and each new one at once. The port stays ours, so
// that nobody else's server is met there.
func (f *fake) refuse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuses = true
	for c := range f.conns {
		c.Close()
	}
}

func (f *fake) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

func (f *fake) serve() {
	for {
		nc, err := f.l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		if f.refuses {
			f.mu.Unlock()
			nc.Close()
			continue
		}
		script := f.scripts[min(f.count, len(f.scripts)-1)]
		f.count++
		f.conns[nc] = struct{}{}
		f.mu.Unlock()
		f.work.Go(func() {
			script(&fakeConn{t: f.t, Conn: nc, r: bufio.NewReader(nc)})
			nc.Close()
			f.mu.Lock()
			delete(f.conns, nc)
			f.mu.Unlock()
		})
	}
}

// A fakeConn is the server's end of a connection. Its methods do nothing more once
// the client is gone.
type fakeConn struct {
	t *testing.T
	net.Conn
	r    *bufio.Reader
	gone bool
}

// command returns the next command line, and its body if it has one; "" when the
// client has closed.
func (c *fakeConn) command() (line string, body []byte) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.gone = true
		return "", nil
	}
	line = strings.TrimSuffix(line, "\n")
	switch name, _, _ := strings.Cut(line, " "); name {
	case "IDENTIFY", "AUTH", "PUB", "MPUB", "DPUB":
		var head [4]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			c.gone = true
			return "", nil
		}
		body = make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(c.r, body); err != nil {
			c.gone = true
			return "", nil
		}
	}
	return line, body
}

// expect takes the next command and wants it to be that one, if the client is still
// there.
func (c *fakeConn) expect(want string) (body []byte) {
	line, body := c.command()
	if line != want && !c.gone {
		c.t.Errorf("the client says %q, want %q", line, want)
	}
	return body
}

func (c *fakeConn) send(kind int32, data string) {
	c.raw(frame(kind, data))
}

func (c *fakeConn) raw(b string) {
	if _, err := io.WriteString(c.Conn, b); err != nil {
		c.gone = true
	}
}

func frame(kind int32, data string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(data)))
	b = binary.BigEndian.AppendUint32(b, uint32(kind))
	return string(b) + data
}

// message is a message's frame.
func message(n int, attempts uint16, body string) string {
	m := nsq.NewMessage(messageID(n), []byte(body))
	m.Attempts = attempts
	var text strings.Builder
	m.WriteTo(&text)
	return frame(nsq.FrameTypeMessage, text.String())
}

func messageID(n int) nsq.MessageID {
	return nsq.MessageID([]byte(fmt.Sprintf("%016x", n)))
}

const greeting = `{"max_rdy_count":2500}`

// hello reads the magic and answers IDENTIFY.
func (c *fakeConn) hello(answer string) {
	if c.magic() {
		c.expect("IDENTIFY")
		c.send(nsq.FrameTypeResponse, answer)
	}
}

func (c *fakeConn) magic() bool {
	var magic [4]byte
	if _, err := io.ReadFull(c.r, magic[:]); err != nil {
		c.gone = true
		return false
	}
	if string(magic[:]) != "  V2" {
		c.t.Errorf("the client begins with %q", magic)
	}
	return true
}

// subscribed is hello and then SUB.
func (c *fakeConn) subscribed() {
	c.hello(greeting)
	c.expect("SUB t ch")
	c.send(nsq.FrameTypeResponse, "OK")
}

// drain reads until the client closes.
func (c *fakeConn) drain() {
	io.Copy(io.Discard, c.r)
}

// healthy answers as a server does to a producer.
func healthy(c *fakeConn) {
	c.hello(greeting)
	for {
		switch line, _ := c.command(); {
		case line == "":
			return
		case strings.Contains(line, "PUB "):
			c.send(nsq.FrameTypeResponse, "OK")
		case line != "NOP":
			c.t.Errorf("a producer says %q", line)
		}
	}
}

var leakChecked sync.Map // of *testing.T

// leakCheck wants goroutines and descriptors back where they are now when the test
// and what it cleans up are over.
func leakCheck(t *testing.T) {
	if _, done := leakChecked.LoadOrStore(t, true); done {
		return
	}
	goroutines, files := runtime.NumGoroutine(), descriptors()
	t.Cleanup(func() {
		leakChecked.Delete(t)
		if t.Failed() {
			return
		}
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			g, f := runtime.NumGoroutine(), descriptors()
			if g <= goroutines && f <= files {
				return
			}
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Fatalf("%d goroutines and %d descriptors, %d and %d before\n%s", g, f, goroutines, files, stacks)
			}
		}
	})
}

// descriptors counts open files where the system tells.
func descriptors() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}

// A logBook is a logger that tests can ask.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

// Output notes a line.
func (b *logBook) Output(_ int, s string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, s)
	return nil
}

func (b *logBook) has(part string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(strings.Join(b.lines, "\n"), part)
}

func (b *logBook) show(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() {
			b.mu.Lock()
			defer b.mu.Unlock()
			t.Logf("log:\n%s", strings.Join(b.lines, "\n"))
		}
	})
}

// quickConfig has short waits, for servers that say nothing. A machine that stalls
// can reach them before a connection is made: tests try that again.
func quickConfig() *nsq.Config {
	cfg := calm()
	cfg.ReadTimeout = time.Second
	cfg.HeartbeatInterval = 500 * time.Millisecond
	return cfg
}

// calm is a configuration without timeouts that a slow machine could reach.
func calm() *nsq.Config {
	cfg := nsq.NewConfig()
	cfg.DialTimeout, cfg.WriteTimeout, cfg.ReadTimeout = patience, patience, patience
	return cfg
}

func newProducer(t *testing.T, addr string, cfg *nsq.Config) (*nsq.Producer, *logBook) {
	t.Helper()
	leakCheck(t)
	p, err := nsq.NewProducer(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	book := new(logBook)
	book.show(t)
	p.SetLogger(book, nsq.LogLevelDebug)
	t.Cleanup(p.Stop)
	return p, book
}

// newConsumer returns a consumer of topic t and channel ch, which is stopped, and
// waited for, when the test ends.
func newConsumer(t *testing.T, cfg *nsq.Config, concurrency int, h nsq.HandlerFunc) (*nsq.Consumer, *logBook) {
	t.Helper()
	leakCheck(t)
	c, err := nsq.NewConsumer("t", "ch", cfg)
	if err != nil {
		t.Fatal(err)
	}
	book := new(logBook)
	book.show(t)
	c.SetLogger(book, nsq.LogLevelDebug)
	if h != nil {
		c.AddConcurrentHandlers(h, concurrency)
	}
	t.Cleanup(func() { stopped(t, c) })
	return c, book
}

// stopped stops a consumer and waits for its end.
func stopped(t *testing.T, c *nsq.Consumer) {
	t.Helper()
	c.Stop()
	receive(t, c.StopChan, "the end of the consumer")
}

// receive takes the next value from c, or its closing.
func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
		panic("unreachable")
	}
}

// eventually asks until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not so after %v", what, patience)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantText(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want one with %q", err, part)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}
