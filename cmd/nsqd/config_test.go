package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/config"
)

// write makes a config file.
func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nsqd.cfg")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sample is a setting's two values that are not its default: as the command line
// and as a file spell the first, and as a file spells the second.
type sample struct{ onFlag, inFile, other string }

func sampleOf(t *testing.T, f config.Field) sample {
	t.Helper()
	switch p := f.Ptr.(type) {
	case *engine.LogLevel:
		return sample{"ERROR", `"error"`, `"debug"`}
	case *engine.LogFormat:
		return sample{"json", `"json"`, `"text"`}
	case *engine.MetricsDetail:
		return sample{"node", `"node"`, `"off"`}
	case *engine.Durability:
		return sample{"process", `"process"`, `"disk"`}
	case *engine.TLSRequired:
		return sample{"tcp-https", `"tcp-https"`, `true`}
	case *engine.TLSVersion:
		return sample{"tls1.2", `"tls1.2"`, `"tls1.3"`}
	case flag.Value:
		t.Fatalf("--%s: no sample of a %T", f.Flag, p)
	case *string:
		if f.Flag == "auth-http-request-method" {
			return sample{"post", `"post"`, `"get"`}
		}
		return sample{"a b", `"a b"`, `"c"`}
	case *bool:
		return sample{fmt.Sprint(!*p), fmt.Sprint(!*p), fmt.Sprint(*p)}
	case *int, *int64:
		return sample{"7", `7`, `"8"`}
	case *time.Duration:
		return sample{"1.5s", `1500`, `"3s"`}
	case *[]string:
		return sample{"a", `["a"]`, `"b,c"`}
	case *[]float64:
		return sample{"0.5", `[0.5]`, `"0.9,1"`}
	}
	t.Fatalf("--%s: no sample of a %T", f.Flag, f.Ptr)
	return sample{}
}

// TestEveryOption sets each option of the table by its flag, by its key, and by
// both, and nothing else with it.
func TestEveryOption(t *testing.T) {
	load := func(key, value string, args ...string) *engine.Options {
		t.Helper()
		o := engine.NewOptions()
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		defineFlags(fs, o)
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		if key != "" {
			if err := loadConfig(write(t, key+" = "+value), o, fs); err != nil {
				t.Fatalf("%s = %s: %v", key, value, err)
			}
		}
		return o
	}
	defaults := engine.NewOptions().Fields()
	for i, f := range defaults {
		s := sampleOf(t, f)
		byFlag := load("", "", "--"+f.Flag+"="+s.onFlag)
		byKey := load(f.Key, s.inFile)
		if !reflect.DeepEqual(byFlag, byKey) {
			t.Errorf("--%s=%s and %s = %s differ", f.Flag, s.onFlag, f.Key, s.inFile)
		}
		for j, g := range byFlag.Fields() {
			same := reflect.DeepEqual(g.Ptr, defaults[j].Ptr)
			if same == (i == j) {
				t.Errorf("--%s: %s is changed: %v", f.Flag, g.Flag, !same)
			}
		}
		if both := load(f.Key, s.other, "--"+f.Flag+"="+s.onFlag); !reflect.DeepEqual(both, byFlag) {
			t.Errorf("%s in the file wins over the flag", f.Key)
		}
	}
}

