package engine

import (
	"reflect"
	"strings"

	"github.com/zsqio/zsq/internal/config"
)

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
		{Flag: "max-bytes-per-file", Usage: "bytes of a file of a queue on disk; below 64 KB is 64 KB, above 64 MB is 64 MB", Ptr: &o.MaxBytesPerFile},
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

		{Own: true, Flag: "durability", Usage: "what an accepted message survives: memory (a clean stop; the default), process (kill -9), disk (a loss of power)", Ptr: &o.Durability},
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
