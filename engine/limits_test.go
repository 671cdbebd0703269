package engine_test

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

// TestReaped has a client of every kind stall that has no heartbeats, or has not
// come as far as to have any. All of them are told what was missing, and closed.
func TestReaped(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.ReapTimeout = 1500 * time.Millisecond // enough for a busy machine to come as far as to stall
	e := start(t, o)
	quiet := wire.Magic + identify(`{"heartbeat_interval":-1}`)
	type client struct {
		*peer
		script, want string
	}
	var clients []client
	// A client that needed half the timeout to come as far as to stall, because the
	// machine stood still, may have been given up before: it shows nothing.
	begin := func(script, want string) {
		for {
			began := time.Now()
			p := dial(t, e)
			_, err := io.WriteString(p, script)
			if time.Since(began) < o.ReapTimeout/2 {
				if err != nil {
					t.Fatal(err)
				}
				clients = append(clients, client{p, script, want})
				return
			}
		}
	}
	begin("", "")
	begin("  V", "")
	begin(quiet+"PUB t", "OK")
	begin(wire.Magic+"PUB t", "")
	for _, c := range stalls {
		begin(wire.Magic+c.script, c.want)
	}
	idle := greet(t, e, identify(`{"heartbeat_interval":-1}`))
	idle.want("OK")
	for keepsOn(t, e, o.ReapTimeout) > o.ReapTimeout/2 { // the machine stood still: it shows nothing
	}
	for _, c := range append(clients, client{peer: idle}) { // all that may have taken long
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range clients {
		got := c.next()
		if c.want != "" {
			if got != c.want {
				t.Errorf("%q: got %q, want %q", c.script, got, c.want)
			}
			got = c.next()
		}
		if got != ended {
			t.Errorf("%q: got %q, want the end", c.script, got)
		}
	}
	idle.send(pub("t", "x")) // between commands it may be silent for ever
	idle.want("OK")
}

// keepsOn sends the body of a PUB a byte at a time, for longer than the timeout and
// never still for long, and wants it taken. It returns the longest pause there was
// after all; when that is over half the timeout nothing was wanted.
func keepsOn(t *testing.T, e *engine.Engine, timeout time.Duration) (longest time.Duration) {
	t.Helper()
	const bytes = 12
	began := time.Now()
	p := greet(t, e, identify(`{"heartbeat_interval":-1}`), "PUB slow\n"+size(bytes))
	answers := make(chan string, 2)
	go func() { answers <- p.next(); answers <- p.next() }()
	for range bytes {
		time.Sleep(timeout / 8)
		_, err := io.WriteString(p, "x")
		now := time.Now()
		longest, began = max(longest, now.Sub(began)), now
		if longest <= timeout/2 && err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if got := <-answers; got != "OK" && longest <= timeout/2 {
			t.Errorf("a client that sends a byte now and then: got %q", got)
		}
	}
	return longest
}

// TestReapedHTTP has HTTP requests stall in the head and in the body.
func TestReapedHTTP(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.ReapTimeout = time.Second
	e := start(t, o)
	var conns []net.Conn // all wait together
	scripts := []string{
		"", "GET /pi", "GET /ping HTTP/1.1\r\nHost: x\r\n",
		"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
		"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
		"POST /topic/create?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
	}
	for _, script := range scripts {
		for late := true; late; { // as in TestReaped
			began := time.Now()
			c, err := net.Dial("tcp", e.HTTPAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = io.WriteString(c, script)
			if late = time.Since(began) > o.ReapTimeout/2; late {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
	}
	for i, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%q: %v, want the end", scripts[i], err)
		}
	}
}

// TestConnectionMemory has clients send more of a command than connections may
// buffer. Each of them is told so, and those that need little are served.
func TestConnectionMemory(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.MaxMsgSize, o.MaxBodySize = 4<<20, 4<<20
	o.ConnectionMemoryLimit = 128 << 10
	e := start(t, o)
	small := greet(t, e, pub("t", "before"))
	small.want("OK")
	much := strings.Repeat("x", 600<<10)
	const why = "connections have no memory left"
	for _, c := range []struct{ command, want string }{
		{"PUB t\n" + size(3<<20), "E_PUB_FAILED PUB failed " + why},
		{"DPUB t 5\n" + size(3<<20), "E_DPUB_FAILED DPUB failed " + why},
		{"MPUB t\n" + size(3<<20) + size(1) + size(2<<20), "E_MPUB_FAILED MPUB failed " + why},
		{"IDENTIFY\n" + size(3<<20), "E_IDENTIFY_FAILED IDENTIFY failed " + why},
		{"AUTH\n" + size(3<<20), "E_AUTH_ERROR AUTH error " + why},
	} {
		glutton := greet(t, e, pub("t", "x"))
		glutton.want("OK")
		_, _ = io.WriteString(glutton, pub("t", "y")+c.command+much) // not all of it need be taken
		glutton.want("OK", c.want, ended)
		small.send(pub("t", "meanwhile"))
		small.want("OK")
	}
}

// TestConnectionMemoryMeanwhile has clients send on while a command of theirs is
// still being done and connections may buffer no more. They are told so too.
func TestConnectionMemoryMeanwhile(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t)
	o := options(t)
	o.Loops, o.ConnectionMemoryLimit = 1, 128<<10
	o.MaxMsgSize, o.MaxBodySize = 4<<20, 4<<20
	o.AuthHTTPAddresses = []string{strings.TrimPrefix(a.URL, "http://")}
	e := start(t, o)
	const why = "connections have no memory left"
	hog := hogMemory(t, e)
	defer hog.Close()
	more := strings.Repeat(pub("t", strings.Repeat("x", 100)), 20)

	c := greet(t, e, auth("slow")+more)
	c.want("E_AUTH_ERROR AUTH error "+why, ended)
	a.question(t)
	a.allow("slow", 3600, "t", "c", "publish") // too late

	for _, feature := range []string{"snappy", "deflate"} {
		c = greet(t, e, identify(fmt.Sprintf(`{%q:true,"feature_negotiation":true}`, feature)), more)
		if got := c.next(); !strings.Contains(got, fmt.Sprintf("%q:true", feature)) {
			t.Errorf("IDENTIFY: %s", got)
		}
		c.want("E_IDENTIFY_FAILED IDENTIFY failed "+why, ended)
	}
}

// hogMemory takes all of the 128 KB that the connections of a daemon with one loop
// may buffer, until its connection closes. In whatever pieces its bytes come, they fit
// into a buffer of that size with as much room as the loop wants to leave for more.
func hogMemory(t *testing.T, e *engine.Engine) *peer {
	t.Helper()
	hog := greet(t, e, "IDENTIFY\n"+size(3<<20))
	hog.send(strings.Repeat("x", 70<<10))
	tail := strings.Repeat("y", 400)
	for {
		probe := greet(t, e, "IDENTIFY\n"+size(1000)+strings.Repeat("x", 600))
		greet(t, e, identify("{}")).want("OK") // the loop has seen the probe
		if _, err := io.WriteString(probe, tail); err != nil {
			t.Log(err) // it has been closed already
		}
		if probe.next() == "E_IDENTIFY_FAILED IDENTIFY failed connections have no memory left" {
			return hog
		}
	}
}

// TestConnectionMemorySub has clients subscribe to a channel that comes and goes
// with them, and send on behind, when connections may buffer no more. A SUB that has
// to wait for the channel's end fails with a word.
func TestConnectionMemorySub(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Loops, o.ConnectionMemoryLimit = 1, 128<<10
	o.MaxMsgSize, o.MaxBodySize = 4<<20, 4<<20
	e := start(t, o)
	defer hogMemory(t, e).Close()
	more := strings.Repeat(pub("other", strings.Repeat("x", 100)), 20)
	var refused atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 150 {
				p := greet(t, e, sub("e#ephemeral", "c#ephemeral"), more)
				switch got := p.next(); got {
				case "OK":
				case "E_SUB_FAILED SUB failed connections have no memory left":
					refused.Add(1)
					if got := p.next(); got != ended {
						t.Errorf("after the error: %q", got)
					}
				default:
					t.Errorf("got %q", got)
				}
				_ = p.Close()
			}
		})
	}
	wg.Wait()
	t.Logf("%d of 600 were refused", refused.Load())
}

