// Package engine is the daemon: connections, event loops and what each command
// means. Options holds every setting of it.
package engine

import (
	"crypto/md5"
	"crypto/tls"
	"hash/crc32"
	"os"
	"time"

	"github.com/zsqio/zsq/internal/version"
	"github.com/zsqio/zsq/mmapqueue"
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
	MaxBytesPerFile int64  // see fileBytes
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

// fileBytes is how large a file of a queue on disk may become by --max-bytes-per-file,
// which takes any number, as upstream's does. In a log of ours it is never more than
// mmapqueue.DefaultSegmentBytesMax either.
func (o *Options) fileBytes() int64 { return max(o.MaxBytesPerFile, mmapqueue.DefaultSegmentBytesMin) }

// defaultNodeID spreads hosts over the 1024 ids the way upstream does, so that
// a host keeps its id when it changes daemons.
func defaultNodeID(host string) int64 {
	sum := md5.Sum([]byte(host))
	return int64(crc32.ChecksumIEEE(sum[:]) % 1024)
}
