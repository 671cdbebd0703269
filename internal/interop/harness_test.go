package interop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait. It is generous because upstream looks at the
// timers of a new channel only after five seconds, and because the machine may
// stand still for a minute; a test that passes does not wait for it.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { daemon.Main(m) }

// A broker is one nsqd process on loopback ports of its own.
type broker struct{ *daemon.Daemon }

// startBroker runs the broker under test in a fresh data directory.
func startBroker(t *testing.T, flags ...string) *broker {
	t.Helper()
	return startLimited(t, "", flags...)
}

// startLimited is startBroker with a resource limit: arguments of the shell's
// ulimit, or none.
func startLimited(t *testing.T, ulimit string, flags ...string) *broker {
	t.Helper()
	c := daemon.Config{
		Program: daemon.Nsqd,
		Flags:   append([]string{"--data-path=" + t.TempDir(), "--broadcast-address=127.0.0.1"}, flags...),
	}
	if ulimit != "" {
		c.Command = func(path string, args ...string) *exec.Cmd {
			return exec.Command("sh", append([]string{"-c", "ulimit " + ulimit + `; exec "$0" "$@"`, path}, args...)...)
		}
	}
	return &broker{daemon.Start(t, c)}
}

func on(topic, channel string) url.Values {
	return url.Values{"topic": {topic}, "channel": {channel}}
}

type channelStats = daemon.Channel

// settles waits until the channel's statistics satisfy want, and returns them.
func (b *broker) settles(t *testing.T, topic, channel, what string, want func(channelStats) bool) channelStats {
	t.Helper()
	return b.Settles(t, patience, topic, channel, what, want)
}

// drained is a channel with nothing left to deliver or to finish.
func drained(ch channelStats) bool {
	return ch.Depth == 0 && ch.InFlightCount == 0 && ch.DeferredCount == 0
}

// eventually asks until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	daemon.Eventually(t, patience, what, cond)
}

// receive takes the next value from c.
func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	return daemon.Receive(t, patience, what, c)
}

var quiet = log.New(io.Discard, "", 0)

func newProducer(t *testing.T, b *broker) *nsq.Producer {
	t.Helper()
	p, err := nsq.NewProducer(b.TCP, patient(nsq.NewConfig()))
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
	if err := c.ConnectToNSQD(b.TCP); err != nil {
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

// patient makes the stock client bear a machine that stands still: of itself it gives
// a second to connect and a second to write.
func patient(cfg *nsq.Config) *nsq.Config {
	cfg.DialTimeout, cfg.ReadTimeout, cfg.WriteTimeout = patience, 2*patience, patience
	return cfg
}

// config is a consumer's configuration with the given maximum in flight. Its
// consumers never give a message up, never back off, and have long for a message.
func config(maxInFlight int) *nsq.Config {
	cfg := patient(nsq.NewConfig())
	cfg.MsgTimeout = 10 * time.Minute
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

// tool is one of upstream's programs.
func tool(name string) daemon.Program {
	if strings.HasPrefix(name, "bench_") {
		return daemon.Program{Package: "github.com/nsqio/nsq/bench/" + name}
	}
	return daemon.Upstream(name)
}

// runTool runs one of upstream's programs to its end and returns what it wrote
// to its standard output and its standard error.
func runTool(t *testing.T, stdin, name string, args ...string) (stdout, stderr string) {
	t.Helper()
	path := tool(name).Path(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", name, errors.Join(ctx.Err(), err), out.String(), errs.String())
	}
	return out.String(), errs.String()
}