// TestLimitsOfNames shows what is said when there are as many topics, or
// channels of a topic, as the options allow.
func TestLimitsOfNames(t *testing.T) {
	o := options(t)
	o.MaxTopics, o.MaxChannels = 2, 1
	e := start(t, o)
	greet(t, e, pub("a", "x"), sub("b", "c")).want("OK", "OK")
	greet(t, e, pub("a", "x"), pub("c", "x")).want("OK", "E_PUB_FAILED PUB failed topics exceed limit", ended)
	greet(t, e, "MPUB c\n"+size(9)+size(1)+size(1)+"x").want("E_MPUB_FAILED MPUB failed topics exceed limit", ended)
	greet(t, e, "DPUB c 0\n"+size(1)+"x").want("E_DPUB_FAILED DPUB failed topics exceed limit", ended)
	greet(t, e, sub("c", "c")).want("E_SUB_FAILED SUB failed topics exceed limit", ended)
	greet(t, e, sub("b", "d")).want("E_SUB_FAILED SUB failed channels of the topic exceed limit", ended)
	greet(t, e, sub("a", "c")).want("OK")
	f := func(path, body, want string) {
		t.Helper()
		resp, err := http.Post("http://"+e.HTTPAddr().String()+path, "", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if got := resp.Status[:4] + string(text); err != nil || got != want {
			t.Errorf("POST %s: %q, %v; want %q", path, got, err, want)
		}
	}
	f("/pub?topic=c", "x", `403 {"message":"TOO_MANY_TOPICS"}`)
	f("/mpub?topic=c", "x", `403 {"message":"TOO_MANY_TOPICS"}`)
	f("/topic/create?topic=c", "", `403 {"message":"TOO_MANY_TOPICS"}`)
	f("/channel/create?topic=b&channel=d", "", `403 {"message":"TOO_MANY_CHANNELS"}`)
	f("/topic/create?topic=b", "", "200 ")
	f("/channel/create?topic=b&channel=c", "", "200 ")
	f("/topic/delete?topic=b", "", "200 ")
	f("/pub?topic=c", "x", "200 OK")
}

// TestLimitsAfterRestart shows that what an earlier run left is not refused.
func TestLimitsAfterRestart(t *testing.T) {
	o := options(t)
	e := open(t, o)
	greet(t, e, pub("a", "x"), pub("b", "x"), sub("b", "c")).want("OK", "OK", "OK")
	greet(t, e, sub("b", "d")).want("OK")
	if err := e.Shutdown(); err != nil {
		t.Fatal(err)
	}
	o.MaxTopics, o.MaxChannels = 1, 1
	e = start(t, o)
	greet(t, e, sub("b", "c")).want("OK")
	greet(t, e, sub("b", "d")).want("OK")
	greet(t, e, pub("a", "x")).want("OK")
	greet(t, e, pub("c", "x")).want("E_PUB_FAILED PUB failed topics exceed limit", ended)
}

// TestConnectionLimit has clients wait for others to leave, over TCP and HTTP.
func TestConnectionLimit(t *testing.T) {
	o := options(t)
	o.MaxConnections = 2
	e := start(t, o)
	one, two := greet(t, e, pub("t", "x")), greet(t, e, pub("t", "x"))
	one.want("OK")
	two.want("OK")
	three := greet(t, e, pub("t", "x"))
	one.send(pub("t", "x"))
	one.want("OK")
	_ = two.Close()
	three.want("OK")

	var idle []net.Conn // as many as HTTP has at the least
	for range 16 {
		c, err := net.Dial("tcp", e.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	served := make(chan error, 1)
	go func() {
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Get("http://" + e.HTTPAddr().String() + "/ping")
		if err == nil {
			err = resp.Body.Close()
		}
		served <- err
	}()
	_ = idle[0].Close()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("a request waits though another connection has gone")
	}
}

// httpStatus sends a request, which need not be taken to its end, and returns the status
// of the answer.
func httpStatus(t *testing.T, e *engine.Engine, request string) int {
	t.Helper()
	c, err := net.Dial("tcp", e.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(c, request) }() // until somebody closes
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestLongHead has a request line longer than a head may be.
func TestLongHead(t *testing.T) {
	t.Parallel() // the end of the server waits for its client's
	e := start(t, options(t))
	f := func(bytes, want int) {
		t.Helper()
		got := httpStatus(t, e, "GET /ping?"+strings.Repeat("x", bytes)+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if got != want {
			t.Errorf("a query of %d bytes: status %d, want %d", bytes, got, want)
		}
	}
	f(60<<10, http.StatusOK)
	f(100<<10, http.StatusRequestHeaderFieldsTooLarge)
}

// TestManyTopicsOfAProducer publishes to more topics over one connection than are
// counted for it.
func TestManyTopicsOfAProducer(t *testing.T) {
	e := start(t, options(t))
	p := greet(t, e)
	for i := range 70 {
		p.send(pub(fmt.Sprint("t", i), "x"))
		p.want("OK")
	}
	f := func(topic string, want bool) {
		t.Helper()
		text := get(t, e, "/stats?format=json&topic="+topic)
		if got := strings.Contains(text, `"pub_counts":[{"topic":"`+topic+`","count":1}]`); got != want {
			t.Errorf("%s is counted: %t, want %t\n%s", topic, got, want, text)
		}
	}
	f("t0", true)
	f("t63", true)
	f("t64", false)
}

// TestMemoryOfBodies has more bytes in HTTP bodies than there may be.
func TestMemoryOfBodies(t *testing.T) {
	t.Parallel() // the end of the server waits for its clients'
	o := options(t)
	o.ConnectionMemoryLimit = 256 << 10
	e := start(t, o)
	for _, c := range []struct {
		size int
		want int
	}{{100 << 10, 200}, {900 << 10, 503}, {200 << 10, 200}, {900 << 10, 503}, {1 << 10, 200}} {
		head := fmt.Sprintf("POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", c.size)
		if got := httpStatus(t, e, head+strings.Repeat("x", c.size)); got != c.want {
			t.Errorf("a body of %d bytes: status %d, want %d", c.size, got, c.want)
		}
	}
}

// TestTimeoutsWithinTheClock gives the daemon time-outs that no clock of 64 bits can add
// to this year's time: it takes them for the longest that one can. Without that, what is
// far ahead would be due at once.
func TestTimeoutsWithinTheClock(t *testing.T) {
	const most = 150 * 365 * 24 * time.Hour
	o := options(t)
	o.MsgTimeout, o.MaxMsgTimeout, o.MaxReqTimeout = math.MaxInt64, math.MaxInt64, math.MaxInt64
	e := start(t, o)
	c := greet(t, e, sub("t", "c"), fmt.Sprintf("DPUB t %d\n", most.Milliseconds())+size(4)+"late", pub("t", "now"), "RDY 10\n")
	c.want("OK", "OK", "OK")
	m := c.message()
	if body := string(wire.FrameBody(m)); body != "now" {
		t.Fatalf("got %q, want the message that is due", body)
	}
	c.send(fmt.Sprintf("TOUCH %s\n", wire.AppendMessageID(nil, idOf(t, m))))
	c.send(fmt.Sprintf("REQ %s %d\n", wire.AppendMessageID(nil, idOf(t, m)), most.Milliseconds()+1) + pub("t", "next"))
	c.want("OK", "message next")
	if s := topicStats(t, e, "t").Channels[0]; s.DeferredCount != 2 || s.InFlightCount != 1 || s.TimeoutCount != 0 {
		t.Errorf("two are deferred, one is in flight: %+v", s)
	}
	c.send(fmt.Sprintf("DPUB t %d\n", most.Milliseconds()+1) + size(4) + "lost")
	c.want(fmt.Sprintf("E_INVALID DPUB timeout %d out of range 0-%d", most.Milliseconds()+1, most.Milliseconds()), ended)
}
