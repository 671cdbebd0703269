package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/lookupd"
)

// parse parses args that must be fine.
func parse(t *testing.T, args ...string) *lookupd.Options {
	t.Helper()
	var out, errOut bytes.Buffer
	o, code := parseFlags(args, &out, &errOut)
	if o == nil {
		t.Fatalf("%q: code %d, %s", args, code, &errOut)
	}
	return o
}

// file writes a config file and returns its path.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nsqlookupd.cfg")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestNoFlags shows that parsing nothing gives the defaults, which are
// upstream's.
func TestNoFlags(t *testing.T) {
	o := parse(t)
	if !reflect.DeepEqual(o, lookupd.NewOptions()) {
		t.Errorf("%+v", o)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if o.LogLevel != lookupd.LogInfo || o.LogPrefix != "[nsqlookupd] " || o.TCPAddress != "0.0.0.0:4160" || o.HTTPAddress != "0.0.0.0:4161" ||
		o.BroadcastAddress != host || o.InactiveProducerTimeout != 5*time.Minute || o.TombstoneLifetime != 45*time.Second {
		t.Errorf("%+v", o)
	}
}

// TestFlags shows every flag, in both spellings.
func TestFlags(t *testing.T) {
	o := parse(t, "-log-level", "DEBUG", "--log-prefix=p", "--tcp-address=a:1", "-http-address=b:2", "--broadcast-address=c",
		"--inactive-producer-timeout=1m", "--tombstone-lifetime=2s", "--reap-timeout=3s", "--idle-timeout=4s",
		"--client-limit=5", "--registration-limit=6", "--verbose", "rest", "--bogus")
	want := &lookupd.Options{
		LogLevel: lookupd.LogDebug, LogPrefix: "p", TCPAddress: "a:1", HTTPAddress: "b:2", BroadcastAddress: "c",
		InactiveProducerTimeout: time.Minute, TombstoneLifetime: 2 * time.Second, ReapTimeout: 3 * time.Second, IdleTimeout: 4 * time.Second,
		ClientLimit: 5, RegistrationLimit: 6,
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

// TestConfigFile shows that the command line wins over the file and the file
// over the defaults.
func TestConfigFile(t *testing.T) {
	path := file(t, `
		log_level = "Warn"
		log_prefix = "p"
		tcp_address = "a:1"
		http_address = "b:2"
		broadcast_address = "c"
		inactive_producer_timeout = 1500
		tombstone_lifetime = "2s"
		unheard_of = true
		`)
	o := parse(t, "--http-address=line:3", "--config", path)
	want := lookupd.NewOptions()
	want.LogLevel, want.LogPrefix, want.TCPAddress, want.HTTPAddress, want.BroadcastAddress = lookupd.LogWarn, "p", "a:1", "line:3", "c"
	want.InactiveProducerTimeout, want.TombstoneLifetime = 1500*time.Millisecond, 2*time.Second
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

// TestEnds shows what ends the process: code, stdout and stderr as patterns.
func TestEnds(t *testing.T) {
	f := func(arg string, code int, out, errOut string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		o, got := parseFlags([]string{arg}, &stdout, &stderr)
		if o != nil || got != code || !regexp.MustCompile(out).MatchString(stdout.String()) || !regexp.MustCompile(errOut).MatchString(stderr.String()) {
			t.Errorf("%s: code %d, stdout %q, stderr %.300q", arg, got, &stdout, &stderr)
		}
	}
	const stamp = `^\[nsqlookupd\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} FATAL: `
	f("--version", 0, `^nsqlookupd v1\.3\.0 \(built w/go[^)]+\)\nzsq v\d+\.\d+\.\d+\S*\n$`, `^$`)
	f("-h", 0, `^$`, `^Usage of nsqlookupd:\n`)
	f("--bogus", 2, `^$`, `^flag provided but not defined: -bogus\nUsage of nsqlookupd:\n`)
	f("--log-level=warning", 2, `^$`, `^invalid value "warning" for flag -log-level: `)
	f("--tombstone-lifetime=45", 2, `^$`, `^invalid value "45" for flag -tombstone-lifetime: `)
	f("--idle-timeout=0s", 1, `^$`, stamp+`failed to instantiate nsqlookupd - --idle-timeout must be > 0\n$`)
	f("--config=none.cfg", 1, `^$`, stamp+`failed to load config file none\.cfg - open none\.cfg: no such file or directory\n$`)
	f("--config="+file(t, `log_level = "loud"`), 1, `^$`, stamp+`failed parsing log_level loud\n$`)
	f("--config="+file(t, `a = = b`), 1, `^$`, stamp+`failed to load config file \S+ - toml: `)
	f("--config="+file(t, `tombstone_lifetime = "soon"`), 1, `^$`, stamp+`failed to load config file \S+ - tombstone_lifetime: time: invalid duration "soon"\n$`)
}

// TestUsage shows that our own flags stand apart, after nsqlookupd's.
func TestUsage(t *testing.T) {
	var out bytes.Buffer
	parseFlags([]string{"-h"}, &out, &out)
	theirs, ours, ok := strings.Cut(out.String(), "\nzsq's own:\n")
	if !ok {
		t.Fatal(out.String())
	}
	for _, f := range lookupd.NewOptions().Fields() {
		name := "  -" + f.Flag + " "
		if f.Own != strings.Contains(ours, name) || f.Own == strings.Contains(theirs, name) {
			t.Errorf("--%s stands in the wrong part", f.Flag)
		}
	}
}
