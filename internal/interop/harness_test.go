package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
)

// patience bounds every wait. It is generous because upstream looks at the
// timers of a new channel only after five seconds, and because the machine may
// be busy; a test that passes does not wait for it.
const patience = 30 * time.Second

// binaries is where TestMain's process keeps what it builds.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "zsq-interop-")
	if err != nil {
		log.Fatal(err)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// nsqd builds the broker under test once, or takes the one ZSQ_NSQD names.
var nsqd = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("ZSQ_NSQD"); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(binaries, "zsq-nsqd")
	return path, build("../..", path, "./cmd/nsqd")
})

// tools builds upstream's programs once and returns the directory they are in.
var tools = sync.OnceValues(func() (string, error) {
	const nsq = "github.com/nsqio/nsq/"
	return binaries, build(".", binaries+"/", nsq+"apps/to_nsq", nsq+"apps/nsq_tail",
		nsq+"apps/nsq_stat", nsq+"bench/bench_writer", nsq+"bench/bench_reader")
})

func build(dir, out string, pkgs ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", out}, pkgs...)...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", pkgs, err, text)
	}
	return nil
}

// A broker is one nsqd process on loopback ports of its own.
type broker struct {
	tcp, http string // addresses
	dir       string // data path
	flags     []string
	ulimit    string // arguments of the shell's ulimit, or empty

	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan error // closed after the exit status has been sent
}

// startBroker runs a broker in a fresh data directory. It is killed when the
// test ends, and its log is shown when the test has failed.
func startBroker(t *testing.T, flags ...string) *broker {
	t.Helper()
	return startLimited(t, "", flags...)
}

// startLimited is startBroker with a resource limit.
func startLimited(t *testing.T, ulimit string, flags ...string) *broker {
	t.Helper()
	b := &broker{dir: t.TempDir(), flags: flags, ulimit: ulimit, log: new(lockedBuffer)}
	t.Cleanup(func() {
		b.kill()
		if t.Failed() {
			t.Logf("broker's log, last part:\n%s", b.log.tail(8<<10))
		}
	})
	b.start(t)
	return b
}

// start runs the process and waits until it answers. Ports are chosen by
// closing a listener, so another process may take one in between; a start that
// ends early is therefore tried again on other ports.
func (b *broker) start(t *testing.T) {
	t.Helper()
	path, err := nsqd()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.tcp, b.http = freeAddr(t), freeAddr(t)
		flags := append([]string{
			"--data-path=" + b.dir,
			"--tcp-address=" + b.tcp,
			"--http-address=" + b.http,
			"--broadcast-address=127.0.0.1",
		}, b.flags...)
		b.cmd = exec.Command(path, flags...)
		if b.ulimit != "" {
			b.cmd = exec.Command("sh", append([]string{"-c", "ulimit " + b.ulimit + `; exec "$0" "$@"`, path}, flags...)...)
		}
		b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
		if err := b.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b.done = make(chan error, 1)
		go func(cmd *exec.Cmd, done chan error) {
			done <- cmd.Wait()
			close(done)
		}(b.cmd, b.done)
		if b.up(t) {
			return
		}
	}
	t.Fatal("the broker does not start")
}

