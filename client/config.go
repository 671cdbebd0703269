package nsq

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"
)

// Config says how a Producer, a Consumer or a Conn behaves. NewConfig makes one;
// any other panics where it is used. Producers and consumers copy it when they
// are made, so that later changes do not reach them.
//
// The tags give each option's name for Set, its default and its limits.
type Config struct {
	origin *origin // nil: not made by NewConfig

	// DialTimeout bounds making a connection.
	DialTimeout time.Duration `opt:"dial_timeout" default:"1s"`

	// ReadTimeout bounds the silence of a server, whose heartbeats must
	// therefore come more often. WriteTimeout bounds writing up to 256 KiB.
	ReadTimeout  time.Duration `opt:"read_timeout" min:"100ms" max:"5m" default:"60s"`
	WriteTimeout time.Duration `opt:"write_timeout" min:"100ms" max:"5m" default:"1s"`

	// LocalAddr is where connections come from; nil leaves it to the system.
	LocalAddr net.Addr `opt:"local_addr"`

	// LookupdPollInterval is the time between two queries of the nsqlookupds,
	// and the longest time between two attempts to reach an nsqd.
	// LookupdPollJitter is the largest part of it by which the first query may
	// be late. LookupdPollTimeout bounds a query.
	LookupdPollInterval time.Duration `opt:"lookupd_poll_interval" min:"10ms" max:"5m" default:"60s"`
	LookupdPollJitter   float64       `opt:"lookupd_poll_jitter" min:"0" max:"1" default:"0.3"`
	LookupdPollTimeout  time.Duration `opt:"lookupd_poll_timeout" default:"1m"`

	// MaxRequeueDelay and DefaultRequeueDelay make the delay of Requeue(-1).
	MaxRequeueDelay     time.Duration `opt:"max_requeue_delay" min:"0" max:"60m" default:"15m"`
	DefaultRequeueDelay time.Duration `opt:"default_requeue_delay" min:"0" max:"60m" default:"90s"`

	// BackoffStrategy says how long a consumer backs off after failures.
	BackoffStrategy BackoffStrategy `opt:"backoff_strategy" default:"exponential"`
	// MaxBackoffDuration is the longest backoff; 0 turns backing off off.
	MaxBackoffDuration time.Duration `opt:"max_backoff_duration" min:"0" max:"60m" default:"2m"`
	// BackoffMultiplier is the strategy's unit.
	BackoffMultiplier time.Duration `opt:"backoff_multiplier" min:"0" max:"60m" default:"1s"`

	// MaxAttempts is how often a message is given to a handler before the
	// consumer finishes it unseen; 0 is for ever.
	MaxAttempts uint16 `opt:"max_attempts" min:"0" max:"65535" default:"5"`

	// LowRdyIdleTimeout is how long a connection without messages keeps its
	// share when there is not enough for all. LowRdyTimeout is the longest that
	// any connection keeps it then.
	LowRdyIdleTimeout time.Duration `opt:"low_rdy_idle_timeout" min:"1s" max:"5m" default:"10s"`
	LowRdyTimeout     time.Duration `opt:"low_rdy_timeout" min:"1s" max:"5m" default:"30s"`
	// RDYRedistributeInterval is the longest time between two looks at the
	// connections' shares.
	RDYRedistributeInterval time.Duration `opt:"rdy_redistribute_interval" min:"1ms" max:"5s" default:"5s"`

	// What the server is told of the client. The defaults are the host's name up
	// to its first dot, the whole name, and go-nsq's user agent.
	ClientID  string `opt:"client_id"`
	Hostname  string `opt:"hostname"`
	UserAgent string `opt:"user_agent"`

	// TopologyRegion and TopologyZone say where the client is.
	TopologyRegion string `opt:"topology_region"`
	TopologyZone   string `opt:"topology_zone"`

	// HeartbeatInterval is how often the server shows that it lives; -1 turns
	// heartbeats off. It must not exceed ReadTimeout.
	HeartbeatInterval time.Duration `opt:"heartbeat_interval" default:"30s"`
	// SampleRate is the percentage of messages to receive; 0 is all of them.
	SampleRate int32 `opt:"sample_rate" min:"0" max:"99"`

	// TlsV1 asks for TLS. These options of Set make a TlsConfig:
	// tls_root_ca_file, tls_cert and tls_key (paths), tls_min_version (ssl3.0,
	// tls1.0, tls1.1 or tls1.2) and tls_insecure_skip_verify.
	//
	// The server's certificate is checked against the host of the address that
	// is connected to; the TlsConfig's own ServerName is not used.
	//lint:ignore ST1003 go-nsq's name
	TlsV1 bool `opt:"tls_v1"`
	//lint:ignore ST1003 go-nsq's name
	TlsConfig *tls.Config `opt:"tls_config"`

	// Deflate or Snappy asks for compression, which runs inside TLS.
	Deflate      bool `opt:"deflate"`
	DeflateLevel int  `opt:"deflate_level" min:"1" max:"9" default:"6"`
	Snappy       bool `opt:"snappy"`

	// How many bytes the server may collect, and for how long, before it sends;
	// -1 turns that off.
	OutputBufferSize    int64         `opt:"output_buffer_size" default:"16384"`
	OutputBufferTimeout time.Duration `opt:"output_buffer_timeout" default:"250ms"`

	// MaxInFlight is how many messages a consumer holds at most, over all its
	// connections.
	MaxInFlight int `opt:"max_in_flight" min:"0" default:"1"`

	// MsgTimeout is how long the server waits for a message's answer; 0 leaves
	// it to the server.
	MsgTimeout time.Duration `opt:"msg_timeout" min:"0"`

	// MaxMsgSize is the largest frame that is read, in bytes; 0 is no limit.
	MaxMsgSize int32 `opt:"max_msg_size" min:"0"`

	// AuthSecret is what a server gets that asks for it.
	AuthSecret string `opt:"auth_secret"`
	// LookupdAuthorization sends the secret to nsqlookupds, too. (The option's
	// name says the opposite of what it does; it always has.)
	LookupdAuthorization bool `opt:"skip_lookupd_authorization" default:"true"`
}

