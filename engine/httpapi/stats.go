package httpapi

import (
	"cmp"
	"net/http"
	"net/url"
	"runtime"
	"slices"
)

// Stats is what the broker tells of itself. /stats brings it into nsqd's order
// and shape.
type Stats struct {
	Topics    []TopicStats
	Producers []ClientStats // connections that have published over TCP
	Damage    *Damage       // of the whole daemon's files; nil for none
}

// Damage is what was found damaged on disk since the process started.
type Damage struct {
	Places  int64 `json:"places"`  // records, ends of files and files
	Records int64 `json:"records"` // that are lost, as far as that can be known
}

// TopicStats is one topic, key for key as in /stats.
type TopicStats struct {
	TopicName    string         `json:"topic_name"`
	Channels     []ChannelStats `json:"channels"`
	Depth        int64          `json:"depth"`
	BackendDepth int64          `json:"backend_depth"`
	MessageCount uint64         `json:"message_count"`
	MessageBytes uint64         `json:"message_bytes"` // of bodies
	Paused       bool           `json:"paused"`
	E2E          E2E            `json:"e2e_processing_latency"`
	Durability   string         `json:"durability,omitempty"` // if it is not the daemon's
	Damage       *Damage        `json:"damage,omitempty"`     // in its backlog; nil for none
}

// ChannelStats is one channel. The three counts of nsqd's master are left out
// when zero, as is done there.
type ChannelStats struct {
	ChannelName         string        `json:"channel_name"`
	Depth               int64         `json:"depth"`
	BackendDepth        int64         `json:"backend_depth"`
	InFlightCount       int           `json:"in_flight_count"`
	DeferredCount       int           `json:"deferred_count"`
	MessageCount        uint64        `json:"message_count"`
	ZoneLocalMsgCount   uint64        `json:"zone_local_msg_count,omitempty"`
	RegionLocalMsgCount uint64        `json:"region_local_msg_count,omitempty"`
	GlobalMsgCount      uint64        `json:"global_msg_count,omitempty"`
	RequeueCount        uint64        `json:"requeue_count"` // REQ only
	TimeoutCount        uint64        `json:"timeout_count"`
	ClientCount         int           `json:"client_count"`
	Clients             []ClientStats `json:"clients"`
	Paused              bool          `json:"paused"`
	E2E                 E2E           `json:"e2e_processing_latency"`
}

// E2E is the latency from publication to FIN. Percentiles is nil when none are
// configured, and for a topic without channels.
type E2E struct {
	Count       int          `json:"count"`
	Percentiles []Percentile `json:"percentiles"` // in the configured order
}

// Percentile is one point of the latency's distribution.
type Percentile struct {
	Quantile float64 `json:"quantile"`
	Value    float64 `json:"value"` // nanoseconds
}

// ClientStats is one connection, as consumer or as producer.
type ClientStats struct {
	ClientID         string     `json:"client_id"`
	Hostname         string     `json:"hostname"`
	Version          string     `json:"version"` // always V2
	RemoteAddress    string     `json:"remote_address"`
	State            int32      `json:"state"`
	ReadyCount       int64      `json:"ready_count"`
	InFlightCount    int64      `json:"in_flight_count"`
	MessageCount     uint64     `json:"message_count"` // sent to it
	FinishCount      uint64     `json:"finish_count"`
	RequeueCount     uint64     `json:"requeue_count"`
	ConnectTime      int64      `json:"connect_ts"` // Unix seconds
	SampleRate       int32      `json:"sample_rate"`
	Deflate          bool       `json:"deflate"`
	Snappy           bool       `json:"snappy"`
	UserAgent        string     `json:"user_agent"`
	Authed           bool       `json:"authed,omitempty"`
	AuthIdentity     string     `json:"auth_identity,omitempty"`
	AuthIdentityURL  string     `json:"auth_identity_url,omitempty"`
	TopologyZone     string     `json:"topology_zone,omitempty"`
	TopologyRegion   string     `json:"topology_region,omitempty"`
	PubCounts        []PubCount `json:"pub_counts,omitempty"` // see Broker.Stats
	TLS              bool       `json:"tls"`
	TLSCipherSuite   string     `json:"tls_cipher_suite"`
	TLSVersion       string     `json:"tls_version"`
	TLSProtocol      string     `json:"tls_negotiated_protocol"`
	TLSProtocolIsOur bool       `json:"tls_negotiated_protocol_is_mutual"` // true under TLS
}

// PubCount says how many messages a client has published to a topic. nsqd
// shows one of them for a client: that of the topic asked for, else any.
type PubCount struct {
	Topic string `json:"topic"`
	Count uint64 `json:"count"`
}

