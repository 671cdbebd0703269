package metrics_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/zsqio/zsq/engine/metrics"
	"github.com/zsqio/zsq/internal/latency"
)

func snapshot() metrics.Snapshot {
	s := metrics.Snapshot{
		Version: "1.3.0", OwnVersion: "0.1.0", Healthy: true, Start: time.Unix(1500, 0), Connections: 3, MemoryBytes: 4096,
		TopicCount: 2, ChannelCount: 1, DamagedPlaces: 3, LostRecords: 6, Rounds: make([]latency.Histogram, 2),
		Topics: []metrics.Topic{{
			Name: "t", Messages: 10, Bytes: 100, Depth: 3, Backend: 2, Paused: true, DamagedPlaces: 2, LostRecords: 5,
			EndToEnd: []metrics.Quantile{{0.99, 0.25}},
			Channels: []metrics.Channel{{
				Name: "c#ephemeral", Messages: 9, Requeues: 8, Timeouts: 7, Depth: 6, Backend: 5, InFlight: 4, Deferred: 3, Clients: 2,
				ZoneLocal: 1, EndToEnd: []metrics.Quantile{{0.99, 0.5}, {1, 0.75}},
			}},
		}, {Name: "u"}},
	}
	s.EndToEnd.Record(2000, 3)
	s.Rounds[1].Record(500, 1)
	return s
}

// scrape returns the lines about the daemon itself, without comments.
func scrape(t *testing.T, s metrics.Snapshot) (lines []string, text string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	metrics.Handler(func() metrics.Snapshot { return s }).ServeHTTP(w, r)
	if w.Code != 200 || w.Header().Get("Content-Encoding") != "" {
		t.Fatalf("%d %v\n%s", w.Code, w.Header(), w.Body)
	}
	text = w.Body.String()
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "nsqd_") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines, text
}

// TestScrape shows every series, and that the library's own linter has nothing to
// say.
func TestScrape(t *testing.T) {
	lines, text := scrape(t, snapshot())
	has := map[string]bool{}
	for _, l := range lines {
		has[l] = true
	}
	on := `{channel="c#ephemeral",topic="t"} `
	for _, want := range []string{
		`nsqd_info{version="1.3.0",zsq_version="0.1.0"} 1`, `nsqd_healthy 1`, `nsqd_start_time_seconds 1500`, `nsqd_connections 3`,
		`nsqd_message_memory_bytes 4096`, `nsqd_topics 2`, `nsqd_channels 1`,
		`nsqd_topic_messages_total{topic="t"} 10`, `nsqd_topic_message_bytes_total{topic="t"} 100`, `nsqd_topic_depth{topic="t"} 3`,
		`nsqd_topic_damaged_places_total{topic="t"} 2`, `nsqd_topic_lost_records_total{topic="t"} 5`,
		`nsqd_damaged_places_total 3`, `nsqd_lost_records_total 6`,
		`nsqd_topic_backend_depth{topic="t"} 2`, `nsqd_topic_paused{topic="t"} 1`, `nsqd_topic_paused{topic="u"} 0`,
		`nsqd_topic_e2e_processing_latency_seconds{percentile="99",topic="t"} 0.25`,
		`nsqd_channel_messages_total` + on + `9`, `nsqd_channel_requeues_total` + on + `8`, `nsqd_channel_timeouts_total` + on + `7`,
		`nsqd_channel_depth` + on + `6`, `nsqd_channel_backend_depth` + on + `5`, `nsqd_channel_in_flight` + on + `4`,
		`nsqd_channel_deferred` + on + `3`, `nsqd_channel_clients` + on + `2`, `nsqd_channel_paused` + on + `0`,
		`nsqd_channel_zone_local_messages_total` + on + `1`,
		`nsqd_channel_e2e_processing_latency_seconds{channel="c#ephemeral",percentile="100",topic="t"} 0.75`,
		`nsqd_e2e_latency_seconds_count 3`, `nsqd_e2e_latency_seconds_sum 6e-06`, `nsqd_e2e_latency_seconds_bucket{le="1.024e-06"} 0`,
		`nsqd_e2e_latency_seconds_bucket{le="4.096e-06"} 3`, `nsqd_e2e_latency_seconds_bucket{le="+Inf"} 3`,
		`nsqd_publish_latency_seconds_count 0`, `nsqd_commit_lag_seconds_count 0`,
		`nsqd_loop_round_seconds_count{loop="0"} 0`, `nsqd_loop_round_seconds_count{loop="1"} 1`,
	} {
		if !has[want] {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(text, "nsqd_channel_global_messages_total") || has[`nsqd_topic_lost_records_total{topic="u"} 0`] {
		t.Error("a figure that is nowhere set is shown")
	}
	for _, want := range []string{"\ngo_goroutines ", "\nprocess_open_fds ", "\n# TYPE nsqd_topic_messages_total counter\n", "\n# TYPE nsqd_topic_depth gauge\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %q", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "nsqd_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestNodeOnly shows that without topics there are no series by topic.
func TestNodeOnly(t *testing.T) {
	s := snapshot()
	s.Topics = nil
	lines, _ := scrape(t, s)
	for _, l := range lines {
		if strings.Contains(l, "topic=") {
			t.Error(l)
		}
	}
	if len(lines) == 0 {
		t.Error("there is nothing at all")
	}
}

// BenchmarkScrape is a scrape of 10,000 channels.
func BenchmarkScrape(b *testing.B) {
	s := snapshot()
	s.Topics = nil
	for i := range 100 {
		t := metrics.Topic{Name: fmt.Sprint("topic", i)}
		for j := range 100 {
			t.Channels = append(t.Channels, metrics.Channel{Name: fmt.Sprint("channel", j), Messages: uint64(i * j)})
		}
		s.Topics = append(s.Topics, t)
	}
	h := metrics.Handler(func() metrics.Snapshot { return s })
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		w.Body = nil
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	}
}
