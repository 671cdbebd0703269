package upgrade

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
)

// patience bounds every wait; a test that passes does not wait for it.
const patience = 30 * time.Second

var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "zsq-upgrade-")
	if err != nil {
		log.Fatal(err)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var zsq = sync.OnceValues(func() (string, error) { return build("../../..", "zsq", "./cmd/nsqd") })

var upstream = sync.OnceValues(func() (string, error) { return build(".", "upstream", "github.com/nsqio/nsq/apps/nsqd") })

func build(dir, name, pkg string) (string, error) {
	path := filepath.Join(binaries, name)
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return path, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// daemon is a process on a data path.
type daemon struct {
	tcp, http string
	cmd       *exec.Cmd
	done      chan error
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func run(t *testing.T, binary func() (string, error), dir string, flags ...string) *daemon {
	t.Helper()
	path, err := binary()
	must(t, err)
	d := &daemon{tcp: freeAddr(t), http: freeAddr(t), done: make(chan error, 1)}
	d.cmd = exec.Command(path, append([]string{
		"--data-path=" + dir, "--tcp-address=" + d.tcp, "--http-address=" + d.http, "--broadcast-address=127.0.0.1", "--log-level=warn",
	}, flags...)...)
	var out strings.Builder
	d.cmd.Stdout, d.cmd.Stderr = &out, &out
	must(t, d.cmd.Start())
	go func() {
		d.done <- d.cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Logf("%s wrote:\n%.3000s", filepath.Base(path), out.String())
		}
	})
	eventually(t, "the daemon answers", func() bool {
		resp, err := http.Get("http://" + d.http + "/ping")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return d
}

func (d *daemon) stop(t *testing.T) {
	t.Helper()
	must(t, d.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-d.done:
		must(t, err)
	case <-time.After(patience):
		t.Fatal("the daemon ignores SIGTERM")
	}
}

func (d *daemon) kill() {
	d.cmd.Process.Kill()
	<-d.done
}

func (d *daemon) post(t *testing.T, path string, query url.Values, body string) {
	t.Helper()
	resp, err := http.Post("http://"+d.http+path+"?"+query.Encode(), "application/octet-stream", strings.NewReader(body))
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("POST %s?%s: %s %s", path, query.Encode(), resp.Status, text)
	}
}

type stats struct {
	Topics []struct {
		Name     string `json:"topic_name"`
		Depth    int    `json:"depth"`
		Paused   bool   `json:"paused"`
		Channels []struct {
			Name     string `json:"channel_name"`
			Depth    int    `json:"depth"`
			InFlight int    `json:"in_flight_count"`
			Deferred int    `json:"deferred_count"`
			Paused   bool   `json:"paused"`
		} `json:"channels"`
	} `json:"topics"`
}

func (d *daemon) stats(t *testing.T) (s stats) {
	t.Helper()
	resp, err := http.Get("http://" + d.http + "/stats?format=json")
	must(t, err)
	defer resp.Body.Close()
	must(t, json.NewDecoder(resp.Body).Decode(&s))
	return s
}

// waiting returns how many messages a queue has, wherever they are.
func (d *daemon) waiting(t *testing.T, topic, channel string) (n int) {
	t.Helper()
	for _, top := range d.stats(t).Topics {
		if top.Name == topic {
			n += top.Depth
			for _, ch := range top.Channels {
				if ch.Name == channel {
					n += ch.Depth + ch.InFlight + ch.Deferred
				}
			}
		}
	}
	return n
}

// inFlight returns how many messages of a channel its clients have.
func (d *daemon) inFlight(t *testing.T, topic, channel string) (n int) {
	t.Helper()
	for _, top := range d.stats(t).Topics {
		for _, ch := range top.Channels {
			if top.Name == topic && ch.Name == channel {
				n = ch.InFlight
			}
		}
	}
	return n
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not so after %v", what, patience)
		}
	}
}

