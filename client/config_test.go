package nsq_test

import (
	"crypto/tls"
	"flag"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

// TestConfigDefaults pins the defaults that a tag cannot be trusted with.
func TestConfigDefaults(t *testing.T) {
	c := nsq.NewConfig()
	must(t, c.Validate())
	for _, f := range reflect.VisibleFields(reflect.TypeFor[nsq.Config]()) {
		v := reflect.ValueOf(*c).FieldByIndex(f.Index)
		switch f.Name {
		case "LocalAddr", "TopologyRegion", "TopologyZone", "SampleRate", "TlsV1", "TlsConfig", "Deflate", "Snappy",
			"MsgTimeout", "MaxMsgSize", "AuthSecret":
			if !v.IsZero() {
				t.Errorf("%s is %v by default", f.Name, v)
			}
		default:
			if f.IsExported() && v.IsZero() {
				t.Errorf("%s has no default", f.Name)
			}
		}
	}
	if c.UserAgent != "go-nsq/1.1.0" || c.MaxInFlight != 1 || c.HeartbeatInterval != 30*time.Second || !c.LookupdAuthorization {
		t.Errorf("defaults %+v", c)
	}
}

// TestConfigErrors pins the texts of what Set and Validate refuse.
func TestConfigErrors(t *testing.T) {
	f := func(opt string, value any, want string) {
		t.Helper()
		if err := nsq.NewConfig().Set(opt, value); err == nil || err.Error() != want {
			t.Errorf("%s = %v: error %v, want %s", opt, value, err, want)
		}
	}
	f("nothing", 1, "invalid option nothing")
	f("", 1, "invalid option ")
	f("deflate-level", 10, "invalid deflate_level ! 10 > 9")
	f("max_in_flight", -1, "invalid max_in_flight ! -1 < 0")
	f("read_timeout", "1ms", "invalid read_timeout ! 1ms < 100ms")
	f("lookupd_poll_jitter", 1.5, "invalid lookupd_poll_jitter ! 1.5 > 1")
	f("tls_v1", "lol", `failed to coerce option tls_v1 (lol) - strconv.ParseBool: parsing "lol": invalid syntax`)
	f("max_attempts", 70000, "failed to coerce option max_attempts (70000) - value out of range")
	f("max_attempts", "65536", "failed to coerce option max_attempts (65536) - value out of range")
	f("sample_rate", int64(1)<<40, "failed to coerce option sample_rate (1099511627776) - value out of range")
	f("read_timeout", int64(1)<<62, "failed to coerce option read_timeout (4611686018427387904) - value out of range")
	f("backoff_strategy", "sometimes", "failed to coerce option backoff_strategy (sometimes) - invalid value type")
	f("local_addr", 1, "failed to coerce option local_addr (1) - invalid value type")
	f("tls_config", 1, "failed to coerce option tls_config (1) - invalid value type")
	f("tls_cert", 1, "ERROR: 1 is not a string")
	f("tls_min_version", "tls1.3", "ERROR: tls1.3 is not a tls version")
	f("tls_root_ca_file", "/nowhere", "ERROR: failed to read custom Certificate Authority file open /nowhere: no such file or directory")
	f("tls_insecure_skip_verify", "x", `failed to coerce option tls_insecure_skip_verify (x) - strconv.ParseBool: parsing "x": invalid syntax`)

	c := nsq.NewConfig()
	c.DeflateLevel = 100
	wantText(t, c.Validate(), "invalid DeflateLevel ! 100 > 9")
	_, err := nsq.NewProducer("127.0.0.1:1", c)
	wantText(t, err, "invalid DeflateLevel")
	c = nsq.NewConfig()
	c.HeartbeatInterval = 2 * time.Minute
	wantText(t, c.Validate(), "HeartbeatInterval 2m0s must be less than ReadTimeout 1m0s")
}

// TestConfigTLS sets the parts of the TLS configuration.
func TestConfigTLS(t *testing.T) {
	c := nsq.NewConfig()
	must(t, c.Set("tls-insecure-skip-verify", true))
	must(t, c.Set("tls_min_version", "tls1.2"))
	if got := c.TlsConfig; !got.InsecureSkipVerify || got.MinVersion != tls.VersionTLS12 || got.MaxVersion != tls.VersionTLS13 {
		t.Errorf("TLS configuration %+v", got)
	}
	if c.TlsV1 {
		t.Error("setting a part of the TLS configuration turns TLS on")
	}
	own := &tls.Config{ServerName: "x"}
	must(t, c.Set("tls_config", own))
	if c.TlsConfig != own {
		t.Error("a whole TLS configuration is not taken")
	}
	name := filepath.Join(t.TempDir(), "empty.pem")
	must(t, os.WriteFile(name, nil, 0o600))
	wantText(t, c.Set("tls_root_ca_file", name), "failed to append certificates")
	must(t, c.Set("tls_cert", name))
	wantText(t, c.Set("tls_key", name), "failed to find any PEM data")
}

// TestConfigFlag sets options on a command line.
func TestConfigFlag(t *testing.T) {
	c := nsq.NewConfig()
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.Var(&nsq.ConfigFlag{c}, "opt", "an option")
	must(t, flags.Parse([]string{
		"--opt=snappy", "--opt=max_in_flight,25", "--opt=local_addr,127.0.0.1:0", "--opt=client_id,a,b",
		"--opt=msg-timeout,1500ms",
	}))
	if !c.Snappy || c.MaxInFlight != 25 || c.ClientID != "a,b" || c.LocalAddr.(*net.TCPAddr).Port != 0 {
		t.Errorf("%+v", c)
	}
	if s := (&nsq.ConfigFlag{c}).String(); s != "" {
		t.Errorf("the flag shows as %q", s)
	}
}

// TestConfigMustBeMade panics for a Config that NewConfig has not made.
func TestConfigMustBeMade(t *testing.T) {
	f := func(want string, use func()) {
		t.Helper()
		defer func() {
			if got := recover(); got != want {
				t.Errorf("panic %v, want %s", got, want)
			}
		}()
		use()
	}
	const want = "Config{} must be created with NewConfig()"
	f(want, func() { new(nsq.Config).Set("snappy", true) })
	f(want, func() { new(nsq.Config).Validate() })
	f(want, func() { nsq.NewProducer("", new(nsq.Config)) })
	f(want, func() { nsq.NewConsumer("t", "ch", new(nsq.Config)) })
	f("Config must be created with NewConfig()", func() { nsq.NewConn("", new(nsq.Config), nil) })
}

// TestStrategies calculates waits, of levels that overflow, too.
func TestStrategies(t *testing.T) {
	c := nsq.NewConfig()
	must(t, c.Set("backoff_multiplier", "10ms"))
	for attempt, want := range map[int]time.Duration{0: 10, 1: 20, 5: 320, 6: 640} {
		if got := c.BackoffStrategy.Calculate(attempt); got != want*time.Millisecond {
			t.Errorf("level %d: %v, want %v", attempt, got, want*time.Millisecond)
		}
	}
	if got := c.BackoffStrategy.Calculate(500); got < 1<<60 {
		t.Errorf("level 500: %v", got)
	}
	must(t, c.Set("backoff_strategy", "full_jitter"))
	for range 1000 {
		if got := c.BackoffStrategy.Calculate(3); got < 0 || got >= 80*time.Millisecond {
			t.Fatalf("level 3 with jitter: %v", got)
		}
	}
	c.BackoffMultiplier = 0
	if got := c.BackoffStrategy.Calculate(3); got != 0 {
		t.Errorf("no multiplier: %v", got)
	}
	// Strategies without a configuration have its defaults.
	if got := new(nsq.ExponentialStrategy).Calculate(1); got != 2*time.Second {
		t.Errorf("without a configuration: %v", got)
	}
	if got := new(nsq.FullJitterStrategy).Calculate(1); got < 0 || got >= 2*time.Second {
		t.Errorf("without a configuration, with jitter: %v", got)
	}
}