// up waits until the broker answers, or until its process has ended.
func (b *broker) up(t *testing.T) bool {
	t.Helper()
	ended := false
	eventually(t, "the broker answers /ping", func() bool {
		select {
		case <-b.done:
			ended = true
			return true
		default:
		}
		resp, err := http.Get("http://" + b.http + "/ping")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return !ended
}

// stop ends the broker as an operator would and expects a clean exit.
func (b *broker) stop(t *testing.T) {
	t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-b.done:
		if err != nil {
			t.Fatalf("after SIGTERM: %v, want exit status 0", err)
		}
	case <-time.After(patience):
		t.Fatal("the broker ignores SIGTERM")
	}
}

func (b *broker) kill() {
	if b.cmd == nil || b.cmd.Process == nil {
		return
	}
	b.cmd.Process.Kill()
	<-b.done
}

// post calls one of the broker's HTTP commands and expects status 200.
func (b *broker) post(t *testing.T, path string, query url.Values, body string) {
	t.Helper()
	resp, err := http.Post("http://"+b.http+path+"?"+query.Encode(), "application/octet-stream", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("POST %s?%s: %s %s", path, query.Encode(), resp.Status, text)
	}
}

// create makes a topic and its channels.
func (b *broker) create(t *testing.T, topic string, channels ...string) {
	t.Helper()
	b.post(t, "/topic/create", url.Values{"topic": {topic}}, "")
	for _, ch := range channels {
		b.post(t, "/channel/create", on(topic, ch), "")
	}
}

func on(topic, channel string) url.Values {
	return url.Values{"topic": {topic}, "channel": {channel}}
}

// topicStats and its parts are what we read of /stats?format=json.
type topicStats struct {
	Name         string         `json:"topic_name"`
	Channels     []channelStats `json:"channels"`
	Depth        int            `json:"depth"`
	MessageCount int            `json:"message_count"`
	MessageBytes int            `json:"message_bytes"`
	Paused       bool           `json:"paused"`
}

type channelStats struct {
	Name          string        `json:"channel_name"`
	Depth         int           `json:"depth"`
	InFlightCount int           `json:"in_flight_count"`
	DeferredCount int           `json:"deferred_count"`
	MessageCount  int           `json:"message_count"`
	RequeueCount  int           `json:"requeue_count"`
	TimeoutCount  int           `json:"timeout_count"`
	ClientCount   int           `json:"client_count"`
	Clients       []clientStats `json:"clients"`
	Paused        bool          `json:"paused"`
}

type clientStats struct {
	ReadyCount    int `json:"ready_count"`
	InFlightCount int `json:"in_flight_count"`
	MessageCount  int `json:"message_count"`
	FinishCount   int `json:"finish_count"`
	RequeueCount  int `json:"requeue_count"`
	SampleRate    int `json:"sample_rate"`
}

// topic returns what /stats says of a topic; ok is false if it is not listed.
func (b *broker) topic(t *testing.T, name string) (stats topicStats, ok bool) {
	t.Helper()
	resp, err := http.Get("http://" + b.http + "/stats?format=json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all struct {
		Topics []topicStats `json:"topics"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	for _, topic := range all.Topics {
		if topic.Name == name {
			return topic, true
		}
	}
	return topicStats{}, false
}

// channel returns what /stats says of a channel; ok is false if it is not listed.
func (b *broker) channel(t *testing.T, topic, name string) (stats channelStats, ok bool) {
	t.Helper()
	all, _ := b.topic(t, topic)
	for _, ch := range all.Channels {
		if ch.Name == name {
			return ch, true
		}
	}
	return channelStats{}, false
}

// settles waits until the channel's statistics satisfy want, and returns them.
func (b *broker) settles(t *testing.T, topic, channel, what string, want func(channelStats) bool) channelStats {
	t.Helper()
	var last channelStats
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s/%s, when last asked whether %s: %+v", topic, channel, what, last)
		}
	})
	eventually(t, fmt.Sprintf("%s/%s: %s", topic, channel, what), func() bool {
		var ok bool
		last, ok = b.channel(t, topic, channel)
		return ok && want(last)
	})
	return last
}

// drained is a channel with nothing left to deliver or to finish.
func drained(ch channelStats) bool {
	return ch.Depth == 0 && ch.InFlightCount == 0 && ch.DeferredCount == 0
}

// eventually asks until cond holds. Another process has no channel on which we
// could wait for it.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not so after %v", what, patience)
		}
	}
}

// receive takes the next value from c.
func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
		panic("unreachable")
	}
}

var quiet = log.New(io.Discard, "", 0)

func newProducer(t *testing.T, b *broker) *nsq.Producer {
	t.Helper()
	p, err := nsq.NewProducer(b.tcp, nsq.NewConfig())
	if err != nil {
		t.Fatal(err)
	}
	p.SetLogger(quiet, nsq.LogLevelError)
	t.Cleanup(p.Stop)
	return p
}

// consume connects one stock consumer with one handler. It is stopped when the
// test ends, unless the test has stopped it before.
func consume(t *testing.T, b *broker, topic, channel string, cfg *nsq.Config, h nsq.HandlerFunc) *nsq.Consumer {
	t.Helper()
	c, err := nsq.NewConsumer(topic, channel, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.SetLogger(quiet, nsq.LogLevelError)
	c.AddHandler(h)
	if err := c.ConnectToNSQD(b.tcp); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// hold is a handler that hands messages to the test, which answers them itself.
func hold(c chan<- *nsq.Message) nsq.HandlerFunc {
	return func(m *nsq.Message) error {
		m.DisableAutoResponse()
		c <- m
		return nil
	}
}

// config is a consumer's configuration with the given maximum in flight. Its
// consumers never give a message up and never back off.
func config(maxInFlight int) *nsq.Config {
	cfg := nsq.NewConfig()
	cfg.MaxInFlight = maxInFlight
	cfg.MaxAttempts = 0
	cfg.MaxBackoffDuration = 0
	return cfg
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runTool runs one of upstream's programs to its end and returns what it wrote
// to its standard output and its standard error.
func runTool(t *testing.T, stdin, name string, args ...string) (stdout, stderr string) {
	t.Helper()
	dir, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, name), args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", name, errors.Join(ctx.Err(), err), out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A lockedBuffer collects a process's output while the test may read it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.buf.Bytes()
	return string(text[max(0, len(text)-n):])
}