// ledger is what each channel still owes: bodies, by topic and channel.
type ledger map[[2]string]map[string]bool

// publish publishes n messages to a topic and books them for channels.
func (l ledger) publish(t *testing.T, d *daemon, topic string, first, n int, channels ...string) {
	t.Helper()
	for n > 0 {
		var lines []string
		for range min(n, 500) {
			body := fmt.Sprintf("%s %d %s", topic, first, strings.Repeat("x", first%300))
			lines = append(lines, body)
			first++
			for _, ch := range channels {
				at := [2]string{topic, ch}
				if l[at] == nil {
					l[at] = map[string]bool{}
				}
				l[at][body] = true
			}
		}
		n -= len(lines)
		d.post(t, "/mpub", url.Values{"topic": {topic}}, strings.Join(lines, "\n"))
	}
}

// subscribe connects a consumer. leave gives back what it has not handed out, and
// returns when the daemon knows.
func subscribe(t *testing.T, d *daemon, topic, channel string, maxInFlight int) (messages <-chan *nsq.Message, leave func()) {
	t.Helper()
	cfg := nsq.NewConfig()
	cfg.MaxInFlight = maxInFlight
	cfg.MaxAttempts = 0
	c, err := nsq.NewConsumer(topic, channel, cfg)
	must(t, err)
	c.SetLogger(log.New(io.Discard, "", 0), nsq.LogLevelError)
	out, stop := make(chan *nsq.Message), make(chan struct{})
	c.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error {
		m.DisableAutoResponse()
		select {
		case out <- m:
		case <-stop:
			m.RequeueWithoutBackoff(0)
		}
		return nil
	}))
	must(t, c.ConnectToNSQD(d.tcp))
	return out, func() {
		t.Helper()
		c.ChangeMaxInFlight(0)
		close(stop)
		eventually(t, "every message is finished or given back", func() bool { return d.inFlight(t, topic, channel) == 0 })
		c.Stop()
		<-c.StopChan
	}
}

// consume takes n messages of a channel, finishes them, strikes them off and
// returns them. None may come that is not owed, but for those in again, which do
// not count.
func (l ledger) consume(t *testing.T, d *daemon, topic, channel string, n int, again ...string) (done []string) {
	t.Helper()
	owed := l[[2]string{topic, channel}]
	messages, leave := subscribe(t, d, topic, channel, min(n, 100))
	for len(done) < n {
		select {
		case m := <-messages:
			body := string(m.Body)
			switch {
			case owed[body]:
				delete(owed, body)
				done = append(done, body)
			case !slices.Contains(again, body):
				t.Fatalf("%s/%s: %.40q came and is not owed", topic, channel, body)
			}
			m.Finish()
		case <-time.After(patience):
			t.Fatalf("%s/%s: %d of %d messages came; %d wait", topic, channel, len(done), n, d.waiting(t, topic, channel))
		}
	}
	leave()
	return done
}

// all consumes all that every channel owes and demands that nothing is left.
func (l ledger) all(t *testing.T, d *daemon) {
	t.Helper()
	for at, owed := range l {
		l.consume(t, d, at[0], at[1], len(owed))
		if n := d.waiting(t, at[0], at[1]); n > 0 {
			t.Errorf("%v: %d messages wait that nobody is owed", at, n)
		}
	}
}

// unpause ends what the first broker's test data pauses.
func unpause(t *testing.T, d *daemon) {
	t.Helper()
	for _, top := range d.stats(t).Topics {
		if want := top.Name == "held"; top.Paused != want {
			t.Errorf("topic %s: paused is %t", top.Name, top.Paused)
		}
		for _, ch := range top.Channels {
			if want := top.Name == "still"; ch.Paused != want {
				t.Errorf("channel %s/%s: paused is %t", top.Name, ch.Name, ch.Paused)
			}
		}
	}
	d.post(t, "/topic/unpause", url.Values{"topic": {"held"}}, "")
	d.post(t, "/channel/unpause", url.Values{"topic": {"still"}, "channel": {"c"}}, "")
}

