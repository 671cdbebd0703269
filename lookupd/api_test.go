package lookupd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/lookupd"
)

// TestAnswers shows status and body of every endpoint with nothing in the
// registry, and of everything that is wrong with a request.
func TestAnswers(t *testing.T) {
	n := start(t)
	f := func(method, path string, code int, want string) {
		t.Helper()
		if got, body := n.call(method, path); got != code || body != want {
			t.Errorf("%s %s: %d %q, want %d %q", method, path, got, body, code, want)
		}
	}
	fails := func(method, path string, code int, text string) {
		t.Helper()
		f(method, path, code, `{"message":"`+text+`"}`)
	}
	f("GET", "/ping", 200, "OK")
	f("GET", "/info", 200, `{"version":"1.3.0"}`)
	f("GET", "/topics", 200, `{"topics":[]}`)
	f("GET", "/channels?topic=unknown", 200, `{"channels":[]}`)
	f("GET", "/channels?topic=", 200, `{"channels":[]}`)
	f("GET", "/nodes", 200, `{"producers":[]}`)
	f("GET", "/debug", 200, `{}`)

	fails("GET", "/channels", 400, "MISSING_ARG_TOPIC")
	fails("GET", "/lookup", 400, "MISSING_ARG_TOPIC")
	fails("GET", "/lookup?topic=unknown", 404, "TOPIC_NOT_FOUND")
	fails("GET", "/lookup?topic=", 404, "TOPIC_NOT_FOUND")
	fails("GET", "/lookup?topic=%zz", 400, "INVALID_REQUEST")
	fails("GET", "/lookup?topic=a;b", 400, "INVALID_REQUEST")
	fails("POST", "/topic/create", 400, "MISSING_ARG_TOPIC")
	fails("POST", "/topic/create?topic=", 400, "INVALID_ARG_TOPIC")
	fails("POST", "/topic/create?topic=a*", 400, "INVALID_ARG_TOPIC")
	fails("POST", "/topic/delete", 400, "MISSING_ARG_TOPIC")
	fails("POST", "/topic/tombstone", 400, "MISSING_ARG_TOPIC")
	fails("POST", "/topic/tombstone?topic=a", 400, "MISSING_ARG_NODE")
	for _, path := range []string{"/channel/create", "/channel/delete"} {
		fails("POST", path, 400, "MISSING_ARG_TOPIC")
		fails("POST", path+"?topic=$", 400, "INVALID_ARG_TOPIC")
		fails("POST", path+"?topic=a", 400, "MISSING_ARG_CHANNEL")
		fails("POST", path+"?topic=a&channel=$", 400, "INVALID_ARG_CHANNEL")
		fails("POST", path+"?topic=a&channel=%zz", 400, "INVALID_REQUEST")
	}
	fails("POST", "/channel/delete?topic=a&channel=x", 404, "CHANNEL_NOT_FOUND")
	f("POST", "/topic/delete?topic=unknown", 200, "")
	f("POST", "/topic/delete?topic=not%20a%20name", 200, "")
	f("POST", "/topic/tombstone?topic=unknown&node=b:2", 200, "")

	fails("GET", "/unknown", 404, "NOT_FOUND")
	fails("POST", "/topics", 405, "METHOD_NOT_ALLOWED")
	fails("GET", "/topic/create", 405, "METHOD_NOT_ALLOWED")
	fails("POST", "/topics/", 404, "NOT_FOUND")
	f("HEAD", "/topics", 405, "")
	f("OPTIONS", "/topics", 200, "")
	if code, body := n.call("GET", "/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(body, "goroutine profile:") {
		t.Errorf("pprof: %d %s", code, body)
	}
}

// TestHeaders shows the headers of each kind of answer.
func TestHeaders(t *testing.T) {
	n := start(t)
	f := func(method, path string, want map[string]string) {
		t.Helper()
		resp := n.request(method, path)
		defer resp.Body.Close()
		for _, key := range []string{"Content-Type", "X-NSQ-Content-Type", "Allow", "Location", "Content-Length"} {
			if w, ok := want[key]; ok && resp.Header.Get(key) != w || !ok && key != "Content-Length" && resp.Header.Get(key) != "" {
				t.Errorf("%s %s: %s is %q, want %q", method, path, key, resp.Header.Get(key), w)
			}
		}
	}
	const json, v1 = "application/json; charset=utf-8", "nsq; version=1.0"
	f("GET", "/ping", map[string]string{"Content-Type": "text/plain; charset=utf-8"})
	f("GET", "/topics", map[string]string{"Content-Type": json, "X-NSQ-Content-Type": v1, "Content-Length": "13"})
	f("GET", "/lookup", map[string]string{"Content-Type": json, "X-NSQ-Content-Type": v1})
	f("POST", "/topic/create?topic=a", map[string]string{"X-NSQ-Content-Type": v1, "Content-Length": "0"})
	f("OPTIONS", "/topics", map[string]string{"Allow": "GET, OPTIONS", "Content-Length": "0"})
	f("PUT", "/topic/create", map[string]string{"Allow": "OPTIONS, POST", "Content-Type": json, "X-NSQ-Content-Type": v1})
	f("GET", "/lookup/?topic=a", map[string]string{"Location": "/lookup?topic=a", "Content-Type": "text/html; charset=utf-8"})
	f("GET", "//Topics", map[string]string{"Location": "/topics", "Content-Type": "text/html; charset=utf-8"})
}