// MemStats is the memory object of /stats.
type MemStats struct {
	HeapObjects       uint64 `json:"heap_objects"`
	HeapIdleBytes     uint64 `json:"heap_idle_bytes"`
	HeapInUseBytes    uint64 `json:"heap_in_use_bytes"`
	HeapReleasedBytes uint64 `json:"heap_released_bytes"`
	GCPauseUsec100    uint64 `json:"gc_pause_usec_100"`
	GCPauseUsec99     uint64 `json:"gc_pause_usec_99"`
	GCPauseUsec95     uint64 `json:"gc_pause_usec_95"`
	NextGCBytes       uint64 `json:"next_gc_bytes"`
	GCTotalRuns       uint32 `json:"gc_total_runs"`
}

// statsBody is the whole of /stats?format=json.
type statsBody struct {
	Version   string        `json:"version"`
	Health    string        `json:"health"`
	StartTime int64         `json:"start_time"`
	Topics    []TopicStats  `json:"topics"`
	Memory    *MemStats     `json:"memory,omitempty"`
	Producers []ClientStats `json:"producers"`
	Damage    *Damage       `json:"damage,omitempty"` // ours alone, and only where there is some
}

// stats is GET /stats.
func (a *api) stats(r *http.Request) (any, *apiError) {
	q, aerr := a.query(r)
	if aerr != nil {
		return nil, aerr
	}
	topic, channel := q.Get("topic"), q.Get("channel")
	clients := boolArg(q, "include_clients")

	body := statsBody{Version: a.Info().Version, Health: a.health(), StartTime: a.StartTime.Unix()}
	if topic == "" || a.Broker.HasTopic(topic) {
		st := a.Broker.Stats(topic, channel, clients)
		shape(&st, clients)
		body.Topics, body.Producers, body.Damage = st.Topics, st.Producers, st.Damage
	}
	if boolArg(q, "include_mem") {
		body.Memory = ReadMemStats()
	}
	if q.Get("format") == "json" {
		return body, nil
	}
	return a.statsText(&body), nil
}

// shape sorts topics and channels by name and settles which empty lists are []
// and which null: tools have come to rely on both.
func shape(st *Stats, clients bool) {
	if st.Topics == nil {
		st.Topics = []TopicStats{}
	}
	if len(st.Producers) == 0 || !clients {
		st.Producers = nil
	}
	slices.SortFunc(st.Topics, func(x, y TopicStats) int { return cmp.Compare(x.TopicName, y.TopicName) })
	for i := range st.Topics {
		t := &st.Topics[i]
		if t.Channels == nil {
			t.Channels = []ChannelStats{}
		}
		slices.SortFunc(t.Channels, func(x, y ChannelStats) int { return cmp.Compare(x.ChannelName, y.ChannelName) })
		for j := range t.Channels {
			c := &t.Channels[j]
			switch {
			case !clients:
				c.Clients = nil
			case c.Clients == nil:
				c.Clients = []ClientStats{}
			}
		}
	}
}

// boolArg reads an argument that is true unless it says false or 0.
func boolArg(q url.Values, name string) bool {
	v := q.Get(name)
	return v != "false" && v != "0"
}

// ping is GET /ping, which has no V1 header.
func (a *api) ping(w *responseWriter, _ *http.Request, _ string) {
	code := http.StatusOK
	health := a.health()
	if health != healthy {
		code = http.StatusInternalServerError
	}
	w.text(code, health)
}

// info is GET /info.
func (a *api) info(*http.Request) (any, *apiError) { return a.Info(), nil }

const healthy = "OK"

// health is the broker's health as clients see it.
func (a *api) health() string {
	if err := a.Broker.Health(); err != nil {
		return "NOK - " + err.Error()
	}
	return healthy
}

// ReadMemStats reads Go's figures. It stops the world for some microseconds.
func ReadMemStats() *MemStats {
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	// The runtime keeps the last pauses only.
	pauses := slices.Clone(ms.PauseNs[:min(int(ms.NumGC), len(ms.PauseNs))])
	slices.Sort(pauses)
	return &MemStats{
		HeapObjects:       ms.HeapObjects,
		HeapIdleBytes:     ms.HeapIdle,
		HeapInUseBytes:    ms.HeapInuse,
		HeapReleasedBytes: ms.HeapReleased,
		GCPauseUsec100:    percentile(pauses, 100) / 1000,
		GCPauseUsec99:     percentile(pauses, 99) / 1000,
		GCPauseUsec95:     percentile(pauses, 95) / 1000,
		NextGCBytes:       ms.NextGC,
		GCTotalRuns:       ms.NumGC,
	}
}

// percentile returns the smallest value that at least percent of the ascending
// values do not exceed, 0 without values.
func percentile(sorted []uint64, percent int) uint64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*percent+99)/100-1]
}
