package peers

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait: upstream's nsqd notices the end of a connection
// only at its next PING, up to thirty seconds later.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { daemon.Main(m) }

// A peer is one process with a TCP and an HTTP port.
type peer struct{ *daemon.Daemon }

// unhurried are flags of an nsqd: a busy machine may take longer over an answer than
// the default's few seconds.
var unhurried = []string{"--http-client-connect-timeout=2m", "--http-client-request-timeout=2m"}

// run starts a program until the test ends.
func run(t *testing.T, program daemon.Program, flags ...string) peer {
	t.Helper()
	flags = append([]string{"--broadcast-address=127.0.0.1"}, flags...)
	if program == daemon.Nsqd {
		flags = append(flags, unhurried...)
	}
	return peer{daemon.Start(t, daemon.Config{Program: program, Flags: flags})}
}

// config is the stock client's, with more patience.
func config() *nsq.Config {
	c := nsq.NewConfig()
	c.DialTimeout, c.ReadTimeout, c.WriteTimeout = patience, patience, patience
	return c
}

func (d peer) get(t *testing.T, path string, v any) {
	t.Helper()
	resp, err := http.Get("http://" + d.HTTP + path)
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

func (d peer) request(t *testing.T, method, path, body string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+d.HTTP+path, strings.NewReader(body))
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
func (d peer) produces(t *testing.T, nsqd peer, topic string, listed bool, channels ...string) {
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
		_, port, _ := net.SplitHostPort(nsqd.TCP)
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
	daemon.Eventually(t, patience, what, cond)
}

// TestRegister follows topics and channels through two nsqlookupds, one of which
// is restarted and one of which is added at run time.
func TestRegister(t *testing.T) {
	first, second := run(t, daemon.UpstreamNsqlookupd), run(t, daemon.UpstreamNsqlookupd)
	d := run(t, daemon.Nsqd, "--data-path="+t.TempDir(), "--lookupd-tcp-address="+first.TCP)
	d.request(t, "POST", "/topic/create?topic=a", "")
	first.produces(t, d, "a", true)
	d.request(t, "POST", "/channel/create?topic=a&channel=x", "")
	d.request(t, "POST", "/topic/create?topic=b", "")
	first.produces(t, d, "a", true, "x")
	first.produces(t, d, "b", true)

	d.request(t, "PUT", "/config/nsqlookupd_tcp_addresses", fmt.Sprintf("[%q,%q]", first.TCP, second.TCP))
	second.produces(t, d, "a", true, "x")
	second.produces(t, d, "b", true)

	// Producers are unregistered; nsqlookupd keeps the names.
	d.request(t, "POST", "/topic/delete?topic=b", "")
	first.produces(t, d, "b", false)
	second.produces(t, d, "b", false)

	first.Kill()
	d.request(t, "POST", "/channel/create?topic=a&channel=y", "")
	second.produces(t, d, "a", true, "x", "y")
	first.Restart(t)
	first.produces(t, d, "a", true, "x", "y")
}

// TestChannelsBeforeMessages publishes the first message of a topic to a second
// nsqd. The channel that the first one has is there in time to get it.
func TestChannelsBeforeMessages(t *testing.T) {
	l := run(t, daemon.UpstreamNsqlookupd)
	a := run(t, daemon.Nsqd, "--data-path="+t.TempDir(), "--lookupd-tcp-address="+l.TCP)
	b := run(t, daemon.Nsqd, "--data-path="+t.TempDir(), "--lookupd-tcp-address="+l.TCP)
	// An nsqd whose first attempt to connect takes too long does without.
	eventually(t, "the second nsqd has read the answer to IDENTIFY", func() bool {
		return strings.Contains(b.Log.String(), "LOOKUPD("+l.TCP+"): peer info {")
	})
	for i := range 20 {
		topic := fmt.Sprint("t", i)
		a.request(t, "POST", "/topic/create?topic="+topic, "")
		a.request(t, "POST", "/channel/create?topic="+topic+"&channel=archive", "")
		a.request(t, "POST", "/channel/create?topic="+topic+"&channel=tail%23ephemeral", "")
		l.produces(t, a, topic, true, "archive", "tail#ephemeral")
		p, err := nsq.NewProducer(b.TCP, config())
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