// TestTopicsAndChannels shows creation and deletion over HTTP beside a producer
// that does not notice.
func TestTopicsAndChannels(t *testing.T) {
	n := start(t)
	c := n.join("b")
	n.post("/channel/create?topic=t&channel=y&channel=ignored&topic=ignored")
	n.post("/topic/create?topic=bare")
	c.do("REGISTER t x", "OK")
	p := producer(c, "b")
	n.get("/topics", `{"topics":["bare","t"]}`)
	n.get("/lookup?topic=bare", `{"channels":[],"producers":[]}`)
	n.get("/lookup?topic=t", `{"channels":["x","y"],"producers":[`+p+`]}`)
	n.post("/channel/delete?topic=t&channel=x")
	n.get("/lookup?topic=t", `{"channels":["y"],"producers":[`+p+`]}`)
	n.post("/topic/delete?topic=t")
	n.get("/topics", `{"topics":["bare"]}`)
	n.get("/nodes", `{"producers":[`+strings.TrimSuffix(p, "}")+`,"tombstones":[],"topics":[]}]}`)
	c.do("REGISTER t", "OK")
	n.get("/lookup?topic=t", `{"channels":[],"producers":[`+p+`]}`)
	// Registrations outlive their producers.
	c.Close()
	eventually(t, "the producer goes", func() bool { _, body := n.call("GET", "/nodes"); return body == `{"producers":[]}` })
	n.get("/topics", `{"topics":["bare","t"]}`)
}

// TestTombstone shows what hides a producer, where it shows, and what ends it.
func TestTombstone(t *testing.T) {
	n := start(t)
	c := n.join("b")
	c.do("REGISTER t x", "OK")
	c.do("REGISTER u", "OK")
	p := producer(c, "b")
	visible := `{"channels":["x"],"producers":[` + p + `]}`
	hidden := `{"channels":["x"],"producers":[]}`
	nodes := func(tombstones string) {
		t.Helper()
		n.get("/nodes", `{"producers":[`+strings.TrimSuffix(p, "}")+`,"tombstones":[`+tombstones+`],"topics":["t","u"]}]}`)
	}
	n.post("/topic/tombstone?topic=t&node=other:2")
	n.get("/lookup?topic=t", visible)
	n.post("/topic/tombstone?topic=t&node=b:2")
	n.get("/lookup?topic=t", hidden)
	n.get("/lookup?topic=u", `{"channels":[],"producers":[`+p+`]}`)
	nodes("true,false")
	c.do("REGISTER t x", "OK")
	c.do("UNREGISTER t x", "OK")
	c.do("PING", "OK")
	n.get("/lookup?topic=t", hidden) // neither clears it
	c.do("UNREGISTER t", "OK")
	c.do("REGISTER t", "OK")
	n.get("/lookup?topic=t", visible)
	nodes("false,false")
}

// TestTombstoneEnds and TestInactive are about time; the registry's model tests
// its limits to the nanosecond, here they must merely come.
func TestTombstoneEnds(t *testing.T) {
	n := start(t, func(o *lookupd.Options) { o.TombstoneLifetime = 50 * time.Millisecond })
	c := n.join("b")
	c.do("REGISTER t", "OK")
	n.post("/topic/tombstone?topic=t&node=b:2")
	want := `{"channels":[],"producers":[` + producer(c, "b") + `]}`
	eventually(t, "the tombstone ends", func() bool { _, body := n.call("GET", "/lookup?topic=t"); return body == want })
}

// TestInactive shows a producer that is hidden for its silence until it pings.
func TestInactive(t *testing.T) {
	n := start(t, func(o *lookupd.Options) { o.InactiveProducerTimeout = 100 * time.Millisecond })
	c := n.join("b")
	c.do("REGISTER t", "OK")
	count := func(path string) int {
		_, body := n.call("GET", path)
		return strings.Count(body, "remote_address")
	}
	eventually(t, "the producer is hidden", func() bool { return count("/lookup?topic=t")+count("/nodes") == 0 })
	if _, body := n.call("GET", "/debug"); strings.Count(body, `"id"`) != 2 {
		t.Errorf("/debug: %s, want the producer in two registrations", body)
	}
	eventually(t, "the producer shows after a ping", func() bool { c.do("PING", "OK"); return count("/lookup?topic=t")+count("/nodes") == 2 })
}

