// Package httpapi is nsqd's HTTP API: paths, parameters, status codes, headers
// and bodies as nsqd has them.
//
// The broker behind it is an interface, called from HTTP goroutines, which may
// wait; nothing here runs on an event loop. The package neither listens nor
// knows of sockets: the engine puts the handler of New on its listeners, with a
// server of NewServer around it.
//
// A request goes one way:
//
//	ServeHTTP (api.go)     TLS gate, panics, log line
//	route (route.go)       path and method, redirects, 404 and 405
//	a handler              publish.go, topics.go, stats.go, config.go, debug.go
//	reply (reply.go)       body and headers
package httpapi

import (
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"
)

// Errors a Broker returns where the answer depends on them. Compare with errors.Is.
var (
	ErrTopicNotFound   = errors.New("topic not found")
	ErrChannelNotFound = errors.New("channel not found")
	ErrExiting         = errors.New("exiting")
	ErrTooManyTopics   = errors.New("topics exceed limit")
	ErrTooManyChannels = errors.New("channels exceed limit")
	ErrInvalidMode     = errors.New("no such durability")
	ErrEphemeral       = errors.New("topic is ephemeral")
)

// ErrInvalidOption is what Config.SetOption returns for a name that cannot be
// set; any other error means that the value is wrong.
var ErrInvalidOption = errors.New("invalid option")

// Broker is the part of the broker that HTTP needs. Its methods are called
// from any goroutine and may block it. Names have been checked where upstream
// checks them; a name of any other shape is simply not found.
type Broker interface {
	// Publish puts the messages on the topic in order, creating the topic
	// where it is missing, and returns once they are accepted. It copies the
	// bodies, which are the caller's again when it returns. A positive deferBy
	// delays the messages. Any error, ErrExiting or one of the disk, means 503.
	Publish(topic string, bodies [][]byte, deferBy time.Duration) error

	// CreateTopic makes the topic unless it exists.
	CreateTopic(name string) error
	// HasTopic reports whether the topic exists.
	HasTopic(name string) bool
	// DeleteTopic, EmptyTopic and PauseTopic fail with ErrTopicNotFound.
	DeleteTopic(name string) error
	EmptyTopic(name string) error
	PauseTopic(name string, paused bool) error

	// SetDurability gives the topic a durability of its own, by the word of the
	// daemon's flag. It fails with ErrTopicNotFound, ErrInvalidMode or
	// ErrEphemeral. When it returns, what was accepted is as safe as that.
	SetDurability(topic, mode string) error

	// CreateChannel makes the channel unless it exists. It fails with
	// ErrTopicNotFound and does not make topics.
	CreateChannel(topic, channel string) error
	// DeleteChannel, EmptyChannel and PauseChannel fail with ErrTopicNotFound
	// or ErrChannelNotFound.
	DeleteChannel(topic, channel string) error
	EmptyChannel(topic, channel string) error
	PauseChannel(topic, channel string, paused bool) error

	// Stats returns a copy of the figures, which the caller may change. A
	// non-empty topic or channel leaves the others out, and topics without
	// that channel too; producers are listed regardless. Clients and producers
	// may be left nil unless includeClients. No order is needed.
	Stats(topic, channel string, includeClients bool) Stats

	// Health is the last disk write's error, nil when it succeeded.
	Health() error
}

// Levels for Config.Logf, numbered as nsqd numbers its log levels.
const (
	LevelInfo  = 2
	LevelWarn  = 3
	LevelError = 4
)

// Limits bounds what requests may carry. All of them must be set, but for
// MaxBodies, which is no limit when zero.
type Limits struct {
	MaxBodies     int64 // bytes of all bodies that are being read or published
	MaxMsgSize    int64 // bytes
	MaxBodySize   int64 // bytes
	MaxReqTimeout time.Duration
}

