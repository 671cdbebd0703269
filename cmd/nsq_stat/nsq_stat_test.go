//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/tool"
	"github.com/zsqio/zsq/internal/tool/tooltest"
)

// TestUsage shows what each wrong command line is answered with.
func TestUsage(t *testing.T) {
	line := func(want string, args ...string) {
		t.Helper()
		tooltest.ExpectLine(t, tool.ExitError, want, "nsq_stat", run, args...)
	}
	line("--topic and --channel are required", "--topic=t")
	on := func(args ...string) []string { return append([]string{"--topic=t", "--channel=ch"}, args...) }
	line("--interval should be positive", on("--interval=0")...)
	line("--http-client-connect-timeout should be positive", on("--http-client-connect-timeout=0")...)
	line("--http-client-request-timeout should be positive", on("--http-client-request-timeout=-1s")...)
	line("--count should be positive", on("--count=0")...)
	line("--nsqd-http-address or --lookupd-http-address required", on()...)
	line("use --nsqd-http-address or --lookupd-http-address not both", on("--nsqd-http-address=a", "--lookupd-http-address=a")...)
	line("--nsqd-http-address error - address should not contain scheme", on("--nsqd-http-address=http://a")...)
	line("--lookupd-http-address error - address should not contain scheme", on("--lookupd-http-address=https://a")...)
	tooltest.Expect(t, tool.ExitUsage, "nsq_stat", run, "", "--count=x")
	if out, _ := tooltest.Expect(t, tool.ExitOK, "nsq_stat", run, "", "--version"); out != "nsq_stat v1.3.0\n" {
		t.Errorf("%q", out)
	}
}

// TestRow shows the layout to the byte.
func TestRow(t *testing.T) {
	last := tool.ChannelStats{Depth: 10, MessageCount: 100}
	now := tool.ChannelStats{
		Depth: 5, BackendDepth: 2, InFlightCount: 3, DeferredCount: 4, RequeueCount: 6,
		TimeoutCount: 7, MessageCount: 115, ClientCount: 8,
	}
	want := "      7      10 |       5       3       2     3     4 |       6       7          115       8\n"
	if got := newRow(last, now, 2*time.Second); got != want {
		t.Errorf("\n%q, want\n%q", got, want)
	}
}

// TestLineTable shows where a table of lines repeats its header.
func TestLineTable(t *testing.T) {
	var b bytes.Buffer
	table := &lineTable{w: &b}
	for i := range 60 {
		if err := table.head(i); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := table.row("row\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	row := func(n int) string { return strings.Repeat("row\n", n) }
	if want := header + row(24) + header + row(25) + header + row(10); b.String() != want {
		t.Errorf("%q", &b)
	}
}

// TestScreenTable follows the cursor of a terminal: the header stays on top and
// the latest rows are below it.
func TestScreenTable(t *testing.T) {
	var b bytes.Buffer
	table := newScreenTable(&b, 6) // three rows
	if err := table.head(0); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 5; i++ {
		if err := table.head(i); err != nil {
			t.Fatal(err)
		}
		if err := table.row(fmt.Sprintf("row %d\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	screen, y := make([]string, 20), 0
	for line := range strings.Lines(b.String()) {
		var up int
		if n, _ := fmt.Sscanf(line, cursorUp, &up); n == 1 {
			y -= up
			_, line, _ = strings.Cut(line, "A")
		}
		screen[y] = strings.TrimSuffix(line, eraseRight+"\n") + "\n"
		y++
	}
	if got, want := strings.Join(screen, ""), header+"row 3\nrow 4\nrow 5\n"; got != want {
		t.Errorf("the screen shows\n%swant\n%s", got, want)
	}
}

// TestReport sums the channels of two brokers, which an nsqlookupd knows.
func TestReport(t *testing.T) {
	one, two := tooltest.StartBroker(t), tooltest.StartBroker(t)
	for _, b := range []*tooltest.Broker{one, two} {
		b.Create(t, "t", "ch")
		b.Publish(t, "t", "x", "y")
		b.Settles(t, "t", "ch", "both are there", func(ch tool.ChannelStats) bool { return ch.Depth == 2 })
	}
	port := func(b *tooltest.Broker) string { _, p, _ := strings.Cut(b.HTTP, ":"); return p }
	lookupd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/lookup" || r.URL.Query().Get("topic") != "t" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"producers":[{"broadcast_address":"127.0.0.1","http_port":%s},{"broadcast_address":"127.0.0.1","http_port":%s}]}`, port(one), port(two))
	}))
	defer lookupd.Close()
	const row = "      0       0 |       4       4       0     0     0 |       0       0            4       0\n"
	for _, source := range [][]string{
		{"--lookupd-http-address=" + strings.TrimPrefix(lookupd.URL, "http://")},
		{"--nsqd-http-address=" + one.HTTP, "--nsqd-http-address=" + two.HTTP},
	} {
		out, _ := tooltest.Expect(t, tool.ExitOK, "nsq_stat", run, "",
			append(source, "--topic=t", "--channel=ch", "--count=2", "--interval=10ms")...)
		if out != header+row+row {
			t.Errorf("printed\n%swant\n%s", out, header+row+row)
		}
	}
}

// TestFailures shows that whatever cannot be had ends the tool.
func TestFailures(t *testing.T) {
	b := tooltest.StartBroker(t)
	b.Create(t, "t", "ch")
	hang := make(chan struct{})
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/lookup":
			http.NotFound(w, r)
		default:
			<-hang
		}
	}))
	defer bad.Close()
	defer close(hang)
	addr := strings.TrimPrefix(bad.URL, "http://")
	line := func(want string, args ...string) {
		t.Helper()
		_, stderr := tooltest.Expect(t, tool.ExitError, "nsq_stat", run, "", append([]string{"--topic=t", "--http-client-request-timeout=2m"}, args...)...)
		if strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%q: %q, want one line with %q", args, stderr, want)
		}
	}
	line("ERROR: failed to find channel(other) in stats metadata for topic(t)", "--channel=other", "--nsqd-http-address="+b.HTTP)
	line(`ERROR: failed to get topic producers - failed to query nsqlookupd: got response 404 Not Found "404 page not found\n"`, "--channel=ch", "--lookupd-http-address="+addr)
	line("Client.Timeout exceeded", "--channel=ch", "--http-client-request-timeout=100ms", "--nsqd-http-address="+addr, "--nsqd-http-address="+b.HTTP)
	line("connection refused", "--channel=ch", "--nsqd-http-address=127.0.0.1:1")
}

// TestSignals shows that each of the three signals ends the tool with 0, also
// while it waits.
func TestSignals(t *testing.T) {
	b := tooltest.StartBroker(t)
	b.Create(t, "t", "ch")
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
		r := tooltest.Start(t, "nsq_stat", run, nil, "--topic=t", "--channel=ch", "--interval=1h", "--nsqd-http-address="+b.HTTP)
		tooltest.Eventually(t, "the header", func() bool { return r.Stdout.String() == header })
		r.Signal(s)
		if code := r.Wait(t); code != tool.ExitOK {
			t.Errorf("%v: code %d", s, code)
		}
	}
}
