package main

import (
	"bytes"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
)

// parse parses args that must be fine.
func parse(t *testing.T, args ...string) *engine.Options {
	t.Helper()
	var out, errOut bytes.Buffer
	o, code := parseFlags(args, &out, &errOut)
	if o == nil {
		t.Fatalf("%q: code %d, %s", args, code, &errOut)
	}
	return o
}

// TestNoFlags shows that parsing nothing gives the defaults.
func TestNoFlags(t *testing.T) {
	if o := parse(t); !reflect.DeepEqual(o, engine.NewOptions()) {
		t.Errorf("%+v", o)
	}
}

// TestFlags shows each kind of flag.
func TestFlags(t *testing.T) {
	o := parse(t, "-node-id", "5", "--msg-timeout=90s", "--snappy=false", "--log-level", "ERROR",
		"--lookupd-tcp-address=a:1,b:2", "--lookupd-tcp-address", "c:3",
		"--e2e-processing-latency-percentile=0.5,1.0", "--e2e-processing-latency-percentile=0.9",
		"--tls-cert=c", "--tls-key=k", "--tls-required", "--tls-min-version=tls1.2", "--loops=2",
		"--worker-id", "--verbose", "rest", "--bogus")
	want := engine.NewOptions()
	want.ID, want.MsgTimeout, want.SnappyEnabled, want.LogLevel = 5, 90*time.Second, false, engine.LogError
	want.NSQLookupdTCPAddresses = []string{"a:1,b:2", "c:3"}
	want.E2EProcessingLatencyPercentiles = []float64{1, 0.9, 0.5}
	want.TLSCert, want.TLSKey, want.TLSRequired, want.TLSMinVersion, want.Loops = "c", "k", engine.TLSAlways, 771, 2
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
			t.Errorf("%s: code %d, stdout %q, stderr %.200q", arg, got, &stdout, &stderr)
		}
	}
	f("--version", 0, `^nsqd v1\.3\.0 \(built w/go[^)]+\)\nzsq v\d+\.\d+\.\d+\S*\n$`, `^$`)
	f("-h", 0, `^$`, `^Usage of nsqd:\n`)
	f("--bogus", 2, `^$`, `^flag provided but not defined: -bogus\nUsage of nsqd:\n`)
	f("--worker-id=5", 2, `^$`, `^invalid boolean value "5" for -worker-id: `)
	f("--log-level=warning", 2, `^$`, `^invalid value "warning" for flag -log-level: `)
	f("--tls-min-version=ssl3.0", 2, `^$`, `^invalid value "ssl3\.0" for flag -tls-min-version: `)
	f("--node-id=1024", 1, `^$`, `FATAL: failed to instantiate nsqd - --node-id must be \[0,1024\)\n$`)
	f("--config=/none.cfg", 1, `^$`, `^\[nsqd\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} FATAL: failed to load config file /none\.cfg - open /none\.cfg: no such file or directory\n$`)
	f("--log-format=xml", 2, `^$`, `^invalid value "xml" for flag -log-format: `)
}

// TestUsage shows that our own flags stand apart, after nsqd's.
func TestUsage(t *testing.T) {
	var out bytes.Buffer
	parseFlags([]string{"-h"}, &out, &out)
	theirs, ours, ok := strings.Cut(out.String(), "\nzsq's own:\n")
	if !ok {
		t.Fatal(out.String())
	}
	for _, f := range engine.NewOptions().Fields() {
		name := "  -" + f.Flag + " "
		if f.Own != strings.Contains(ours+" ", name) || f.Own == strings.Contains(strings.ReplaceAll(theirs, "\n", " "), name) {
			t.Errorf("--%s stands in the wrong part", f.Flag)
		}
	}
}
