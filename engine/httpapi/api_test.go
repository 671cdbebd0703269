package httpapi_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine/httpapi"
)

// call sends one request through a handler without a network.
func call(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w
}

// loaded is a broker with one of everything, as nsqd was when the files
// testdata/stats* were taken from it; only its clock readings, ports and latency
// were made the same in all of them.
func loaded() *fakeBroker {
	e2e := func(count int, ns float64) httpapi.E2E {
		return httpapi.E2E{Count: count, Percentiles: []httpapi.Percentile{{Quantile: 1, Value: ns}, {Quantile: 0.5, Value: ns}}}
	}
	at := startTime.Unix()
	p := httpapi.ClientStats{
		ClientID: "p", Hostname: "ph", Version: "V2", RemoteAddress: "127.0.0.1:40892", ConnectTime: at + 1, UserAgent: "ua/1",
		PubCounts: []httpapi.PubCount{{Topic: "ta", Count: 1}},
	}
	c := httpapi.ClientStats{
		ClientID: "c", Hostname: "chost", Version: "V2", RemoteAddress: "127.0.0.1:40902", State: 3, ReadyCount: 2,
		MessageCount: 1, FinishCount: 1, ConnectTime: at + 1, UserAgent: "cons/2",
	}
	pc := httpapi.ClientStats{
		ClientID: "pc", Hostname: "pch", Version: "V2", RemoteAddress: "127.0.0.1:40914", State: 3, ConnectTime: at + 2, UserAgent: "pc/2",
		PubCounts: []httpapi.PubCount{{Topic: "tb", Count: 1}},
	}
	return &fakeBroker{stats: &httpapi.Stats{
		Topics: []httpapi.TopicStats{
			{TopicName: "tc"},
			{
				TopicName: "tb", Depth: 2, MessageCount: 2, MessageBytes: 6, Paused: true, E2E: e2e(0, 0),
				Channels: []httpapi.ChannelStats{{ChannelName: "pcx", Paused: true, E2E: e2e(0, 0)}},
			},
			{
				TopicName: "ta", MessageCount: 1, MessageBytes: 3, E2E: e2e(1, 501375452),
				Channels: []httpapi.ChannelStats{{
					ChannelName: "ch", MessageCount: 1, ClientCount: 2, E2E: e2e(1, 501375452),
					Clients: []httpapi.ClientStats{c, pc},
				}},
			},
		},
		Producers: []httpapi.ClientStats{p, pc},
	}}
}

// TestStatsGolden compares both formats with what nsqd printed, byte for byte
// but for the clock and the Go version.
func TestStatsGolden(t *testing.T) {
	f := func(target, file string) {
		t.Helper()
		cfg := config(t, loaded())
		cfg.Now = func() time.Time { return startTime.Add(2500 * time.Millisecond) }
		want, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("GOVERSION", runtime.Version(), "START", startTime.Format(time.RFC3339)).Replace(string(want))
		if got := call(httpapi.New(cfg), "GET", target, "").Body.String(); got != text {
			t.Errorf("%s:\n%s\nwant:\n%s", target, got, text)
		}
	}
	f("/stats?include_mem=false", "stats.txt")
	f("/stats?include_mem=false&format=json", "stats.json")
	f("/stats?include_mem=false&format=json&include_clients=0", "stats-noclients.json")
}