// fill lays down messages of every sort with upstream, over many files, and stops it.
func fill(t *testing.T, dir string) ledger {
	t.Helper()
	l := ledger{}
	d := run(t, upstream, dir, "--mem-queue-size=100", "--max-bytes-per-file=300000")
	for _, at := range [][2]string{{"orders", "a"}, {"orders", "b"}, {"held", "c"}, {"held", "d"}, {"still", "c"}} {
		d.post(t, "/topic/create", url.Values{"topic": {at[0]}}, "")
		d.post(t, "/channel/create", url.Values{"topic": {at[0]}, "channel": {at[1]}}, "")
	}
	d.post(t, "/topic/pause", url.Values{"topic": {"held"}}, "")
	d.post(t, "/channel/pause", url.Values{"topic": {"still"}, "channel": {"c"}}, "")
	l.publish(t, d, "orders", 0, 10000, "a", "b")
	l.publish(t, d, "held", 0, 2000, "c", "d")
	l.publish(t, d, "still", 0, 2000, "c")
	l.publish(t, d, "alone", 0, 2000, "first")
	eventually(t, "the topic has handed on", func() bool {
		return d.waiting(t, "orders", "a") == 10000 && d.waiting(t, "orders", "b") == 10000
	})
	l.consume(t, d, "orders", "a", 3000)
	d.stop(t)
	return l
}

// TestThereAndBack takes a data path of upstream's to zsq, through stops, back to
// upstream, and to zsq again: nothing is lost or doubled.
func TestThereAndBack(t *testing.T) {
	dir := t.TempDir()
	l := fill(t, dir)
	files, err := filepath.Glob(filepath.Join(dir, "orders:a.diskqueue.*.dat"))
	if must(t, err); len(files) < 4 {
		t.Fatalf("%d files of one queue: there is nothing to roll over", len(files))
	}

	// One trip without a crash: exact.
	d := run(t, zsq, dir, "--mem-queue-size=100")
	l.publish(t, d, "orders", 10000, 1000, "a", "b")
	l.consume(t, d, "orders", "a", 5000)
	d.stop(t)
	d = run(t, zsq, dir)
	l.consume(t, d, "orders", "b", 4000)

	l.consume(t, d, "orders", "a", 1000)
	d.stop(t)

	// Out, and into upstream.
	out := filepath.Join(t.TempDir(), "exported")
	path, err := zsq()
	must(t, err)
	text, err := exec.Command(path, "--data-path="+dir, "--export-upstream="+out).CombinedOutput()
	if err != nil {
		t.Fatalf("export: %v\n%s", err, text)
	}
	d = run(t, upstream, out)
	half := len(l[[2]string{"orders", "b"}]) / 2
	l.consume(t, d, "orders", "b", half)
	d.stop(t)

	// And in again.
	d = run(t, zsq, out)
	unpause(t, d)
	l.all(t, d)
	d.stop(t)
	left, err := filepath.Glob(filepath.Join(out, "*.diskqueue.[0-9]*.dat"))
	if must(t, err); len(left) > 0 {
		t.Errorf("upstream's files are left when all is finished: %q", left)
	}
}

// TestExportedIsWhole shows that upstream delivers all that a data path held which
// came from it and was never touched.
func TestExportedIsWhole(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "exported")
	l := fill(t, dir)
	path, err := zsq()
	must(t, err)
	text, err := exec.Command(path, "--data-path="+dir, "--export-upstream="+out).CombinedOutput()
	if err != nil {
		t.Fatalf("export: %v\n%s", err, text)
	}
	if again, err := exec.Command(path, "--data-path="+dir, "--export-upstream="+out).CombinedOutput(); err == nil {
		t.Errorf("a second export into the same directory went well: %s", again)
	}
	d := run(t, upstream, out)
	unpause(t, d)
	l.all(t, d)
	d.stop(t)
}
