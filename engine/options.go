// Package engine is the daemon: connections, event loops and what each command
// means. Options holds every setting of it.
package engine

import (
	"bytes"
	"crypto/md5"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zsqio/zsq/internal/config"
	"github.com/zsqio/zsq/internal/version"
)

const (
	// Version is the nsqd release whose behaviour we offer. Clients and nsqadmin
	// compare it as semver, so it stays upstream's number and not our own.
	Version = "1.3.0"
	// OwnVersion is zsq's own release.
	OwnVersion = version.Own
)

// Options are all settings of the daemon. The fields are plain values, copied
// down to the parts that need them at construction. NewOptions gives the
// defaults, Fields the names.
type Options struct {
	LogLevel  LogLevel
	LogPrefix string

	ID                     int64 // node id, in [0,1024)
	TCPAddress             string
	HTTPAddress            string // empty: no HTTP
	HTTPSAddress           string // empty: no HTTPS
	BroadcastAddress       string
	BroadcastTCPPort       int // 0: the port listened on
	BroadcastHTTPPort      int // 0: the port listened on
	NSQLookupdTCPAddresses []string
	TopologyRegion         string
	TopologyZone           string

	AuthHTTPAddresses        []string
	AuthHTTPRequestMethod    string // "get" or "post"
	HTTPClientConnectTimeout time.Duration
	HTTPClientRequestTimeout time.Duration

	DataPath        string // empty: the working directory
	MemQueueSize    int64  // messages per topic and per channel
	MaxBytesPerFile int64  // bytes
	SyncEvery       int64  // messages
	SyncTimeout     time.Duration

	QueueScanWorkerPoolMax  int // accepted for upstream's sake; timers need no scan
	QueueScanSelectionCount int // likewise

	MsgTimeout    time.Duration
	MaxMsgTimeout time.Duration
	MaxMsgSize    int64 // bytes
	MaxBodySize   int64 // bytes
	MaxReqTimeout time.Duration

	MaxHeartbeatInterval   time.Duration
	MaxRdyCount            int64
	MaxOutputBufferSize    int64 // bytes
	MaxOutputBufferTimeout time.Duration
	MinOutputBufferTimeout time.Duration
	OutputBufferTimeout    time.Duration
	MaxChannelConsumers    int // 0: no limit

	StatsdAddress          string // empty: no statsd
	StatsdPrefix           string
	StatsdInterval         time.Duration
	StatsdMemStats         bool
	StatsdUDPPacketSize    int // bytes
	StatsdExcludeEphemeral bool

	E2EProcessingLatencyPercentiles []float64 // each in (0,1], descending
	E2EProcessingLatencyWindowTime  time.Duration

	TLSCert             string
	TLSKey              string
	TLSClientAuthPolicy string // "", "require" or "require-verify"
	TLSRootCAFile       string
	TLSRequired         TLSRequired
	TLSMinVersion       TLSVersion

	DeflateEnabled  bool
	MaxDeflateLevel int
	SnappyEnabled   bool

	Experiments []string

	// The rest is zsq's own.

	Durability                               Durability // what the death of the process and a loss of power may take
	LogFormat                                LogFormat
	Metrics                                  MetricsDetail
	Loops                                    int    // event loops; 0: see LoopCount
	MemoryLimit                              int64  // bytes for messages in memory; 0: see MemoryBudget
	MaxBacklogBytes, MaxBacklogBytesPerTopic int64  // on disk; 0: no limit
	ExportUpstream                           string // where to write the data path for upstream's nsqd, instead of serving
	OutputLimit                              int64  // bytes a connection may owe its reader
	MaxConnections                           int64  // clients over TCP at once; 0: see ConnectionLimit
	MaxTopics                                int    // 0: no limit
	MaxChannels                              int    // per topic; 0: no limit
	ConnectionMemoryLimit                    int64  // bytes that all connections may buffer; 0: see ConnectionMemory

	ReapTimeout time.Duration // how long a stalled HTTP request or handshake may take

	TLSReloadInterval time.Duration // time between looks at the TLS files; 0: only SIGHUP makes them read again
}

