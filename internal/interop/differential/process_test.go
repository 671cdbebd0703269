package differential

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// What is compared here is the process: how it ends, what it says then, what a
// config file means to it, and the lines of its log.

// sides are the two brokers; ours comes first.
var sides = [2]daemon.Program{daemon.Nsqd, daemon.UpstreamNsqd}

// logMasks hide what cannot be equal in two logs.
var logMasks = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(\.\d{6})?`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDR"},
	{regexp.MustCompile(`(\(ADDR\)) [0-9.mµns]+`), "$1 DURATION"},
	{regexp.MustCompile(`client\([^)]*\)`), "client(C)"},
	{regexp.MustCompile(`(for (?:flag )?-tls[-a-z]*: ).*`), "${1}REASON"}, // ours says what may stand there
}

func maskLog(s string) string {
	for _, m := range logMasks {
		s = m.re.ReplaceAllString(s, m.to)
	}
	return s
}

// TestSameEnds starts both brokers with what they refuse, or end of by themselves,
// and compares the exit codes and the first lines that they write.
func TestSameEnds(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := keyPair(t, dir)
	bad := file("bad.pem", "no certificate")
	codes := false // only the exit codes count
	f := func(args ...string) {
		t.Helper()
		var got [2]string
		for i, program := range sides {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, program.Path(t), args...)
			var out, errOut strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errOut
			err := cmd.Run()
			last := ""
			for line := range strings.Lines(errOut.String()) {
				if strings.HasPrefix(line, "Usage of") {
					break
				}
				if !strings.Contains(line, "INFO: ") {
					last += maskLog(line)
				}
			}
			first, _, _ := strings.Cut(out.String(), "\n")
			got[i] = fmt.Sprintf("%v\nstdout %s\nstderr %s", err, first, last)
			if codes {
				got[i] = fmt.Sprint(err)
			}
		}
		if got[0] != got[1] {
			t.Errorf("%q\nours: %s\nupstream: %s", args, got[0], got[1])
		} else if testing.Verbose() {
			t.Logf("%q\n%s", args, got[0])
		}
	}
	config := func(text string) string { return "--config=" + file("nsqd.cfg", text) }
	ends := func(args ...string) { // with what a start needs besides
		t.Helper()
		f(append([]string{"--data-path=" + dir, "--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0", "--https-address=127.0.0.1:0"}, args...)...)
	}
	f("--version")
	f("-version")
	f("--version=true", "--bogus-after", "x")
	f("--version", "--config=/none.cfg")
	f("-h")
	f("--help")
	f("--bogus")
	f("--node-id")
	f("--node-id=x")
	f("--worker-id=5")
	f("--snappy=maybe")
	f("--msg-timeout=5")
	f("--max-msg-size=1k")
	f("--log-level=warning")
	f("--log-level=")
	f("--tls-required=maybe")
	f("--tls-min-version=ssl3.0")
	f("--tls-min-version=tls1.4")
	f("---version")
	ends("--config=/none.cfg")
	ends(config("a = "))
	codes = true // ours names the file and the key
	ends(config("max_rdy_count = 1.5"))
	ends(config("snappy = \"maybe\""))
	ends(config("log_level = \"loud\""))
	ends(config("tls_min_version = \"ssl3.0\""))
	codes = false
	ends("--data-path=/none/of/these")
	ends("--max-deflate-level=0")
	ends("--max-deflate-level=10")
	ends("--node-id=1024")
	ends("--node-id=-1")
	ends("--tls-required")
	ends("--tls-required=tcp-https")
	ends("--tls-client-auth-policy=require")
	ends("--tls-cert=/none.pem", "--tls-key=/none.pem")
	ends("--tls-cert="+bad, "--tls-key="+bad)
	ends("--tls-cert="+cert, "--tls-key="+key, "--tls-root-ca-file=/none.pem")
	ends("--tls-cert="+cert, "--tls-key="+key, "--tls-root-ca-file="+bad)
	ends("--e2e-processing-latency-percentile=0")
	ends("--e2e-processing-latency-percentile=1.5")
	ends("--http-address=127.0.0.1:99999")
	ends("--tcp-address=" + bad)
	ends("--tcp-address=/none/of/these")
	// A directory that is in use.
	lock, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ends()
}

// keyPair writes a self-signed certificate and its key.
func keyPair(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "EC PRIVATE KEY", keyDER)
}

// TestSameSignals compares how both brokers end of signals.
func TestSameSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		var got [2]string
		for i, program := range sides {
			b := newBroker(t, program, nil)
			got[i] = fmt.Sprint(b.Signal(t, sig))
		}
		if got[0] != got[1] {
			t.Errorf("%v: ours %s, upstream %s", sig, got[0], got[1])
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2} {
		for _, program := range sides {
			b := newBroker(t, program, nil)
			if err := b.Cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if !daemon.Stoppable(b.Daemon) {
				t.Errorf("%s ends of %v", program.Package, sig)
			}
			if err := b.Signal(t, syscall.SIGTERM); err != nil {
				t.Errorf("%s after %v: %v", program.Package, sig, err)
			}
		}
	}
}

// TestSameConfig compares what a config file with every key means, and which of
// two settings wins.
func TestSameConfig(t *testing.T) {
	dir := t.TempDir()
	cert, key := keyPair(t, dir)
	f := func(text string, flags ...string) {
		t.Helper()
		path := filepath.Join(dir, "nsqd.cfg")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ours := newBroker(t, sides[0], append([]string{"--config=" + path}, flags...))
		theirs := newBroker(t, sides[1], append([]string{"--config=" + path}, flags...))
		for _, name := range optionNames {
			got, want := (&masks{ours}).apply(ours.option(t, name)), (&masks{theirs}).apply(theirs.option(t, name))
			if got != want {
				t.Errorf("%s %q\n%s: ours %s, upstream %s", text, flags, name, got, want)
			}
		}
	}
	f(fmt.Sprintf(`
