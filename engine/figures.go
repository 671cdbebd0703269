package engine

import (
	"net/http"
	"sync"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/engine/httpapi"
	"github.com/zsqio/zsq/engine/metrics"
	"github.com/zsqio/zsq/engine/netloop"
	"github.com/zsqio/zsq/engine/statsd"
	"github.com/zsqio/zsq/internal/latency"
	"github.com/zsqio/zsq/internal/wire"
)

// endToEndWindow is the window of end-to-end latencies, 0 when no percentile of
// them is asked for.
func (e *Engine) endToEndWindow() int64 {
	if len(e.opts.E2EProcessingLatencyPercentiles) == 0 {
		return 0
	}
	return int64(e.opts.E2EProcessingLatencyWindowTime)
}

// endToEnd makes percentiles for one reading of the statistics, channel by
// channel and then of their topic. Without percentiles to make it does nothing.
type endToEnd struct {
	percentiles []float64
	now         int64
	ch, all     latency.Merged
	channels    int
}

func (e *Engine) newEndToEnd() *endToEnd {
	return &endToEnd{percentiles: e.opts.E2EProcessingLatencyPercentiles, now: netloop.Now()}
}

// begin starts with a topic.
func (m *endToEnd) begin() {
	m.all.Reset()
	m.channels = 0
}

// channel returns a channel's percentiles and counts them into its topic's.
func (m *endToEnd) channel(c *broker.Channel) httpapi.E2E {
	if len(m.percentiles) == 0 {
		return httpapi.E2E{}
	}
	m.ch.Reset()
	c.EndToEnd(&m.ch, m.now)
	m.all.Merge(&m.ch)
	m.channels++
	return m.of(&m.ch)
}

// topic returns those of the channels together; without channels there are none.
func (m *endToEnd) topic() httpapi.E2E {
	if m.channels == 0 {
		return httpapi.E2E{}
	}
	return m.of(&m.all)
}

func (m *endToEnd) of(merged *latency.Merged) httpapi.E2E {
	e2e := httpapi.E2E{Count: int(merged.Count())}
	for _, q := range m.percentiles {
		e2e.Percentiles = append(e2e.Percentiles, httpapi.Percentile{Quantile: q, Value: merged.Quantile(q)})
	}
	return e2e
}

func (e *Engine) statsdPrefix() string {
	return statsd.ExpandPrefix(e.opts.StatsdPrefix, e.opts.BroadcastAddress, e.broadcastPort(e.opts.BroadcastHTTPPort, port(e.httpAddr)))
}

// startStatsd begins to push if there is somebody to push to.
func (e *Engine) startStatsd() {
	o := e.opts
	if o.StatsdAddress == "" {
		return
	}
	so := statsd.Options{
		Address: o.StatsdAddress, Prefix: e.statsdPrefix(), Interval: o.StatsdInterval, PacketSize: o.StatsdUDPPacketSize,
		Topics: e.statsdTopics,
		Failed: func(err error) { e.log.printf(LogError, "STATSD: failed to push to %s - %s", o.StatsdAddress, err) },
	}
	if o.StatsdMemStats {
		so.Memory = statsdMemory
	}
	e.statsd = statsd.Start(so)
}

func (e *Engine) statsdTopics() []statsd.Topic {
	skip := func(name string) bool { return e.opts.StatsdExcludeEphemeral && wire.IsEphemeral(name) }
	e2e := e.newEndToEnd()
	var topics []statsd.Topic
	for _, t := range e.broker.Topics() {
		if skip(t.Name()) {
			continue
		}
		ts, _ := topicStats(t, "", nil, false, e2e)
		out := statsd.Topic{
			Name: ts.TopicName, Messages: ts.MessageCount, Bytes: ts.MessageBytes, Depth: ts.Depth, Backend: ts.BackendDepth,
			EndToEnd: statsdQuantiles(ts.E2E),
		}
		for i := range ts.Channels {
			c := &ts.Channels[i]
			if skip(c.ChannelName) {
				continue
			}
			out.Channels = append(out.Channels, statsd.Channel{
				Name: c.ChannelName, Messages: c.MessageCount, Requeues: c.RequeueCount, Timeouts: c.TimeoutCount,
				Depth: c.Depth, Backend: c.BackendDepth, InFlight: int64(c.InFlightCount), Deferred: int64(c.DeferredCount),
				Clients: int64(c.ClientCount), EndToEnd: statsdQuantiles(c.E2E),
			})
		}
		topics = append(topics, out)
	}
	return topics
}

func statsdQuantiles(e2e httpapi.E2E) []statsd.Quantile {
	var list []statsd.Quantile
	for _, p := range e2e.Percentiles {
		list = append(list, statsd.Quantile(p))
	}
	return list
}

// statsdMemory is the memory object of /stats, under statsd's names.
func statsdMemory() statsd.Memory {
	m := httpapi.ReadMemStats()
	return statsd.Memory{GCRuns: uint64(m.GCTotalRuns), Gauges: []statsd.Gauge{
		{Name: "heap_objects", Value: m.HeapObjects},
		{Name: "heap_idle_bytes", Value: m.HeapIdleBytes},
		{Name: "heap_in_use_bytes", Value: m.HeapInUseBytes},
		{Name: "heap_released_bytes", Value: m.HeapReleasedBytes},
		{Name: "gc_pause_usec_100", Value: m.GCPauseUsec100},
		{Name: "gc_pause_usec_99", Value: m.GCPauseUsec99},
		{Name: "gc_pause_usec_95", Value: m.GCPauseUsec95},
		{Name: "next_gc_bytes", Value: m.NextGCBytes},
	}}
}

