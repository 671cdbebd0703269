package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
)

// patience bounds every wait: upstream's nsqd notices the end of a connection
// only at its next PING, up to thirty seconds later.
const patience = 60 * time.Second

// binaries is where TestMain's process keeps what it builds.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "zsq-peers-")
	if err != nil {
		log.Fatal(err)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// nsqd builds the broker under test once, or takes the one ZSQ_NSQD names.
var nsqd = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("ZSQ_NSQD"); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(binaries, "zsq-nsqd")
	return path, build("../../..", path, "./cmd/nsqd")
})

// lookupd builds upstream's nsqlookupd once.
var lookupd = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "nsqlookupd")
	return path, build(".", path, "github.com/nsqio/nsq/apps/nsqlookupd")
})

func build(dir, out, pkg string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// A daemon is one process with a TCP and an HTTP port.
type daemon struct {
	tcp, http string
	cmd       *exec.Cmd
	log       bytes.Buffer
	kill      func()
}

// run starts a program on the given ports, or on free ones, and waits until it
// answers. It is killed when the test ends, if not before.
func run(t *testing.T, binary func() (string, error), tcp, httpAddr string, flags ...string) *daemon {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{tcp: tcp, http: httpAddr}
	if tcp == "" {
		d.tcp, d.http = freeAddr(t), freeAddr(t)
	}
	d.cmd = exec.Command(path, append([]string{"--tcp-address=" + d.tcp, "--http-address=" + d.http, "--broadcast-address=127.0.0.1"}, flags...)...)
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.kill = sync.OnceFunc(func() {
		d.cmd.Process.Kill()
		d.cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(path), d.log.String())
		}
	})
	t.Cleanup(d.kill)
	eventually(t, "an answer to /ping", func() bool {
		resp, err := http.Get("http://" + d.http + "/ping")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return d
}

func (d *daemon) get(t *testing.T, path string, v any) {
	t.Helper()
	resp, err := http.Get("http://" + d.http + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		t.Fatalf("%s: %s %v", path, resp.Status, err)
	}
}

func (d *daemon) request(t *testing.T, method, path, body string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+d.http+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s", method, path, resp.Status, text)
	}
}

// produces waits until the nsqlookupd lists the nsqd as producer of the topic,
// or does not, with these channels.
func (d *daemon) produces(t *testing.T, nsqd *daemon, topic string, listed bool, channels ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("producer of %s: %v, channels %v", topic, listed, channels), func() bool {
		var answer struct {
			Channels  []string
			Producers []struct {
				TCPPort int    `json:"tcp_port"`
				Version string `json:"version"`
			}
		}
		d.get(t, "/lookup?topic="+url.QueryEscape(topic), &answer)
		_, port, _ := net.SplitHostPort(nsqd.tcp)
		found := false
		for _, p := range answer.Producers {
			found = found || fmt.Sprint(p.TCPPort) == port && p.Version == "1.3.0"
		}
		slices.Sort(answer.Channels)
		return found == listed && slices.Equal(answer.Channels, channels)
	})
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not so after %v", what, patience)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestRegister follows topics and channels through two nsqlookupds, one of which
// is restarted and one of which is added at run time.
func TestRegister(t *testing.T) {
	first, second := run(t, lookupd, "", ""), run(t, lookupd, "", "")
	d := run(t, nsqd, "", "", "--data-path="+t.TempDir(), "--lookupd-tcp-address="+first.tcp)
	d.request(t, "POST", "/topic/create?topic=a", "")
	first.produces(t, d, "a", true)
	d.request(t, "POST", "/channel/create?topic=a&channel=x", "")
	d.request(t, "POST", "/topic/create?topic=b", "")
	first.produces(t, d, "a", true, "x")
	first.produces(t, d, "b", true)

	d.request(t, "PUT", "/config/nsqlookupd_tcp_addresses", fmt.Sprintf("[%q,%q]", first.tcp, second.tcp))
	second.produces(t, d, "a", true, "x")
	second.produces(t, d, "b", true)

	// Producers are unregistered; nsqlookupd keeps the names.
	d.request(t, "POST", "/topic/delete?topic=b", "")
	first.produces(t, d, "b", false)
	second.produces(t, d, "b", false)

	first.kill()
	d.request(t, "POST", "/channel/create?topic=a&channel=y", "")
	second.produces(t, d, "a", true, "x", "y")
	again := run(t, lookupd, first.tcp, first.http)
	again.produces(t, d, "a", true, "x", "y")
}

// TestChannelsBeforeMessages publishes the first message of a topic to a second
// nsqd. The channel that the first one has is there in time to get it.
func TestChannelsBeforeMessages(t *testing.T) {
	l := run(t, lookupd, "", "")
	a := run(t, nsqd, "", "", "--data-path="+t.TempDir(), "--lookupd-tcp-address="+l.tcp)
	b := run(t, nsqd, "", "", "--data-path="+t.TempDir(), "--lookupd-tcp-address="+l.tcp)
	for i := range 20 {
		topic := fmt.Sprint("t", i)
		a.request(t, "POST", "/topic/create?topic="+topic, "")
		a.request(t, "POST", "/channel/create?topic="+topic+"&channel=archive", "")
		a.request(t, "POST", "/channel/create?topic="+topic+"&channel=tail%23ephemeral", "")
		l.produces(t, a, topic, true, "archive", "tail#ephemeral")
		p, err := nsq.NewProducer(b.tcp, nsq.NewConfig())
		if err != nil {
			t.Fatal(err)
		}
		p.SetLogger(log.New(io.Discard, "", 0), nsq.LogLevelError)
		if err := p.Publish(topic, []byte("first")); err != nil {
			t.Fatal(err)
		}
		p.Stop()
		eventually(t, "the message in the channel", func() bool {
			var stats struct {
				Topics []struct {
					Depth    int
					Channels []struct {
						Name  string `json:"channel_name"`
						Depth int
					}
				}
			}
			b.get(t, "/stats?format=json&topic="+topic, &stats)
			return len(stats.Topics) == 1 && stats.Topics[0].Depth == 0 && len(stats.Topics[0].Channels) == 1 &&
				stats.Topics[0].Channels[0].Name == "archive" && stats.Topics[0].Channels[0].Depth == 1
		})
	}
}
