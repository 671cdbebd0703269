package engine

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/zsqio/zsq/internal/logbuf"
	"github.com/zsqio/zsq/internal/loglevel"
)

// The settings that are a word on the command line.

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

// LogFormat is the form of log lines.
type LogFormat = logbuf.Format

// The forms of log lines: upstream's text, or one JSON object a line.
const (
	LogText = logbuf.Text
	LogJSON = logbuf.JSON
)

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
