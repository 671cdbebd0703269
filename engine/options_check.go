package engine

import (
	"errors"
	"fmt"
	"time"
)

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
