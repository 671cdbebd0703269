package upgrade

import (
	"fmt"
	"io"
	"log"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait; a test that passes does not wait for it, not even on a
// machine that stands still for a minute.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { daemon.Main(m) }

// Here zsq is always ours: no other nsqd exports.
var (
	zsq      = daemon.Program{Package: "./cmd/nsqd"}
	upstream = daemon.UpstreamNsqd
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nsqd is a process on a data path.
type nsqd struct{ *daemon.Daemon }

func run(t *testing.T, program daemon.Program, dir string, flags ...string) nsqd {
	t.Helper()
	flags = append([]string{"--data-path=" + dir, "--broadcast-address=127.0.0.1", "--log-level=warn"}, flags...)
	return nsqd{daemon.Start(t, daemon.Config{Program: program, Flags: flags})}
}

// waiting returns how many messages a queue has, wherever they are.
func (d nsqd) waiting(t *testing.T, topic, channel string) (n int) {
	t.Helper()
	for _, top := range d.Topics(t, "") {
		if top.Name == topic {
			n += top.Depth
			for _, ch := range top.Channels {
				if ch.Name == channel {
					n += ch.Depth + ch.InFlightCount + ch.DeferredCount
				}
			}
		}
	}
	return n
}

// inFlight returns how many messages of a channel its clients have.
func (d nsqd) inFlight(t *testing.T, topic, channel string) (n int) {
	t.Helper()
	for _, top := range d.Topics(t, "") {
		for _, ch := range top.Channels {
			if top.Name == topic && ch.Name == channel {
				n = ch.InFlightCount
			}
		}
	}
	return n
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	daemon.Eventually(t, patience, what, cond)
}

// ledger is what each channel still owes: bodies, by topic and channel.
type ledger map[[2]string]map[string]bool

// publish publishes n messages to a topic and books them for channels.
func (l ledger) publish(t *testing.T, d nsqd, topic string, first, n int, channels ...string) {
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
		d.Post(t, "/mpub", url.Values{"topic": {topic}}, strings.Join(lines, "\n"))
	}
}

// subscribe connects a consumer. leave gives back what it has not handed out, and
// returns when the daemon knows.
func subscribe(t *testing.T, d nsqd, topic, channel string, maxInFlight int) (messages <-chan *nsq.Message, leave func()) {
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
	must(t, c.ConnectToNSQD(d.TCP))
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
func (l ledger) consume(t *testing.T, d nsqd, topic, channel string, n int, again ...string) (done []string) {
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
func (l ledger) all(t *testing.T, d nsqd) {
	t.Helper()
	for at, owed := range l {
		l.consume(t, d, at[0], at[1], len(owed))
		eventually(t, fmt.Sprintf("%v: no message waits that nobody is owed", at), func() bool { return d.waiting(t, at[0], at[1]) == 0 })
	}
}

// unpause ends what the first broker's test data pauses.
func unpause(t *testing.T, d nsqd) {
	t.Helper()
	for _, top := range d.Topics(t, "") {
		if want := top.Name == "held"; top.Paused != want {
			t.Errorf("topic %s: paused is %t", top.Name, top.Paused)
		}
		for _, ch := range top.Channels {
			if want := top.Name == "still"; ch.Paused != want {
				t.Errorf("channel %s/%s: paused is %t", top.Name, ch.Name, ch.Paused)
			}
		}
	}
	d.Post(t, "/topic/unpause", url.Values{"topic": {"held"}}, "")
	d.Post(t, "/channel/unpause", url.Values{"topic": {"still"}, "channel": {"c"}}, "")
}

// fill lays down messages of every sort with upstream, over many files, and stops it.
func fill(t *testing.T, dir string) ledger {
	t.Helper()
	l := ledger{}
	d := run(t, upstream, dir, "--mem-queue-size=100", "--max-bytes-per-file=300000")
	for _, at := range [][2]string{{"orders", "a"}, {"orders", "b"}, {"held", "c"}, {"held", "d"}, {"still", "c"}} {
		d.Post(t, "/topic/create", url.Values{"topic": {at[0]}}, "")
		d.Post(t, "/channel/create", url.Values{"topic": {at[0]}, "channel": {at[1]}}, "")
	}
	d.Post(t, "/topic/pause", url.Values{"topic": {"held"}}, "")
	d.Post(t, "/channel/pause", url.Values{"topic": {"still"}, "channel": {"c"}}, "")
	l.publish(t, d, "orders", 0, 10000, "a", "b")
	l.publish(t, d, "held", 0, 2000, "c", "d")
	l.publish(t, d, "still", 0, 2000, "c")
	l.publish(t, d, "alone", 0, 2000, "first")
	for _, channel := range []string{"a", "b"} {
		d.Settles(t, patience, "orders", channel, "the topic has handed on", func(c daemon.Channel) bool { return c.Depth == 10000 })
	}
	l.consume(t, d, "orders", "a", 3000)
	d.Stop(t)
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
	d.Stop(t)
	d = run(t, zsq, dir)
	l.consume(t, d, "orders", "b", 4000)

	l.consume(t, d, "orders", "a", 1000)
	d.Stop(t)

	// Out, and into upstream.
	out := filepath.Join(t.TempDir(), "exported")
	path := zsq.Path(t)
	text, err := exec.Command(path, "--data-path="+dir, "--export-upstream="+out).CombinedOutput()
	if err != nil {
		t.Fatalf("export: %v\n%s", err, text)
	}
	d = run(t, upstream, out)
	half := len(l[[2]string{"orders", "b"}]) / 2
	l.consume(t, d, "orders", "b", half)
	d.Stop(t)

	// And in again.
	d = run(t, zsq, out)
	unpause(t, d)
	l.all(t, d)
	d.Stop(t)
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
	path := zsq.Path(t)
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
	d.Stop(t)
}

// TestKilledAmongThem takes a data path of upstream's to zsq, kills that again and
// again while it drains, and goes round twice through an export and upstream. What
// was finished before a kill may come again, and nothing else.
func TestKilledAmongThem(t *testing.T) {
	for _, mode := range []string{"memory", "process"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := fill(t, dir)
			done := map[string][]string{} // by channel of orders
			some := func(d nsqd, channel string, n int) {
				t.Helper()
				done[channel] = append(done[channel], l.consume(t, d, "orders", channel, n, done[channel]...)...)
			}
			for trip := range 2 {
				for range 3 {
					d := run(t, zsq, dir, "--mem-queue-size=100", "--durability="+mode)
					some(d, "a", 300)
					some(d, "b", 500)
					d.Kill()
				}
				out := filepath.Join(t.TempDir(), "exported")
				text, err := exec.Command(zsq.Path(t), "--data-path="+dir, "--export-upstream="+out).CombinedOutput()
				if err != nil {
					t.Fatalf("trip %d: export: %v\n%s", trip, err, text)
				}
				up := run(t, upstream, out)
				some(up, "b", 700)
				up.Stop(t)
				dir = out
			}
			d := run(t, zsq, dir)
			unpause(t, d)
			for channel := range done {
				some(d, channel, len(l[[2]string{"orders", channel}]))
				l.rest(t, d, "orders", channel, done[channel])
			}
			l.all(t, d)
			d.Stop(t)
		})
	}
}

// rest takes what is left of a channel, which must be of those named.
func (l ledger) rest(t *testing.T, d nsqd, topic, channel string, named []string) {
	t.Helper()
	n := 0
	for d.waiting(t, topic, channel) > 0 { // what is just being handed out may not be counted: look again when all is given back
		messages, leave := subscribe(t, d, topic, channel, 100)
		for d.waiting(t, topic, channel) > 0 {
			select {
			case m := <-messages:
				if body := string(m.Body); !slices.Contains(named, body) {
					t.Errorf("%s/%s: %.40q is left, and is not owed", topic, channel, body)
				}
				n++
				m.Finish()
			case <-time.After(10 * time.Millisecond): // what was finished is not counted yet
			}
		}
		leave()
	}
	t.Logf("%s/%s: %d messages came again", topic, channel, n)
}
