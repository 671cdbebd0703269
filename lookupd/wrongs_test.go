package lookupd_test

import (
	"bufio"
	"bytes"
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

	"github.com/zsqio/zsq/lookupd"
)

// The tests of this file show what upstream gets wrong and we do not; see
// docs/nsqlookupd.md.

// TestBodySizes shows that no announced size hurts. A negative one ends
// upstream's process, a large one takes that much of its memory.
func TestBodySizes(t *testing.T) {
	n := start(t)
	f := func(size, want string) {
		t.Helper()
		c := n.dial()
		c.send("  V1IDENTIFY\n" + size)
		if got := c.answer(); got != want {
			t.Errorf("size %x: %s, want %s", size, got, want)
		}
		c.ends()
	}
	f("\xff\xff\xff\xff", "E_BAD_BODY IDENTIFY invalid body size -1")
	f("\x80\x00\x00\x00", "E_BAD_BODY IDENTIFY invalid body size -2147483648")
	f("\x7f\xff\xff\xff", "E_BAD_BODY IDENTIFY body too big 2147483647 > 65536")
	f("\x00\x01\x00\x01", "E_BAD_BODY IDENTIFY body too big 65537 > 65536")
	n.get("/ping", "OK")
}

// TestAnnouncedBodiesTakeNoMemory shows that a body takes memory as it comes.
func TestAnnouncedBodiesTakeNoMemory(t *testing.T) {
	n := start(t)
	stacks := make([]byte, 4<<20)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const count = 100
	for range count {
		c := n.dial()
		c.send("  V1")
		c.do("PING", "OK")
		c.send("IDENTIFY\n" + sized(1<<16) + "{")
	}
	eventually(t, "all bodies are being read", func() bool {
		return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("lookupd.(*conn).readBody(")) == count
	})
	n.logged()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(stacks)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > count*20<<10 {
		t.Errorf("%d connections take %d bytes", count, grown)
	}
}

// TestLongLine shows that a line without end is not gathered for ever.
func TestLongLine(t *testing.T) {
	n := start(t)
	c := n.dial()
	c.send("  V1" + strings.Repeat("x", 5000))
	if got, want := c.answer(), "E_INVALID command line longer than 2048 bytes"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	c.ends()
}

// TestWildcard shows that a star is no name. Upstream deletes everything, and
// shows everything.
func TestWildcard(t *testing.T) {
	n := start(t)
	c := n.join("b")
	c.do("REGISTER t x", "OK")
	refused := `{"message":"INVALID_ARG_TOPIC"}`
	for _, path := range []string{
		"/topic/delete?topic=*", "/topic/delete?topic=%2a", "/topic/create?topic=*",
		"/topic/tombstone?topic=*&node=b:2", "/channel/delete?topic=*&channel=x",
	} {
		if code, body := n.call("POST", path); code != 400 || body != refused {
			t.Errorf("POST %s: %d %s", path, code, body)
		}
	}
	if code, body := n.call("POST", "/channel/delete?topic=t&channel=*"); code != 400 || body != `{"message":"INVALID_ARG_CHANNEL"}` {
		t.Errorf("deleting all channels: %d %s", code, body)
	}
	if code, body := n.call("GET", "/lookup?topic=*"); code != 404 || body != `{"message":"TOPIC_NOT_FOUND"}` {
		t.Errorf("GET /lookup?topic=*: %d %s", code, body)
	}
	n.get("/channels?topic=*", `{"channels":[]}`)
	n.get("/lookup?topic=t", `{"channels":["x"],"producers":[`+producer(c, "b")+`]}`)
}

