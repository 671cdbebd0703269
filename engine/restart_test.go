package engine_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

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
