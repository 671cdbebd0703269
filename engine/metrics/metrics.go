// Package metrics shows the daemon's figures to Prometheus.
//
// Figures of topics and channels are read when they are asked for and turned
// into metric families directly: the library's collectors would check every one
// of 100,000 series on every scrape, which costs more than all the rest. The
// library does what is left: the process' own figures, the formats and their
// negotiation.
package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/zsqio/zsq/internal/latency"
)

// Snapshot is what the daemon tells of itself.
type Snapshot struct {
	Version, OwnVersion string
	Healthy             bool // the last disk write worked
	Start               time.Time
	Connections         int
	MemoryBytes         int64 // of messages
	DamagedPlaces       int64 // found on disk
	LostRecords         int64 // by that, as far as is known
	TopicCount          int
	ChannelCount        int
	Topics              []Topic // none when only the node's figures are wanted

	EndToEnd latency.Histogram // publication to FIN
	Publish  latency.Histogram // a publish's arrival to its acceptance
	Commit   latency.Histogram // of these, what waited for the disk
	Rounds   []latency.Histogram
}

// Topic is one topic's figures; counts are totals since the start.
type Topic struct {
	Name            string
	Paused          bool
	Messages, Bytes uint64
	Depth, Backend  int64
	DamagedPlaces   int64 // found in its backlog
	LostRecords     int64 // by that, as far as is known
	EndToEnd        []Quantile
	Channels        []Channel // none when only topics' figures are wanted
}

// Channel is one channel's figures.
type Channel struct {
	Name                           string
	Paused                         bool
	Messages, Requeues, Timeouts   uint64
	ZoneLocal, RegionLocal, Global uint64
	Depth, Backend                 int64
	InFlight, Deferred, Clients    int64
	EndToEnd                       []Quantile
}

// Quantile is one point of a latency's distribution.
type Quantile struct{ Quantile, Seconds float64 }

// scrapesMax bounds the scrapes that are under way at a time; more get 503.
const scrapesMax = 4

// Handler serves the figures. read is called once a scrape, from any goroutine.
// Answers are not compressed: that would cost more than making them.
func Handler(read func() Snapshot) http.Handler {
	process := prometheus.NewRegistry()
	process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gather := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		s := read()
		families, err := process.Gather()
		families = append(families, familiesOf(&s)...)
		slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
		return families, err
	})
	return promhttp.HandlerFor(gather, promhttp.HandlerOpts{DisableCompression: true, MaxRequestsInFlight: scrapesMax})
}

// A family is one name with its series.
type family struct {
	name, help string
	counter    bool
}

var topicFamilies = []family{
	{"nsqd_topic_messages_total", "Messages published to the topic.", true},
	{"nsqd_topic_message_bytes_total", "Bytes of the bodies of these messages.", true},
	{"nsqd_topic_depth", "Messages that wait in the topic itself.", false},
	{"nsqd_topic_backend_depth", "Those of them that are on disk.", false},
	{"nsqd_topic_paused", "1 while the topic is paused.", false},
	{"nsqd_topic_damaged_places_total", "Damaged places found in the topic's files.", true},
	{"nsqd_topic_lost_records_total", "Records lost by that, as far as is known.", true},
}

// damageFamilies is how many families at the end are shown only where they are not
// zero, as in /stats.
const damageFamilies = 2

func (t *Topic) values(v *[7]float64) {
	*v = [...]float64{
		float64(t.Messages), float64(t.Bytes), float64(t.Depth), float64(t.Backend), oneIf(t.Paused),
		float64(t.DamagedPlaces), float64(t.LostRecords),
	}
}

