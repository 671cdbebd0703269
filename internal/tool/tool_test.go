package tool

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStrings shows that commas are part of a value.
func TestStrings(t *testing.T) {
	var s Strings
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.Var(&s, "a", "")
	if err := fs.Parse([]string{"-a=1,2", "--a", "3"}); err != nil {
		t.Fatal(err)
	}
	if want := (Strings{"1,2", "3"}); !slices.Equal(s, want) {
		t.Errorf("%q, want %q", s, want)
	}
}

type settings map[string]any

func (s settings) Set(name string, value any) error {
	if name == "bogus" {
		return errors.New("invalid option bogus")
	}
	s[name] = value
	return nil
}

// TestClientOption shows how an option's flag is read.
func TestClientOption(t *testing.T) {
	s := settings{}
	f := ClientOption(s)
	for _, v := range []string{"snappy", "sample_rate,5", "auth_secret,a,b"} {
		if err := f.Set(v); err != nil {
			t.Error(err)
		}
	}
	if s["snappy"] != true || s["sample_rate"] != "5" || s["auth_secret"] != "a,b" {
		t.Errorf("%v", s)
	}
	if err := f.Set("bogus,1"); err == nil {
		t.Error("no error")
	}
}

// TestParse shows the exit codes of a bad flag and of --help, and where their
// texts go.
func TestParse(t *testing.T) {
	f := func(arg string, wantCode int, wantEnd bool, wantText string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		p := NewProcess("nsq_x", []string{arg}, nil, &stdout, &stderr, nil)
		fs := p.Flags()
		fs.Int("n", 0, "number")
		code, end := p.Parse(fs)
		if code != wantCode || end != wantEnd || !strings.HasPrefix(stderr.String(), wantText) || stdout.Len() > 0 {
			t.Errorf("%s: %d, %v, %q", arg, code, end, &stderr)
		}
	}
	f("-n=1", ExitOK, false, "")
	f("--help", ExitOK, true, "Usage of nsq_x:\n")
	f("--bogus", ExitUsage, true, "flag provided but not defined: -bogus\nUsage of nsq_x:\n")
	f("-n=x", ExitUsage, true, `invalid value "x" for flag -n: parse error`+"\nUsage of nsq_x:\n")
}

// TestUserAgent pins what nsqd's statistics show.
func TestUserAgent(t *testing.T) {
	p := NewProcess("nsq_x", nil, nil, io.Discard, io.Discard, nil)
	if got := p.UserAgent(); got != "nsq_x/1.3.0 go-nsq/1.1.0" {
		t.Errorf("%q", got)
	}
}

// TestTimings shows when a line is printed, and what it says.
func TestTimings(t *testing.T) {
	var b bytes.Buffer
	tm := NewTimings(100, "[aggregate]:", log.New(&b, "", 0))
	for i := range 201 {
		if want := i > 100; (b.Len() > 0) != want {
			t.Fatalf("after %d results: %q", i, &b)
		}
		tm.Add(time.Duration(i%100+1) * time.Millisecond)
	}
	line := "[aggregate]: finished 100 - 99th: 100.00ms - 95th: 96.00ms - avg: 50.50ms\n"
	if b.String() != line+line {
		t.Errorf("%q, want twice %q", &b, line)
	}
}

