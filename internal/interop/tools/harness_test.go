package tools

import (
	"bytes"
	"context"
	"encoding/binary"
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

// patience bounds every wait; a test that passes does not wait for it.
const patience = 40 * time.Second

// binaries is where TestMain's process keeps what it builds: "ours" and
// "upstream" below it.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "zsq-tools-")
	if err != nil {
		log.Fatal(err)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// names are the tools, ours and upstream's.
var names = []string{"nsq_stat", "nsq_tail", "nsq_to_file", "nsq_to_http", "nsq_to_nsq", "to_nsq"}

// built builds everything once.
var built = sync.OnceValue(func() error {
	ours, theirs := []string{"./cmd/nsqd"}, []string{"github.com/nsqio/nsq/apps/nsqlookupd", "github.com/nsqio/nsq/apps/nsqd"}
	for _, name := range names {
		ours, theirs = append(ours, "./cmd/"+name), append(theirs, "github.com/nsqio/nsq/apps/"+name)
	}
	return errors.Join(build("../../..", "ours", ours), build(".", "upstream", theirs))
})

func build(dir, side string, pkgs []string) error {
	out := filepath.Join(binaries, side) + string(filepath.Separator)
	if err := os.MkdirAll(out, 0o700); err != nil {
		return err
	}
	cmd := exec.Command("go", append([]string{"build", "-o", out}, pkgs...)...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", pkgs, err, text)
	}
	return nil
}

// sides are whose tools there are to compare.
var sides = []string{"upstream", "ours"}

// command returns a side's program, ready to start. It is killed with the test,
// or when it takes too long.
func command(t testing.TB, side, name string, args ...string) *exec.Cmd {
	t.Helper()
	if err := built(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, filepath.Join(binaries, side, name), args...)
}

// A result is what a program left.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a program to its end.
func run(t testing.TB, side, name, stdin string, args ...string) result {
	t.Helper()
	cmd := command(t, side, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	timer := time.AfterFunc(patience, func() { cmd.Cancel() })
	defer timer.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return result{code, out.String(), errs.String()}
	}
	t.Errorf("%s %s %q does not end", side, name, args)
	return result{-1, out.String(), errs.String()}
}

// start starts a program; its output is shown when the test fails.
func start(t testing.TB, side, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(t, side, name, args...)
	out := new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		if t.Failed() {
			t.Logf("%s %s %q:\n%s", side, name, args, out.tail(4<<10))
		}
	})
	return cmd
}

// stop sends TERM and wants a clean end.
func stop(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s after TERM: %v", cmd.Path, err)
	}
}

// A broker is one nsqd process on loopback ports of its own.
type broker struct{ tcp, http string }

// startBroker runs the broker under test.
func startBroker(t testing.TB, flags ...string) *broker {
	t.Helper()
	must(t, built())
	path := filepath.Join(binaries, "ours", "nsqd")
	if own := os.Getenv("ZSQ_NSQD"); own != "" {
		var err error
		path, err = filepath.Abs(own)
		must(t, err)
	}
	return startDaemon(t, path, append(flags, "--data-path="+t.TempDir(), "--broadcast-address=127.0.0.1", "--log-level=warn")...)
}

// startDaemon runs a daemon on free ports and waits for it. A port may be taken
// by somebody else in between; then it is tried again.
func startDaemon(t testing.TB, path string, flags ...string) *broker {
	t.Helper()
	for range 3 {
		b := &broker{freeAddr(t), freeAddr(t)}
		out := new(lockedBuffer)
		cmd := exec.Command(path, append(flags, "--tcp-address="+b.tcp, "--http-address="+b.http)...)
		cmd.Stdout, cmd.Stderr = out, out
		must(t, cmd.Start())
		doneC := make(chan struct{})
		go func() {
			defer close(doneC)
			cmd.Wait()
		}()
		t.Cleanup(func() {
			cmd.Process.Kill()
			<-doneC
			if t.Failed() {
				t.Logf("%s:\n%s", path, out.tail(4<<10))
			}
		})
		up, ended := false, false
		eventually(t, path+" answers", func() bool {
			select {
			case <-doneC:
				ended = true
			default:
				resp, err := http.Get("http://" + b.http + "/ping")
				if err == nil {
					resp.Body.Close()
					up = resp.StatusCode == http.StatusOK
				}
			}
			return up || ended
		})
		if up {
			return b
		}
	}
	t.Fatalf("%s does not start", path)
	return nil
}