var channelFamilies = []family{
	{"nsqd_channel_messages_total", "Messages that entered the channel.", true},
	{"nsqd_channel_requeues_total", "Messages that clients gave back with REQ.", true},
	{"nsqd_channel_timeouts_total", "Messages that timed out in flight.", true},
	{"nsqd_channel_depth", "Messages that wait in the channel.", false},
	{"nsqd_channel_backend_depth", "Those of them that are on disk.", false},
	{"nsqd_channel_in_flight", "Messages with clients, not yet finished.", false},
	{"nsqd_channel_deferred", "Messages that are not due yet.", false},
	{"nsqd_channel_clients", "Clients subscribed.", false},
	{"nsqd_channel_paused", "1 while the channel is paused.", false},
	{"nsqd_channel_zone_local_messages_total", "Messages delivered to clients in this daemon's zone.", true},
	{"nsqd_channel_region_local_messages_total", "Messages delivered to other clients in this daemon's region.", true},
	{"nsqd_channel_global_messages_total", "Messages delivered to all other clients.", true},
}

// topologyFamilies is how many families at the end are shown only where they
// are not zero, as in /stats.
const topologyFamilies = 3

func (c *Channel) values(v *[12]float64) {
	*v = [...]float64{
		float64(c.Messages), float64(c.Requeues), float64(c.Timeouts), float64(c.Depth), float64(c.Backend),
		float64(c.InFlight), float64(c.Deferred), float64(c.Clients), oneIf(c.Paused),
		float64(c.ZoneLocal), float64(c.RegionLocal), float64(c.Global),
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

const (
	topicQuantiles   = "nsqd_topic_e2e_processing_latency_seconds"
	channelQuantiles = "nsqd_channel_e2e_processing_latency_seconds"
	quantilesHelp    = "Time from publication to FIN: percentiles over the window of --e2e-processing-latency-window-time."
)

// familiesOf makes the daemon's own families.
func familiesOf(s *Snapshot) []*dto.MetricFamily {
	b := &builder{}
	b.node(s)
	b.topics(s.Topics)
	return b.families
}

// builder makes families out of slabs: a series is four small objects, and there
// may be a hundred thousand.
type builder struct {
	families []*dto.MetricFamily
	metrics  []dto.Metric
	gauges   []dto.Gauge
	counters []dto.Counter
	values   []float64
}

// slab is how many objects are made at a time.
const slab = 1024

func take[T any](s *[]T) *T {
	if len(*s) == 0 {
		*s = make([]T, slab)
	}
	x := &(*s)[0]
	*s = (*s)[1:]
	return x
}

func (b *builder) family(f family) *dto.MetricFamily {
	kind := dto.MetricType_GAUGE
	if f.counter {
		kind = dto.MetricType_COUNTER
	}
	mf := &dto.MetricFamily{Name: proto.String(f.name), Help: proto.String(f.help), Type: kind.Enum()}
	b.families = append(b.families, mf)
	return mf
}

// add adds a series to a family.
func (b *builder) add(mf *dto.MetricFamily, labels []*dto.LabelPair, value float64) {
	m, v := take(&b.metrics), take(&b.values)
	*v = value
	m.Label = labels
	if mf.GetType() == dto.MetricType_COUNTER {
		m.Counter = take(&b.counters)
		m.Counter.Value = v
	} else {
		m.Gauge = take(&b.gauges)
		m.Gauge.Value = v
	}
	mf.Metric = append(mf.Metric, m)
}

func label(name, value string) *dto.LabelPair {
	return &dto.LabelPair{Name: proto.String(name), Value: proto.String(value)}
}

func (b *builder) gauge(name, help string, value float64, labels ...*dto.LabelPair) {
	b.add(b.family(family{name: name, help: help}), labels, value)
}

func (b *builder) counter(name, help string, value float64) {
	b.add(b.family(family{name: name, help: help, counter: true}), nil, value)
}

// node adds what is not by topic.
func (b *builder) node(s *Snapshot) {
	b.gauge("nsqd_info", "1, with the versions of the protocol and of zsq.", 1, label("version", s.Version), label("zsq_version", s.OwnVersion))
	b.gauge("nsqd_healthy", "1 unless the last write to disk failed.", oneIf(s.Healthy))
	b.gauge("nsqd_start_time_seconds", "When the daemon started, in Unix time.", float64(s.Start.UnixNano())/1e9)
	b.counter("nsqd_damaged_places_total", "Damaged places found on disk.", float64(s.DamagedPlaces))
	b.counter("nsqd_lost_records_total", "Records lost by that, as far as is known.", float64(s.LostRecords))
	b.gauge("nsqd_connections", "Client connections.", float64(s.Connections))
	b.gauge("nsqd_message_memory_bytes", "Memory that messages take.", float64(s.MemoryBytes))
	b.gauge("nsqd_topics", "Topics there are.", float64(s.TopicCount))
	b.gauge("nsqd_channels", "Channels there are.", float64(s.ChannelCount))
	b.histogram("nsqd_e2e_latency_seconds", "Time from a message's publication to its FIN.", s.EndToEnd)
	b.histogram("nsqd_publish_latency_seconds", "Time from a publish's arrival to its acceptance.", s.Publish)
	b.histogram("nsqd_commit_lag_seconds", "Time that publishes waited for the disk.", s.Commit)
	b.histogram("nsqd_loop_round_seconds", "Time that an event loop's rounds take: how long an event may wait.", s.Rounds...)
}

// histogram adds one series, or one for each loop.
func (b *builder) histogram(name, help string, hs ...latency.Histogram) {
	mf := &dto.MetricFamily{Name: proto.String(name), Help: proto.String(help), Type: dto.MetricType_HISTOGRAM.Enum()}
	for i := range hs {
		h := &hs[i]
		count, sum := h.Totals()
		out := &dto.Histogram{SampleCount: proto.Uint64(count), SampleSum: proto.Float64(float64(sum) / 1e9)}
		for j := range latency.Bounds {
			out.Bucket = append(out.Bucket, &dto.Bucket{
				UpperBound: proto.Float64(float64(latency.Bound(j)) / 1e9), CumulativeCount: proto.Uint64(h.Upto(j)),
			})
		}
		m := &dto.Metric{Histogram: out}
		if name == "nsqd_loop_round_seconds" {
			m.Label = []*dto.LabelPair{label("loop", strconv.Itoa(i))}
		}
		mf.Metric = append(mf.Metric, m)
	}
	b.families = append(b.families, mf)
}

// topics adds the figures of topics and their channels.
func (b *builder) topics(topics []Topic) {
	if len(topics) == 0 {
		return
	}
	byTopic, byChannel := b.all(topicFamilies), b.all(channelFamilies)
	quantiles := b.family(family{name: topicQuantiles, help: quantilesHelp})
	channelQuantiles := b.family(family{name: channelQuantiles, help: quantilesHelp})
	var tv [7]float64
	var cv [12]float64
	for i := range topics {
		t := &topics[i]
		topic := label("topic", t.Name)
		labels := []*dto.LabelPair{topic}
		t.values(&tv)
		for j, mf := range byTopic {
			if j < len(byTopic)-damageFamilies || tv[j] != 0 {
				b.add(mf, labels, tv[j])
			}
		}
		b.quantiles(quantiles, labels, t.EndToEnd)
		for k := range t.Channels {
			c := &t.Channels[k]
			labels := []*dto.LabelPair{label("channel", c.Name), topic} // sorted by name
			c.values(&cv)
			for j, mf := range byChannel {
				if j < len(byChannel)-topologyFamilies || cv[j] != 0 {
					b.add(mf, labels, cv[j])
				}
			}
			b.quantiles(channelQuantiles, labels, c.EndToEnd)
		}
	}
	// A family without a series is none.
	b.families = slices.DeleteFunc(b.families, func(mf *dto.MetricFamily) bool { return len(mf.Metric) == 0 })
}

func (b *builder) all(list []family) []*dto.MetricFamily {
	var all []*dto.MetricFamily
	for _, f := range list {
		all = append(all, b.family(f))
	}
	return all
}

func (b *builder) quantiles(mf *dto.MetricFamily, labels []*dto.LabelPair, list []Quantile) {
	for _, q := range list {
		with := append(slices.Clone(labels), label("percentile", strconv.FormatFloat(q.Quantile*100, 'g', 10, 64)))
		slices.SortFunc(with, func(x, y *dto.LabelPair) int { return strings.Compare(x.GetName(), y.GetName()) })
		b.add(mf, with, q.Seconds)
	}
}
