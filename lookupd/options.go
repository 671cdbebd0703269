package lookupd

import (
	"errors"
	"os"
	"time"

	"github.com/zsqio/zsq/internal/config"
	"github.com/zsqio/zsq/internal/loglevel"
)

// Version is the nsqlookupd release whose behaviour we offer. Producers and
// nsqadmin see it, so it stays upstream's number and not our own.
const Version = "1.3.0"

// Options are all settings of the daemon. NewOptions gives the defaults, Fields
// the names.
type Options struct {
	LogLevel  LogLevel
	LogPrefix string

	TCPAddress       string // producers
	HTTPAddress      string // consumers and tools
	BroadcastAddress string // told to producers, who ask back over HTTP

	InactiveProducerTimeout time.Duration // a producer silent for longer is hidden
	TombstoneLifetime       time.Duration // how long a tombstone hides a producer

	// The rest is zsq's own.

	ReapTimeout       time.Duration // how long a connection may take to identify itself, or stall
	IdleTimeout       time.Duration // how long a producer or an HTTP connection may be silent
	ClientLimit       int           // topics and channels that one connection may register
	RegistrationLimit int           // topics and channels kept in all
}

// NewOptions returns upstream's defaults and, for our own settings, ours. The
// broadcast address is the host's name.
func NewOptions() *Options {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return &Options{
		LogLevel:  LogInfo,
		LogPrefix: "[nsqlookupd] ",

		TCPAddress:       "0.0.0.0:4160",
		HTTPAddress:      "0.0.0.0:4161",
		BroadcastAddress: host,

		InactiveProducerTimeout: 5 * time.Minute,
		TombstoneLifetime:       45 * time.Second,

		ReapTimeout:       15 * time.Second,
		IdleTimeout:       10 * time.Minute,
		ClientLimit:       100_000,
		RegistrationLimit: 1_000_000,
	}
}

// Validate says what of the options cannot work, naming the flag.
func (o *Options) Validate() error {
	for _, c := range []struct {
		ok   bool
		text string
	}{
		{o.ReapTimeout > 0, "--reap-timeout must be > 0"},
		{o.IdleTimeout > 0, "--idle-timeout must be > 0"},
		{o.ClientLimit > 0, "--client-limit must be > 0"},
		{o.RegistrationLimit > 0, "--registration-limit must be > 0"},
	} {
		if !c.ok {
			return errors.New(c.text)
		}
	}
	return nil
}

// Fields lists every setting in the order of the help text.
func (o *Options) Fields() []config.Field {
	return []config.Field{
		{Flag: "log-level", Usage: "verbosity: debug, info, warn, error or fatal", Ptr: &o.LogLevel},
		{Flag: "log-prefix", Usage: "text before each log line", Ptr: &o.LogPrefix},
		{Flag: "tcp-address", Usage: "<addr>:<port> for nsqd nodes", Ptr: &o.TCPAddress},
		{Flag: "http-address", Usage: "<addr>:<port> for consumers and tools", Ptr: &o.HTTPAddress},
		{Flag: "broadcast-address", Usage: "address of this nsqlookupd as nsqd nodes are told (default is the hostname)", Ptr: &o.BroadcastAddress},
		{Flag: "inactive-producer-timeout", Usage: "silence after which a producer is hidden", Ptr: &o.InactiveProducerTimeout},
		{Flag: "tombstone-lifetime", Usage: "time for which a tombstone hides a producer", Ptr: &o.TombstoneLifetime},
		{Flag: "reap-timeout", Usage: "limit for a connection that stalls before it has identified itself, and for a stalled HTTP request", Own: true, Ptr: &o.ReapTimeout},
		{Flag: "idle-timeout", Usage: "silence after which a producer's or an HTTP connection is closed", Own: true, Ptr: &o.IdleTimeout},
		{Flag: "client-limit", Usage: "topics and channels that one connection may register", Own: true, Ptr: &o.ClientLimit},
		{Flag: "registration-limit", Usage: "topics and channels kept in all", Own: true, Ptr: &o.RegistrationLimit},
	}
}

// LogLevel says from which gravity on lines are logged.
type LogLevel = loglevel.Level

// The log levels, from the most to the least talkative.
const (
	LogDebug = loglevel.Debug
	LogInfo  = loglevel.Info
	LogWarn  = loglevel.Warn
	LogError = loglevel.Error
	LogFatal = loglevel.Fatal
)