// TestConfigValues shows how values are read, and which are refused.
func TestConfigValues(t *testing.T) {
	f := func(text string, get func(o *engine.Options) any, want any) {
		t.Helper()
		o := parse(t, "--config="+write(t, text))
		if got := get(o); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	mem := func(o *engine.Options) any { return o.MemQueueSize }
	snappy := func(o *engine.Options) any { return o.SnappyEnabled }
	timeout := func(o *engine.Options) any { return o.MsgTimeout }
	lookupds := func(o *engine.Options) any { return o.NSQLookupdTCPAddresses }
	percentiles := func(o *engine.Options) any { return o.E2EProcessingLatencyPercentiles }
	level := func(o *engine.Options) any { return o.LogLevel }
	f(`mem_queue_size = "7"`, mem, int64(7))
	f(`mem_queue_size = 0`, mem, int64(0))
	f(`snappy = "false"`, snappy, false)
	f(`snappy = 0`, snappy, false) // upstream: true
	f(`snappy = 1`, snappy, true)
	f(`msg_timeout = 1500`, timeout, 1500*time.Millisecond)
	f(`msg_timeout = "1500"`, timeout, 1500*time.Millisecond)
	f(`msg_timeout = "2m"`, timeout, 2*time.Minute)
	f(`nsqlookupd_tcp_addresses = ["a:1", "b:2"]`, lookupds, []string{"a:1", "b:2"})
	f(`nsqlookupd_tcp_addresses = "a:1,b:2"`, lookupds, []string{"a:1", "b:2"})
	f(`nsqlookupd_tcp_addresses = []`, lookupds, []string{})
	f(`lookupd_tcp_address = "a:1"`, lookupds, []string{}) // no key
	f(`e2e_processing_latency_percentiles = [0.5, 1]`, percentiles, []float64{0.5, 1})
	f(`e2e_processing_latency_percentiles = "0.5,1.0"`, percentiles, []float64{0.5, 1})
	f(`log_level = "WARN"`, level, engine.LogWarn)
	f("node_id = 7\nid = 9\nunknown = 1\n[table]\nmsg_timeout = 1", func(o *engine.Options) any { return o.ID }, int64(9))
	f("", func(o *engine.Options) any { return o }, engine.NewOptions())

	bad := func(text, want string) {
		t.Helper()
		path := write(t, text)
		var out, errOut bytes.Buffer
		o, code := parseFlags([]string{"--config=" + path, "--log-format=json"}, &out, &errOut)
		var line struct{ Time, Level, Msg string }
		if err := json.Unmarshal(errOut.Bytes(), &line); o != nil || code != 1 || err != nil {
			t.Fatalf("%s: code %d, %s", text, code, &errOut)
		}
		prefix := "failed to load config file " + path + " - "
		if line.Level != "FATAL" || !strings.HasPrefix(line.Msg, prefix) || !strings.Contains(line.Msg, want) {
			t.Errorf("%s: %s, want %s", text, line.Msg, want)
		}
	}
	bad(`msg_timeout = `, "toml: ")
	bad(`msg_timeout = 1.5`, "msg_timeout: "+config.ErrKind.Error())
	bad(`msg_timeout = "soon"`, `msg_timeout: time: invalid duration "soon"`)
	bad(`msg_timeout = 9223372036854775807`, "is out of range")
	bad(`mem_queue_size = 1.0`, "mem_queue_size: "+config.ErrKind.Error())
	bad(`data_path = 5`, "data_path: "+config.ErrKind.Error())
	bad(`snappy = 2`, "snappy: "+config.ErrKind.Error())
	bad(`tls_required = "maybe"`, "tls_required: must be true, false or tcp-https")
	bad(`log_level = "loud"`, "log_level: invalid log level 'loud'")
	bad(`log_level = ["info"]`, "log_level: "+config.ErrKind.Error())
	bad(`nsqlookupd_tcp_addresses = [1]`, "nsqlookupd_tcp_addresses: "+config.ErrKind.Error())
	bad("[mem_queue_size]\nx = 1", "mem_queue_size: "+config.ErrKind.Error())
}

// FuzzConfig reads any file: the process goes on with options that are fine, or
// says in one line why it does not.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`msg_timeout = "2m"`))
	f.Add([]byte("snappy = 0\nid = 7\n[table]\nx = [[1.0], 2020-01-01]"))
	f.Add([]byte(`e2e_processing_latency_percentiles = "0.5,1.0"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var out, errOut bytes.Buffer
		o, code := parseFlags([]string{"--config=" + write(t, string(text))}, &out, &errOut)
		switch {
		case o != nil && (code != 0 || o.Validate() != nil || errOut.Len() > 0):
			t.Errorf("code %d, %v, %s", code, o.Validate(), &errOut)
		case o == nil && (code != 1 || !strings.Contains(errOut.String(), " FATAL: ")):
			t.Errorf("code %d, %s", code, &errOut)
		}
	})
}
