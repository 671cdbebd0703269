//go:build linux

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zsqio/zsq/internal/tool"
	"github.com/zsqio/zsq/internal/tool/tooltest"
)

// TestUsage shows what each wrong command line is answered with.
func TestUsage(t *testing.T) {
	line := func(want string, args ...string) {
		t.Helper()
		tooltest.ExpectLine(t, tool.ExitError, want, "nsq_to_http", run, args...)
	}
	line("--header value format should be 'key=value'", "--header=a=b")
	line("--header value format should be 'key=value'", "--header=a: ")
	line("--topic and --channel are required")
	line("--topic and --channel are required", "--topic=t", "--channel=")
	line("--content-type only used with --post", "--topic=t", "--content-type=x", "--get=http://a/%s")
	line("--content-type requires a value when used", "--topic=t", "--content-type=", "--post=http://a/")
	line("--nsqd-tcp-address or --lookupd-http-address required", "--topic=t")
	line("use --nsqd-tcp-address or --lookupd-http-address not both", "--topic=t", "--nsqd-tcp-address=a", "--lookupd-http-address=a")
	line("--get or --post required", "--topic=t", "--nsqd-tcp-address=a")
	line("use --get or --post not both", "--topic=t", "--nsqd-tcp-address=a", "--get=a", "--post=a")
	line("invalid GET address - must be a printf string", "--topic=t", "--nsqd-tcp-address=a", "--get=http://a/%s/%s")
	for _, v := range []string{"1.1", "-0.1", "NaN"} {
		line("ERROR: --sample must be between 0.0 and 1.0", "--topic=t", "--nsqd-tcp-address=a", "--post=a", "--sample="+v)
	}
	line("-n should be positive", "--topic=t", "--nsqd-tcp-address=a", "--post=a", "-n=0")
	tooltest.Expect(t, tool.ExitUsage, "nsq_to_http", run, "", "--bogus")
	if out, _ := tooltest.Expect(t, tool.ExitOK, "nsq_to_http", run, "", "--version"); out != "nsq_to_http v1.3.0\n" {
		t.Errorf("%q", out)
	}
}

// TestFill shows how a message gets into a GET address.
func TestFill(t *testing.T) {
	f := func(address, body, want string) {
		t.Helper()
		if got := fill(address, []byte(body)); got != want {
			t.Errorf("%q with %q gives %q, want %q", address, body, got, want)
		}
	}
	f("http://h/?m=%s", "a b&c%s", "http://h/?m=a+b%26c%25s")
	f("http://h/a%20b/%s", "x", "http://h/a%20b/x") // printf takes "% 2" for a verb
	f("http://h/a%%20b/%s", "x", "http://h/a%20b/x")
}

// An endpoint answers with a status and keeps what it was asked.
type endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // method, path and query, body
	headers  []http.Header
	answer   func(n int, w http.ResponseWriter, r *http.Request) // n counts from 0
}

func newEndpoint(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *endpoint {
	e := &endpoint{answer: answer}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		n := len(e.requests)
		e.requests = append(e.requests, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.URL, body)))
		e.headers = append(e.headers, r.Header)
		e.mu.Unlock()
		e.answer(n, w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) seen() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.requests)
}

