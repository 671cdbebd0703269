package tools

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait; a test that passes does not wait for it, not even on a
// machine that stands still for a minute.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { daemon.Main(m) }

// names are the tools, ours and upstream's.
var names = []string{"nsq_stat", "nsq_tail", "nsq_to_file", "nsq_to_http", "nsq_to_nsq", "to_nsq"}

// sides are whose tools there are to compare.
var sides = []string{"upstream", "ours"}

// tool is a side's program.
func tool(side, name string) daemon.Program {
	if side == "ours" {
		return daemon.Program{Package: "./cmd/" + name}
	}
	return daemon.Upstream(name)
}

// command returns a side's program, ready to start. It is killed with the test,
// or when it takes too long.
func command(t testing.TB, side, name string, args ...string) *exec.Cmd {
	t.Helper()
	path := tool(side, name).Path(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, path, args...)
}

// unhurried are flags of the tool with that name, ours or upstream's, that put its
// time-outs where no machine that stalls reaches them. Flags behind them win.
func unhurried(name string) []string {
	consumer := []string{"--consumer-opt=dial_timeout,2m", "--consumer-opt=write_timeout,2m"}
	producer := []string{"--producer-opt=dial_timeout,2m", "--producer-opt=write_timeout,2m"}
	http := []string{"--http-client-connect-timeout=2m", "--http-client-request-timeout=2m"}
	return map[string][]string{
		"nsq_stat": http, "nsq_tail": consumer, "nsq_to_file": append(consumer, http...),
		"nsq_to_http": append(consumer, http...), "nsq_to_nsq": append(consumer, producer...), "to_nsq": producer,
	}[name]
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
	cmd := command(t, side, name, append(unhurried(name), args...)...)
	out := new(daemon.Log)
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		if t.Failed() {
			t.Logf("%s %s %q:\n%s", side, name, args, out.Tail(4<<10))
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
type broker struct{ *daemon.Daemon }

// startBroker runs the broker under test.
func startBroker(t testing.TB, flags ...string) *broker {
	t.Helper()
	return startNsqd(t, daemon.Nsqd, flags...)
}

// startNsqd runs any nsqd.
func startNsqd(t testing.TB, program daemon.Program, flags ...string) *broker {
	t.Helper()
	flags = append(flags, "--data-path="+t.TempDir(), "--broadcast-address=127.0.0.1", "--log-level=warn")
	return &broker{daemon.Start(t, daemon.Config{Program: program, Flags: flags})}
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
		b.Post(t, "/mpub", url.Values{"topic": {topic}, "binary": {"true"}}, string(batch))
		bodies = bodies[n:]
	}
}

type channelStats = daemon.Channel

// settles waits until the channel's numbers satisfy want, and still do when asked
// for again: a message that is just being delivered may be counted nowhere.
func (b *broker) settles(t testing.TB, topic, channel, what string, want func(channelStats) bool) {
	t.Helper()
	b.Settles(t, patience, topic, channel, what, func(ch channelStats) bool {
		if !want(ch) {
			return false
		}
		again, ok := b.Channel(t, topic, channel)
		return ok && want(again)
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
	config.DialTimeout, config.WriteTimeout = patience, patience
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
	must(t, c.ConnectToNSQD(b.TCP))
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

// eventually asks until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	daemon.Eventually(t, patience, what, cond)
}