// TestClientKeys shows the keys that are there only when they say something.
func TestClientKeys(t *testing.T) {
	b := &fakeBroker{stats: &httpapi.Stats{Producers: []httpapi.ClientStats{{
		Authed: true, AuthIdentity: "i", AuthIdentityURL: "u", TopologyZone: "z", TopologyRegion: "r",
		TLS: true, TLSCipherSuite: "s", TLSVersion: "TLS1.3", TLSProtocolIsOur: true, UserAgent: "<a&b>",
	}}}}
	got := call(httpapi.New(config(t, b)), "GET", "/stats?format=json&include_mem=0", "").Body.String()
	const want = `{"version":"1.3.0","health":"OK","start_time":1795271790,"topics":[],"producers":[` +
		`{"client_id":"","hostname":"","version":"","remote_address":"","state":0,"ready_count":0,"in_flight_count":0,` +
		`"message_count":0,"finish_count":0,"requeue_count":0,"connect_ts":0,"sample_rate":0,"deflate":false,"snappy":false,` +
		`"user_agent":"\u003ca\u0026b\u003e","authed":true,"auth_identity":"i","auth_identity_url":"u","topology_zone":"z","topology_region":"r",` +
		`"tls":true,"tls_cipher_suite":"s","tls_version":"TLS1.3","tls_negotiated_protocol":"","tls_negotiated_protocol_is_mutual":true}]}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestMemoryKeys shows the memory object, whose figures vary, by its keys.
func TestMemoryKeys(t *testing.T) {
	runtime.GC()
	body := call(httpapi.New(config(t, &fakeBroker{})), "GET", "/stats?format=json", "").Body.String()
	last := 0
	for _, key := range []string{
		"topics", "memory", "heap_objects", "heap_idle_bytes", "heap_in_use_bytes", "heap_released_bytes",
		"gc_pause_usec_100", "gc_pause_usec_99", "gc_pause_usec_95", "next_gc_bytes", "gc_total_runs", "producers",
	} {
		i := strings.Index(body, `"`+key+`":`)
		if i < last {
			t.Fatalf("key %s is missing or out of order in %s", key, body)
		}
		last = i
	}
}

// TestE2EUnits shows the unit of each size of latency.
func TestE2EUnits(t *testing.T) {
	b := &fakeBroker{stats: &httpapi.Stats{Topics: []httpapi.TopicStats{{E2E: httpapi.E2E{Percentiles: []httpapi.Percentile{
		{Value: 12}, {Value: 999}, {Value: 1500}, {Value: 2.5e6}, {Value: 61e9},
	}}}}}}
	got := call(httpapi.New(config(t, b)), "GET", "/stats?include_mem=0", "").Body.String()
	if want := "e2e%: 12.0ns, 999.0ns, 1.5us, 2.5ms, 61.0s\n"; !strings.Contains(got, want) {
		t.Errorf("%q is not in\n%s", want, got)
	}
}

// TestFailures shows the statuses that need a broker in trouble.
func TestFailures(t *testing.T) {
	f := func(b *fakeBroker, method, target, body string, code int, want string) {
		t.Helper()
		cfg := config(t, b)
		if err := b.CreateTopic("t"); err != nil {
			t.Fatal(err)
		}
		w := call(httpapi.New(cfg), method, target, body)
		if w.Code != code || w.Body.String() != want {
			t.Errorf("%s %s: %d %s, want %d %s", method, target, w.Code, w.Body, code, want)
		}
	}
	const exiting, internal = `{"message":"EXITING"}`, `{"message":"INTERNAL_ERROR"}`
	f(&fakeBroker{fail: httpapi.ErrExiting}, "POST", "/pub?topic=t", "x", 503, exiting)
	f(&fakeBroker{fail: errDiskFull}, "POST", "/pub?topic=t", "x", 503, exiting)
	f(&fakeBroker{fail: errDiskFull}, "POST", "/mpub?topic=t", "x", 503, exiting)
	f(&fakeBroker{fail: errDiskFull}, "POST", "/mpub?topic=t&binary=1", "\x00\x00\x00\x01\x00\x00\x00\x01x", 503, exiting)
	f(&fakeBroker{fail: errDiskFull}, "POST", "/mpub?topic=t", "", 200, "OK")
	for _, op := range []string{"/topic/empty", "/topic/pause", "/topic/unpause", "/channel/create", "/channel/empty", "/channel/pause"} {
		f(&fakeBroker{fail: errDiskFull}, "POST", op+"?topic=t&channel=c", "", 500, internal)
	}
	f(&fakeBroker{panics: "whatever"}, "POST", "/pub?topic=t", "x", 500, internal)
	f(&fakeBroker{health: errDiskFull}, "GET", "/ping", "", 500, "NOK - disk full")
	f(&fakeBroker{health: errDiskFull}, "GET", "/stats?format=json&include_mem=0&topic=no", "", 200,
		`{"version":"1.3.0","health":"NOK - disk full","start_time":1795271790,"topics":null,"producers":null}`)
	// Upstream answers these two with a 500 although it did what it was asked.
	f(&fakeBroker{}, "POST", "/debug/freememory", "", 200, "")
	f(&fakeBroker{}, "PUT", "/debug/setblockrate?rate=0", "", 200, "")
}

// TestDurability shows the one endpoint for topics that is ours alone.
func TestDurability(t *testing.T) {
	b := &fakeBroker{}
	cfg := config(t, b)
	for _, topic := range []string{"t", "u#ephemeral"} {
		if err := b.CreateTopic(topic); err != nil {
			t.Fatal(err)
		}
	}
	f := func(args string, code int, want string) {
		t.Helper()
		w := call(httpapi.New(cfg), "POST", "/topic/durability"+args, "")
		if w.Code != code || w.Body.String() != want {
			t.Errorf("%s: %d %s, want %d %s", args, w.Code, w.Body, code, want)
		}
	}
	f("", 400, `{"message":"MISSING_ARG_TOPIC"}`)
	f("?topic=a%20b&mode=disk", 400, `{"message":"INVALID_TOPIC"}`)
	f("?topic=t", 400, `{"message":"MISSING_ARG_MODE"}`)
	f("?topic=t&mode=tape", 400, `{"message":"INVALID_ARG_MODE"}`)
	f("?topic=no&mode=disk", 404, `{"message":"TOPIC_NOT_FOUND"}`)
	f("?topic=u%23ephemeral&mode=disk", 400, `{"message":"INVALID_TOPIC"}`)
	f("?topic=t&mode=disk", 200, "")
	w := call(httpapi.New(cfg), "GET", "/stats?format=json&include_mem=0", "")
	if n := strings.Count(w.Body.String(), `"durability":"disk"`); n != 1 {
		t.Errorf("%d topics show their durability, want 1: %s", n, w.Body)
	}
}

// TestDamage shows what was found damaged on disk, and that nothing is said of a
// daemon that has found nothing.
func TestDamage(t *testing.T) {
	st := httpapi.Stats{
		Topics: []httpapi.TopicStats{{TopicName: "t", Damage: &httpapi.Damage{Places: 2, Records: 5}}, {TopicName: "u"}},
		Damage: &httpapi.Damage{Places: 3, Records: 5},
	}
	b := &fakeBroker{stats: &st}
	w := call(httpapi.New(config(t, b)), "GET", "/stats?format=json&include_mem=0", "")
	for _, want := range []string{`"damage":{"places":2,"records":5}},{"topic_name":"u"`, `"producers":null,"damage":{"places":3,"records":5}}`} {
		if strings.Count(w.Body.String(), want) != 1 {
			t.Errorf("no %s in %s", want, w.Body)
		}
	}
	w = call(httpapi.New(config(t, b)), "GET", "/stats", "")
	if want := "\nHealth: OK\nDamage: 3 places on disk, 5 records lost as far as is known\n"; !strings.Contains(w.Body.String(), want) {
		t.Errorf("no %q in %s", want, w.Body)
	}
	st.Damage, st.Topics = nil, nil
	for _, path := range []string{"/stats", "/stats?format=json"} {
		if w = call(httpapi.New(config(t, b)), "GET", path, ""); strings.Contains(strings.ToLower(w.Body.String()), "damage") {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
}

// TestMessages shows what reaches the broker.
func TestMessages(t *testing.T) {
	f := func(target, body string, deferBy time.Duration, want ...string) {
		t.Helper()
		b := &fakeBroker{}
		if w := call(httpapi.New(config(t, b)), "POST", target, body); w.Code != 200 {
			t.Fatalf("%s: %d %s", target, w.Code, w.Body)
		}
		if got := fmt.Sprintf("%q", b.published); got != fmt.Sprintf("%q", want) || b.deferBy != deferBy {
			t.Errorf("%s %q: %s after %s, want %q after %s", target, body, got, b.deferBy, want, deferBy)
		}
	}
	f("/pub?topic=t", "a\nb", 0, "a\nb")
	f("/pub?topic=t&defer=250", "a", 250*time.Millisecond, "a")
	f("/pub?topic=t&defer=1000", "a", time.Second, "a")
	f("/mpub?topic=t", "a\nb\r\n\n\nc", 0, "a", "b\r", "c")
	f("/mpub?topic=t&defer=5", "a", 0, "a")
	f("/mpub?topic=t&binary=1", "\x00\x00\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x03b\nctrailing", 0, "a", "b\nc")
}

// TestChunkedBatchIsBounded shows the listed difference: upstream takes a
// binary batch of any size when it comes in chunks.
func TestChunkedBatchIsBounded(t *testing.T) {
	r := httptest.NewRequest("POST", "/mpub?topic=t&binary=1", io.MultiReader(strings.NewReader("\x00\x00\x00\x01\x00\x00\x00\x01a"), strings.NewReader(strings.Repeat("x", 200))))
	r.ContentLength = -1
	w := httptest.NewRecorder()
	httpapi.New(config(t, &fakeBroker{})).ServeHTTP(w, r)
	if w.Code != 413 || w.Body.String() != `{"message":"BODY_TOO_BIG"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestBugPanic shows that a broken invariant is answered and not forgiven.
func TestBugPanic(t *testing.T) {
	cfg := config(t, &fakeBroker{panics: "BUG: head 3 > tail 2"})
	var bug any
	cfg.OnBug = func(v any) { bug = v }
	if w := call(httpapi.New(cfg), "POST", "/pub?topic=t", "x"); w.Code != 500 || bug == nil {
		t.Errorf("code %d, bug %v", w.Code, bug)
	}
}

// TestRequireTLS shows the one answer plain HTTP gets then, whatever the path.
func TestRequireTLS(t *testing.T) {
	cfg := config(t, &fakeBroker{})
	cfg.RequireTLS = true
	cfg.HTTPSPort = func() int { return 4152 }
	for _, path := range []string{"/ping", "/nope", "/stats/"} {
		w := call(httpapi.New(cfg), "GET", path, "")
		if w.Code != 403 || w.Body.String() != `{"message": "TLS_REQUIRED", "https_port": 4152}` ||
			w.Header().Get("X-NSQ-Content-Type") != "nsq; version=1.0" || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
		}
	}
	if w := call(httpapi.New(cfg), "GET", "https://h/ping", ""); w.Code != 200 {
		t.Errorf("over TLS: %d %s", w.Code, w.Body)
	}
}

