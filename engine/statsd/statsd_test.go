package statsd_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine/statsd"
)

// patience bounds every wait. Nothing comes near it unless something hangs, not even
// on a machine that stands still for a minute.
const patience = 2 * time.Minute

// receiver is a statsd.
func receiver(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func datagram(t *testing.T, c *net.UDPConn) string {
	t.Helper()
	b := make([]byte, 64<<10)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// A clock passes time when the test says so.
type clock struct {
	waits chan time.Duration
	ticks chan time.Time
}

func newClock() *clock {
	return &clock{make(chan time.Duration, 100), make(chan time.Time)}
}

func (c *clock) after(d time.Duration) <-chan time.Time {
	c.waits <- d
	return c.ticks
}

// pass lets the wait end that is the next, and says how long it was.
func (c *clock) pass(t *testing.T) time.Duration {
	t.Helper()
	select {
	case d := <-c.waits:
		select {
		case c.ticks <- time.Time{}:
			return d
		case <-time.After(patience):
		}
	case <-time.After(patience):
	}
	t.Fatal("nobody waits")
	return 0
}

// TestPush shows every line of two pushes, between which a topic and a channel
// were born again.
func TestPush(t *testing.T) {
	r := receiver(t)
	clk := newClock()
	var mu sync.Mutex
	e2e := []statsd.Quantile{{Quantile: 0.999, Value: 2500.7}, {Quantile: 0.5, Value: 1}}
	topics := []statsd.Topic{{
		Name: "t", Messages: 10, Bytes: 100, Depth: 3, Backend: 2, EndToEnd: e2e,
		Channels: []statsd.Channel{{Name: "c#ephemeral", Messages: 9, Requeues: 8, Timeouts: 7, Depth: 6, Backend: 5, InFlight: 4, Deferred: 3, Clients: 2, EndToEnd: e2e[1:]}},
	}, {Name: "u", Messages: 5, Bytes: 5}}
	memory := statsd.Memory{Gauges: []statsd.Gauge{{"heap_objects", 1}, {"next_gc_bytes", 2}}, GCRuns: 40}
	p := statsd.Start(statsd.Options{
		Address: r.LocalAddr().String(), Prefix: "nsq.host.", Interval: time.Minute, PacketSize: 4096, After: clk.after, LookupTimeout: patience,
		Topics: func() []statsd.Topic { mu.Lock(); defer mu.Unlock(); return topics },
		Memory: func() statsd.Memory { mu.Lock(); defer mu.Unlock(); return memory },
		Failed: func(err error) { t.Error(err) },
	})
	defer p.Stop()
	f := func(want string) {
		t.Helper()
		if d := clk.pass(t); d != time.Minute {
			t.Errorf("waited %v", d)
		}
		want = "nsq.host." + strings.Join(strings.Fields(want), "\nnsq.host.") + "\n"
		if got := datagram(t, r); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
	f(`topic.t.message_count:10|c topic.t.message_bytes:100|c topic.t.depth:3|g topic.t.backend_depth:2|g
		topic.t.e2e_processing_latency_100:2500|g topic.t.e2e_processing_latency_50:1|g
		topic.t.channel.c#ephemeral.message_count:9|c topic.t.channel.c#ephemeral.depth:6|g
		topic.t.channel.c#ephemeral.backend_depth:5|g topic.t.channel.c#ephemeral.in_flight_count:4|g
		topic.t.channel.c#ephemeral.deferred_count:3|g topic.t.channel.c#ephemeral.requeue_count:8|c
		topic.t.channel.c#ephemeral.timeout_count:7|c topic.t.channel.c#ephemeral.clients:2|g
		topic.t.channel.c#ephemeral.e2e_processing_latency_50:1|g
		topic.u.message_count:5|c topic.u.message_bytes:5|c topic.u.depth:0|g topic.u.backend_depth:0|g
		mem.heap_objects:1|g mem.next_gc_bytes:2|g mem.gc_runs:40|c`)
	mu.Lock()
	topics = []statsd.Topic{{Name: "t", Messages: 12, Bytes: 100, Channels: []statsd.Channel{{Name: "c#ephemeral", Messages: 1, Requeues: 9}}}, {Name: "u", Messages: 1, Bytes: 9}}
	memory.GCRuns = 41
	mu.Unlock()
	f(`topic.t.message_count:2|c topic.t.message_bytes:0|c topic.t.depth:0|g topic.t.backend_depth:0|g
		topic.t.channel.c#ephemeral.message_count:1|c topic.t.channel.c#ephemeral.depth:0|g
		topic.t.channel.c#ephemeral.backend_depth:0|g topic.t.channel.c#ephemeral.in_flight_count:0|g
		topic.t.channel.c#ephemeral.deferred_count:0|g topic.t.channel.c#ephemeral.requeue_count:9|c
		topic.t.channel.c#ephemeral.timeout_count:0|c topic.t.channel.c#ephemeral.clients:0|g
		topic.u.message_count:1|c topic.u.message_bytes:9|c topic.u.depth:0|g topic.u.backend_depth:0|g
		mem.heap_objects:1|g mem.next_gc_bytes:2|g mem.gc_runs:1|c`)
}

// TestPackets shows that lines are packed to the limit and never split, that the
// datagrams are spread over the interval, and that a stop sends the rest at once.
func TestPackets(t *testing.T) {
	r := receiver(t)
	clk := newClock()
	var topics []statsd.Topic
	for i := range 10 {
		topics = append(topics, statsd.Topic{Name: fmt.Sprint("topic", i)})
	}
	topics = append(topics, statsd.Topic{Name: strings.Repeat("x", 64)})
	p := statsd.Start(statsd.Options{
		Address: r.LocalAddr().String(), Interval: 11 * time.Second, PacketSize: 80, After: clk.after, LookupTimeout: patience,
		Topics: func() []statsd.Topic { return topics }, Failed: func(err error) { t.Error(err) },
	})
	clk.pass(t)
	var all []string
	next := func() {
		d := datagram(t, r)
		if len(d) > 80 && strings.Count(d, "\n") > 1 || !strings.HasSuffix(d, "\n") {
			t.Errorf("datagram of %d bytes: %q", len(d), d)
		}
		all = append(all, strings.Fields(d)...)
	}
	next()
	gap := clk.pass(t)
	next()
	p.Stop()
	packets := 2
	for len(all) < 4*len(topics) {
		next()
		packets++
	}
	if gap != 10*time.Second/time.Duration(packets) {
		t.Errorf("%d datagrams %v apart", packets, gap)
	}
}

// TestNobodyThere shows that a push to nowhere is an error and not the end.
func TestNobodyThere(t *testing.T) {
	clk := newClock()
	failed := make(chan error, 100)
	p := statsd.Start(statsd.Options{
		Address: "no such host:1", Interval: time.Minute, After: clk.after,
		Topics: func() []statsd.Topic { return nil }, Failed: func(err error) { failed <- err },
	})
	defer p.Stop()
	for range 2 {
		clk.pass(t)
		select {
		case err := <-failed:
			if err == nil {
				t.Error("no error")
			}
		case <-time.After(patience):
			t.Fatal("no word of it")
		}
	}
}

// TestExpandPrefix shows the prefix in its forms.
func TestExpandPrefix(t *testing.T) {
	f := func(prefix, address, want string) {
		t.Helper()
		if got := statsd.ExpandPrefix(prefix, address, 4151); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f("nsq.%s", "127.0.0.1", "nsq.127_0_0_1_4151.")
	f("nsq.%s.", "h", "nsq.h_4151.")
	f("%s%s", "h", "h_4151h_4151.")
	f("x%d", "h", "x%d.")
	f("", "h", "")
	f("%s", "::1", "[__1]_4151.")
}
