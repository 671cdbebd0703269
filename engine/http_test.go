package engine_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

// post sends a body to the HTTP API and wants it taken.
func post(t *testing.T, e *engine.Engine, target, body string) {
	t.Helper()
	r, err := http.Post("http://"+e.HTTPAddr().String()+target, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s %q %v", target, r.Status, answer, err)
	}
}

// TestPublishOverHTTP sends to a consumer by way of both publishing routes.
func TestPublishOverHTTP(t *testing.T) {
	e := start(t, options(t))
	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	c.send("RDY 10\n")
	post(t, e, "/pub?topic=t", "one")
	c.want("message one")
	post(t, e, "/mpub?topic=t", "two\nthree\n")
	c.want("message two", "message three")
	sent := time.Now()
	const delay = 100 * time.Millisecond
	post(t, e, "/pub?topic=t&defer=100", "late")
	c.want("message late")
	if early := delay - time.Since(sent); early > 0 {
		t.Errorf("the deferred message came %v early", early)
	}
}

// TestPause holds a channel and then a topic back.
func TestPause(t *testing.T) {
	e := start(t, options(t))
	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	c.send("RDY 10\n")
	producer := greet(t, e)
	for _, target := range []string{"/channel/%?topic=t&channel=c", "/topic/%?topic=t"} {
		post(t, e, strings.Replace(target, "%", "pause", 1), "")
		producer.send(pub("t", target))
		producer.want("OK")
		s := topicStats(t, e, "t")
		if s.Depth+s.Channels[0].Depth != 1 || s.Channels[0].InFlightCount != 0 {
			t.Errorf("%s: paused: got %+v", target, s)
		}
		post(t, e, strings.Replace(target, "%", "unpause", 1), "")
		m := c.message()
		if got := string(wire.FrameBody(m)); got != target {
			t.Errorf("%s: got message %q", target, got)
		}
		c.send(fin(idOf(t, m)) + pub("other", "x"))
		c.want("OK")
	}
}

// TestDelete deletes what a consumer listens to, which closes it without a
// frame, and under a producer, which goes on with a new topic.
func TestDelete(t *testing.T) {
	e := start(t, options(t))
	producer := greet(t, e, pub("t", "old"))
	producer.want("OK")
	for _, target := range []string{"/channel/delete?topic=t&channel=c", "/topic/delete?topic=t"} {
		c := greet(t, e, sub("t", "c"))
		c.want("OK")
		post(t, e, target, "")
		c.want(ended)
	}
	producer.send(pub("t", "new"))
	producer.want("OK")
	if s := topicStats(t, e, "t"); s.Depth != 1 || s.MessageCount != 1 || len(s.Channels) != 0 {
		t.Errorf("got %+v", s)
	}
	greet(t, e, sub("t", "c"), "RDY 1\n").want("OK", "message new")
}

// TestShutdownClosesClients stops a daemon that has clients of all kinds.
func TestShutdownClosesClients(t *testing.T) {
	e := open(t, options(t))
	clients := []*peer{dial(t, e), greet(t, e), greet(t, e, "PUB t\n"+size(10)+"half"), greet(t, e, sub("t", "c"))}
	clients[3].want("OK")
	if err := e.Shutdown(); err != nil {
		t.Error(err)
	}
	for _, c := range clients {
		if got := c.next(); got != ended {
			t.Errorf("got %q", got)
		}
	}
}

// TestBacklogLimit shows what producers are told when the backlog has reached its
// limit, and that they are served again once it was drained.
func TestBacklogLimit(t *testing.T) {
	o := options(t)
	o.MemQueueSize, o.MaxBacklogBytes = 10, 100_000
	e := start(t, o)
	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	p := greet(t, e)
	accepted := 0
	for answer := "OK"; answer == "OK"; accepted++ {
		p.send(pub("t", strings.Repeat("x", 1000)))
		if answer = p.next(); answer != "OK" && !strings.HasPrefix(answer, "E_PUB_FAILED PUB failed") {
			t.Fatalf("beyond the limit: %q", answer)
		}
		if accepted > 200 {
			t.Fatal("there is no limit")
		}
	}
	accepted--
	r, err := http.Post("http://"+e.HTTPAddr().String()+"/pub?topic=t", "text/plain", strings.NewReader(strings.Repeat("x", 60_000)))
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("POST /pub beyond the limit: %s", r.Status)
	}
	r, err = http.Get("http://" + e.HTTPAddr().String() + "/ping")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("GET /ping: %s", r.Status)
	}
	c.send("RDY 100\n")
	for range accepted {
		c.send(fin(idOf(t, c.message())))
	}
	// Files go a little later than what was in them.
	for end := time.Now().Add(patience); ; {
		r, err := http.Post("http://"+e.HTTPAddr().String()+"/pub?topic=t", "text/plain", strings.NewReader("after"))
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode == http.StatusOK {
			break
		}
		if r.StatusCode != http.StatusServiceUnavailable || time.Now().After(end) {
			t.Fatalf("POST /pub below the limit: %s", r.Status)
		}
	}
	c.want("message after")
}