// TestLog shows what is logged: all but the publishing of messages.
func TestLog(t *testing.T) {
	cfg := config(t, &fakeBroker{})
	var lines []string
	cfg.Logf = func(level int, format string, args ...any) {
		lines = append(lines, fmt.Sprintf("%d: ", level)+fmt.Sprintf(format, args...))
	}
	h := httpapi.New(cfg)
	for _, target := range []string{"/pub?topic=t", "/mpub?topic=t", "/mpub?topic=t&binary=no", "/topic/create?topic=a", "/nope"} {
		call(h, "POST", target, "x")
	}
	want := []string{
		`3: /mpub: binary="no" is taken for true`,
		"2: 200 POST /topic/create?topic=a (192.0.2.1:1234) 0s",
		"2: 404 POST /nope (192.0.2.1:1234) 0s",
	}
	if fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("%q", lines)
	}
}

// TestProfiles shows that the profiles answer, through a real server since
// they look at their connection.
func TestProfiles(t *testing.T) {
	srv := httptest.NewServer(httpapi.New(config(t, &fakeBroker{})))
	defer srv.Close()
	for _, name := range []string{"", "cmdline", "symbol", "heap", "goroutine?debug=1", "block", "threadcreate"} {
		resp, err := http.Get(srv.URL + "/debug/pprof/" + name)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("X-NSQ-Content-Type") != "" {
			t.Errorf("%q: %d %v", name, resp.StatusCode, resp.Header)
		}
	}
}

