package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

// TestOverflow publishes far more than the memory queue takes. A consumer that
// comes afterwards gets all of it in order.
func TestOverflow(t *testing.T) {
	const count = 5000
	o := options(t)
	o.MemQueueSize = 10
	e := start(t, o)
	publishMany(greet(t, e), count)
	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	c.send("RDY 100\n")
	for i := range count {
		m := c.message()
		if got := string(wire.FrameBody(m)); got != strconv.Itoa(i) || wire.FrameAttempts(m) != 1 {
			t.Fatalf("message %d: got %q, attempt %d", i, got, wire.FrameAttempts(m))
		}
		c.send(fin(idOf(t, m)))
	}
	c.send(pub("other", "x"))
	c.want("OK")
	if s := topicStats(t, e, "t"); s.Depth+s.Channels[0].Depth != 0 || s.Channels[0].InFlightCount != 0 {
		t.Errorf("left over: %+v", s)
	}
}

// publishMany publishes the numbers below n in runs of 100.
func publishMany(p *peer, n int) {
	p.t.Helper()
	for i := 0; i < n; i += 100 {
		var script strings.Builder
		for j := i; j < i+100; j++ {
			script.WriteString(pub("t", strconv.Itoa(j)))
		}
		p.send(script.String())
		for range 100 {
			p.want("OK")
		}
	}
}

// TestRestart stops a daemon with messages waiting, in flight, given back and
// deferred, and starts another on its data path: everything comes, with its
// attempts, and nothing before it is due.
func TestRestart(t *testing.T) {
	t.Parallel()
	const count, finished, held, delay = 1000, 300, 20, 1500 * time.Millisecond
	o := options(t)
	o.MemQueueSize = 10
	e := open(t, o)
	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	publishMany(c, count)
	attempts := map[string]uint16{} // of the next delivery
	for i := range count {
		attempts[strconv.Itoa(i)] = 1
	}
	c.send("RDY " + strconv.Itoa(held) + "\n")
	for i := range finished + held {
		m := c.message()
		if i < finished {
			delete(attempts, string(wire.FrameBody(m)))
			c.send(fin(idOf(t, m)))
			continue
		}
		attempts[string(wire.FrameBody(m))]++
	}
	sent := time.Now()
	c.send(fmt.Sprintf("DPUB t %d\n", delay.Milliseconds()) + size(4) + "late")
	c.want("OK")
	attempts["late"] = 1
	if err := e.Shutdown(); err != nil {
		t.Fatal(err)
	}

	e = start(t, o)
	if s := topicStats(t, e, "t"); len(s.Channels) != 1 || s.Channels[0].ChannelName != "c" {
		t.Fatalf("after the restart: %+v", s)
	}
	c = greet(t, e, sub("t", "c"))
	c.want("OK")
	c.send("RDY 100\n")
	for len(attempts) > 0 {
		m := c.message()
		body := string(wire.FrameBody(m))
		want, ok := attempts[body]
		if !ok {
			t.Fatalf("got message %q, which was finished or came twice", body)
		}
		if got := wire.FrameAttempts(m); got != want {
			t.Errorf("message %q has attempts %d, want %d", body, got, want)
		}
		if early := delay - time.Since(sent); body == "late" && early > 0 {
			t.Errorf("the deferred message came %v early", early)
		}
		delete(attempts, body)
		c.send(fin(idOf(t, m)))
	}
	c.send("RDY 0\n" + pub("other", "x"))
	c.want("OK")
}

// lineSeen is a log that closes a channel when a line with a text comes.
type lineSeen struct {
	text string
	once sync.Once
	seen chan struct{}
}

func (l *lineSeen) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(l.text)) {
		l.once.Do(func() { close(l.seen) })
	}
	return len(b), nil
}

// TestStopGivesClientsTime shows that a request over HTTP which does not end takes
// nothing of the time in which clients over TCP can read their last frames.
func TestStopGivesClientsTime(t *testing.T) {
	t.Parallel()
	log := &lineSeen{text: "HTTP: closing", seen: make(chan struct{})}
	e, err := engine.NewPatient(50*time.Millisecond, patience, options(t), log)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	p := greet(t, e)
	const count = 300 // more than the kernel takes for a client that does not read
	for range count {
		p.send(pub("t", strings.Repeat("x", 100<<10)))
		p.want("OK")
	}
	c.send("RDY 2000\n")
	c.message() // what the kernel has no room for is in the output by now, or on its way
	slow, err := net.Dial("tcp", e.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\nhalf"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(slow, make([]byte, len("HTTP/1.1 100 Continue"))); err != nil { // it waits for the rest
		t.Fatal(err)
	}
	roundTrips(t, e)
	stopped := make(chan error)
	go func() { stopped <- e.Shutdown() }()
	<-log.seen
	for err == nil {
		_, err = c.frame()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("the last frame: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestLockIsGivenBack stops a daemon while a process that is being started still has
// its descriptors: the data path is free all the same.
func TestLockIsGivenBack(t *testing.T) {
	o := options(t)
	e := open(t, o)
	inherited, err := unix.Dup(int(e.Lock().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(inherited) }()
	if _, err := engine.New(o, io.Discard); err == nil {
		t.Error("two daemons have one data path")
	}
	if err := e.Shutdown(); err != nil {
		t.Fatal(err)
	}
	start(t, o)
}
