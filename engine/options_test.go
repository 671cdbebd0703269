package engine_test

import (
	"math"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
)

// TestValidate shows the text for each setting that cannot work.
func TestValidate(t *testing.T) {
	f := func(change func(*engine.Options), want string) {
		t.Helper()
		o := engine.NewOptions()
		change(o)
		got := ""
		if err := o.Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	type opts = engine.Options
	f(func(*opts) {}, "")
	f(func(o *opts) { o.MaxDeflateLevel = 0 }, "--max-deflate-level must be [1,9]")
	f(func(o *opts) { o.MaxDeflateLevel = 10 }, "--max-deflate-level must be [1,9]")
	f(func(o *opts) { o.ID = -1 }, "--node-id must be [0,1024)")
	f(func(o *opts) { o.ID = 1024 }, "--node-id must be [0,1024)")
	f(func(o *opts) { o.ID = 1023 }, "")
	f(func(o *opts) { o.AuthHTTPRequestMethod = "GET" }, "--auth-http-request-method must be post or get")
	f(func(o *opts) { o.E2EProcessingLatencyPercentiles = []float64{1, 0} }, "invalid E2E processing latency percentile: 0")
	f(func(o *opts) { o.E2EProcessingLatencyPercentiles = []float64{1.5} }, "invalid E2E processing latency percentile: 1.5")
	f(func(o *opts) { o.E2EProcessingLatencyPercentiles = []float64{math.NaN()} }, "invalid E2E processing latency percentile: NaN")
	f(func(o *opts) { o.E2EProcessingLatencyPercentiles = []float64{1, 0.5} }, "")
	f(func(o *opts) { o.TLSRequired = engine.TLSAlways }, "cannot require TLS client connections without TLS key and cert")
	f(func(o *opts) { o.TLSClientAuthPolicy = "require" }, "cannot require TLS client connections without TLS key and cert")
	f(func(o *opts) { o.TLSClientAuthPolicy = "maybe" }, "--tls-client-auth-policy must be require or require-verify")
	f(func(o *opts) { o.TLSCert = "c" }, "failed to build TLS config - --tls-cert and --tls-key must be given together")
	f(func(o *opts) { o.TLSCert, o.TLSKey, o.TLSRequired = "c", "k", engine.TLSAlways }, "")
	// Upstream panics on these, some of them only later.
	f(func(o *opts) { o.MemQueueSize = -1 }, "--mem-queue-size must be >= 0")
	f(func(o *opts) { o.MemQueueSize = 0 }, "")
	f(func(o *opts) { o.MaxBytesPerFile = -1 }, "") // as upstream
	f(func(o *opts) { o.SyncTimeout = 0 }, "--sync-timeout must be > 0")
	f(func(o *opts) { o.OutputBufferTimeout = 0 }, "--output-buffer-timeout must be > 0")
	f(func(o *opts) { o.StatsdInterval = time.Second }, "--statsd-interval must be > 1s")
	f(func(o *opts) { o.Loops = -1 }, "--loops must be >= 0")
	f(func(o *opts) { o.OutputLimit = 0 }, "--output-limit must be > 0")
}

// TestRequireTLS shows that a client certificate policy implies TLS.
func TestRequireTLS(t *testing.T) {
	f := func(required engine.TLSRequired, policy string, want engine.TLSRequired) {
		t.Helper()
		o := engine.NewOptions()
		o.TLSRequired, o.TLSClientAuthPolicy = required, policy
		if got := o.RequireTLS(); got != want {
			t.Errorf("%v with policy %q: %v, want %v", required, policy, got, want)
		}
		if v, ok := o.Lookup("tls_required"); !ok || v != want {
			t.Errorf("/config shows %v", v)
		}
	}
	f(engine.TLSNotRequired, "", engine.TLSNotRequired)
	f(engine.TLSNotRequired, "require", engine.TLSAlways)
	f(engine.TLSExceptHTTP, "require", engine.TLSExceptHTTP)
	f(engine.TLSAlways, "", engine.TLSAlways)
}

// TestLookup shows settings by their config file names, and that names which
// are only flags are unknown.
func TestLookup(t *testing.T) {
	o := engine.NewOptions()
	o.ID = 7
	f := func(key string, want any) {
		t.Helper()
		if got, ok := o.Lookup(key); got != want || ok != (want != nil) {
			t.Errorf("%s: %v %v, want %v", key, got, ok, want)
		}
	}
	f("id", int64(7))
	f("msg_timeout", time.Minute)
	f("log_level", engine.LogInfo)
	f("tls_min_version", engine.TLSVersion(769))
	f("snappy", true)
	f("log_prefix", "[nsqd] ")
	f("node_id", nil)
	f("version", nil)
	f("config", nil)
	f("worker_id", nil)
	f("lookupd_tcp_address", nil)
	if v, _ := o.Lookup("nsqlookupd_tcp_addresses"); v.([]string) == nil {
		t.Error("an empty list must show as [], not null")
	}
}

// TestFieldsUnique shows that no name is given twice and none to two settings.
func TestFieldsUnique(t *testing.T) {
	seen := map[any]string{}
	for _, f := range engine.NewOptions().Fields() {
		for _, k := range []any{"flag " + f.Flag, "key " + f.Key, f.Ptr} {
			if other, ok := seen[k]; ok {
				t.Errorf("%s and %s share %v", f.Flag, other, k)
			}
			seen[k] = f.Flag
		}
	}
}

// TestWords shows the words of the settings that have their own.
func TestWords(t *testing.T) {
	level := engine.LogInfo
	for word, want := range map[string]engine.LogLevel{"debug": 1, "INFO": 2, "Warn": 3, "error": 4, "fatal": 5} {
		if err := level.Set(word); err != nil || level != want {
			t.Errorf("%s: %d %v", word, level, err)
		}
	}
	for _, word := range []string{"warning", "", " info"} {
		if level.Set(word) == nil {
			t.Errorf("log level %q was taken", word)
		}
	}
	version := engine.TLSVersion(769)
	for _, word := range []string{"tls1.3", ""} {
		if err := version.Set(word); err != nil || version != 772 {
			t.Errorf("TLS version %q: %d %v", word, version, err)
		}
	}
	if version.Set("ssl3.0") == nil {
		t.Error("ssl3.0 was taken")
	}
}

// TestDerived shows the defaults that depend on the machine.
func TestDerived(t *testing.T) {
	o := engine.NewOptions()
	if n := o.LoopCount(); n < 1 {
		t.Errorf("%d loops", n)
	}
	if n := o.MemoryBudget(); n <= 0 {
		t.Errorf("memory budget of %d", n)
	}
	o.Loops, o.MemoryLimit = 3, 4096
	if o.LoopCount() != 3 || o.MemoryBudget() != 4096 {
		t.Error("given values are not kept")
	}
	if o.ID < 0 || o.ID >= 1024 {
		t.Errorf("node id %d", o.ID)
	}
}