// NewOptions returns upstream's defaults and, for our own settings, ours. The
// node id and the broadcast address come from the host's name; on a host
// without one the id is that of the empty name.
func NewOptions() *Options {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return &Options{
		LogLevel:  LogInfo,
		LogPrefix: "[nsqd] ",

		ID:                     defaultNodeID(host),
		TCPAddress:             "0.0.0.0:4150",
		HTTPAddress:            "0.0.0.0:4151",
		HTTPSAddress:           "0.0.0.0:4152",
		BroadcastAddress:       host,
		NSQLookupdTCPAddresses: []string{},

		AuthHTTPAddresses:        []string{},
		AuthHTTPRequestMethod:    "get",
		HTTPClientConnectTimeout: 2 * time.Second,
		HTTPClientRequestTimeout: 5 * time.Second,

		MemQueueSize:    10000,
		MaxBytesPerFile: 100 << 20,
		SyncEvery:       2500,
		SyncTimeout:     2 * time.Second,

		QueueScanWorkerPoolMax:  4,
		QueueScanSelectionCount: 20,

		MsgTimeout:    time.Minute,
		MaxMsgTimeout: 15 * time.Minute,
		MaxMsgSize:    1 << 20,
		MaxBodySize:   5 << 20,
		MaxReqTimeout: time.Hour,

		MaxHeartbeatInterval:   time.Minute,
		MaxRdyCount:            2500,
		MaxOutputBufferSize:    64 << 10,
		MaxOutputBufferTimeout: 30 * time.Second,
		MinOutputBufferTimeout: 25 * time.Millisecond,
		OutputBufferTimeout:    250 * time.Millisecond,

		StatsdPrefix:        "nsq.%s",
		StatsdInterval:      time.Minute,
		StatsdMemStats:      true,
		StatsdUDPPacketSize: 508,

		E2EProcessingLatencyPercentiles: []float64{},
		E2EProcessingLatencyWindowTime:  10 * time.Minute,

		TLSMinVersion: tls.VersionTLS10,

		DeflateEnabled:  true,
		MaxDeflateLevel: 6,
		SnappyEnabled:   true,

		Experiments: []string{},

		LogFormat:   LogText,
		Metrics:     MetricsChannel,
		OutputLimit: 1 << 20,
		ReapTimeout: 15 * time.Second,

		TLSReloadInterval: 10 * time.Second,
	}
}

// defaultNodeID spreads hosts over the 1024 ids the way upstream does, so that
// a host keeps its id when it changes daemons.
func defaultNodeID(host string) int64 {
	sum := md5.Sum([]byte(host))
	return int64(crc32.ChecksumIEEE(sum[:]) % 1024)
}

// Validate reports the first setting that cannot work. Texts that upstream has
// are upstream's; those for settings on which upstream panics later are ours.
func (o *Options) Validate() error {
	if o.MaxDeflateLevel < 1 || o.MaxDeflateLevel > 9 {
		return errors.New("--max-deflate-level must be [1,9]")
	}
	if o.ID < 0 || o.ID >= 1024 {
		return errors.New("--node-id must be [0,1024)")
	}
	if err := o.validateTLS(); err != nil {
		return err
	}
	if m := o.AuthHTTPRequestMethod; m != "get" && m != "post" {
		return errors.New("--auth-http-request-method must be post or get")
	}
	for _, p := range o.E2EProcessingLatencyPercentiles {
		if !(p > 0 && p <= 1) { // written so that NaN fails
			return fmt.Errorf("invalid E2E processing latency percentile: %v", p)
		}
	}
	return o.validateRanges()
}