verbose = true
log_prefix = "p "
id = 17
broadcast_address = "file"
broadcast_tcp_port = 4000
broadcast_http_port = "4001"
https_address = "127.0.0.1:0"
auth_http_addresses = ["127.0.0.1:1", "http://127.0.0.1:2/x"]
http_client_connect_timeout = "4s"
http_client_request_timeout = 2500
mem_queue_size = 5
max_bytes_per_file = 1048576
sync_every = "100"
sync_timeout = "250ms"
queue_scan_worker_pool_max = 3
queue_scan_selection_count = 7
msg_timeout = 90000
max_msg_timeout = "20m"
max_msg_size = 2048
max_body_size = 4096
max_req_timeout = "2h"
max_heartbeat_interval = "90s"
max_rdy_count = 99
max_output_buffer_size = 70000
max_output_buffer_timeout = "10s"
min_output_buffer_timeout = "30ms"
output_buffer_timeout = "125ms"
max_channel_consumers = 12
statsd_address = "127.0.0.1:1"
statsd_prefix = "x.%%s"
statsd_interval = "30s"
statsd_mem_stats = false
statsd_udp_packet_size = 1000
statsd_exclude_ephemeral = true
e2e_processing_latency_percentiles = [0.5, 0.99, 1.0]
e2e_processing_latency_window_time = "5m"
tls_cert = %q
tls_key = %q
tls_client_auth_policy = "require-verify"
tls_root_ca_file = %q
tls_required = "tcp-https"
tls_min_version = "tls1.2"
deflate = "false"
max_deflate_level = 4
snappy = false
unknown = "key"
[table]
snappy = true
`, cert, key, cert))
	f("auth_http_addresses = \"127.0.0.1:1,127.0.0.1:2\"\ne2e_processing_latency_percentiles = \"0.9,0.5\"\ntls_required = \"false\"\nmsg_timeout = \"1500ms\"\n" +
		"statsd_mem_stats = \"true\"\nmem_queue_size = \"0\"\n")
	// A flag wins over the file, also one that says the default, and a list replaces a list.
	f("msg_timeout = \"5s\"\nsnappy = false\nauth_http_addresses = [\"127.0.0.1:1\"]\nid = 3\ne2e_processing_latency_percentiles = [0.5]\nlog_prefix = \"f\"\n",
		"--msg-timeout=60s", "--snappy", "--auth-http-address=127.0.0.1:2,127.0.0.1:3", "--auth-http-address=127.0.0.1:4", "--node-id=4",
		"--e2e-processing-latency-percentile=0.9", "--e2e-processing-latency-percentile=0.1,0.99", "--log-prefix=")
}

// optionNames are those that GET /config knows; of some the value is the broker's
// own.
var optionNames = strings.Fields(`log_prefix id https_address broadcast_address broadcast_tcp_port broadcast_http_port
	nsqlookupd_tcp_addresses auth_http_addresses http_client_connect_timeout http_client_request_timeout mem_queue_size
	max_bytes_per_file sync_every sync_timeout queue_scan_worker_pool_max queue_scan_selection_count msg_timeout max_msg_timeout
	max_msg_size max_body_size max_req_timeout max_heartbeat_interval max_rdy_count max_output_buffer_size max_output_buffer_timeout
	min_output_buffer_timeout output_buffer_timeout max_channel_consumers statsd_address statsd_prefix statsd_interval statsd_mem_stats
	statsd_udp_packet_size statsd_exclude_ephemeral e2e_processing_latency_percentiles e2e_processing_latency_window_time tls_cert tls_key
	tls_client_auth_policy tls_root_ca_file tls_required tls_min_version deflate max_deflate_level snappy`)

// option asks for one option's value.
func (b *broker) option(t *testing.T, name string) string {
	t.Helper()
	resp, err := http.Get("http://" + b.HTTP + "/config/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status + " " + string(text)
}

// TestSameLog has clients and requests of most kinds come and go, and compares the
// lines of both logs, which people search.
func TestSameLog(t *testing.T) {
	var got [2][]string
	for i, program := range sides {
		b := newBroker(t, program, []string{"--log-level=info", "--node-id=5"})
		for _, path := range []string{
			"/topic/create?topic=t", "/channel/create?topic=t&channel=c", "/channel/pause?topic=t&channel=c", "/channel/unpause?topic=t&channel=c",
			"/topic/pause?topic=t", "/topic/unpause?topic=t", "/channel/empty?topic=t&channel=c", "/topic/empty?topic=t", "/pub?topic=t", "/topic/create?topic=a:b",
		} {
			resp, err := http.Post("http://"+b.HTTP+path, "", bytes.NewReader(nil))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		p := newPlayer(t, b, &testCase{topic: "u"})
		for _, step := range []string{
			`> IDENTIFY\n[15]{"client_id":1}`,
			`> IDENTIFY\n[28]{"feature_negotiation":true}PUB u\n[1]x`,
			`> SUB u ch\nNOP\n`,
			`> SUB u ch#ephemeral\n`,
			`> FIN 0123456789abcdef\n`,
			`> SUB u ch\nFIN 0123456789abcdef\n`,
			`> BOGUS\n`,
			`>> HTTP`,
			`until "channels":\[\{"channel_name":"ch",[^[]*\[\],[^[]*\] GET /stats?format=json&topic=u&include_mem=false`, // ch#ephemeral has gone
		} {
			if got, err := p.step(step); err != nil || strings.Contains(got, broken) {
				t.Fatalf("%s: %s, %v", step, got, err)
			}
		}
		for _, path := range []string{"/channel/delete?topic=u&channel=ch", "/topic/delete?topic=u"} {
			resp, err := http.Post("http://"+b.HTTP+path, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		if err := b.Signal(t, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(p.mask.apply(b.Log.String())) {
			got[i] = append(got[i], maskLog(line))
		}
		slices.Sort(got[i])
		got[i] = slices.Compact(got[i])
	}
	for _, line := range got[1] {
		if !slices.Contains(got[0], line) && !inner.MatchString(line) {
			t.Errorf("upstream alone: %s", strings.TrimSpace(line))
		}
	}
	for _, line := range got[0] {
		if !slices.Contains(got[1], line) && !own.MatchString(line) {
			t.Errorf("ours alone: %s", strings.TrimSpace(line))
		}
	}
}

// inner are lines of upstream's that ours does not have: about goroutines and queues
// that it does not have either, each error for the second time, what a client asks
// for in IDENTIFY, and errors that do not end a connection, of which a client can
// bring about as many as it likes. own are those that ours words itself, and what it
// says of a second that a machine stood still in its end.
var (
	inner = regexp.MustCompile(`DISKQUEUE|QUEUESCAN|LOOKUP: closing|messagePump|CHANNEL\(c\): closing|TOPIC\(t\): closing|NSQ: persisting` +
		`|desired protocol magic|ERROR: client\(C\)|IDENTIFY: \{|E_FIN_FAILED|Go struct field identifyDataV2`)
	own = regexp.MustCompile(`bad protocol magic "HTTP"|Go struct field identifyRequest|/debug/|some clients did not take their last bytes`)
)
