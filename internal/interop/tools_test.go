package interop

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// TestToolsRoundTrip pipes lines through to_nsq and the broker to nsq_tail.
func TestToolsRoundTrip(t *testing.T) {
	t.Parallel()
	const count = 500
	b := startBroker(t)
	tail := exec.CommandContext(t.Context(), tool("nsq_tail").Path(t),
		"--topic=lines", "--channel=tail#ephemeral", fmt.Sprint("-n=", count), "--nsqd-tcp-address="+b.TCP, "--consumer-opt=dial_timeout,2m", "--consumer-opt=write_timeout,2m")
	var out daemon.Log
	tail.Stdout = &out
	must(t, tail.Start())
	done := make(chan error, 1)
	go func() { done <- tail.Wait() }()
	b.settles(t, "lines", "tail#ephemeral", "nsq_tail is there", func(ch channelStats) bool { return ch.ClientCount == 1 })

	var lines []string
	for i := range count {
		lines = append(lines, fmt.Sprintf("line %04d", i))
	}
	runTool(t, strings.Join(lines, "\n")+"\n", "to_nsq", "--topic=lines", "--nsqd-tcp-address="+b.TCP,
		"--producer-opt=dial_timeout,2m", "--producer-opt=write_timeout,2m")
	must(t, receive(t, done, "nsq_tail ends"))
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if !slices.Equal(got, lines) {
		t.Errorf("nsq_tail printed %d lines, want the %d published ones in their order", len(got), count)
	}
}

// TestNsqStat expects upstream's statistics tool to print a line for a channel.
func TestNsqStat(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	b.Create(t, "watched", "ch")
	must(t, newProducer(t, b).MultiPublish("watched", numbered(7)))
	b.settles(t, "watched", "ch", "all waiting", func(ch channelStats) bool { return ch.Depth == 7 })
	out, _ := runTool(t, "", "nsq_stat", "--topic=watched", "--channel=ch", "--count=1",
		"--interval=50ms", "--nsqd-http-address="+b.HTTP, "--http-client-connect-timeout=2m", "--http-client-request-timeout=2m")
	// ingress, egress | total, mem, disk, in flight, deferred | requeues, timeouts, messages, clients
	lines := strings.Split(strings.TrimSpace(out), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(fields) != 13 || fields[3] != "7" || fields[11] != "7" {
		t.Errorf("nsq_stat printed\n%s\nwant 7 in total and 7 messages", out)
	}
}

// TestBenchPrograms runs upstream's writer and reader to their ends.
func TestBenchPrograms(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	b.Create(t, "sub_bench", "ch")
	_, out := runTool(t, "", "bench_writer", "--runfor=300ms", "--nsqd-tcp-address="+b.TCP)
	if !strings.Contains(out, "ops/s") {
		t.Errorf("bench_writer printed %q, want its result", out)
	}
	topic, _ := b.Topic(t, "sub_bench")
	if topic.MessageCount == 0 {
		t.Fatalf("after bench_writer: %+v, want messages", topic)
	}
	before := b.settles(t, "sub_bench", "ch", "all have come", func(ch channelStats) bool {
		return ch.MessageCount == topic.MessageCount && ch.Depth == ch.MessageCount
	})
	eventually(t, "bench_reader consumes", func() bool { // in the time given, which a busy machine may take from it
		_, out := runTool(t, "", "bench_reader", "--runfor=300ms", "--nsqd-tcp-address="+b.TCP)
		if !strings.Contains(out, "ops/s") {
			t.Errorf("bench_reader printed %q, want its result", out)
		}
		after := b.settles(t, "sub_bench", "ch", "bench_reader has gone", func(ch channelStats) bool { return ch.ClientCount == 0 })
		return after.Depth < before.Depth
	})
}