func (o *Options) validateTLS() error {
	switch o.TLSClientAuthPolicy {
	case "", "require", "require-verify":
	default:
		// Upstream takes any word and then demands no certificate at all.
		return errors.New("--tls-client-auth-policy must be require or require-verify")
	}
	if (o.TLSCert == "") != (o.TLSKey == "") {
		return errors.New("failed to build TLS config - --tls-cert and --tls-key must be given together")
	}
	if o.TLSCert == "" && o.RequireTLS() != TLSNotRequired {
		return errors.New("cannot require TLS client connections without TLS key and cert")
	}
	return nil
}

func (o *Options) validateRanges() error {
	for _, c := range []struct {
		ok   bool
		text string
	}{
		{o.MemQueueSize >= 0, "--mem-queue-size must be >= 0"},
		{o.MaxBytesPerFile > 0, "--max-bytes-per-file must be > 0"},
		{o.SyncEvery >= 0, "--sync-every must be >= 0"},
		{o.SyncTimeout > 0, "--sync-timeout must be > 0"},
		{o.MsgTimeout > 0, "--msg-timeout must be > 0"},
		{o.MaxMsgTimeout > 0, "--max-msg-timeout must be > 0"},
		{o.MaxMsgSize > 0, "--max-msg-size must be > 0"},
		{o.MaxBodySize > 0, "--max-body-size must be > 0"},
		{o.MaxReqTimeout >= 0, "--max-req-timeout must be >= 0"},
		{o.OutputBufferTimeout > 0, "--output-buffer-timeout must be > 0"},
		{o.MaxChannelConsumers >= 0, "--max-channel-consumers must be >= 0"},
		{o.StatsdInterval > time.Second, "--statsd-interval must be > 1s"},
		{o.E2EProcessingLatencyWindowTime > 0, "--e2e-processing-latency-window-time must be > 0"},
		{o.Loops >= 0, "--loops must be >= 0"},
		{o.MemoryLimit >= 0, "--memory-limit must be >= 0"},
		{o.OutputLimit > 0, "--output-limit must be > 0"},
		{o.MaxBacklogBytes >= 0, "--max-backlog-bytes must not be negative"},
		{o.MaxBacklogBytesPerTopic >= 0, "--max-backlog-bytes-per-topic must not be negative"},
		{o.ReapTimeout > 0, "--reap-timeout must be > 0"},
		{o.TLSReloadInterval >= 0, "--tls-reload-interval must be >= 0"},
		{o.MaxConnections >= 0, "--max-connections must be >= 0"},
		{o.MaxTopics >= 0, "--max-topics must be >= 0"},
		{o.MaxChannels >= 0, "--max-channels must be >= 0"},
		{o.ConnectionMemoryLimit >= 0, "--connection-memory-limit must be >= 0"},
	} {
		if !c.ok {
			return errors.New(c.text)
		}
	}
	return nil
}

// RequireTLS is what clients must do about TLS: the flag's word, except that
// any client certificate policy makes TLS required where the flag says no.
func (o *Options) RequireTLS() TLSRequired {
	if o.TLSClientAuthPolicy != "" && o.TLSRequired == TLSNotRequired {
		return TLSAlways
	}
	return o.TLSRequired
}

// topologyAware reports whether clients that are near are to be served first.
func (o *Options) topologyAware() bool {
	return slices.Contains(o.Experiments, "topology-aware-consumption")
}

// LoopCount is the number of event loops: Loops, or when that is zero one less
// than the cores, at least one. The spare core is for disk, HTTP and GC.
func (o *Options) LoopCount() int {
	if o.Loops > 0 {
		return o.Loops
	}
	return max(1, runtime.GOMAXPROCS(0)-1)
}

// MemoryBudget is the number of bytes for messages in memory: MemoryLimit, or
// when that is zero a quarter of what the machine or the cgroup allows.
func (o *Options) MemoryBudget() int64 {
	if o.MemoryLimit > 0 {
		return o.MemoryLimit
	}
	const unknown = 1 << 30
	total := int64(0)
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		total = memTotal(b)
	}
	// cgroup v2, then v1. Inside a container both show the container's own limit.
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		// The word "max" and v1's huge number both mean no limit.
		n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
		if err == nil && n > 0 && (total == 0 || n < total) {
			total = n
		}
	}
	if total == 0 {
		total = unknown
	}
	return total / 4
}