// A stalled is a connection whose peer has sent some bytes and sends no more. Time
// passes for who waits for more: a deadline comes at once, and without one the wait
// is endless.
type stalled struct {
	mu       sync.Mutex
	changed  *sync.Cond
	sent     []byte // and not read yet
	answer   bytes.Buffer
	deadline time.Time // of reads
	closed   bool
}

func newStalled(sent string) *stalled {
	c := &stalled{sent: []byte(sent)}
	c.changed = sync.NewCond(&c.mu)
	return c
}

func (c *stalled) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.sent) == 0 && c.deadline.IsZero() && !c.closed {
		c.changed.Wait()
	}
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case len(c.sent) == 0:
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, c.sent)
	c.sent = c.sent[n:]
	return n, nil
}

func (c *stalled) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answer.Write(p)
}

func (c *stalled) SetReadDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = at
	c.changed.Broadcast()
	return nil
}

func (c *stalled) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}

func (c *stalled) SetDeadline(at time.Time) error   { return c.SetReadDeadline(at) }
func (c *stalled) SetWriteDeadline(time.Time) error { return nil }
func (c *stalled) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *stalled) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// TestStalled shows that a request that stops coming is cut off: in its
// headers without a word, in its body with an error.
func TestStalled(t *testing.T) {
	const stall = time.Hour // it is the connection that makes it pass
	cfg := config(t, &fakeBroker{})
	cfg.StallTimeout = stall
	f := func(sent string) (answer string) {
		t.Helper()
		conn := newStalled(sent)
		defer conn.Close()
		ended := make(chan struct{})
		srv := httpapi.NewServer(httpapi.New(cfg), stall)
		srv.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				close(ended)
			}
		}
		conns := make(chan net.Conn, 1)
		conns <- conn
		l := oneConn{conns}
		served := make(chan struct{})
		go func() { _ = srv.Serve(l); close(served) }()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatalf("after %q the connection is held", sent)
		}
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		<-served
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return conn.answer.String()
	}
	if got := f("POST /pub?topic=t HTTP/1.1\r\nHost:"); got != "" {
		t.Errorf("stalled headers: %q", got)
	}
	if got := f("POST /pub?topic=t HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"); !strings.HasPrefix(got, "HTTP/1.1 500 ") {
		t.Errorf("stalled body: %q", got)
	}
	// A body nobody reads must not hold the connection either.
	if got := f("GET /ping HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("unread body: %q", got)
	}
}

