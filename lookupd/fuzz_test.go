package lookupd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// script is a connection whose other side has said everything already.
type script struct {
	in     *bytes.Reader
	out    bytes.Buffer
	closed bool
}

func (s *script) Read(p []byte) (int, error) {
	if s.closed {
		return 0, net.ErrClosed
	}
	return s.in.Read(p)
}

func (s *script) Write(p []byte) (int, error) {
	if s.closed {
		return 0, net.ErrClosed
	}
	return s.out.Write(p)
}

func (s *script) Close() error                     { s.closed = true; return nil }
func (*script) LocalAddr() net.Addr                { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (*script) RemoteAddr() net.Addr               { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }
func (*script) SetDeadline(time.Time) error        { return nil }
func (*script) SetReadDeadline(time.Time) error    { return nil }
func (*script) SetWriteDeadline(t time.Time) error { return nil }

// fuzzMetrics is shared by all servers of a process: making it takes longer than
// all else together.
var fuzzMetrics = sync.OnceValue(func() *metrics { return newMetrics(&Server{registry: newRegistry(NewOptions())}) })

// fuzzed is a server without sockets and with small limits.
func fuzzed() *Server {
	o := NewOptions()
	o.LogLevel, o.ClientLimit, o.RegistrationLimit = LogFatal, 50, 200
	s := &Server{opts: *o, log: newLogger(io.Discard, "", LogDebug), registry: newRegistry(o), now: time.Now, conns: map[*conn]struct{}{}}
	s.metrics = fuzzMetrics()
	s.greeting = marshal(greeting{Version: Version})
	return s
}

// say runs a connection that says b from its first byte to its end, and returns
// the answers.
func (s *Server) say(t *testing.T, b []byte) (answers []string) {
	t.Helper()
	sc := &script{in: bytes.NewReader(b)}
	c := &conn{s: s, c: sc, addr: sc.RemoteAddr().String(), r: bufio.NewReaderSize(sc, lineMax)}
	c.run()
	if !sc.closed {
		t.Fatal("the connection was left open")
	}
	for out := sc.out.Bytes(); len(out) > 0; {
		if len(out) < 4 || len(out)-4 < int(binary.BigEndian.Uint32(out)) {
			t.Fatalf("half an answer: %q", out)
		}
		n := 4 + binary.BigEndian.Uint32(out)
		answers = append(answers, string(out[4:n]))
		out = out[n:]
	}
	return answers
}

// FuzzTCP says any bytes on the TCP port, beside a producer that has spoken
// already: there are answers that the protocol knows, one error at most and that
// at the end, the registry's books are right, and the producer's registrations
// are as they were.
func FuzzTCP(f *testing.F) {
	id := func(body string) string {
		return "IDENTIFY\n" + string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
	}
	good := "  V1" + id(`{"broadcast_address":"b","tcp_port":1,"http_port":2,"version":"v"}`)
	for _, s := range []string{
		"", "  V", "  V2", "  V1PING\n", good, good + "REGISTER t x\nREGISTER t\nPING\nUNREGISTER t x\nUNREGISTER t\n",
		good + "REGISTER e#ephemeral x#ephemeral\nPI", good + "REGISTER t *\n", good + id("{}"), "  V1" + id("null"),
		"  V1IDENTIFY\n\xff\xff\xff\xff", "  V1IDENTIFY\n\x7f\xff\xff\xff{", "  V1REGISTER t\n", "  V1 \r\n",
		good + strings.Repeat("REGISTER a b\n", 40), "  V1" + strings.Repeat("x", lineMax+1),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := fuzzed()
		p := newProducer(peer{BroadcastAddress: "other", TCPPort: 1, HTTPPort: 2, Version: "v"}, "other:1", s.now())
		s.registry.add(p)
		if _, err := s.registry.register(p, "t", "x"); err != nil {
			t.Fatal(err)
		}
		answers := s.say(t, b)
		for i, a := range answers {
			isError := strings.HasPrefix(a, "E_")
			if a != "OK" && a != string(s.greeting) && !isError || isError && i != len(answers)-1 {
				t.Fatalf("answer %d of %d: %q", i, len(answers), a)
			}
		}
		if err := s.registry.check(); err != nil {
			t.Fatal(err)
		}
		if producers, topics, channels := s.registry.totals(); producers != 1 || topics+channels > 200 {
			t.Fatalf("%d producers, %d topics, %d channels", producers, topics, channels)
		}
		if v := s.registry.lookup("t", s.now()); len(v.visible) != 1 || !bytes.Contains(v.channels, []byte(`"x"`)) {
			t.Fatalf("the other producer's topic: %s, %q", v.channels, v.visible)
		}
	})
}

