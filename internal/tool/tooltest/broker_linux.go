package tooltest

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/tool"
)

// A Broker is an nsqd of this repository in the test's process.
type Broker struct {
	TCP, HTTP string // addresses
	cluster   *tool.Cluster
}

// StartBroker starts a broker with a fresh data directory; it stops with the test.
func StartBroker(t testing.TB) *Broker {
	t.Helper()
	o := engine.NewOptions()
	o.DataPath = t.TempDir()
	o.TCPAddress, o.HTTPAddress = "127.0.0.1:0", "127.0.0.1:0"
	o.BroadcastAddress = "127.0.0.1"
	o.Loops = 1
	e, err := engine.New(o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() {
		if err := e.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return &Broker{
		TCP: e.TCPAddr().String(), HTTP: e.HTTPAddr().String(),
		cluster: tool.NewCluster(Patience, Patience),
	}
}

// Post calls one of the broker's HTTP commands and expects status 200.
func (b *Broker) Post(t testing.TB, path string, query url.Values, body string) {
	t.Helper()
	resp, err := http.Post("http://"+b.HTTP+path+"?"+query.Encode(), "application/octet-stream", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("POST %s: %s %s", path, resp.Status, text)
	}
}

// Create makes a topic and a channel.
func (b *Broker) Create(t testing.TB, topic, channel string) {
	t.Helper()
	b.Post(t, "/topic/create", url.Values{"topic": {topic}}, "")
	b.Post(t, "/channel/create", url.Values{"topic": {topic}, "channel": {channel}}, "")
}

// Publish publishes the bodies one by one, in their order.
func (b *Broker) Publish(t testing.TB, topic string, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		b.Post(t, "/pub", url.Values{"topic": {topic}}, body)
	}
}

// Channel returns the channel's numbers; ok is false if there is none.
func (b *Broker) Channel(t testing.TB, topic, channel string) (stats tool.ChannelStats, ok bool) {
	t.Helper()
	stats, err := b.cluster.Channel(topic, channel, []string{b.HTTP})
	if err != nil && !errors.Is(err, tool.ErrNoChannel) {
		t.Fatal(err)
	}
	return stats, err == nil
}

// Settles waits until the channel's numbers satisfy want, and still do when every
// loop of the broker has come round: a message that is being delivered counts as in
// flight only at the end of its round, and until then nowhere.
func (b *Broker) Settles(t testing.TB, topic, channel, what string, want func(tool.ChannelStats) bool) {
	t.Helper()
	settled := func() bool {
		stats, ok := b.Channel(t, topic, channel)
		return ok && want(stats)
	}
	Eventually(t, topic+"/"+channel+": "+what, func() bool {
		if !settled() {
			return false
		}
		b.comesRound(t)
		return settled()
	})
}

// comesRound returns when every loop has ended the round that it was in: the
// figures of clients are asked for on the loops.
func (b *Broker) comesRound(t testing.TB) {
	t.Helper()
	resp, err := http.Get("http://" + b.HTTP + "/stats?format=json&include_clients=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("/stats: %s, %v", resp.Status, err)
	}
}

// Finished is a channel that has had count messages, all of them finished.
func Finished(count int64) func(tool.ChannelStats) bool {
	return func(ch tool.ChannelStats) bool {
		return ch.MessageCount == count && ch.Depth == 0 && ch.InFlightCount == 0 && ch.DeferredCount == 0
	}
}

// HasClients is a channel with count subscribers.
func HasClients(count int64) func(tool.ChannelStats) bool {
	return func(ch tool.ChannelStats) bool { return ch.ClientCount == count }
}