// TestShutdownWithSilentClients shows that clients which have not spoken, or
// not finished speaking, hold no shutdown up. Upstream waits for the former.
func TestShutdownWithSilentClients(t *testing.T) {
	n := start(t)
	silent := n.dial()
	halfway := n.dial()
	halfway.send("  V1PI")
	body := n.dial()
	body.send("  V1IDENTIFY\n" + sized(100) + "{")
	known := n.join("b")
	// A request that never ends, and one of which nothing has come.
	for _, text := range []string{"GET /nodes HTTP/1.1\r\nHost", ""} {
		c, err := net.Dial("tcp", n.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are accepted", func() bool { return n.Connections() == 4 })
	done := make(chan struct{})
	go func() { n.Shutdown(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Shutdown hangs")
	}
	for _, c := range []*client{silent, halfway, body, known} {
		c.ends()
	}
}

// TestEphemeral shows that ephemeral topics and channels go with their last
// producer, however it goes. Upstream keeps them when a connection drops, and
// the channels of an ephemeral topic in any case.
func TestEphemeral(t *testing.T) {
	n := start(t)
	a, b := n.join("a"), n.join("b")
	for _, c := range []*client{a, b} {
		c.do("REGISTER t x#ephemeral", "OK")
		c.do("REGISTER e#ephemeral y", "OK")
	}
	a.do("REGISTER t z", "OK")
	a.Close()
	eventually(t, "the first producer goes", func() bool { _, body := n.call("GET", "/nodes"); return strings.Count(body, "hostname") == 1 })
	n.get("/topics", `{"topics":["e#ephemeral","t"]}`)
	n.get("/channels?topic=t", `{"channels":["x#ephemeral","z"]}`)
	b.Close()
	eventually(t, "both producers go", func() bool { _, body := n.call("GET", "/nodes"); return strings.Count(body, "hostname") == 0 })
	n.get("/topics", `{"topics":["t"]}`)
	n.get("/channels?topic=t", `{"channels":["z"]}`)
	n.get("/channels?topic=e%23ephemeral", `{"channels":[]}`)

	c := n.join("c")
	c.do("REGISTER e#ephemeral y", "OK")
	c.do("REGISTER e#ephemeral z", "OK")
	c.do("UNREGISTER e#ephemeral", "OK")
	n.get("/topics", `{"topics":["t"]}`)
	n.get("/channels?topic=e%23ephemeral", `{"channels":[]}`)
	// One that nobody has had yet is kept: somebody made it on purpose.
	n.post("/channel/create?topic=e%23ephemeral&channel=y%23ephemeral")
	n.get("/channels?topic=e%23ephemeral", `{"channels":["y#ephemeral"]}`)
}

// TestIPv6Tombstone shows both spellings of a node's address. nsqadmin sends
// brackets, upstream compares without.
func TestIPv6Tombstone(t *testing.T) {
	for _, node := range []string{"[fe80::1]:2", "fe80::1:2", "%5Bfe80%3A%3A1%5D%3A2"} {
		n := start(t)
		c := n.join("fe80::1")
		c.do("REGISTER t", "OK")
		n.post("/topic/tombstone?topic=t&node=" + node)
		n.get("/lookup?topic=t", `{"channels":[],"producers":[]}`)
	}
}

// TestSilence shows that connections which do not get on are closed. Upstream
// keeps all of them.
func TestSilence(t *testing.T) {
	n := start(t, func(o *lookupd.Options) { o.ReapTimeout = 30 * time.Millisecond })
	for _, text := range []string{"", "  V", "  V1", "  V1PI"} {
		c := n.dial()
		c.send(text)
		c.ends()
	}
	// IDENTIFY that stalls is told, if the server was in time to see it: see
	// TestStalledIdentify.
	const told = "E_BAD_BODY IDENTIFY failed to read body"
	c := n.dial()
	c.send("  V1IDENTIFY\n" + sized(100) + "{")
	rest, err := io.ReadAll(c)
	if len(rest) > 0 && string(rest) != sized(len(told))+told || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v; want %s and the end", rest, err, told)
	}
	for _, text := range []string{
		"", "GET /ping HTTP/1.1\r\nHost",
		"POST /topic/create?topic=a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nshort",
	} {
		h, err := net.Dial("tcp", n.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if err := h.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		// What is said before does not matter.
		for r := bufio.NewReader(h); ; {
			if _, err := r.ReadByte(); err != nil {
				if e, ok := err.(net.Error); ok && e.Timeout() {
					t.Errorf("%.20q: still open", text)
				}
				break
			}
		}
	}
}

// TestDribble shows that a client gains nothing by sending a byte now and then:
// the deadline is the command's.
func TestDribble(t *testing.T) {
	n := start(t, func(o *lookupd.Options) { o.ReapTimeout = 60 * time.Millisecond })
	c := n.dial()
	c.send("  V1")
	gone := make(chan struct{})
	go func() { // ends with the connection
		defer close(gone)
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	c.ends()
	<-gone
}

// TestIdleProducer shows that a producer which is silent for longer than the idle
// timeout goes. That pings keep it shows TestDeadlines, on whatever machine.
func TestIdleProducer(t *testing.T) {
	n := start(t, func(o *lookupd.Options) { o.IdleTimeout = 50 * time.Millisecond })
	quiet := n.join("quiet")
	quiet.ends()
	eventually(t, "the connection is gone", func() bool { return n.Connections() == 0 })
	n.get("/nodes", `{"producers":[]}`)
}

// TestFlood shows that registrations are bounded, for one connection and in
// all, and that what is said no to does not stay.
func TestFlood(t *testing.T) {
	n := start(t, func(o *lookupd.Options) { o.ClientLimit, o.RegistrationLimit = 10, 25 })
	const full = "E_INVALID REGISTER too many registrations"
	flood := func(name string) (registered int) {
		c := n.join(name)
		for {
			c.send(fmt.Sprintf("REGISTER %s%d\n", name, registered))
			if got := c.answer(); got != "OK" {
				if got != full {
					t.Errorf("%s, want %s", got, full)
				}
				c.ends()
				return registered
			}
			registered++
		}
	}
	if a, b, c := flood("a"), flood("b"), flood("c"); a != 10 || b != 10 || c != 5 {
		t.Errorf("registered %d, %d and %d, want 10, 10 and 5", a, b, c)
	}
	for _, path := range []string{"/topic/create?topic=one", "/channel/create?topic=a0&channel=x"} {
		if code, body := n.call("POST", path); code != 503 || body != `{"message":"TOO_MANY_REGISTRATIONS"}` {
			t.Errorf("POST %s: %d %s", path, code, body)
		}
	}
	n.post("/topic/delete?topic=a0")
	n.post("/topic/create?topic=one")
}

// TestLogLines shows that a client cannot write lines of its own into the log.
func TestLogLines(t *testing.T) {
	n := start(t)
	n.join("b\nFATAL: forged\r")
	n.post("/topic/tombstone?topic=t&node=b%0AFATAL:%20forged")
	for line := range strings.Lines(n.logged()) {
		if !strings.HasPrefix(line, "[nsqlookupd] 20") {
			t.Errorf("line %q", line)
		}
	}
	if want := `Address:b\nFATAL: forged\r TCP:1`; !strings.Contains(n.logged(), want) {
		t.Errorf("no %q", want)
	}
}

// TestLogNobodyReads runs a daemon whose log is stuck: it goes on serving, and it
// stops.
func TestLogNobodyReads(t *testing.T) {
	stuck, entered := make(chan struct{}), make(chan struct{})
	var once sync.Once
	defer close(stuck)
	o := lookupd.NewOptions()
	o.TCPAddress, o.HTTPAddress = "127.0.0.1:0", "127.0.0.1:0"
	s, err := lookupd.New(o, writer(func(p []byte) (int, error) {
		once.Do(func() { close(entered) })
		<-stuck
		return len(p), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	<-entered
	n := &node{Server: s, T: t}
	c := n.join("b")
	for i := range 1000 {
		c.do(fmt.Sprintf("REGISTER topic%d", i), "OK")
	}
	n.post("/topic/create?topic=one")
	s.Shutdown()
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestUnreadAnswers shows that a client which does not read its answers is
// closed in the end and holds little until then.
func TestUnreadAnswers(t *testing.T) {
	n := start(t, func(o *lookupd.Options) {
		o.ReapTimeout, o.LogLevel = time.Second, lookupd.LogFatal
		// Two kernels whose buffers are full may hear so little of each other that the
		// server gets nothing more to answer, and waits for a command.
		o.IdleTimeout = 5 * time.Second
	})
	c := n.dial()
	// Or a million answers fit between us, and a busy machine takes long to make them.
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	// Not even the answer to this one is read: a server that was too slow to hear it
	// in time ends the connection at once.
	c.send("  V1" + identify(goodBody))
	pings := []byte(strings.Repeat("PING\n", 10_000))
	for {
		if _, err := c.Write(pings); err != nil {
			break // the server has given up
		}
	}
	eventually(t, "the connection is gone", func() bool { return n.Connections() == 0 })
}