// Config is what New needs. Broker, Info, Limits, the two name checks and Logf
// must be set; the functions are called from any goroutine.
type Config struct {
	Broker Broker
	// Info answers /info; its ports are known only once all sockets listen.
	Info   func() Info
	Limits Limits

	ValidTopicName   func(string) bool
	ValidChannelName func(string) bool

	// Option returns the value of a setting by its config file name.
	Option func(name string) (any, bool)
	// SetOption changes nsqlookupd_tcp_addresses or log_level from the bytes
	// of a request's body, which it must not keep. It returns ErrInvalidOption
	// for every other name.
	SetOption func(name string, value []byte) error

	// RequireTLS refuses every request that came without TLS, pointing to the
	// port HTTPSPort returns, 0 where there is none.
	RequireTLS bool
	HTTPSPort  func() int

	// StartTime is when the daemon started, Now the clock (nil: time.Now).
	StartTime time.Time
	Now       func() time.Time

	// StallTimeout is how long a body or a reader may stand still; 0 for ever.
	StallTimeout time.Duration

	// Metrics serves /metrics; nil: there is none.
	Metrics http.Handler

	Logf func(level int, format string, args ...any)
	// OnBug gets the value of a panic that says BUG:. Nil ends the process, as
	// such a panic does everywhere else; net/http alone would hide it.
	OnBug func(v any)
}

// Info is the answer to /info, key for key. Version is nsqd's, as tools
// compare it; OwnVersion is zsq's and one key more than nsqd has.
type Info struct {
	Version                string        `json:"version"`
	BroadcastAddress       string        `json:"broadcast_address"`
	Hostname               string        `json:"hostname"`
	HTTPPort               int           `json:"http_port"` // 0 without HTTP, -1 on a unix socket
	TCPPort                int           `json:"tcp_port"`
	StartTime              int64         `json:"start_time"` // Unix seconds
	MaxHeartbeatInterval   time.Duration `json:"max_heartbeat_interval"`
	MaxOutputBufferSize    int64         `json:"max_output_buffer_size"` // bytes
	MaxOutputBufferTimeout time.Duration `json:"max_output_buffer_timeout"`
	MaxDeflateLevel        int           `json:"max_deflate_level"`
	TopologyZone           string        `json:"topology_zone,omitempty"`
	TopologyRegion         string        `json:"topology_region,omitempty"`
	OwnVersion             string        `json:"zsq_version,omitempty"`
}

// api is the handler.
type api struct {
	Config
	routes map[string]methods
	bodies atomic.Int64 // bytes counted against Limits.MaxBodies
}

// New returns the handler of the whole API. It keeps cfg.
func New(cfg Config) http.Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.OnBug == nil {
		// On a goroutine of its own, where nothing recovers.
		cfg.OnBug = func(v any) { go panic(v) }
	}
	a := &api{Config: cfg}
	a.routes = a.table()
	return a
}

// NewServer returns a server around h that drops connections whose request
// line and headers take longer than stall. (Bodies that stop coming and readers
// that stop reading are cut off by h, see Config.StallTimeout; upstream waits
// for ever.) Idle connections are kept. The caller listens and shuts down.
func NewServer(h http.Handler, stall time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: stall,
		MaxHeaderBytes:    64 << 10,
	}
}

// ServeHTTP answers one request.
func (a *api) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	start := a.Now()
	w := &responseWriter{ResponseWriter: rw, stall: a.StallTimeout}
	w.start(r)
	defer func() {
		if v := recover(); v != nil {
			a.recovered(w, v)
		}
		if r.URL.Path != "/pub" && r.URL.Path != "/mpub" {
			a.Logf(LevelInfo, "%d %s %s (%s) %s", w.code, r.Method, r.URL.RequestURI(), r.RemoteAddr, a.Now().Sub(start))
		}
	}()
	if a.RequireTLS && r.TLS == nil {
		port := 0
		if a.HTTPSPort != nil {
			port = a.HTTPSPort()
		}
		w.refusePlain(port)
		return
	}
	a.route(w, r)
}

// recovered deals with a handler's panic: a BUG: goes on to OnBug, anything
// else costs its request only, as in upstream.
func (a *api) recovered(w *responseWriter, v any) {
	if v == http.ErrAbortHandler {
		panic(v)
	}
	a.Logf(LevelError, "panic in HTTP handler - %v\n%s", v, debug.Stack())
	if w.code == 0 {
		w.v1(nil, errInternal)
	}
	if s, ok := v.(string); ok && strings.HasPrefix(s, "BUG:") {
		a.OnBug(v)
	}
	if err, ok := v.(error); ok && strings.HasPrefix(err.Error(), "BUG:") {
		a.OnBug(v)
	}
}
