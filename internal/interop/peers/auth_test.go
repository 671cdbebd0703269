package peers

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// TestAuth publishes and consumes with the stock client and a secret, and fails
// with another one.
func TestAuth(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/auth" || r.FormValue("secret") != "right" || r.FormValue("remote_ip") != "127.0.0.1" || r.FormValue("tls") != "false" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(w, `{"ttl":3600,"identity":"me","authorizations":[{"topic":"^mine","channels":[".*"],"permissions":["subscribe","publish"]}]}`)
	}))
	defer s.Close()
	d := run(t, daemon.Nsqd, "--data-path="+t.TempDir(), "--auth-http-address="+strings.TrimPrefix(s.URL, "http://"))
	withSecret := func(secret string) *nsq.Config {
		c := config()
		c.AuthSecret = secret
		return c
	}
	quiet := log.New(io.Discard, "", 0)
	publish := func(secret, topic string) error {
		p, err := nsq.NewProducer(d.TCP, withSecret(secret))
		if err != nil {
			t.Fatal(err)
		}
		p.SetLogger(quiet, nsq.LogLevelError)
		defer p.Stop()
		return p.Publish(topic, []byte("body"))
	}
	if err := publish("right", "mine"); err != nil {
		t.Error(err)
	}
	for _, c := range [][2]string{{"right", "yours"}, {"wrong", "mine"}, {"", "mine"}} {
		if err := publish(c[0], c[1]); err == nil {
			t.Errorf("secret %q may publish to %s", c[0], c[1])
		}
	}
	c, err := nsq.NewConsumer("mine", "ch", withSecret("right"))
	if err != nil {
		t.Fatal(err)
	}
	c.SetLogger(quiet, nsq.LogLevelError)
	got := make(chan string, 1)
	c.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error {
		got <- string(m.Body)
		return nil
	}))
	if err := c.ConnectToNSQD(d.TCP); err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	select {
	case body := <-got:
		if body != "body" {
			t.Errorf("got %q", body)
		}
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	var stats struct {
		Topics []struct {
			Channels []struct {
				Clients []struct {
					Authed   bool
					Identity string `json:"auth_identity"`
				}
			}
		}
	}
	d.get(t, "/stats?format=json&topic=mine", &stats)
	if cl := stats.Topics[0].Channels[0].Clients; len(cl) != 1 || !cl[0].Authed || cl[0].Identity != "me" {
		t.Errorf("the client is %+v", cl)
	}
}

// TestStatsd receives a push: names, kinds, order, and the size of datagrams.
func TestStatsd(t *testing.T) {
	r, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d := run(t, daemon.Nsqd, "--data-path="+t.TempDir(), "--statsd-address="+r.LocalAddr().String(), "--statsd-interval=1.2s",
		"--statsd-prefix=p.%s", "--e2e-processing-latency-percentile=0.5,0.999")
	d.request(t, "POST", "/topic/create?topic=t", "")
	d.request(t, "POST", "/channel/create?topic=t&channel=c%23ephemeral", "")
	prefix := "p." + strings.NewReplacer(".", "_", ":", "_").Replace(d.HTTP) + "."
	var want []string
	for _, name := range strings.Fields(`topic.t.message_count|c topic.t.message_bytes|c topic.t.depth|g topic.t.backend_depth|g
		topic.t.e2e_processing_latency_100|g topic.t.e2e_processing_latency_50|g
		topic.t.channel.c#ephemeral.message_count|c topic.t.channel.c#ephemeral.depth|g topic.t.channel.c#ephemeral.backend_depth|g
		topic.t.channel.c#ephemeral.in_flight_count|g topic.t.channel.c#ephemeral.deferred_count|g
		topic.t.channel.c#ephemeral.requeue_count|c topic.t.channel.c#ephemeral.timeout_count|c topic.t.channel.c#ephemeral.clients|g
		topic.t.channel.c#ephemeral.e2e_processing_latency_100|g topic.t.channel.c#ephemeral.e2e_processing_latency_50|g
		mem.heap_objects|g mem.heap_idle_bytes|g mem.heap_in_use_bytes|g mem.heap_released_bytes|g
		mem.gc_pause_usec_100|g mem.gc_pause_usec_99|g mem.gc_pause_usec_95|g mem.next_gc_bytes|g mem.gc_runs|c`) {
		want = append(want, prefix+name)
	}
	// The first push may come before the channel; the second does not.
	r.SetReadDeadline(time.Now().Add(patience))
	var push []string
	for b := make([]byte, 1<<16); ; {
		n, err := r.Read(b)
		if err != nil {
			t.Fatalf("%v after %q", err, push)
		}
		if n > 508 {
			t.Errorf("a datagram of %d bytes", n)
		}
		for _, line := range strings.Split(strings.TrimSuffix(string(b[:n]), "\n"), "\n") {
			name, value, _ := strings.Cut(line, ":")
			number, kind, _ := strings.Cut(value, "|")
			var v int64
			if _, err := fmt.Sscan(number, &v); err != nil {
				t.Errorf("line %q: %v", line, err)
			}
			push = append(push, name+"|"+kind)
		}
		if last := push[len(push)-1]; last == want[len(want)-1] {
			if slices.Equal(push, want) {
				return
			}
			if len(push) >= len(want) {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(push, "\n"), strings.Join(want, "\n"))
			}
			push = nil
		}
	}
}