// TestDebug shows the keys of /debug and one whole entry.
func TestDebug(t *testing.T) {
	n := start(t)
	c := n.join("b")
	c.do("REGISTER t x", "OK")
	n.post("/topic/create?topic=bare")
	n.post("/topic/tombstone?topic=t&node=b:2")
	var all map[string][]map[string]any
	_, body := n.call("GET", "/debug")
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if keys := slices.Sorted(maps.Keys(all)); !slices.Equal(keys, []string{"channel:t:x", "client::", "topic:t:"}) {
		t.Fatalf("keys %q", keys)
	}
	e := all["channel:t:x"][0]
	seen, ok := e["last_update"].(float64)
	if !ok || time.Since(time.Unix(0, int64(seen))).Abs() > time.Minute {
		t.Errorf("last_update %v", e["last_update"])
	}
	delete(e, "last_update")
	want := map[string]any{
		"broadcast_address": "b", "hostname": "h", "http_port": 2.0, "id": c.LocalAddr().String(),
		"tcp_port": 1.0, "tombstoned": false, "tombstoned_at": -6795364578871345152.0, "version": "v",
	}
	if !maps.Equal(e, want) {
		t.Errorf("%v, want %v", e, want)
	}
	if e := all["topic:t:"][0]; e["tombstoned"] != true {
		t.Errorf("%v, want a tombstone", e)
	}
}

// TestLongAnswer shows a body of many chunks.
func TestLongAnswer(t *testing.T) {
	n := start(t)
	c := n.join("b")
	var want []string
	for i := range 8_000 {
		want = append(want, fmt.Sprintf("topic-%05d", i))
		c.send("REGISTER " + want[i] + "\n")
		if i%100 == 99 {
			for range 100 {
				c.answer()
			}
		}
	}
	var topics struct{ Topics []string }
	var nodes struct{ Producers []struct{ Topics []string } }
	for path, v := range map[string]any{"/topics": &topics, "/nodes": &nodes} {
		resp := n.request("GET", path)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.ContentLength != int64(len(body)) {
			t.Fatalf("%s: %d bytes, announced as %d, %v", path, len(body), resp.ContentLength, err)
		}
		if err := json.Unmarshal(body, v); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(topics.Topics, want) || !slices.Equal(nodes.Producers[0].Topics, want) {
		t.Error("not the topics that were registered")
	}
}

// TestMetrics shows the figures for Prometheus.
func TestMetrics(t *testing.T) {
	n := start(t)
	c := n.join("b")
	c.do("REGISTER t x", "OK")
	c.do("REGISTER t y", "OK")
	bad := n.dial()
	bad.send("  V1NO\n")
	bad.answer()
	bad.ends()
	n.call("GET", "/lookup?topic=t")
	eventually(t, "the bad connection is gone", func() bool {
		_, body := n.call("GET", "/metrics")
		return strings.Contains(body, "\nnsqlookupd_connections 1\n")
	})
	_, body := n.call("GET", "/metrics")
	for _, line := range []string{
		`nsqlookupd_producers 1`, `nsqlookupd_topics 1`, `nsqlookupd_channels 2`, `nsqlookupd_client_errors_total 1`,
		`nsqlookupd_commands_total{command="REGISTER"} 2`, `nsqlookupd_commands_total{command="other"} 1`,
		`nsqlookupd_http_requests_total{path="/lookup"} 1`,
	} {
		if !strings.Contains(body, "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if !strings.Contains(body, "\ngo_goroutines ") {
		t.Error("no figures of the Go runtime")
	}
}

// TestBusyPort shows the error of a port that somebody else has.
func TestBusyPort(t *testing.T) {
	n := start(t)
	o := lookupd.NewOptions()
	for _, f := range []func(){
		func() { o.TCPAddress, o.HTTPAddress = n.TCPAddr().String(), "127.0.0.1:0" },
		func() { o.TCPAddress, o.HTTPAddress = "127.0.0.1:0", n.TCPAddr().String() },
	} {
		f()
		_, err := lookupd.New(o, io.Discard)
		want := fmt.Sprintf("listen (%s) failed - listen tcp %[1]s: bind: address already in use", n.TCPAddr())
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestNotStarted shows that a server which was never started shuts down.
func TestNotStarted(t *testing.T) {
	o := lookupd.NewOptions()
	o.TCPAddress, o.HTTPAddress = "127.0.0.1:0", "127.0.0.1:0"
	s, err := lookupd.New(o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
	if !s.Closed() {
		t.Error("a port is still open")
	}
}