// origin marks a Config as NewConfig's. Copies share it.
type origin struct {
	certFile, keyFile string // tls_cert and tls_key, as far as they are set
}

// NewConfig returns a Config with all defaults.
func NewConfig() *Config {
	c := &Config{origin: new(origin)}
	for _, f := range options() {
		if def := f.Tag.Get("default"); def != "" {
			if err := c.Set(f.Tag.Get("opt"), def); err != nil {
				panic("BUG: nsq: default of " + f.Name + ": " + err.Error())
			}
		}
	}
	// A host without a name is no reason to end a program.
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	c.ClientID, _, _ = strings.Cut(host, ".")
	c.Hostname = host
	c.UserAgent = "go-nsq/" + VERSION
	return c
}

// options lists the fields that Set knows.
var options = sync.OnceValue(func() []reflect.StructField {
	var fields []reflect.StructField
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if f.Tag.Get("opt") != "" {
			fields = append(fields, f)
		}
	}
	return fields
})

func (c *Config) mustBeOurs() {
	if c.origin == nil {
		panic("Config{} must be created with NewConfig()")
	}
}

// Set sets an option by its name, in which - and _ are the same. The value may be
// of the option's own type or of one that stands for it: a string, or a number,
// which is milliseconds for a duration. It fails for unknown names, for values
// that do not fit the type, and for values out of the option's limits.
func (c *Config) Set(option string, value interface{}) error {
	c.mustBeOurs()
	option = strings.ReplaceAll(option, "-", "_")
	if handled, err := c.setTLS(option, value); handled {
		return err
	}
	for _, f := range options() {
		if f.Tag.Get("opt") != option {
			continue
		}
		v, err := coerce(value, f.Type)
		if err != nil {
			return fmt.Errorf("failed to coerce option %s (%v) - %s", option, value, err)
		}
		if err := checkLimits(option, v, f); err != nil {
			return err
		}
		if s, ok := v.Interface().(boundStrategy); ok {
			s.bind(c)
		}
		reflect.ValueOf(c).Elem().FieldByIndex(f.Index).Set(v)
		return nil
	}
	return fmt.Errorf("invalid option %s", option)
}

// Validate checks the limits of all options, and those between options.
func (c *Config) Validate() error {
	c.mustBeOurs()
	for _, f := range options() {
		v := reflect.ValueOf(c).Elem().FieldByIndex(f.Index)
		if err := checkLimits(f.Name, v, f); err != nil {
			return err
		}
	}
	if c.HeartbeatInterval > c.ReadTimeout {
		return fmt.Errorf("HeartbeatInterval %v must be less than ReadTimeout %v", c.HeartbeatInterval, c.ReadTimeout)
	}
	return nil
}

// copied returns the Config that a producer or a consumer keeps.
func (c *Config) copied() *Config {
	own := *c
	switch s := own.BackoffStrategy.(type) {
	case nil:
		own.BackoffStrategy = &ExponentialStrategy{cfg: &own}
	case *ExponentialStrategy:
		own.BackoffStrategy = &ExponentialStrategy{cfg: &own}
	case *FullJitterStrategy:
		own.BackoffStrategy = &FullJitterStrategy{cfg: &own, rng: s.rng}
	}
	return &own
}

// ConfigFlag makes a Config a flag.Value, so that options can be given on a
// command line.
type ConfigFlag struct {
	Config *Config
}

// Set takes "option,value", or "option" alone for true.
func (c *ConfigFlag) Set(opt string) (err error) {
	name, value, found := strings.Cut(opt, ",")
	if !found {
		return c.Config.Set(name, true)
	}
	return c.Config.Set(name, value)
}

// String returns nothing; there is no short form of a Config.
func (c *ConfigFlag) String() string {
	return ""
}
