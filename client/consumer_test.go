package nsq_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

func finish(*nsq.Message) error { return nil }

// said collects what the client says after SUB, until it has said count things.
func said(c *fakeConn, count int) []string {
	var lines []string
	for range count {
		line, _ := c.command()
		if line == "" {
			break
		}
		lines = append(lines, line)
	}
	return lines
}

// cls answers CLS as a server does, and then waits for the end.
func (c *fakeConn) cls() {
	for {
		switch line, _ := c.command(); line {
		case "CLS":
			c.send(nsq.FrameTypeResponse, "CLOSE_WAIT")
		case "":
			return
		}
	}
}

// TestBackoffTrace wants the commands of a consumer that backs off, in upstream's
// order: ready counts change before the answer that changes them.
func TestBackoffTrace(t *testing.T) {
	trace := make(chan []string, 1)
	f := newFake(t, func(c *fakeConn) {
		c.subscribed()
		lines := said(c, 1)
		for n, body := range []string{"good", "good", "good", "bad", "bad", "good", "good"} {
			c.raw(message(n, 1, body))
			// What follows from each: the answer alone, or what backing off adds.
			count := 1
			switch {
			case body == "bad":
				count = 3 // RDY 0, REQ, RDY 1
			case n == 5:
				count = 3 // RDY 0, FIN, RDY 1
			case n == 6:
				count = 2 // RDY 5, FIN
			}
			lines = append(lines, said(c, count)...)
		}
		trace <- lines
		c.cls()
	})
	cfg := calm()
	cfg.MaxInFlight = 5
	cfg.BackoffMultiplier = 10 * time.Millisecond
	r, _ := newConsumer(t, cfg, 1, func(m *nsq.Message) error {
		if string(m.Body) == "bad" {
			return errors.New("bad")
		}
		return nil
	})
	must(t, r.ConnectToNSQD(f.addr()))
	fin := func(n int) string { return fmt.Sprintf("FIN %016x", n) }
	req := func(n int) string { return fmt.Sprintf("REQ %016x 90000", n) }
	want := []string{
		"RDY 5", fin(0), fin(1), fin(2), "RDY 0", req(3), "RDY 1", "RDY 0", req(4), "RDY 1",
		"RDY 0", fin(5), "RDY 1", "RDY 5", fin(6),
	}
	got := receive(t, trace, "the trace")
	for i := 1; i < len(got); i++ {
		// The wait that ends with RDY 1 begins before the answer is sent, and so
		// may end before, too, if the handler's goroutine is kept from going on.
		if answer := strings.HasPrefix(got[i], "REQ ") || strings.HasPrefix(got[i], "FIN "); answer && got[i-1] == "RDY 1" {
			got[i-1], got[i] = got[i], got[i-1]
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if s := r.Stats(); s.MessagesReceived != 7 || s.MessagesFinished != 5 || s.MessagesRequeued != 2 || s.Connections != 1 {
		t.Errorf("stats %+v", s)
	}
}

// TestNoBackoff lets failures pass when backing off is turned off.
func TestNoBackoff(t *testing.T) {
	trace := make(chan []string, 1)
	f := newFake(t, func(c *fakeConn) {
		c.subscribed()
		lines := said(c, 1)
		c.raw(message(1, 1, "x") + message(2, 3, "y"))
		trace <- append(lines, said(c, 2)...)
		c.cls()
	})
	cfg := calm()
	cfg.MaxInFlight = 2
	cfg.MaxBackoffDuration = 0
	cfg.DefaultRequeueDelay = time.Second
	cfg.MaxRequeueDelay = 2 * time.Second
	r, _ := newConsumer(t, cfg, 1, func(*nsq.Message) error { return errors.New("no") })
	must(t, r.ConnectToNSQD(f.addr()))
	want := []string{"RDY 2", fmt.Sprintf("REQ %016x 1000", 1), fmt.Sprintf("REQ %016x 2000", 2)}
	if got := receive(t, trace, "the trace"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestAnswers looks at the ways of answering: by the handler, later, and not at all.
func TestAnswers(t *testing.T) {
	trace := make(chan []string, 1)
	f := newFake(t, func(c *fakeConn) {
		c.subscribed()
		c.expect("RDY 10")
		var lines []string
		for n, attempts := range []uint16{1, 1, 1, 1, 6} {
			c.raw(message(n, attempts, fmt.Sprint(n)))
			count := 1
			if n == 2 {
				count = 3
			}
			lines = append(lines, said(c, count)...)
		}
		trace <- lines
		c.cls()
	})
	cfg := calm()
	cfg.MaxInFlight = 10
	h := new(failing)
	h.handle = func(m *nsq.Message) error {
		switch string(m.Body) {
		case "0":
			m.Finish()
			m.Requeue(0) // too late
			return errors.New("an error after an answer")
		case "1":
			m.RequeueWithoutBackoff(1500 * time.Millisecond)
		case "2":
			m.DisableAutoResponse()
			if m.HasResponded() || !m.IsAutoResponseDisabled() {
				t.Error("a message is answered before it is")
			}
			go func() {
				m.Touch()
				m.Touch()
				m.Finish()
				m.Touch() // too late
			}()
			return errors.New("an error without automatic answer")
		}
		if m.NSQDAddress != f.addr() || m.Attempts != 1 {
			t.Errorf("message from %s, attempt %d", m.NSQDAddress, m.Attempts)
		}
		return nil
	}
	r, book := newConsumer(t, cfg, 1, nil)
	r.AddHandler(h)
	must(t, r.ConnectToNSQD(f.addr()))
	id := func(n int) string { return fmt.Sprintf("%016x", n) }
	want := []string{
		"FIN " + id(0), "REQ " + id(1) + " 1500", "TOUCH " + id(2), "TOUCH " + id(2), "FIN " + id(2),
		"FIN " + id(3), "FIN " + id(4),
	}
	if got := receive(t, trace, "the trace"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if h.failed.Load() != 1 || !book.has("attempted 6 times, giving up") {
		t.Errorf("%d messages given up, want 1, and a log line", h.failed.Load())
	}
}

// failing is a handler that counts what was given up.
type failing struct {
	handle nsq.HandlerFunc
	failed atomic.Int32
}

// HandleMessage handles.
func (f *failing) HandleMessage(m *nsq.Message) error { return f.handle(m) }

// LogFailedMessage counts.
func (f *failing) LogFailedMessage(*nsq.Message) { f.failed.Add(1) }

// TestBusyHandlers answers heartbeats while all handlers are busy and more
// messages have come.
func TestBusyHandlers(t *testing.T) {
	answered := make(chan string, 1)
	f := newFake(t, func(c *fakeConn) {
		c.subscribed()
		c.expect("RDY 10")
		for n := range 10 {
			c.raw(message(n, 1, "x"))
		}
		c.send(nsq.FrameTypeResponse, "_heartbeat_")
		line, _ := c.command()
		answered <- line
		c.cls()
	})
	cfg := calm()
	cfg.MaxInFlight = 10
	release := make(chan bool)
	r, _ := newConsumer(t, cfg, 1, func(*nsq.Message) error { <-release; return nil })
	must(t, r.ConnectToNSQD(f.addr()))
	if got := receive(t, answered, "an answer"); got != "NOP" {
		t.Errorf("a heartbeat's answer is %q, want NOP", got)
	}
	if r.IsStarved() {
		t.Error("the handler has messages to come, and the consumer is starved")
	}
	close(release)
}

// TestStarved asks in a handler that collects: it is told to finish when it has
// most of the ready count, and not before, though all came in one read.
func TestStarved(t *testing.T) {
	f := newFake(t, func(c *fakeConn) {
		c.subscribed()
		c.expect("RDY 10")
		var all strings.Builder
		for n := range 10 {
			all.WriteString(message(n, 1, "x"))
		}
		c.raw(all.String())
		for range 10 {
			c.command()
		}
		c.cls()
	})
	cfg := calm()
	cfg.MaxInFlight = 10
	starved, finished := make(chan bool, 10), make(chan bool)
	var r *nsq.Consumer
	var held []*nsq.Message
	r, _ = newConsumer(t, cfg, 1, func(m *nsq.Message) error {
		m.DisableAutoResponse()
		held = append(held, m)
		starved <- r.IsStarved()
		if len(held) == 10 {
			for _, m := range held {
				m.Finish()
			}
			close(finished)
		}
		return nil
	})
	must(t, r.ConnectToNSQD(f.addr()))
	for n := range 10 {
		if got, want := receive(t, starved, "a message"), n == 9; got != want {
			t.Errorf("at message %d of 10: starved %v, want %v", n+1, got, want)
		}
	}
	<-finished // or CLS would come between the FINs
}

// TestBodiesAreOurs keeps bodies: no later message, and no append to another one's,
// changes them.
func TestBodiesAreOurs(t *testing.T) {
	const count = 500
	f := newFake(t, func(c *fakeConn) {
		c.subscribed()
		var all strings.Builder
		for n := range count {
			size := n % 50
			if n%100 == 99 {
				size = 200_000 // a frame of its own
			}
			all.WriteString(message(n, 1, strings.Repeat(string(rune('a'+n%26)), size)))
		}
		c.raw(all.String())
		c.cls()
	})
	cfg := calm()
	cfg.MaxInFlight = count
	var kept [][]byte
	all := make(chan bool)
	r, _ := newConsumer(t, cfg, 1, func(m *nsq.Message) error {
		_ = append(m.Body, "overwritten?"...)
		kept = append(kept, m.Body)
		if len(kept) == count {
			close(all)
		}
		return nil
	})
	must(t, r.ConnectToNSQD(f.addr()))
	receive(t, all, "all messages")
	for n, body := range kept {
		if strings.Trim(string(body), string(rune('a'+n%26))) != "" {
			t.Errorf("body %d has become %.60q", n, body)
		}
	}
}

// TestConcurrentHandlers gives each message to one of several goroutines, all of
// which work.
func TestConcurrentHandlers(t *testing.T) {
	const count = 8
	f := newFake(t, func(c *fakeConn) {
		c.subscribed()
		for n := range count {
			c.raw(message(n, 1, "x"))
		}
		c.cls()
	})
	cfg := calm()
	cfg.MaxInFlight = count
	var together sync.WaitGroup
	together.Add(count)
	r, _ := newConsumer(t, cfg, count-1, func(*nsq.Message) error {
		together.Done()
		together.Wait() // needs all of them at once
		return nil
	})
	r.AddHandler(nsq.HandlerFunc(func(*nsq.Message) error {
		together.Done()
		together.Wait()
		return nil
	}))
	must(t, r.ConnectToNSQD(f.addr()))
	eventually(t, "all are finished", func() bool { return r.Stats().MessagesFinished == count })
	func() {
		defer func() {
			if recover() != "already connected" {
				t.Error("a handler can be added to a connected consumer")
			}
		}()
		r.AddHandler(nsq.HandlerFunc(finish))
	}()
}

// TestConnectErrors looks at what connecting refuses.
func TestConnectErrors(t *testing.T) {
	f := newFake(t, func(c *fakeConn) { c.subscribed(); c.cls() })
	_, err := nsq.NewConsumer("bad topic", "ch", calm())
	wantText(t, err, "invalid topic name")
	_, err = nsq.NewConsumer("t", "bad channel", calm())
	wantText(t, err, "invalid channel name")
	r, _ := newConsumer(t, calm(), 0, nil)
	wantText(t, r.ConnectToNSQD(f.addr()), "no handlers")
	wantText(t, r.ConnectToNSQLookupd("127.0.0.1:1"), "no handlers")
	r.AddHandler(nsq.HandlerFunc(finish))
	wantText(t, r.ConnectToNSQLookupd("127.0.0.1"), "missing port")
	must(t, r.ConnectToNSQD(f.addr()))
	if err := r.ConnectToNSQD(f.addr()); err != nsq.ErrAlreadyConnected {
		t.Errorf("a second connection: %v", err)
	}
	if err := r.DisconnectFromNSQD("127.0.0.1:1"); err != nsq.ErrNotConnected {
		t.Errorf("disconnecting from what is not connected: %v", err)
	}
	if err := r.DisconnectFromNSQLookupd("127.0.0.1:1"); err != nsq.ErrNotConnected {
		t.Errorf("disconnecting from a lookupd that is not there: %v", err)
	}
	must(t, r.DisconnectFromNSQD(f.addr()))
	eventually(t, "it is disconnected", func() bool { return r.Stats().Connections == 0 })
	stopped(t, r)
	wantText(t, r.ConnectToNSQD(f.addr()), "consumer stopped")
	if n := f.connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestStop ends a consumer in each of the states that it can be in.
func TestStop(t *testing.T) {
	f := func(name string, prepare func(t *testing.T) *nsq.Consumer) {
		t.Run(name, func(t *testing.T) { stopped(t, prepare(t)) })
	}
	f("without handlers", func(t *testing.T) *nsq.Consumer {
		r, _ := newConsumer(t, calm(), 0, nil)
		return r
	})
	f("without connections", func(t *testing.T) *nsq.Consumer {
		r, _ := newConsumer(t, calm(), 3, finish)
		return r
	})
	f("while it reconnects", func(t *testing.T) *nsq.Consumer {
		f := newFake(t, func(c *fakeConn) { c.subscribed() })
		r, _ := newConsumer(t, calm(), 1, finish)
		must(t, r.ConnectToNSQD(f.addr()))
		eventually(t, "the connection is lost", func() bool { return r.Stats().Connections == 0 })
		return r
	})
	f("while it connects", func(t *testing.T) *nsq.Consumer {
		reached := make(chan bool)
		f := newFake(t, func(c *fakeConn) { c.magic(); close(reached); c.drain() })
		r, _ := newConsumer(t, calm(), 1, finish)
		failed := make(chan error, 1)
		go func() { failed <- r.ConnectToNSQD(f.addr()) }()
		receive(t, reached, "a connection")
		r.Stop()
		if err := receive(t, failed, "an error"); err == nil {
			t.Error("it has connected")
		}
		return r
	})
	f("with an answer outstanding", func(t *testing.T) *nsq.Consumer {
		answers, waiting := make(chan string, 1), make(chan bool)
		f := newFake(t, func(c *fakeConn) {
			c.subscribed()
			c.expect("RDY 1")
			c.raw(message(1, 1, "x"))
			c.expect("CLS")
			c.send(nsq.FrameTypeResponse, "CLOSE_WAIT")
			c.send(nsq.FrameTypeResponse, "_heartbeat_")
			c.expect("NOP") // while it waits for the handler
			close(waiting)
			line, _ := c.command()
			answers <- line
			c.drain()
		})
		held := make(chan *nsq.Message, 1)
		r, _ := newConsumer(t, calm(), 1, func(m *nsq.Message) error {
			m.DisableAutoResponse()
			held <- m
			return nil
		})
		must(t, r.ConnectToNSQD(f.addr()))
		m := receive(t, held, "a message")
		r.Stop()
		receive(t, waiting, "a heartbeat's answer")
		m.Finish()
		if got := receive(t, answers, "the answer"); got != fmt.Sprintf("FIN %016x", 1) {
			t.Errorf("the server is told %q", got)
		}
		return r
	})
	f("twice", func(t *testing.T) *nsq.Consumer {
		r, _ := newConsumer(t, calm(), 1, finish)
		r.Stop()
		return r
	})
}

// TestStopRace stops consumers while they connect.
func TestStopRace(t *testing.T) {
	f := newFake(t, func(c *fakeConn) {
		c.magic()
		c.command()
		c.send(nsq.FrameTypeResponse, greeting)
		for {
			switch line, _ := c.command(); {
			case line == "CLS":
				c.send(nsq.FrameTypeResponse, "CLOSE_WAIT")
			case strings.HasPrefix(line, "SUB"):
				c.send(nsq.FrameTypeResponse, "OK")
				c.raw(message(1, 1, "x"))
			case line == "":
				return
			}
		}
	})
	for range 100 {
		r, err := nsq.NewConsumer("t", "ch", calm())
		must(t, err)
		r.SetLogger(nil, nsq.LogLevelError)
		r.AddHandler(nsq.HandlerFunc(finish))
		go r.ConnectToNSQD(f.addr())
		stopped(t, r)
	}
}

// TestConsumerBadServer meets servers that do everything wrong: it says so, comes
// back, but not too often, and works when the server has come to its senses.
func TestConsumerBadServer(t *testing.T) {
	f := func(name, logged string, cfg *nsq.Config, bad func(*fakeConn)) {
		t.Run(name, func(t *testing.T) {
			var sane atomic.Bool
			f := newFake(t, func(c *fakeConn) {
				c.subscribed()
				if sane.Load() {
					c.raw(message(1, 1, "x"))
					c.cls()
				} else {
					bad(c)
				}
			})
			got := make(chan bool, 100) // each connection brings one
			r, book := newConsumer(t, cfg, 1, func(*nsq.Message) error { got <- true; return nil })
			err := r.ConnectToNSQD(f.addr())
			for cfg.ReadTimeout < patience && err != nil && strings.Contains(err.Error(), "timeout") {
				err = r.ConnectToNSQD(f.addr()) // the machine stalled
			}
			must(t, err)
			for _, line := range []string{logged, "re-connecting in"} {
				eventually(t, fmt.Sprintf("a log line with %q", line), func() bool { return book.has(line) })
			}
			sane.Store(true)
			receive(t, got, "a message")
		})
	}
	f("closes", "IO error - ", calm(), func(*fakeConn) {})
	f("never speaks again", "IO error", quickConfig(), (*fakeConn).drain)
	f("refuses SUB", "protocol error - E_BAD_TOPIC", calm(), func(c *fakeConn) { c.send(nsq.FrameTypeError, "E_BAD_TOPIC") })
	f("sends garbage", "IO error - ", calm(), func(c *fakeConn) { c.raw("\xde\xad\xbe\xef garbage, and more"); c.drain() })
	f("sends HTTP", "unexpected HTTP response", calm(), func(c *fakeConn) { c.raw("HTTP/1.1 400\r\n"); c.drain() })
	f("closes in mid-frame", "IO error", calm(), func(c *fakeConn) { c.raw(message(9, 1, "whole?")[:30]) })
	f("sends half a large frame", "IO error", calm(), func(c *fakeConn) {
		c.raw(message(9, 1, strings.Repeat("x", 1<<20))[:1<<18])
	})
	f("sends a message that is none", "not enough data", calm(), func(c *fakeConn) {
		c.send(nsq.FrameTypeMessage, "short")
		c.drain()
	})
	f("sends an unknown frame", "unknown frame type 7", calm(), func(c *fakeConn) {
		c.expect("RDY 1")
		c.send(7, "?")
		c.send(nsq.FrameTypeResponse, "_heartbeat_")
		c.expect("NOP") // the connection lives on
	})
}

// TestMaxMsgSize closes a connection whose frame is larger than allowed.
func TestMaxMsgSize(t *testing.T) {
	f := newFake(t, func(c *fakeConn) {
		c.subscribed()
		c.raw(message(1, 1, "small") + message(2, 1, strings.Repeat("x", 2000)))
		c.cls()
	})
	cfg := calm()
	cfg.MaxMsgSize = 1000
	got := make(chan string, 10)
	r, book := newConsumer(t, cfg, 1, func(m *nsq.Message) error { got <- string(m.Body); return nil })
	must(t, r.ConnectToNSQD(f.addr()))
	if body := receive(t, got, "the small message"); body != "small" {
		t.Errorf("received %q", body)
	}
	eventually(t, "a log line", func() bool { return book.has("exceeds configured maximum (1000)") })
}

// TestNoReconnectStorm counts the connections to a server that drops every one.
func TestNoReconnectStorm(t *testing.T) {
	f := newFake(t, func(c *fakeConn) { c.subscribed() })
	lookupd := newLookupd(t, f.addr())
	cfg := calm()
	cfg.LookupdPollInterval = 10 * time.Second
	r, _ := newConsumer(t, cfg, 1, finish)
	begin := time.Now()
	must(t, r.ConnectToNSQLookupd(lookupd.addr))
	eventually(t, "a fourth connection", func() bool { return f.connections() >= 4 })
	// Waits double from 50 ms at least.
	if took := time.Since(begin); took < (50+100+200)*time.Millisecond {
		t.Errorf("four connections in %v", took)
	}
}

// newLookupd is an nsqlookupd that names these nsqds.
func newLookupd(t *testing.T, addrs ...string) *lookupd {
	t.Helper()
	leakCheck(t)
	l := &lookupd{nsqds: addrs}
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	l.addr = strings.TrimPrefix(s.URL, "http://")
	return l
}

type lookupd struct {
	addr string

	mu       sync.Mutex
	nsqds    []string
	old      bool // wraps its answers
	missing  bool // knows no topic
	requests []*http.Request
}

// ServeHTTP answers a query.
func (l *lookupd) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, req)
	if l.missing {
		http.Error(w, `{"message":"TOPIC_NOT_FOUND"}`, http.StatusNotFound)
		return
	}
	var nsqds []string
	for _, addr := range l.nsqds {
		host, port, _ := strings.Cut(addr, ":")
		nsqds = append(nsqds, fmt.Sprintf(`{"broadcast_address":%q,"tcp_port":%s}`, host, port))
	}
	body := `{"channels":[],"producers":[` + strings.Join(nsqds, ",") + `]}`
	if l.old {
		body = `{"status_code":200,"status_txt":"OK","data":` + body + `}`
	} else {
		w.Header().Set("X-NSQ-Content-Type", "nsq; version=1.0")
	}
	fmt.Fprint(w, body)
}

func (l *lookupd) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// TestLookupd finds nsqds through several nsqlookupds, as they appear.
func TestLookupd(t *testing.T) {
	one := newFake(t, func(c *fakeConn) { c.subscribed(); c.cls() })
	two := newFake(t, func(c *fakeConn) { c.subscribed(); c.cls() })
	good, missing := newLookupd(t, one.addr()), newLookupd(t)
	missing.set(func() { missing.missing = true })
	cfg := calm()
	cfg.LookupdPollInterval = 10 * time.Millisecond
	cfg.AuthSecret = "secret"
	r, book := newConsumer(t, cfg, 1, finish)
	must(t, r.ConnectToNSQLookupds([]string{good.addr, missing.addr, "http://" + good.addr + "/custom?x=1"}))
	if s := r.Stats(); s.Connections != 1 {
		t.Errorf("%d connections after the first query, want 1", s.Connections)
	}
	good.set(func() { good.nsqds, good.old = append(good.nsqds, two.addr()), true })
	eventually(t, "two connections", func() bool { return r.Stats().Connections == 2 })
	good.set(func() {
		paths := make(map[string]bool)
		for _, req := range good.requests {
			paths[req.URL.String()] = true
			if req.Header.Get("Authorization") != "Bearer secret" ||
				req.Header.Get("Accept") != "application/vnd.nsq; version=1.0" {
				t.Errorf("headers %v", req.Header)
			}
		}
		if len(paths) != 2 || !paths["/lookup?topic=t"] || !paths["/custom?topic=t&x=1"] {
			t.Errorf("it asks for %v", paths)
		}
	})
	if book.has("ERR") {
		t.Error("an nsqlookupd that knows no topic is not an error")
	}
	must(t, r.DisconnectFromNSQLookupd(missing.addr))
	must(t, r.DisconnectFromNSQLookupd("http://"+good.addr+"/custom?x=1"))
	wantText(t, r.DisconnectFromNSQLookupd(good.addr), "cannot disconnect from only remaining nsqlookupd HTTP address")
}

// TestLookupdBad goes on asking whatever an nsqlookupd answers.
func TestLookupdBad(t *testing.T) {
	nsqd := newFake(t, func(c *fakeConn) { c.subscribed(); c.cls() })
	answers := []string{"500", "not JSON", "", "[]", `{"producers":[{"tcp_port":"x"}]}`}
	var asked atomic.Int32
	good := newLookupd(t, nsqd.addr())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n := int(asked.Add(1)) - 1
		if n >= len(answers) {
			good.ServeHTTP(w, req)
			return
		}
		if answers[n] == "500" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		w.Header().Set("X-NSQ-Content-Type", "nsq; version=1.0")
		fmt.Fprint(w, answers[n])
	}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	must(t, err)
	cfg := calm()
	cfg.LookupdPollInterval = 10 * time.Millisecond
	r, book := newConsumer(t, cfg, 1, finish)
	must(t, r.ConnectToNSQLookupd(u.Host))
	eventually(t, "a connection", func() bool { return r.Stats().Connections == 1 })
	if !book.has(`error querying nsqlookupd (http://` + u.Host + `/lookup?topic=t) - got response 500`) {
		t.Error("no log line of a failed query")
	}
}

type only string

// Filter keeps one address.
func (o only) Filter(addrs []string) []string {
	return slices.DeleteFunc(addrs, func(a string) bool { return a != string(o) })
}

// TestDiscoveryFilter connects to what the filter leaves.
func TestDiscoveryFilter(t *testing.T) {
	one := newFake(t, func(c *fakeConn) { c.subscribed(); c.cls() })
	l := newLookupd(t, "127.0.0.1:1", one.addr())
	r, book := newConsumer(t, calm(), 1, finish)
	r.SetBehaviorDelegate(only(one.addr()))
	must(t, r.ConnectToNSQLookupd(l.addr))
	if s := r.Stats(); s.Connections != 1 || book.has("127.0.0.1:1)") {
		t.Errorf("%d connections, and perhaps to what was filtered", s.Connections)
	}
	defer func() {
		if recover() == nil {
			t.Error("a delegate without methods is accepted")
		}
	}()
	r.SetBehaviorDelegate(1)
}
