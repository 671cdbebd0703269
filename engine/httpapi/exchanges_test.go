package httpapi_test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine/httpapi"
)

// The transcript was recorded from nsqd v1.3.0, started on an empty data
// directory with
//
//	--tcp-address=127.0.0.1:14150 --http-address=127.0.0.1:14151 --broadcast-address=b --log-level=error
//	--max-msg-size=100 --max-body-size=200 --max-req-timeout=1s
var record = flag.String("record", "", "address of such an nsqd: write testdata/exchanges.txt from its answers")

const transcript = "testdata/exchanges.txt"

// request is one line of the conversation; the answers build on each other.
type request struct {
	line    string // method and target
	body    string
	chunked bool
}

func requests() []request {
	long := strings.Repeat("x", 101)
	r := func(line string) request { return request{line: line} }
	b := func(line, body string) request { return request{line: line, body: body} }
	list := []request{
		r("GET /ping"), r("GET /info"), r("GET /stats"), r("GET /stats?include_mem=false&format=json"),
		r("GET /stats?a;b"), r("GET /stats?topic=%zz"), r("GET /stats?include_mem=0&format=JSON"),

		// Routes.
		r("GET /"), r("GET /nope"), r("POST /nope"), r("OPTIONS /nope"), r("HEAD /nope"), r("HEAD /ping"),
		r("HEAD /pub"), r("POST /ping"), r("GET /pub"), r("DELETE /topic/create"), r("OPTIONS /ping"), r("OPTIONS /pub"),
		r("OPTIONS *"), r("OPTIONS /config/log_level"), r("POST /config/log_level"), r("OPTIONS /stats/"), r("POST /stats/"),
		r("GET /stats/"), r("GET /STATS?format=json"), r("GET //stats"), r("GET /./stats"), r("GET /a/../stats?a=b"),
		r("POST /pub/?topic=t"), r("POST /PUB?topic=t"), r("PUT /Config/log_level/"), r("GET /CONFIG/Log_Level"),
		r("GET /config"), r("GET /config/"), r("GET /config/a/b"), r("GET /debug/pprof"), r("GET /debug/pprof/mutex"),
		r("GET /debug/pprof/allocs"), r("GET /debug/pprof/trace"), r("GET /debug/freememory"), r("OPTIONS /debug/pprof/symbol"),
		r("GET /topic"), r("GET /topic/"), r("OPTIONS /debug/setblockrate"), r("PUT /debug/setblockrate?rate=x"), r("PUT /debug/setblockrate"),

		// Publishing one.
		b("POST /pub?topic=t", "hello"),
		{"POST /pub?topic=t", "chunky", true},
		b("POST /pub", "x"), b("POST /pub?topic=", "x"),
		b("POST /pub?topic=a%20b", "x"), b("POST /pub?topic=a;b", "x"), b("POST /pub?topic=t", ""), b("POST /pub", ""),
		b("POST /pub?topic=a%20b", long),
		{"POST /pub?topic=t", long, true},
		b("POST /pub?topic=t", long[1:]),
		b("POST /pub?topic=t&defer=", "x"), b("POST /pub?topic=t&defer=-1", "x"), b("POST /pub?topic=t&defer=x", "x"),
		b("POST /pub?topic=t&defer=1001", "x"), b("POST /pub?topic=t&defer=1000", "x"), b("POST /pub?topic=t&defer=%2B5", "x"),
		b("POST /pub?topic=made&defer=x", "x"), b("POST /pub?topic=t&topic=a%20b", "x"),
		b("POST /pub?topic=t&defer=99999999999999999999", "x"),
		r("GET /stats?format=json&include_mem=false"),

		// Publishing many.
		b("POST /mpub?topic=t", "a\nb\r\n\n\nc"), b("POST /mpub?topic=t", ""), b("POST /mpub?topic=t", "\n\n"), b("POST /mpub", "x"),
		b("POST /mpub?topic=a%20b", "x"), b("POST /mpub?topic=a;b", "x"), b("POST /mpub?topic=t", long+"\na"), b("POST /mpub?topic=t", "a\n"+long),
		b("POST /mpub?topic=t", strings.Repeat("abcdefghi\n", 20)), b("POST /mpub?topic=t", strings.Repeat("abcdefghi\n", 21)),
		{"POST /mpub?topic=t", strings.Repeat("abcdefghi\n", 21), true},
		{"POST /mpub?topic=t", strings.Repeat("abcdefghi\n", 20) + "\n", true},
		{"POST /mpub?topic=t", long + "\n" + long + "\n", true},
		{"POST /mpub?topic=t", long + long, true},
		{"POST /mpub?topic=t", strings.Repeat("y", 99) + "\n" + long, true},
		{"POST /mpub?topic=t", strings.Repeat("y", 49) + "\n" + strings.Repeat("z", 150) + "\n", true},
		{"POST /mpub?topic=t", strings.Repeat("y", 49) + "\n" + strings.Repeat("z", 150) + "\nmore", true},
		b("POST /mpub?topic=t&binary=false", "a\nb"), b("POST /mpub?topic=t&binary=0", "a\nb"), b("POST /mpub?topic=t&defer=x", "x"),
		b("POST /mpub?topic=t&binary=true", "\x00\x00\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x02bc"),
		b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x01\x00\x00\x00\x01atrailing"),
		b("POST /mpub?topic=t&binary", "\x00\x00\x00\x01\x00\x00\x00\x01a"), b("POST /mpub?topic=t&binary=x", "\x00\x00\x00\x01\x00\x00\x00\x01a"),
		b("POST /mpub?topic=t&binary=1", ""), b("POST /mpub?topic=t&binary=1", "\x00\x00\x00"), b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x00"),
		b("POST /mpub?topic=t&binary=1", "\xff\xff\xff\xff"), b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x28"), b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x27"),
		b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x01"), b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x01\x00\x00\x00\x00"),
		b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x01\xff\xff\xff\xff"), b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x01\x00\x00\x00\x65"+long),
		b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x01\x00\x00\x00\x64"+long[1:]), b("POST /mpub?topic=t&binary=1", "\x00\x00\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x09b"),
		b("POST /mpub?topic=made2&binary=1", ""),
		r("GET /stats?format=json&include_mem=false&topic=t"), r("GET /stats?format=json&include_mem=false&topic=unknown"),

		// Topics and channels.
		r("POST /topic/create"), r("POST /topic/create?topic="), r("POST /topic/create?topic=a%20b"), r("POST /topic/create?topic=c"), b("POST /topic/create?topic=c", "ignored"),
		r("POST /topic/create?topic=c;d"), r("POST /topic/create?topic=" + strings.Repeat("n", 65)), r("POST /topic/create?topic=e%23ephemeral"),
		r("POST /topic/empty"), r("POST /topic/empty?topic=a%20b"), r("POST /topic/empty?topic=nope"), r("POST /topic/empty?topic=t"),
		r("POST /topic/pause"), r("POST /topic/pause?topic=a%20b"), r("POST /topic/pause?topic=c"), r("POST /topic/pause?topic=c"), r("POST /topic/unpause?topic=nope"),
		r("GET /stats?include_mem=false&topic=c"), r("POST /topic/unpause?topic=c"),
	}
	for _, op := range []string{"create", "delete", "empty", "pause", "unpause"} {
		p := "POST /channel/" + op
		list = append(list, r(p), r(p+"?topic=a%20b"), r(p+"?topic=c"), r(p+"?topic=a%20b&channel=x"), r(p+"?topic=c&channel=a%20b"),
			r(p+"?topic=nope&channel=x"), r(p+"?topic=c&channel="), r(p+"?topic=c;&channel=x"))
		if op != "create" {
			list = append(list, r(p+"?topic=c&channel=nope"), r("POST /channel/create?topic=c&channel=x"), r(p+"?topic=c&channel=x"))
		}
		list = append(list, r("GET /stats?format=json&include_mem=false&topic=c"))
	}
	return append(list,
		r("GET /stats?format=json&include_mem=false&topic=c&channel=x&include_clients=false"), r("GET /stats?format=json&include_mem=false&topic=c&channel=zz"),
		r("GET /stats?include_mem=false"), r("POST /topic/delete"), r("POST /topic/delete?topic=a%20b"), r("POST /topic/delete?topic=c"), r("POST /topic/delete?topic=c"),

		// Options.
		r("GET /config/log_level"), r("GET /config/log_prefix"), r("GET /config/max_msg_size"), r("GET /config/msg_timeout"), r("GET /config/snappy"),
		r("GET /config/nsqlookupd_tcp_addresses"), r("GET /config/tls_required"), r("GET /config/tls_min_version"), r("GET /config/nope"), r("GET /config/version"),
		b("PUT /config/log_level", ""), b("PUT /config/log_level", long), b("PUT /config/log_level", "bogus"), b("PUT /config/log_level", "ERROR"),
		b("PUT /config/nope", ""), b("PUT /config/nope", "x"), b("PUT /config/msg_timeout", "1"), b("PUT /config/nsqlookupd_tcp_addresses", "x"), b("PUT /config/nsqlookupd_tcp_addresses", "null"),
	)
}