// post calls one of the broker's HTTP commands.
func (b *broker) post(t testing.TB, path string, query url.Values, body string) {
	t.Helper()
	resp, err := http.Post("http://"+b.http+path+"?"+query.Encode(), "application/octet-stream", strings.NewReader(body))
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("POST %s: %s %s", path, resp.Status, text)
	}
}

// create makes a topic and its channels.
func (b *broker) create(t testing.TB, topic string, channels ...string) {
	t.Helper()
	b.post(t, "/topic/create", url.Values{"topic": {topic}}, "")
	for _, ch := range channels {
		b.post(t, "/channel/create", url.Values{"topic": {topic}, "channel": {ch}}, "")
	}
}

// publish publishes the bodies in their order.
func (b *broker) publish(t testing.TB, topic string, bodies []string) {
	t.Helper()
	for len(bodies) > 0 {
		n := min(len(bodies), 1000)
		var body bytes.Buffer
		for _, text := range bodies[:n] {
			body.Write(binary.BigEndian.AppendUint32(nil, uint32(len(text))))
			body.WriteString(text)
		}
		batch := append(binary.BigEndian.AppendUint32(nil, uint32(n)), body.Bytes()...)
		b.post(t, "/mpub", url.Values{"topic": {topic}, "binary": {"true"}}, string(batch))
		bodies = bodies[n:]
	}
}

// channelStats is what we read of a channel in /stats.
type channelStats struct {
	Name          string `json:"channel_name"`
	Depth         int    `json:"depth"`
	InFlightCount int    `json:"in_flight_count"`
	DeferredCount int    `json:"deferred_count"`
	MessageCount  int    `json:"message_count"`
	ClientCount   int    `json:"client_count"`
}

// settles waits until the channel's numbers satisfy want.
func (b *broker) settles(t testing.TB, topic, channel, what string, want func(channelStats) bool) {
	t.Helper()
	var last channelStats
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s/%s: %s: last seen %+v", topic, channel, what, last)
		}
	})
	eventually(t, topic+"/"+channel+": "+what, func() bool {
		resp, err := http.Get("http://" + b.http + "/stats?format=json&include_clients=false&topic=" + url.QueryEscape(topic))
		must(t, err)
		defer resp.Body.Close()
		var all struct {
			Topics []struct {
				Name     string         `json:"topic_name"`
				Channels []channelStats `json:"channels"`
			} `json:"topics"`
		}
		must(t, json.NewDecoder(resp.Body).Decode(&all))
		for _, tp := range all.Topics {
			for _, ch := range tp.Channels {
				if tp.Name != topic || ch.Name != channel {
					continue
				}
				last = ch
				if want(ch) {
					return true
				}
			}
		}
		return false
	})
}

// finished is a channel that has had count messages, all of them finished.
func finished(count int) func(channelStats) bool {
	return func(ch channelStats) bool {
		return ch.MessageCount == count && ch.Depth == 0 && ch.InFlightCount == 0 && ch.DeferredCount == 0
	}
}

// consume returns the next count bodies of a topic, by a channel of its own.
func (b *broker) consume(t testing.TB, topic string, count int) []string {
	t.Helper()
	config := nsq.NewConfig()
	c, err := nsq.NewConsumer(topic, "consume", config)
	must(t, err)
	c.SetLogger(log.New(io.Discard, "", 0), nsq.LogLevelError)
	bodies := make(chan string, count)
	c.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error {
		select {
		case bodies <- string(m.Body):
		default:
		}
		return nil
	}))
	must(t, c.ConnectToNSQD(b.tcp))
	defer func() {
		c.Stop()
		<-c.StopChan
	}()
	var got []string
	for len(got) < count {
		select {
		case body := <-bodies:
			got = append(got, body)
		case <-time.After(patience):
			t.Fatalf("%s: %d of %d messages", topic, len(got), count)
		}
	}
	return got
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually asks until cond holds. Another process has no go-chan on which we
// could wait for it.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not so after %v", what, patience)
		}
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
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