// memTotal finds the machine's memory in bytes in the text of /proc/meminfo, 0
// if it is not there.
func memTotal(meminfo []byte) int64 {
	for line := range strings.Lines(string(meminfo)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemTotal:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// Fields lists every setting in the order of the help text. It is the one
// place that knows the names; flags, config file and /config follow it.
func (o *Options) Fields() []config.Field {
	f := []config.Field{
		{Flag: "log-level", Usage: "verbosity: debug, info, warn, error or fatal", Ptr: &o.LogLevel},
		{Flag: "log-prefix", Usage: "text before each log line", Ptr: &o.LogPrefix},
		{Flag: "node-id", Key: "id", Usage: "number of this node, in [0,1024) (default is a hash of the hostname)", Ptr: &o.ID},
		{Flag: "tcp-address", Usage: "<addr>:<port> or unix socket path for TCP clients", Ptr: &o.TCPAddress},
		{Flag: "http-address", Usage: "<addr>:<port> or unix socket path for HTTP clients; empty for none", Ptr: &o.HTTPAddress},
		{Flag: "https-address", Usage: "<addr>:<port> for HTTPS clients; empty for none", Ptr: &o.HTTPSAddress},
		{Flag: "broadcast-address", Usage: "address announced to nsqlookupd (default is the hostname)", Ptr: &o.BroadcastAddress},
		{Flag: "broadcast-tcp-port", Usage: "TCP port announced to nsqlookupd (default is the one listened on)", Ptr: &o.BroadcastTCPPort},
		{Flag: "broadcast-http-port", Usage: "HTTP port announced to nsqlookupd (default is the one listened on)", Ptr: &o.BroadcastHTTPPort},
		{Flag: "lookupd-tcp-address", Key: "nsqlookupd_tcp_addresses", Usage: "TCP address of an nsqlookupd (may be given several times)", Ptr: &o.NSQLookupdTCPAddresses},
		{Flag: "auth-http-address", Key: "auth_http_addresses", Usage: "<addr>:<port> or URL of an auth server (may be given several times)", Ptr: &o.AuthHTTPAddresses},
		{Flag: "auth-http-request-method", Usage: "how to ask auth servers: get or post", Ptr: &o.AuthHTTPRequestMethod},
		{Flag: "http-client-connect-timeout", Usage: "limit for connecting to auth servers and nsqlookupds over HTTP", Ptr: &o.HTTPClientConnectTimeout},
		{Flag: "http-client-request-timeout", Usage: "limit for a whole request to them", Ptr: &o.HTTPClientRequestTimeout},
		{Flag: "topology-region", Usage: "region of this node", Ptr: &o.TopologyRegion},
		{Flag: "topology-zone", Usage: "zone of this node", Ptr: &o.TopologyZone},
		{Flag: "data-path", Usage: "directory for messages on disk (default is the working directory)", Ptr: &o.DataPath},
		{Flag: "mem-queue-size", Usage: "messages kept in memory per topic and per channel", Ptr: &o.MemQueueSize},
		{Flag: "max-bytes-per-file", Usage: "bytes per file of a queue on disk", Ptr: &o.MaxBytesPerFile},
		{Flag: "sync-every", Usage: "messages written between fsyncs", Ptr: &o.SyncEvery},
		{Flag: "sync-timeout", Usage: "longest time between fsyncs", Ptr: &o.SyncTimeout},
		{Flag: "queue-scan-worker-pool-max", Usage: "accepted as nsqd has it; without effect here", Ptr: &o.QueueScanWorkerPoolMax},
		{Flag: "queue-scan-selection-count", Usage: "accepted as nsqd has it; without effect here", Ptr: &o.QueueScanSelectionCount},
		{Flag: "msg-timeout", Usage: "time a consumer has for a message unless it asked for another", Ptr: &o.MsgTimeout},
		{Flag: "max-msg-timeout", Usage: "longest such time a consumer may ask for", Ptr: &o.MaxMsgTimeout},
		{Flag: "max-msg-size", Usage: "bytes a message may have", Ptr: &o.MaxMsgSize},
		{Flag: "max-body-size", Usage: "bytes a command's body may have", Ptr: &o.MaxBodySize},
		{Flag: "max-req-timeout", Usage: "longest delay for a requeued or deferred message", Ptr: &o.MaxReqTimeout},
		{Flag: "max-heartbeat-interval", Usage: "longest time between heartbeats a client may ask for", Ptr: &o.MaxHeartbeatInterval},
		{Flag: "max-rdy-count", Usage: "highest RDY of a client", Ptr: &o.MaxRdyCount},
		{Flag: "max-output-buffer-size", Usage: "largest output buffer in bytes a client may ask for", Ptr: &o.MaxOutputBufferSize},
		{Flag: "max-output-buffer-timeout", Usage: "longest time between flushes a client may ask for", Ptr: &o.MaxOutputBufferTimeout},
		{Flag: "min-output-buffer-timeout", Usage: "shortest time between flushes a client may ask for", Ptr: &o.MinOutputBufferTimeout},
		{Flag: "output-buffer-timeout", Usage: "time between flushes unless the client asked for another", Ptr: &o.OutputBufferTimeout},
		{Flag: "max-channel-consumers", Usage: "consumers a channel may have per nsqd (default 0, no limit)", Ptr: &o.MaxChannelConsumers},
		{Flag: "statsd-address", Usage: "UDP <addr>:<port> of a statsd to push to", Ptr: &o.StatsdAddress},
		{Flag: "statsd-prefix", Usage: "prefix of statsd names (%s becomes the host and port)", Ptr: &o.StatsdPrefix},
		{Flag: "statsd-interval", Usage: "time between pushes to statsd", Ptr: &o.StatsdInterval},
		{Flag: "statsd-mem-stats", Usage: "push memory and GC figures too", Ptr: &o.StatsdMemStats},
		{Flag: "statsd-udp-packet-size", Usage: "bytes of a UDP packet to statsd", Ptr: &o.StatsdUDPPacketSize},
		{Flag: "statsd-exclude-ephemeral", Usage: "leave ephemeral topics and channels out of statsd", Ptr: &o.StatsdExcludeEphemeral},
		{Flag: "e2e-processing-latency-percentile", Key: "e2e_processing_latency_percentiles", Usage: "percentiles in (0,1] to track, comma separated (may be given several times)", Ptr: &o.E2EProcessingLatencyPercentiles},
		{Flag: "e2e-processing-latency-window-time", Usage: "time span of these percentiles", Ptr: &o.E2EProcessingLatencyWindowTime},
		{Flag: "tls-cert", Usage: "certificate file", Ptr: &o.TLSCert},
		{Flag: "tls-key", Usage: "key file", Ptr: &o.TLSKey},
		{Flag: "tls-client-auth-policy", Usage: "client certificates: require or require-verify", Ptr: &o.TLSClientAuthPolicy},
		{Flag: "tls-root-ca-file", Usage: "certificate authorities for clients and auth servers", Ptr: &o.TLSRootCAFile},
		{Flag: "tls-required", Usage: "whether clients must use TLS: true, false or tcp-https", Ptr: &o.TLSRequired},
		{Flag: "tls-min-version", Usage: "lowest TLS version: tls1.0, tls1.1, tls1.2 or tls1.3", Ptr: &o.TLSMinVersion},
		{Flag: "deflate", Usage: "offer deflate", Ptr: &o.DeflateEnabled},
		{Flag: "max-deflate-level", Usage: "highest deflate level a client may ask for", Ptr: &o.MaxDeflateLevel},
		{Flag: "snappy", Usage: "offer snappy", Ptr: &o.SnappyEnabled},
		{Flag: "enable-experiment", Usage: "name of an experimental feature (may be given several times)", Ptr: &o.Experiments},

		{Own: true, Flag: "durability", Usage: "what an accepted message survives: memory (a clean stop), process (kill -9), disk (a loss of power)", Ptr: &o.Durability},
		{Own: true, Flag: "log-format", Usage: "form of log lines: text or json", Ptr: &o.LogFormat},
		{Own: true, Flag: "metrics", Usage: "what /metrics has series for: channel, topic, node or off; the later, the fewer", Ptr: &o.Metrics},
		{Own: true, Flag: "export-upstream", Usage: "write everything in the data path into this empty directory, for upstream's nsqd, and end", Ptr: &o.ExportUpstream},
		{Own: true, Flag: "loops", Usage: "event loops (default 0, one less than the cores)", Ptr: &o.Loops},
		{Own: true, Flag: "max-backlog-bytes", Usage: "bytes that the backlogs of all topics may take on disk; beyond it publishes are refused (default 0, no limit)", Ptr: &o.MaxBacklogBytes},
		{Own: true, Flag: "max-backlog-bytes-per-topic", Usage: "the same for each topic", Ptr: &o.MaxBacklogBytesPerTopic},
		{Own: true, Flag: "memory-limit", Usage: "bytes for messages in memory (default 0, a quarter of the memory there is)", Ptr: &o.MemoryLimit},
		{Own: true, Flag: "output-limit", Usage: "bytes a client may leave unread before it is served no more", Ptr: &o.OutputLimit},
		{Own: true, Flag: "reap-timeout", Usage: "time after which a client that stalls in the middle of something is cut off", Ptr: &o.ReapTimeout},
		{Own: true, Flag: "max-connections", Usage: "TCP clients served at once, others wait (default 0, what the limit of open files allows)", Ptr: &o.MaxConnections},
		{Own: true, Flag: "connection-memory-limit", Usage: "bytes that all connections together may buffer (default 0, a quarter of what messages may have)", Ptr: &o.ConnectionMemoryLimit},
		{Own: true, Flag: "max-topics", Usage: "topics there may be (default 0, no limit)", Ptr: &o.MaxTopics},
		{Own: true, Flag: "max-channels", Usage: "channels a topic may have (default 0, no limit)", Ptr: &o.MaxChannels},
		{Own: true, Flag: "tls-reload-interval", Usage: "time between looks at whether the TLS files have changed; 0 for none (SIGHUP reads them too)", Ptr: &o.TLSReloadInterval},
	}
	for i := range f {
		if f[i].Key == "" {
			f[i].Key = strings.ReplaceAll(f[i].Flag, "-", "_")
		}
	}
	return f
}

// Lookup returns the value of the setting with this config file name, for
// GET /config. Lists are the Options' own and must not be changed.
func (o *Options) Lookup(key string) (any, bool) {
	if key == "tls_required" {
		return o.RequireTLS(), true
	}
	for _, f := range o.Fields() {
		if f.Key == key {
			return reflect.ValueOf(f.Ptr).Elem().Interface(), true
		}
	}
	return nil, false
}

// LogLevel says from which gravity on lines are logged. Its numbers are seen
// in /config.
type LogLevel int

// The log levels, from the most to the least talkative.
const (
	LogDebug LogLevel = iota + 1
	LogInfo
	LogWarn
	LogError
	LogFatal
)

var logLevelNames = [...]string{LogDebug: "debug", LogInfo: "info", LogWarn: "warn", LogError: "error", LogFatal: "fatal"}

// String returns the flag's word for the level.
func (l LogLevel) String() string {
	if l < LogDebug || l > LogFatal {
		return strconv.Itoa(int(l))
	}
	return logLevelNames[l]
}

// Set parses a level's word in any case. The word "warning" is not one, as in
// upstream, though the log itself prints it.
func (l *LogLevel) Set(s string) error {
	for level := LogDebug; level <= LogFatal; level++ {
		if strings.EqualFold(s, logLevelNames[level]) {
			*l = level
			return nil
		}
	}
	return fmt.Errorf("invalid log level '%s' (debug, info, warn, error, fatal)", s)
}

// Get makes LogLevel a flag.Getter.
func (l *LogLevel) Get() any { return *l }

// LogFormat is the form of log lines.
type LogFormat string

// The forms of log lines: upstream's text, or one JSON object a line.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// String returns the flag's word.
func (f *LogFormat) String() string { return string(*f) }

// Set takes text or json.
func (f *LogFormat) Set(s string) error {
	if v := LogFormat(s); v == LogText || v == LogJSON {
		*f = v
		return nil
	}
	return fmt.Errorf("invalid log format '%s' (text, json)", s)
}

// Get makes LogFormat a flag.Getter.
func (f *LogFormat) Get() any { return *f }

// MetricsDetail says down to what /metrics goes, which bounds its series.
type MetricsDetail string

// How far down /metrics goes: 9 series a channel, 5 a topic, and some 300 for
// the node, percentiles aside.
const (
	MetricsChannel MetricsDetail = "channel"
	MetricsTopic   MetricsDetail = "topic"
	MetricsNode    MetricsDetail = "node"
	MetricsOff     MetricsDetail = "off" // there is no /metrics
)

// String returns the flag's word.
func (m *MetricsDetail) String() string { return string(*m) }

// Set takes channel, topic, node or off.
func (m *MetricsDetail) Set(s string) error {
	switch v := MetricsDetail(s); v {
	case MetricsChannel, MetricsTopic, MetricsNode, MetricsOff:
		*m = v
		return nil
	}
	return fmt.Errorf("invalid detail '%s' (channel, topic, node, off)", s)
}

// Get makes MetricsDetail a flag.Getter.
func (m *MetricsDetail) Get() any { return *m }

// TLSRequired says which clients must use TLS. Its numbers are seen in /config.
type TLSRequired int

// What may be demanded of clients.
const (
	TLSNotRequired TLSRequired = iota
	TLSExceptHTTP              // TCP clients must, HTTP clients need not
	TLSAlways
)

// String returns the flag's word.
func (t TLSRequired) String() string {
	switch t {
	case TLSNotRequired:
		return "false"
	case TLSExceptHTTP:
		return "tcp-https"
	default:
		return "true"
	}
}

// Set parses tcp-https or a Go bool.
func (t *TLSRequired) Set(s string) error {
	if strings.EqualFold(s, "tcp-https") {
		*t = TLSExceptHTTP
		return nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("must be true, false or tcp-https")
	}
	*t = TLSNotRequired
	if b {
		*t = TLSAlways
	}
	return nil
}

// Get makes TLSRequired a flag.Getter.
func (t *TLSRequired) Get() any { return *t }

// IsBoolFlag lets the flag stand without a value.
func (t *TLSRequired) IsBoolFlag() bool { return true }

// TLSVersion is a version number as crypto/tls has them. It is seen in /config.
type TLSVersion uint16

// String returns the flag's word.
func (v TLSVersion) String() string {
	if v < tls.VersionTLS10 || v > tls.VersionTLS13 {
		return strconv.Itoa(int(v))
	}
	return "tls1." + strconv.Itoa(int(v-tls.VersionTLS10))
}

// Set parses tls1.0 to tls1.3; the empty word changes nothing.
func (v *TLSVersion) Set(s string) error {
	if s == "" {
		return nil
	}
	for n := TLSVersion(tls.VersionTLS10); n <= tls.VersionTLS13; n++ {
		if strings.EqualFold(s, n.String()) {
			*v = n
			return nil
		}
	}
	return fmt.Errorf("unknown TLS version %q (tls1.0, tls1.1, tls1.2, tls1.3)", s)
}

// Get makes TLSVersion a flag.Getter.
func (v *TLSVersion) Get() any { return *v }