// TestStatusBoard shows when each destination has a line of its own.
func TestStatusBoard(t *testing.T) {
	f := func(want string, every int, destinations ...string) {
		t.Helper()
		var b bytes.Buffer
		board := NewStatusBoard(every, destinations, log.New(&b, "", 0))
		for range 150 {
			board.AddOne(0, time.Millisecond)
			board.AddAll(time.Millisecond)
		}
		var got []string
		for line := range strings.Lines(b.String()) {
			word, _, _ := strings.Cut(line, " ")
			got = append(got, word)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f("[aggregate]:", 100, "a")
	f("[a]: [aggregate]:", 100, "a", "b")
	f("", 0, "a", "b")
	f("Warning: [aggregate]:", 99, "a")
}

// A clock is set by the test.
type clock struct{ now time.Time }

func newPool(mode string, count int) (*HostPool, *clock) {
	c := &clock{time.Unix(1_000_000, 0)}
	p := NewHostPool(mode, count)
	p.now = func() time.Time { return c.now }
	return p, c
}

// TestRoundRobin shows that the second host is first, and that failures do not
// matter.
func TestRoundRobin(t *testing.T) {
	p, _ := newPool("some other word", 3)
	var got []int
	for range 5 {
		i := p.Pick()
		p.Mark(i, time.Second, errors.New("failed"))
		got = append(got, i)
	}
	if want := []int{1, 2, 0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if p, _ := newPool(ModeRoundRobin, 1); p.Pick() != 0 {
		t.Error("the only host is not picked")
	}
}

// TestHostPool follows a failing host through its life.
func TestHostPool(t *testing.T) {
	p, c := newPool(ModeHostPool, 3)
	failed := errors.New("failed")
	picks := func(want ...int) {
		t.Helper()
		for n, w := range want {
			if i := p.Pick(); i != w {
				t.Errorf("pick %d is %d, want %d", n, i, w)
			}
		}
	}
	picks(0, 1, 2, 0)
	p.Mark(1, 0, failed)
	picks(2, 0, 2, 0) // without 1
	c.now = c.now.Add(deadFor)
	p.Mark(1, 0, failed) // a late answer does not prolong it
	picks(2, 0)
	c.now = c.now.Add(1)
	picks(1, 2, 0, 2, 0) // one try
	c.now = c.now.Add(2 * deadFor)
	picks(2, 0) // twice as long, exactly
	c.now = c.now.Add(1)
	picks(1)
	p.Mark(1, 0, nil) // alive again
	picks(2, 0, 1, 2, 0, 1)
	for i := range 3 {
		p.Mark(i, 0, failed)
	}
	picks(0, 1, 2) // all dead: all alive
}

// TestDeadForAtMost shows that the pause of a host that stays dead is bounded.
func TestDeadForAtMost(t *testing.T) {
	p, c := newPool(ModeHostPool, 2)
	p.Mark(1, 0, errors.New("failed"))
	for range 20 {
		c.now = c.now.Add(time.Hour)
		p.Pick()
		p.Pick()
	}
	if d := p.hosts[1].deadFor; d != deadForMax {
		t.Errorf("dead for %v, want %v", d, deadForMax)
	}
}

// TestEpsilonGreedy shows that a quick host gets more, in proportion, that hosts
// are explored less and less, and that what is five minutes old is forgotten.
func TestEpsilonGreedy(t *testing.T) {
	p, c := newPool(ModeEpsilonGreedy, 2)
	p.random = func() float64 { return 0 } // explore
	for range 100 {
		if i := p.Pick(); i == 0 {
			p.Mark(i, 300*time.Microsecond, nil)
		} else {
			p.Mark(i, 100*time.Microsecond, nil)
		}
	}
	if p.epsilon != epsilonMin {
		t.Errorf("epsilon is %v", p.epsilon)
	}
	draw := 0
	p.random = func() float64 { draw++; return float64(draw%1000) / 1000 }
	share := func() (quick float64) {
		for range 2000 {
			quick += float64(p.Pick())
		}
		return quick / 2000
	}
	if s := share(); s < 0.7 || s > 0.8 {
		t.Errorf("the host that is three times as quick gets %.2f, want about 0.75", s)
	}
	p.Mark(1, 0, errors.New("failed"))
	if s := share(); s > 0.02 {
		t.Errorf("a dead host gets %.2f", s)
	}
	c.now = c.now.Add(6 * time.Minute)
	p.Mark(1, time.Millisecond, nil) // alive, and all that is known
	if p.Pick(); p.hosts[0].meanTime(p.bucket) != 0 {
		t.Error("what is old is not forgotten")
	}
}

// TestProgress shows that the line stays below log lines and is left at the end.
func TestProgress(t *testing.T) {
	var b bytes.Buffer
	shown := make(chan struct{}, 100)
	p := startProgress(&b, 12, func() string { shown <- struct{}{}; return "0123456789abcdef" })
	<-shown
	<-shown // so the first is on the screen
	fmt.Fprintln(p, "log")
	p.Stop()
	line := "0123456789a" // one less than the terminal is wide
	erase := "\r" + strings.Repeat(" ", len(line)) + "\r"
	if want := erase + "log\n" + line; !strings.Contains(b.String(), want) {
		t.Errorf("%q has no %q", &b, want)
	}
	if !strings.HasPrefix(b.String(), line) || !strings.HasSuffix(b.String(), line+"\n") {
		t.Errorf("%q", &b)
	}
	if p := StartProgress(io.Discard, nil); p != nil {
		t.Error("progress without a terminal")
	}
	var none *Progress
	none.Stop()
}

// TestNotATerminal shows what is none, though it is a character device.
func TestNotATerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, _, ok := TerminalSize(null); ok || IsTerminal(null) || IsTerminal(&bytes.Buffer{}) {
		t.Error("taken for a terminal")
	}
}

// TestSizeText shows the units.
func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 62: "4194304.0 TiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// TestCluster asks servers that answer well, badly and not in JSON.
func TestCluster(t *testing.T) {
	serve := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept") != "application/vnd.nsq; version=1.0" {
				status = http.StatusNotAcceptable
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	c := NewCluster(time.Minute, time.Minute)
	one, two := serve(200, `{"topics":["b","a"]}`), serve(200, `{"topics":["c","b"]}`)
	if got, err := c.Topics([]string{one, two}); err != nil || !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{serve(500, "no"), serve(200, "no")} {
		if got, err := c.Topics([]string{one, bad}); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q, %v, want an error of one line", got, err)
		}
	}
	a := serve(200, `{"topics":[{"topic_name":"t","channels":[{"channel_name":"ch","depth":3,"backend_depth":2,"in_flight_count":1,
		"deferred_count":4,"requeue_count":5,"timeout_count":6,"message_count":7,"client_count":8},{"channel_name":"x","depth":1}]}]}`)
	b := serve(200, `{"topics":[]}`)
	want := ChannelStats{Name: "ch", Depth: 6, BackendDepth: 4, InFlightCount: 2, DeferredCount: 8, RequeueCount: 10, TimeoutCount: 12, MessageCount: 14, ClientCount: 16}
	if got, err := c.Channel("t", "ch", []string{a, b, a}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.Channel("t", "other", []string{a, b}); !errors.Is(err, ErrNoChannel) {
		t.Errorf("error %v", err)
	}
	six := serve(200, `{"producers":[{"broadcast_address":"::1","http_port":1},{"broadcast_address":"a","http_port":2}]}`)
	if got, err := c.LookupProducers("t", []string{six, six}); err != nil || !slices.Equal(got, []string{"[::1]:1", "a:2"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHTTPSOnly shows that an nsqd that answers 403 is asked again at the port
// it names.
func TestHTTPSOnly(t *testing.T) {
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"topics":["a"]}`)
	}))
	defer secure.Close()
	u, err := url.Parse(secure.URL)
	if err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"message":"TLS_REQUIRED","https_port":%s}`, u.Port())
	}))
	defer plain.Close()
	c := &Cluster{client: secure.Client()}
	got, err := c.Topics([]string{strings.TrimPrefix(plain.URL, "http://")})
	if err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("%q, %v", got, err)
	}
}
