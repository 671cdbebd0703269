package engine_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
)

// get returns what the HTTP API says.
func get(t *testing.T, e *engine.Engine, target string) string {
	t.Helper()
	r, err := http.Get("http://" + e.HTTPAddr().String() + target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v", target, r.Status, err)
	}
	return string(b)
}

// finish takes n messages from a channel and finishes them, and returns when the
// daemon has seen that.
func finish(t *testing.T, e *engine.Engine, topic, channel string, n int) {
	t.Helper()
	c := greet(t, e, sub(topic, channel), "RDY 100\n")
	c.want("OK")
	for range n {
		c.send(fin(idOf(t, c.message())))
	}
	c.send(pub("done", "x"))
	c.want("OK")
}

// TestEndToEndLatency shows percentiles by channel, and by topic over all its
// channels, in the order given.
func TestEndToEndLatency(t *testing.T) {
	o := options(t)
	o.E2EProcessingLatencyPercentiles = []float64{1, 0.5}
	e := start(t, o)
	began := time.Now()
	for _, channel := range []string{"a", "b"} {
		post(t, e, "/topic/create?topic=t", "")
		post(t, e, "/channel/create?topic=t&channel="+channel, "")
	}
	post(t, e, "/mpub?topic=t", "1\n2\n3\n4\n")
	if s := topicStats(t, e, "t"); s.E2E.Count != 0 || len(s.E2E.Percentiles) != 2 || s.E2E.Percentiles[0].Value != 0 {
		t.Errorf("before a FIN: %+v", s.E2E)
	}
	finish(t, e, "t", "a", 4)
	finish(t, e, "t", "b", 4)
	s := topicStats(t, e, "t")
	limit := float64(time.Since(began)) * 65 / 64 // percentiles are as exact as that
	for _, e2e := range []struct {
		count int
		of    any
		ps    []float64
	}{
		{s.E2E.Count, s.E2E, []float64{s.E2E.Percentiles[0].Value, s.E2E.Percentiles[1].Value}},
		{s.Channels[0].E2E.Count + 4, s.Channels[0].E2E, []float64{s.Channels[0].E2E.Percentiles[0].Value, s.Channels[0].E2E.Percentiles[1].Value}},
	} {
		if e2e.count != 8 || e2e.ps[0] <= 0 || e2e.ps[0] > limit || e2e.ps[1] > e2e.ps[0] {
			t.Errorf("got %+v", e2e.of)
		}
	}
	if s.Channels[1].E2E.Count != 4 || s.Channels[1].E2E.Percentiles[0].Quantile != 1 || s.Channels[1].E2E.Percentiles[1].Quantile != 0.5 {
		t.Errorf("got %+v", s.Channels[1].E2E)
	}
	// The topic's figure has all channels in it, also when one is asked for.
	if all := get(t, e, "/stats?format=json&topic=t&channel=b"); !strings.Contains(all, `"paused":false,"e2e_processing_latency":{"count":8,`) {
		t.Errorf("got %s", all)
	}
	if text := get(t, e, "/stats?topic=t"); !strings.Contains(text, "msgs: 4        e2e%: ") || strings.Contains(text, "e2e%: \n") {
		t.Errorf("got %s", text)
	}
	post(t, e, "/topic/create?topic=none", "")
	if s := topicStats(t, e, "none"); s.E2E.Percentiles != nil {
		t.Errorf("a topic without channels has %+v", s.E2E)
	}
}

// TestStatsd receives a push of a daemon that has everything.
func TestStatsd(t *testing.T) {
	t.Parallel()
	r, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	o := options(t)
	o.StatsdAddress, o.StatsdInterval = r.LocalAddr().String(), 1001*time.Millisecond
	o.BroadcastAddress, o.BroadcastHTTPPort = "127.0.0.1", 4151
	o.E2EProcessingLatencyPercentiles = []float64{0.99}
	o.StatsdExcludeEphemeral = true
	e := start(t, o)
	post(t, e, "/pub?topic=t", "abc")
	post(t, e, "/pub?topic=t%23ephemeral", "x")
	post(t, e, "/channel/create?topic=t&channel=c", "")
	post(t, e, "/channel/create?topic=t&channel=x%23ephemeral", "")
	if got := get(t, e, "/config/statsd_prefix"); got != "nsq.127_0_0_1_4151." {
		t.Errorf("the prefix is %s", got)
	}
	want := []string{
		"topic.t.message_count:1|c", "topic.t.message_bytes:3|c", "topic.t.depth:0|g", "topic.t.backend_depth:0|g",
		"topic.t.e2e_processing_latency_99:0|g",
		"topic.t.channel.c.message_count:1|c", "topic.t.channel.c.depth:1|g", "topic.t.channel.c.backend_depth:0|g",
		"topic.t.channel.c.in_flight_count:0|g", "topic.t.channel.c.deferred_count:0|g", "topic.t.channel.c.requeue_count:0|c",
		"topic.t.channel.c.timeout_count:0|c", "topic.t.channel.c.clients:0|g", "topic.t.channel.c.e2e_processing_latency_99:0|g",
	}
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	// A slow machine makes its first push before all of that is there. What is counted
	// comes once, what is measured with each push.
	counts := map[string]int64{}
	var got []string // of the push under way
	memory := 0
	for b := make([]byte, 1<<16); ; {
		n, err := r.Read(b)
		if err != nil {
			t.Fatalf("%v\nlast %q\nwant %q and 9 of the memory", err, got, want)
		}
		if n > o.StatsdUDPPacketSize {
			t.Errorf("a datagram of %d bytes", n)
		}
		ended := false
		for _, line := range strings.Fields(string(b[:n])) {
			short, ok := strings.CutPrefix(line, "nsq.127_0_0_1_4151.")
			if !ok || strings.Contains(line, "ephemeral") {
				t.Errorf("line %q", line)
			}
			if strings.HasPrefix(short, "mem.") {
				memory++
				ended = ended || strings.HasPrefix(short, "mem.gc_runs:")
				continue
			}
			if name, value, _ := strings.Cut(strings.TrimSuffix(short, "|c"), ":"); strings.HasSuffix(short, "|c") {
				more, err := strconv.ParseInt(value, 10, 64)
				if err != nil {
					t.Errorf("line %q", line)
				}
				counts[name] += more
				short = fmt.Sprintf("%s:%d|c", name, counts[name])
			}
			got = append(got, short)
		}
		if !ended {
			continue
		}
		if memory != 9 {
			t.Errorf("%d lines of the memory, want 9", memory)
		}
		if slices.Equal(got, want) {
			return
		}
		got, memory = got[:0], 0
	}
}