// loopFigures are a loop's own counts of what took how long.
type loopFigures struct {
	rounds    latency.Histogram // of the loop
	publishes latency.Histogram // from a publish's arrival to its acceptance
	commits   latency.Histogram // of these, what waited for the disk
}

// roundEnds counts a round that began at now, and the publishers that were
// answered in it.
func (h *handler) roundEnds(now int64) {
	took := netloop.Now() - now
	h.figures.rounds.Record(took, 1)
	if h.accepted > 0 {
		h.figures.publishes.Record(took, h.accepted)
		h.accepted = 0
	}
}

// answered counts a publisher whose publishes of an earlier round are accepted.
func (h *handler) answered(o *owed) {
	waited := h.loop.Now() - o.sinceNs
	h.figures.publishes.Record(waited, 1)
	h.figures.commits.Record(waited, 1)
}

// metricsHandler is nil when there is to be no /metrics.
func (e *Engine) metricsHandler() http.Handler {
	if e.opts.Metrics == MetricsOff {
		return nil
	}
	return metrics.Handler(e.metricsSnapshot)
}

// onLoops runs f on every loop, one after the other, and waits. When a stop begins
// it returns at once, and f is not run any more.
func (e *Engine) onLoops(f func(h *handler)) {
	var mu sync.Mutex // guards left, and that f does not run behind our return
	left := false
	done := make(chan struct{}, 1) // the loop does not wait for us
	for i, l := range e.group.Loops() {
		l.Do(func() {
			mu.Lock()
			defer mu.Unlock()
			if !left {
				f(e.handlers[i])
			}
			done <- struct{}{}
		})
		select {
		case <-done:
		case <-e.stopped: // a loop that has ended drops what it is asked
			mu.Lock()
			defer mu.Unlock()
			left = true
			return
		}
	}
}

func (e *Engine) metricsSnapshot() metrics.Snapshot {
	s := metrics.Snapshot{
		Version: Version, OwnVersion: OwnVersion, Healthy: e.broker.Health() == nil, Start: e.started, MemoryBytes: e.broker.Memory(),
		Rounds: make([]latency.Histogram, len(e.handlers)),
	}
	d := e.broker.Damage()
	s.DamagedPlaces, s.LostRecords = d.Places, d.Records
	e.onLoops(func(h *handler) {
		total := h.shard.EndToEnd()
		s.EndToEnd.Merge(&total)
		s.Publish.Merge(&h.figures.publishes)
		s.Commit.Merge(&h.figures.commits)
		s.Rounds[h.loop.Index()] = h.figures.rounds
		s.Connections += len(h.conns) - len(h.free)
	})
	e2e := e.newEndToEnd()
	for _, t := range e.broker.Topics() {
		s.TopicCount++
		s.ChannelCount += len(t.Channels())
		if e.opts.Metrics == MetricsNode {
			continue
		}
		ts, _ := topicStats(t, "", nil, false, e2e)
		s.Topics = append(s.Topics, e.metricsTopic(&ts))
	}
	return s
}

func (e *Engine) metricsTopic(ts *httpapi.TopicStats) metrics.Topic {
	t := metrics.Topic{
		Name: ts.TopicName, Paused: ts.Paused, Messages: ts.MessageCount, Bytes: ts.MessageBytes,
		Depth: ts.Depth, Backend: ts.BackendDepth, EndToEnd: metricsQuantiles(ts.E2E),
	}
	if ts.Damage != nil {
		t.DamagedPlaces, t.LostRecords = ts.Damage.Places, ts.Damage.Records
	}
	if e.opts.Metrics != MetricsChannel {
		return t
	}
	t.Channels = make([]metrics.Channel, 0, len(ts.Channels))
	for i := range ts.Channels {
		c := &ts.Channels[i]
		t.Channels = append(t.Channels, metrics.Channel{
			Name: c.ChannelName, Paused: c.Paused, Messages: c.MessageCount, Requeues: c.RequeueCount, Timeouts: c.TimeoutCount,
			ZoneLocal: c.ZoneLocalMsgCount, RegionLocal: c.RegionLocalMsgCount, Global: c.GlobalMsgCount,
			Depth: c.Depth, Backend: c.BackendDepth, InFlight: int64(c.InFlightCount), Deferred: int64(c.DeferredCount),
			Clients: int64(c.ClientCount), EndToEnd: metricsQuantiles(c.E2E),
		})
	}
	return t
}

func metricsQuantiles(e2e httpapi.E2E) []metrics.Quantile {
	var list []metrics.Quantile
	for _, p := range e2e.Percentiles {
		list = append(list, metrics.Quantile{Quantile: p.Quantile, Seconds: p.Value / 1e9})
	}
	return list
}

// near says how far the client is, by what it has said in IDENTIFY. Two that say
// nothing are in the same zone; one that never identified itself is in none.
func (c *conn) near() broker.Near {
	o := c.h.e.opts
	switch {
	case !c.identified:
		return broker.NearNone
	case c.client.TopologyZone == o.TopologyZone:
		return broker.NearZone
	case c.client.TopologyRegion == o.TopologyRegion:
		return broker.NearRegion
	}
	return broker.NearNone
}