// TestExchanges has the same conversation with us as was had with nsqd.
func TestExchanges(t *testing.T) {
	addr := *record
	if addr == "" {
		srv := httptest.NewUnstartedServer(nil)
		srv.Config = httpapi.NewServer(httpapi.New(config(t, &fakeBroker{})), patience)
		srv.Start()
		defer srv.Close()
		addr = srv.Listener.Addr().String()
	}
	var got []string
	for _, r := range requests() {
		got = append(got, exchange(t, addr, r))
	}
	if *record != "" {
		if err := os.WriteFile(transcript, []byte(strings.Join(got, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(transcript)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(string(b), "\n\n")
	for i, g := range got {
		if g = strings.TrimSuffix(g, "\n"); i >= len(want) || g != strings.TrimSuffix(want[i], "\n") {
			t.Errorf("exchange %d:\n%s\nnsqd:\n%s", i, g, want[min(i, len(want)-1)])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d exchanges, want %d", len(got), len(want))
	}
}

// varying is what differs from run to run.
var varying = []struct{ re, to string }{
	{`"start_time":\d+`, `"start_time":N`},
	{`"hostname":"[^"]*"`, `"hostname":"HOST"`},
	{`built w/[^)]+`, `built w/GO`},
	{`(start_time|uptime) \S+`, `$1 T`},
	{`\t\d+`, "\tN"},
}

// exchange sends r on a connection of its own and returns both sides as text.
func exchange(t *testing.T, addr string, r request) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(r.line, " ")
	head := r.line + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
	body := r.body
	switch {
	case r.chunked:
		head += "Transfer-Encoding: chunked\r\n"
		body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	case method != http.MethodGet && method != http.MethodHead:
		head += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"+body); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", r.line, err)
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", r.line, err)
	}
	text := string(answer)
	for _, v := range varying {
		text = regexp.MustCompile(v.re).ReplaceAllString(text, v.to)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "> %s %q chunked=%t\n< %d\n", r.line, r.body, r.chunked, resp.StatusCode)
	var names []string
	for name := range resp.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		// The length of a varying text varies.
		if name != "Date" && (name != "Content-Length" || text == string(answer)) {
			fmt.Fprintf(&out, "< %s: %s\n", name, strings.Join(resp.Header[name], "|"))
		}
	}
	fmt.Fprintf(&out, "< %q\n", text)
	return out.String()
}