// TestMetrics scrapes a daemon at every detail.
func TestMetrics(t *testing.T) {
	f := func(detail engine.MetricsDetail, percentiles []float64, want, wantNot string) {
		t.Helper()
		o := options(t)
		o.Metrics, o.E2EProcessingLatencyPercentiles = detail, percentiles
		e := start(t, o)
		post(t, e, "/topic/create?topic=t", "")
		post(t, e, "/channel/create?topic=t&channel=c", "")
		producer := greet(t, e, pub("t", "abc"))
		producer.want("OK")
		finish(t, e, "t", "c", 1)
		text := get(t, e, "/metrics")
		for line := range strings.Lines(want) {
			if line = strings.TrimSpace(line); line != "" && !strings.Contains(text, "\n"+line) {
				t.Errorf("%s: missing %s", detail, line)
			}
		}
		if strings.Contains(text, wantNot) {
			t.Errorf("%s: there is %s", detail, wantNot)
		}
	}
	const node = `
		nsqd_healthy 1
		nsqd_topics 2
		nsqd_channels 1
		nsqd_e2e_latency_seconds_count 1
		nsqd_publish_latency_seconds_count 2
		nsqd_loop_round_seconds_count{loop="0"}
		go_goroutines `
	const topic = `
		nsqd_topic_messages_total{topic="t"} 1
		nsqd_topic_message_bytes_total{topic="t"} 3
		nsqd_topic_depth{topic="done"} 1`
	f(engine.MetricsNode, nil, node, "topic=")
	f(engine.MetricsTopic, nil, node+topic, "channel=")
	f(engine.MetricsChannel, []float64{0.5}, node+topic+`
		nsqd_channel_messages_total{channel="c",topic="t"} 1
		nsqd_channel_depth{channel="c",topic="t"} 0
		nsqd_topic_e2e_processing_latency_seconds{percentile="50",topic="t"}
		nsqd_channel_e2e_processing_latency_seconds{channel="c",percentile="50",topic="t"}`, "global")
	o := options(t)
	o.Metrics = engine.MetricsOff
	e := start(t, o)
	r, err := http.Get("http://" + e.HTTPAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("off: %s", r.Status)
	}
}

// TestManyConnections lists more connections than a loop tells of at a time.
func TestManyConnections(t *testing.T) {
	o := options(t)
	o.Loops = 2
	e := start(t, o)
	const count = 300
	for range count {
		greet(t, e, sub("t", "c"), pub("t", "x")).want("OK", "OK")
	}
	if s := topicStats(t, e, "t"); len(s.Channels[0].Clients) != count {
		t.Errorf("%d of %d clients are listed", len(s.Channels[0].Clients), count)
	}
	if n := strings.Count(get(t, e, "/stats?format=json&topic=t&include_clients=true"), `"pub_counts":`); n != 2*count {
		t.Errorf("%d pub_counts for %d clients that are producers too", n, count)
	}
}

// TestTopology serves near clients first, and counts only when it is asked to.
func TestTopology(t *testing.T) {
	o := options(t)
	o.TopologyZone, o.TopologyRegion, o.Experiments = "z", "r", []string{"no-such-thing", "topology-aware-consumption"}
	e := start(t, o)
	other := greet(t, e, sub("t", "c"), "RDY 2\n")
	other.want("OK")
	region := greet(t, e, identify(`{"topology_zone":"y","topology_region":"r"}`), sub("t", "c"), "RDY 2\n")
	region.want("OK", "OK")
	zone := greet(t, e, identify(`{"topology_zone":"z","topology_region":"r"}`), sub("t", "c"), "RDY 2\n")
	zone.want("OK", "OK")
	for _, c := range []struct {
		p    *peer
		body string
	}{{zone, "1"}, {zone, "2"}, {region, "3"}, {region, "4"}, {other, "5"}, {other, "6"}} {
		post(t, e, "/pub?topic=t", c.body)
		c.p.want("message " + c.body)
	}
	s := topicStats(t, e, "t").Channels[0]
	if s.ZoneLocalMsgCount != 2 || s.RegionLocalMsgCount != 2 || s.GlobalMsgCount != 2 {
		t.Errorf("got %+v", s)
	}
	zones := ""
	for _, c := range s.Clients {
		zones += "[" + c.TopologyZone + c.TopologyRegion + "]"
	}
	if !strings.Contains(zones, "[zr]") || !strings.Contains(zones, "[yr]") || !strings.Contains(zones, "[]") {
		t.Errorf("clients are in %s", zones)
	}

	o = options(t)
	o.TopologyZone = "z"
	e = start(t, o)
	post(t, e, "/pub?topic=t", "x")
	greet(t, e, sub("t", "c"), "RDY 1\n").want("OK", "message x")
	if text := get(t, e, "/stats?format=json"); strings.Contains(text, "global_msg_count") {
		t.Errorf("without the experiment: %s", text)
	}
}