// FuzzHTTP makes any request: the status is one of the API's, the body is JSON
// where it says so, and the registry's books are right. Then everything is
// looked at.
func FuzzHTTP(f *testing.F) {
	for _, s := range []string{
		"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n", "GET /lookup?topic=t HTTP/1.1\r\nHost: h\r\n\r\n", "GET /nodes HTTP/1.0\r\n\r\n",
		"GET /channels?topic=%2a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /debug HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS /Topics/ HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /topic/create?topic=u HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", "POST /topic/delete?topic=t HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /topic/tombstone?topic=t&node=other:2 HTTP/1.1\r\nHost: h\r\n\r\n", "POST /channel/create?topic=t&channel=y HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /channel/delete?topic=t&channel=x HTTP/1.1\r\nHost: h\r\n\r\n", "GET /lookup?topic=a;b HTTP/1.1\r\nHost: h\r\n\r\n", "GET //../debug HTTP/1.1\r\nHost: h\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil || strings.Contains(strings.ToLower(r.URL.Path), "pprof") {
			return // net/http's own affair; profiles take their time
		}
		s := fuzzed()
		p := newProducer(peer{BroadcastAddress: "other", TCPPort: 1, HTTPPort: 2, Version: "v"}, "other:1", s.now())
		s.registry.add(p)
		if _, err := s.registry.register(p, "t", "x"); err != nil {
			t.Fatal(err)
		}
		a := newAPI(s)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		switch w.Code {
		case 200, 301, 307, 400, 404, 405:
		default:
			t.Fatalf("%s %s: %d %s", r.Method, r.URL, w.Code, w.Body)
		}
		checkJSON(t, r.URL.String(), w)
		if err := s.registry.check(); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/topics", "/nodes", "/debug", "/lookup?topic=t", "/channels?topic=t"} {
			w := httptest.NewRecorder()
			a.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			checkJSON(t, path, w)
		}
	})
}

// checkJSON fails when a reply is not what its headers say.
func checkJSON(t *testing.T, what string, w *httptest.ResponseRecorder) {
	t.Helper()
	isJSON := strings.HasPrefix(w.Header().Get("Content-Type"), "application/json")
	if isJSON && (!json.Valid(w.Body.Bytes()) || !utf8.Valid(w.Body.Bytes())) {
		t.Fatalf("%s: not JSON: %q", what, w.Body)
	}
	if isJSON && w.Header().Get("X-NSQ-Content-Type") != "nsq; version=1.0" {
		t.Fatalf("%s: no X-NSQ-Content-Type", what)
	}
}

// TestFloodMemory shows that one connection after the other, each registering
// what nobody has, leaves no more behind than the limit allows.
func TestFloodMemory(t *testing.T) {
	s := fuzzed()
	var b strings.Builder
	b.WriteString("  V1IDENTIFY\n" + "\x00\x00\x00\x43" + `{"broadcast_address":"b","tcp_port":1,"http_port":2,"version":"v"}` + " ")
	head := b.String()
	measure := func(from, to int) uint64 {
		for i := from; i < to; i++ {
			var b strings.Builder
			b.WriteString(head)
			for n := range 60 {
				b.WriteString("REGISTER " + strings.Repeat("t", 30) + string(rune('a'+n%26)) + string(rune('A'+i%26)) + strings.Repeat("x", i/26%30) + " c\n")
			}
			s.say(t, []byte(b.String()))
		}
		for end := time.Now().Add(2 * time.Minute); !s.log.out.Flush(); { // or lines that wait would count
			if time.Now().After(end) {
				t.Fatal("the log is not written")
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := measure(0, 50)
	after := measure(50, 500)
	if _, topics, channels := s.registry.totals(); topics+channels > 200 || topics+channels < 190 {
		t.Errorf("%d topics and %d channels, want the limit's 200 or so", topics, channels)
	}
	if after > before+1<<20 {
		t.Errorf("the heap grows from %d to %d bytes", before, after)
	}
	if err := s.registry.check(); err != nil {
		t.Fatal(err)
	}
}
