//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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
		tooltest.ExpectLine(t, tool.ExitError, want, "to_nsq", run, args...)
	}
	line("--topic required", "--delimiter=")
	line("--delimiter must be a single byte", "--topic=t", "--delimiter=ab")
	line("--delimiter must be a single byte", "--topic=t", "--delimiter=é")
	line("--nsqd-tcp-address required", "--topic=t")
	tooltest.Expect(t, tool.ExitUsage, "to_nsq", run, "", "--version") // upstream has none
	tooltest.Expect(t, tool.ExitOK, "to_nsq", run, "", "--help")
	_, stderr := tooltest.Expect(t, tool.ExitUsage, "to_nsq", run, "", "--producer-opt=bogus,1")
	if want := `invalid value "bogus,1" for flag -producer-opt: invalid option bogus`; !strings.HasPrefix(stderr, want+"\n") {
		t.Errorf("%q does not start with %q", stderr, want)
	}
}

// TestUnreachable shows that an nsqd that is not there ends the tool.
func TestUnreachable(t *testing.T) {
	_, stderr := tooltest.Expect(t, tool.ExitError, "to_nsq", run, "x\n", "--topic=t", "--nsqd-tcp-address=127.0.0.1:1")
	if !strings.Contains(stderr, "connection refused") {
		t.Errorf("%q does not say why", stderr)
	}
}

// TestEveryDestination pipes records to two brokers.
func TestEveryDestination(t *testing.T) {
	a, b := tooltest.StartBroker(t), tooltest.StartBroker(t)
	a.Create(t, "t", "ch")
	b.Create(t, "t", "ch")
	tooltest.Expect(t, tool.ExitOK, "to_nsq", run, "one\n\ntwo\nthree", "--topic=t",
		"--nsqd-tcp-address="+a.TCP, "--nsqd-tcp-address="+b.TCP, "--nsqd-tcp-address="+a.TCP)
	for _, b := range []*tooltest.Broker{a, b} {
		b.Settles(t, "t", "ch", "three waiting", func(ch tool.ChannelStats) bool { return ch.Depth == 3 })
	}
}

// TestBadTopic shows the exit code and text of a refused PUB and a refused MPUB.
func TestBadTopic(t *testing.T) {
	b := tooltest.StartBroker(t)
	for _, input := range []string{"x\n", "x\ny\n"} {
		_, stderr := tooltest.Expect(t, tool.ExitError, "to_nsq", run, input, "--topic=b@d", "--nsqd-tcp-address="+b.TCP)
		if want := `E_BAD_TOPIC PUB topic name "b@d" is not valid` + "\n"; !strings.HasSuffix(stderr, want) {
			t.Errorf("%q does not end with %q", stderr, want)
		}
	}
}

// TestStop shows that a signal ends a tool that is waiting for input, after what
// it has read is published.
func TestStop(t *testing.T) {
	b := tooltest.StartBroker(t)
	b.Create(t, "t", "ch")
	r, w := io.Pipe()
	defer w.Close()
	run := tooltest.Start(t, "to_nsq", run, r, "--topic=t", "--nsqd-tcp-address="+b.TCP)
	if _, err := io.WriteString(w, "one\ntwo"); err != nil {
		t.Fatal(err)
	}
	b.Settles(t, "t", "ch", "the whole record is published", func(ch tool.ChannelStats) bool { return ch.Depth == 1 })
	run.Signal(os.Interrupt)
	if code := run.Wait(t); code != tool.ExitOK {
		t.Errorf("code %d", code)
	}
}

// A memory is a producer that keeps what it is told. It refuses a record that
// contains "bad", and a batch with one, as nsqd refuses what is too large.
type memory struct {
	got     []string
	batches int
	opened  int
}

func (m *memory) Publish(_ string, body []byte) error {
	if bytes.Contains(body, []byte("bad")) {
		return nsq.ErrProtocol{Reason: "E_BAD_MESSAGE"}
	}
	m.got = append(m.got, string(body))
	return nil
}

func (m *memory) MultiPublish(_ string, bodies [][]byte) error {
	if bytes.Contains(bytes.Join(bodies, nil), []byte("bad")) {
		return nsq.ErrProtocol{Reason: "E_BAD_MESSAGE"}
	}
	m.batches++
	for _, b := range bodies {
		m.got = append(m.got, string(b))
	}
	return nil
}

