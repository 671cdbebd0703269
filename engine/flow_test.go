package engine_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/engine/httpapi"
	"github.com/zsqio/zsq/internal/wire"
)

// topicStats asks /stats for one topic.
func topicStats(t *testing.T, e *engine.Engine, topic string) httpapi.TopicStats {
	t.Helper()
	r, err := http.Get("http://" + e.HTTPAddr().String() + "/stats?format=json&include_mem=false&topic=" + topic)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	var body struct{ Topics []httpapi.TopicStats }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if len(body.Topics) != 1 {
		t.Fatalf("%d topics in /stats of %s, want 1", len(body.Topics), topic)
	}
	return body.Topics[0]
}

// untilStats asks /stats for a topic until it is as it should be in the end.
func untilStats(t *testing.T, e *engine.Engine, topic string, ok func(s httpapi.TopicStats) bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		s := topicStats(t, e, topic)
		if ok(s) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the figures stay at %+v", s)
		}
	}
}

// TestFollowAPub takes one message through all its stops: PUB, the topic's
// queue, the channel's first consumer, TOUCH, REQ, the second delivery, FIN.
func TestFollowAPub(t *testing.T) {
	e := start(t, options(t))
	before := time.Now().UnixNano()
	producer := greet(t, e, pub("t", "a body"))
	producer.want("OK")
	if s := topicStats(t, e, "t"); s.Depth != 1 || s.MessageCount != 1 || len(s.Channels) != 0 {
		t.Errorf("published: got %+v", s)
	}

	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	c.send("RDY 1\n")
	m := c.message()
	id := idOf(t, m)
	ts := wire.FrameTimestamp(m)
	if string(wire.FrameBody(m)) != "a body" || wire.FrameAttempts(m) != 1 || ts < before || ts > time.Now().UnixNano() {
		t.Errorf("delivered: got %q", m)
	}
	other := greet(t, e, sub("t", "c"))
	other.want("OK")
	text := string(wire.AppendMessageID(nil, id))
	other.send("FIN " + text + "\n")
	other.want("E_FIN_FAILED FIN " + text + " failed client does not own message")

	c.send("TOUCH " + text + "\n" + pub("other", "x"))
	c.want("OK")
	s := topicStats(t, e, "t")
	if s.Depth != 0 || len(s.Channels) != 1 || s.Channels[0].InFlightCount != 1 || s.Channels[0].Depth != 0 || len(s.Channels[0].Clients) != 2 {
		t.Errorf("in flight: got %+v", s)
	}
	c.send("REQ " + text + " 0\n")
	m = c.message()
	if idOf(t, m) != id || wire.FrameAttempts(m) != 2 || wire.FrameTimestamp(m) != ts {
		t.Errorf("delivered again: got %q", m)
	}
	c.send(fin(id) + fin(id) + pub("other", "x"))
	c.want("E_FIN_FAILED FIN "+text+" failed ID not in flight", "OK")
	s = topicStats(t, e, "t")
	if ch := s.Channels[0]; ch.InFlightCount != 0 || ch.Depth != 0 || ch.RequeueCount != 1 || ch.MessageCount != 1 || ch.TimeoutCount != 0 {
		t.Errorf("finished: got %+v", ch)
	}
}

// TestTimestamps has a clock that loses its processor behind every other reading, for
// longer than a loop goes by one: messages have the time of their publication.
func TestTimestamps(t *testing.T) {
	t.Parallel() // it waits, mostly
	var readings atomic.Int64
	o := options(t)
	e, err := engine.NewOn(nil, func() time.Time {
		now := time.Now()
		if readings.Add(1)%2 == 1 {
			time.Sleep(60 * time.Millisecond)
		}
		return now
	}, o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	defer func() {
		if err := e.Shutdown(); err != nil {
			t.Error(err)
		}
	}()
	c := greet(t, e, sub("t", "c"), "RDY 10\n")
	c.want("OK")
	for readings.Load() < 12 {
		before := time.Now().UnixNano()
		c.send(pub("t", "x"))
		ts := int64(0)
		for range 2 { // the OK and the message, in the order in which they come
			f, err := c.frame()
			if err != nil {
				t.Fatal(err)
			}
			if string(f) != wire.OKFrame {
				ts = wire.FrameTimestamp(f)
				c.send(fin(idOf(t, f)))
			}
		}
		const apart = int64(time.Millisecond) // or less
		if ts < before-apart || ts > time.Now().UnixNano()+apart {
			t.Fatalf("published %v before it was sent", time.Duration(before-ts))
		}
	}
}

// TestTwoLoops plays strict ping-pong between a producer and a consumer that
// different loops serve: a lost wake-up stalls it.
func TestTwoLoops(t *testing.T) {
	o := options(t)
	o.Loops = 2
	e := start(t, o)
	producer := greet(t, e, pub("other", "x")) // connections go to the loops in turn
	producer.want("OK")
	consumer := greet(t, e, sub("t", "c"))
	consumer.want("OK")
	consumer.send("RDY 1\n")
	for i := range 5000 {
		body := strconv.Itoa(i)
		producer.send(pub("t", body))
		m := consumer.message()
		if got := string(wire.FrameBody(m)); got != body {
			t.Fatalf("got message %q, want %q", got, body)
		}
		consumer.send(fin(idOf(t, m)))
		producer.want("OK")
	}
}

// TestBadNeighbours has a healthy producer and consumer beside connections that
// stall, that never read and that idle. They must not notice.
func TestBadNeighbours(t *testing.T) {
	e := start(t, options(t))
	greet(t, e, "PUB t\n"+size(1<<20)+"a little of a megabyte")
	for range 200 {
		greet(t, e)
	}
	const fat, fatSize = 200, 100 << 10
	stuck := greet(t, e, sub("fat", "c"))
	stuck.want("OK")
	stuck.send("RDY 2500\n")
	feeder := greet(t, e)
	for range fat {
		feeder.send(pub("fat", strings.Repeat("x", fatSize)))
		feeder.want("OK")
	}

	producer := greet(t, e)
	consumer := greet(t, e, sub("t", "c"))
	consumer.want("OK")
	consumer.send("RDY 100\n")
	for i := range 1000 {
		body := strconv.Itoa(i)
		producer.send(pub("t", body))
		producer.want("OK")
		m := consumer.message()
		if got := string(wire.FrameBody(m)); got != body {
			t.Fatalf("got message %q, want %q", got, body)
		}
		consumer.send(fin(idOf(t, m)))
	}

	// What the kernel and the output limit hold is far less than all of it.
	if n := topicStats(t, e, "fat").Channels[0].InFlightCount; n == 0 || n > fat/2 {
		t.Errorf("%d of %d messages went to a client that does not read", n, fat)
	}
	// It reads again: deliveries go on.
	for i := range fat {
		if n := len(wire.FrameBody(stuck.message())); n != fatSize {
			t.Fatalf("message %d has %d bytes", i, n)
		}
	}
}