// brokenBody ends with an error together with its last bytes.
type brokenBody struct{ left int }

func (b *brokenBody) Read(p []byte) (int, error) {
	n := min(b.left, len(p))
	if b.left -= n; b.left == 0 {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// TestBrokenBodiesAreCounted has bodies break just where they are counted: what they
// held is given back, and no more than that.
func TestBrokenBodiesAreCounted(t *testing.T) {
	const step, most = 64 << 10, 256 << 10
	c := config(t, &fakeBroker{})
	c.Limits = httpapi.Limits{MaxMsgSize: 2 * most, MaxBodySize: 2 * most, MaxBodies: most}
	h := httpapi.New(c)
	for range 8 {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/pub?topic=t", nil)
		r.Body, r.ContentLength = io.NopCloser(&brokenBody{left: step}), -1
		if h.ServeHTTP(w, r); w.Code != http.StatusInternalServerError {
			t.Fatalf("a broken body: status %d, want 500", w.Code)
		}
	}
	for length, code := range map[int]int{most: http.StatusOK, most + step: http.StatusServiceUnavailable} {
		if w := call(h, http.MethodPost, "/pub?topic=t", strings.Repeat("x", length)); w.Code != code {
			t.Errorf("a body of %d bytes: status %d, want %d: %s", length, w.Code, code, w.Body)
		}
	}
}

// oneConn is a listener for the connections given, which is closed once they are
// taken.
type oneConn struct{ conns chan net.Conn }

func (l oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l oneConn) Close() error   { close(l.conns); return nil }
func (l oneConn) Addr() net.Addr { return &net.TCPAddr{} }