func (m *memory) Stop() {}

func (m *memory) destination(t *testing.T) *destination {
	d := &destination{dial: func() (producer, error) { m.opened++; return m, nil }}
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestRecords shows how input is cut, whatever the reads look like.
func TestRecords(t *testing.T) {
	f := func(delimiter byte, input string, want ...string) {
		t.Helper()
		for _, slow := range []bool{false, true} {
			var m memory
			p := &publisher{topic: "t", to: []*destination{m.destination(t)}, stopC: make(chan struct{})}
			var r io.Reader = strings.NewReader(input)
			if slow {
				r = oneByte{r}
			}
			if err := p.publishAll(r, delimiter); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(m.got, want) {
				t.Errorf("%q: got %q, want %q", input, m.got, want)
			}
			if n := p.records.Load(); n != int64(len(want)) {
				t.Errorf("%q: counted %d", input, n)
			}
		}
	}
	f('\n', "")
	f('\n', "\n\n\n")
	f('\n', "last-no-nl", "last-no-nl")
	f('\n', "a\nb\n", "a", "b")
	f('\n', "a\r\n\nb", "a\r", "b")
	f(';', "a\nb;c;", "a\nb", "c")
	f(';', "a;\n", "a", "\n")
	big := strings.Repeat("x", 3*readSize+17)
	f('\n', big+"\n"+big+"\nz", big, big, "z")
}

type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

// TestBatches shows that records that are there already share a command.
func TestBatches(t *testing.T) {
	var input strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&input, "record %d\n", i)
	}
	var m memory
	p := &publisher{to: []*destination{m.destination(t)}, stopC: make(chan struct{})}
	if err := p.publishAll(strings.NewReader(input.String()), '\n'); err != nil {
		t.Fatal(err)
	}
	if len(m.got) != 5000 || m.got[4999] != "record 4999" || m.batches == 0 || m.batches > 10 {
		t.Errorf("%d records in %d batches", len(m.got), m.batches)
	}
}

// TestRefusedBatch shows that records before a refused one get through, and none
// behind it.
func TestRefusedBatch(t *testing.T) {
	var a, b memory
	p := &publisher{to: []*destination{a.destination(t), b.destination(t)}, stopC: make(chan struct{})}
	err := p.publishAll(strings.NewReader("1\n2\nbad\n4\n"), '\n')
	var refused nsq.ErrProtocol
	if !errors.As(err, &refused) {
		t.Errorf("error %v, want the refusal", err)
	}
	if want := []string{"1", "2"}; !slices.Equal(a.got, want) || !slices.Equal(b.got, want) {
		t.Errorf("got %q and %q, want %q", a.got, b.got, want)
	}
	if a.opened != 2 {
		t.Errorf("opened %d times, want a fresh connection after the refusal", a.opened)
	}
}

// TestPace advances a clock by hand.
func TestPace(t *testing.T) {
	now := time.Unix(1, 0)
	p := newPace(10, now)
	f := func(advance, want time.Duration) {
		t.Helper()
		now = now.Add(advance)
		if got := p.take(now).Round(time.Millisecond); max(got, 0) != want {
			t.Errorf("wait %v, want %v", got, want)
		}
	}
	const ms = time.Millisecond
	f(0, 0)           // the first record has its token
	f(0, 100*ms)      // the next waits for one period
	f(100*ms, 100*ms) // and so on
	f(150*ms, 50*ms)  // half a period of it has passed
	f(time.Hour, 0)   // a long pause saves a second's worth
	for range 9 {
		f(0, 0)
	}
	f(0, 100*ms)
}

// TestRate shows that --rate says so and paces records.
func TestRate(t *testing.T) {
	b := tooltest.StartBroker(t)
	start := time.Now()
	_, stderr := tooltest.Expect(t, tool.ExitOK, "to_nsq", run, "1\n2\n3\n4\n5\n", "--topic=t", "--rate=50", "--nsqd-tcp-address="+b.TCP)
	if !strings.Contains(stderr, "Throttling messages rate to max:50/second\n") {
		t.Errorf("%q", stderr)
	}
	if took := time.Since(start); took < 80*time.Millisecond { // a lower bound holds on any machine
		t.Errorf("took %v", took)
	}
}
