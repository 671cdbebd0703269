//go:build linux

package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
	"github.com/zsqio/zsq/internal/tool/tooltest"
)

// TestUsage shows what each wrong command line is answered with.
func TestUsage(t *testing.T) {
	line := func(want string, args ...string) {
		t.Helper()
		tooltest.ExpectLine(t, tool.ExitError, want, "nsq_tail", run, args...)
	}
	line("--nsqd-tcp-address or --lookupd-http-address required")
	line("use --nsqd-tcp-address or --lookupd-http-address not both", "--nsqd-tcp-address=a", "--lookupd-http-address=b")
	line("--topic required", "--nsqd-tcp-address=a")
	tooltest.Expect(t, tool.ExitUsage, "nsq_tail", run, "", "--bogus")
	tooltest.Expect(t, tool.ExitUsage, "nsq_tail", run, "", "--consumer-opt=bogus,1")
	tooltest.Expect(t, tool.ExitOK, "nsq_tail", run, "", "--help")
	if out, _ := tooltest.Expect(t, tool.ExitOK, "nsq_tail", run, "", "--version"); out != "nsq_tail v1.3.0\n" {
		t.Errorf("%q", out)
	}
	_, stderr := tooltest.Expect(t, tool.ExitError, "nsq_tail", run, "", "--topic=t", "--nsqd-tcp-address=127.0.0.1:1")
	if !strings.Contains(stderr, "Adding consumer for topic: t\n") || !strings.HasSuffix(stderr, "connection refused\n") {
		t.Errorf("%q", stderr)
	}
}

// TestCountsOverTopics shows that -n is a total, that what was printed is
// finished and that the rest stays.
func TestCountsOverTopics(t *testing.T) {
	b := tooltest.StartBroker(t)
	for _, topic := range []string{"a", "b"} {
		b.Create(t, topic, "ch")
		b.Publish(t, topic, "x", "x", "x")
	}
	out, _ := tooltest.Expect(t, tool.ExitOK, "nsq_tail", run, "", "--topic=a", "--topic=b", "--channel=ch", "-n=4",
		"--print-topic", "--nsqd-tcp-address="+b.TCP)
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	slices.Sort(lines)
	if len(lines) != 4 || lines[0] != "a | x" || lines[3] != "b | x" {
		t.Errorf("printed %q", out)
	}
	for _, topic := range []string{"a", "b"} {
		left := int64(3 - strings.Count(out, topic+" | "))
		b.Settles(t, topic, "ch", "what was not printed is left", func(ch tool.ChannelStats) bool {
			return ch.Depth == left && ch.InFlightCount == 0 && ch.DeferredCount == 0 && ch.ClientCount == 0
		})
	}
}

// TestGiveBack shows that what is not to be printed is kept until the consumers
// stop: given back before, it would come again and again, until it is given up.
func TestGiveBack(t *testing.T) {
	var w writes
	p := newPrinter(&w, 1)
	back := new(requeued)
	message := func() *nsq.Message {
		m := nsq.NewMessage(nsq.MessageID{}, []byte("body"))
		m.Delegate = back
		return m
	}
	printed, beyond, late := message(), message(), message()
	for _, m := range []*nsq.Message{printed, beyond} {
		if err := p.print("", m); err != nil {
			t.Fatal(err)
		}
	}
	<-p.doneC
	if *back != 0 || printed.IsAutoResponseDisabled() || !beyond.IsAutoResponseDisabled() {
		t.Errorf("%d are requeued while more may come", *back)
	}
	p.giveBack()
	if err := p.print("", late); err != nil {
		t.Fatal(err)
	}
	if *back != 2 || printed.HasResponded() || len(w) != 1 {
		t.Errorf("%d are requeued, want 2; %q is printed", *back, w)
	}
}

// requeued counts messages that are requeued.
type requeued int

// OnRequeue counts.
func (r *requeued) OnRequeue(*nsq.Message, time.Duration, bool) { *r++ }

// OnFinish does nothing: nothing here finishes.
func (*requeued) OnFinish(*nsq.Message) {}

// OnTouch does nothing.
func (*requeued) OnTouch(*nsq.Message) {}

// TestFollow prints as messages come, until a signal.
func TestFollow(t *testing.T) {
	b := tooltest.StartBroker(t)
	r := tooltest.Start(t, "nsq_tail", run, nil, "--topic=t", "--channel=ch", "--nsqd-tcp-address="+b.TCP)
	b.Settles(t, "t", "ch", "the tool is there", tooltest.HasClients(1))
	b.Publish(t, "t", "one", "two")
	tooltest.Eventually(t, "both are printed", func() bool { return r.Stdout.String() == "one\ntwo\n" })
	r.Signal(os.Interrupt)
	if code := r.Wait(t); code != tool.ExitOK {
		t.Errorf("code %d", code)
	}
	b.Settles(t, "t", "ch", "all finished", tooltest.Finished(2))
}

// A brokenPipe fails every write.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// TestWriteFails shows that a message that could not be printed is not finished.
func TestWriteFails(t *testing.T) {
	b := tooltest.StartBroker(t)
	b.Create(t, "t", "ch")
	b.Publish(t, "t", "one")
	var stderr tooltest.Buffer
	args := append(tooltest.Unhurried("nsq_tail"), "--topic=t", "--channel=ch", "--nsqd-tcp-address="+b.TCP)
	p := tool.NewProcess("nsq_tail", args, nil, brokenPipe{}, &stderr, nil)
	if code := run(p); code != tool.ExitError || !strings.HasSuffix(stderr.String(), "failed to write to standard output - broken pipe\n") {
		t.Errorf("code %d, %s", code, &stderr)
	}
	b.Settles(t, "t", "ch", "the message is back", func(ch tool.ChannelStats) bool { return ch.Depth == 1 && ch.InFlightCount == 0 })
}

// TestOneWrite shows that a record with its topic is a single write.
func TestOneWrite(t *testing.T) {
	var w writes
	p := newPrinter(&w, 0)
	if err := p.print("topic | ", nsq.NewMessage(nsq.MessageID{}, []byte("body"))); err != nil {
		t.Fatal(err)
	}
	if want := []string{"topic | body\n"}; !slices.Equal(w, want) {
		t.Errorf("%q, want %q", w, want)
	}
}

type writes []string

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, string(p))
	return len(p), nil
}