func status(code int) func(int, http.ResponseWriter, *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// quick makes requeued messages come again without delay.
var quick = []string{"--consumer-opt=default_requeue_delay,1ms", "--consumer-opt=max_backoff_duration,0", "--topic=t", "--channel=ch", "--status-every=0"}

func start(t *testing.T, b *tooltest.Broker, args ...string) *tooltest.Run {
	t.Helper()
	return tooltest.Start(t, "nsq_to_http", run, nil, slices.Concat(quick, []string{"--nsqd-tcp-address=" + b.TCP}, args)...)
}

// TestPost sends a message to an endpoint that wants no content.
func TestPost(t *testing.T) {
	b, e := tooltest.StartBroker(t), newEndpoint(t, status(http.StatusNoContent))
	r := start(t, b, "--post="+e.URL+"/in?a=b", "--content-type=text/plain", "--header=X-One: 1", "--header=x-one:2 ")
	b.Publish(t, "t", "a b%s")
	b.Settles(t, "t", "ch", "finished", tooltest.Finished(1))
	if got, want := e.seen(), []string{"POST /in?a=b a b%s"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	h := e.headers[0]
	if h.Get("User-Agent") != "nsq_to_http v1.3.0" || h.Get("Content-Type") != "text/plain" || h.Get("X-One") != "2" {
		t.Errorf("headers %v", h)
	}
	r.Signal(os.Interrupt)
	if code := r.Wait(t); code != tool.ExitOK {
		t.Errorf("code %d", code)
	}
}

// TestGet shows that a GET succeeds with 200 only.
func TestGet(t *testing.T) {
	b := tooltest.StartBroker(t)
	e := newEndpoint(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 0 {
			w.WriteHeader(http.StatusNoContent)
		}
	})
	r := start(t, b, "--get="+e.URL+"/%s")
	b.Publish(t, "t", "a b")
	b.Settles(t, "t", "ch", "finished", tooltest.Finished(1))
	if got, want := e.seen(), []string{"GET /a+b", "GET /a+b"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	if h := e.headers[0]; h.Get("Content-Type") != "" {
		t.Errorf("headers %v", h)
	}
	if !strings.Contains(r.Stderr.String(), "got status code 204") {
		t.Error("the failure is not logged")
	}
}

// TestFailingEndpoints shows that a message survives an endpoint that fails, one
// that hangs and one that is not there.
func TestFailingEndpoints(t *testing.T) {
	b := tooltest.StartBroker(t)
	// Each way of failing lasts until it is logged: on a machine that stalls any
	// answer may come too late.
	const failed, late = "got status code 500", "Client.Timeout exceeded"
	var stderr atomic.Pointer[tooltest.Buffer]
	stderr.Store(new(tooltest.Buffer))
	release := make(chan struct{})
	e := newEndpoint(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		switch log := stderr.Load().String(); {
		case !strings.Contains(log, failed):
			w.WriteHeader(http.StatusInternalServerError)
		case !strings.Contains(log, late):
			<-release
		}
	})
	t.Cleanup(func() { close(release) })
	r := start(t, b, "--post="+e.URL, "--post=http://127.0.0.1:1/", "--mode=round-robin", "--http-client-request-timeout=1s", "--consumer-opt=max_attempts,100")
	stderr.Store(r.Stderr)
	b.Publish(t, "t", "x")
	b.Settles(t, "t", "ch", "finished", tooltest.Finished(1))
	if n := len(e.seen()); n < 3 {
		t.Errorf("asked %d times, want 3 and no fewer", n)
	}
	for _, want := range []string{failed, "connection refused", late} {
		if !strings.Contains(r.Stderr.String(), want) {
			t.Errorf("no log line with %q", want)
		}
	}
}

// TestHostPool shows that a failed endpoint is left alone.
func TestHostPool(t *testing.T) {
	b := tooltest.StartBroker(t)
	bad, good := newEndpoint(t, status(http.StatusTeapot)), newEndpoint(t, status(http.StatusOK))
	start(t, b, "--post="+bad.URL, "--post="+good.URL, "-n=1")
	b.Publish(t, "t", "1", "2", "3", "4", "5")
	b.Settles(t, "t", "ch", "finished", tooltest.Finished(5))
	if n, m := len(bad.seen()), len(good.seen()); n != 1 || m != 5 {
		t.Errorf("asked %d and %d times, want 1 and 5", n, m)
	}
}

// TestToAll shows that another mode's word sends to every endpoint.
func TestToAll(t *testing.T) {
	b := tooltest.StartBroker(t)
	one, two := newEndpoint(t, status(http.StatusOK)), newEndpoint(t, status(http.StatusOK))
	start(t, b, "--post="+one.URL, "--post="+two.URL, "--mode=multicast")
	b.Publish(t, "t", "1", "2", "3")
	b.Settles(t, "t", "ch", "finished", tooltest.Finished(3))
	for _, e := range []*endpoint{one, two} {
		got := e.seen()
		slices.Sort(got)
		if want := []string{"POST / 1", "POST / 2", "POST / 3"}; !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
	}
}

// TestSample shows that a sample of nothing sends nothing and finishes all.
func TestSample(t *testing.T) {
	b, e := tooltest.StartBroker(t), newEndpoint(t, status(http.StatusOK))
	start(t, b, "--post="+e.URL, "--sample=0")
	b.Publish(t, "t", "1", "2", "3")
	b.Settles(t, "t", "ch", "finished", tooltest.Finished(3))
	if got := e.seen(); len(got) != 0 {
		t.Errorf("asked %q", got)
	}
}

// TestStatusLine shows the line for a number of results.
func TestStatusLine(t *testing.T) {
	b, e := tooltest.StartBroker(t), newEndpoint(t, status(http.StatusOK))
	r := start(t, b, "--post="+e.URL, "--status-every=2")
	b.Publish(t, "t", "1", "2", "3")
	line := regexp.MustCompile(`(?m)^\S+ \S+ \[aggregate\]: finished 2 - 99th: \d+\.\d\dms - 95th: \d+\.\d\dms - avg: \d+\.\d\dms$`)
	tooltest.Eventually(t, "a status line", func() bool { return line.MatchString(r.Stderr.String()) })
	if want := "Warning: use more than 100 status values for accurate percentiles (configured with 2)\n"; strings.Count(r.Stderr.String(), want) != 1 {
		t.Errorf("not once: %q", want)
	}
}

// TestConnectionsAreKept has all handlers become free together, again and again,
// and shows that their connections are used again. A few more than handlers may be
// made, while others become free; with the default of two idle ones most messages
// would need one.
func TestConnectionsAreKept(t *testing.T) {
	const handlers, rounds = 8, 15
	b, e := tooltest.StartBroker(t), newEndpoint(t, status(http.StatusOK))
	var mu sync.Mutex
	peers := map[string]bool{}
	waiting, release := 0, make(chan struct{})
	e.answer = func(_ int, w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		peers[r.RemoteAddr] = true
		round := release
		if waiting++; waiting == handlers {
			close(release)
			waiting, release = 0, make(chan struct{})
		}
		mu.Unlock()
		<-round
		io.WriteString(w, strings.Repeat("x", 1000)) // an answer to be read
	}
	start(t, b, "--post="+e.URL, fmt.Sprint("-n=", handlers))
	for round := range rounds {
		for range handlers {
			b.Publish(t, "t", "x")
		}
		b.Settles(t, "t", "ch", "finished", tooltest.Finished(int64(handlers*(round+1))))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(peers) > 4*handlers {
		t.Errorf("%d connections for %d handlers", len(peers), handlers)
	}
}
