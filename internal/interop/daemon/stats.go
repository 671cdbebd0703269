package daemon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// Topic is what we read of a topic in /stats?format=json.
type Topic struct {
	Name         string    `json:"topic_name"`
	Channels     []Channel `json:"channels"`
	Depth        int       `json:"depth"`
	MessageCount int       `json:"message_count"`
	MessageBytes int       `json:"message_bytes"`
	Paused       bool      `json:"paused"`
}

// Channel is what we read of a channel.
type Channel struct {
	Name          string   `json:"channel_name"`
	Depth         int      `json:"depth"`
	InFlightCount int      `json:"in_flight_count"`
	DeferredCount int      `json:"deferred_count"`
	MessageCount  int      `json:"message_count"`
	RequeueCount  int      `json:"requeue_count"`
	TimeoutCount  int      `json:"timeout_count"`
	ClientCount   int      `json:"client_count"`
	Clients       []Client `json:"clients"`
	Paused        bool     `json:"paused"`
}

// Client is what we read of a channel's consumer.
type Client struct {
	ReadyCount    int `json:"ready_count"`
	InFlightCount int `json:"in_flight_count"`
	MessageCount  int `json:"message_count"`
	FinishCount   int `json:"finish_count"`
	RequeueCount  int `json:"requeue_count"`
	SampleRate    int `json:"sample_rate"`
}

// Topics returns what an nsqd's /stats says of a topic, or of all if name is
// empty.
func (d *Daemon) Topics(t testing.TB, name string) []Topic {
	t.Helper()
	resp, err := http.Get("http://" + d.HTTP + "/stats?format=json&topic=" + url.QueryEscape(name))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all struct {
		Topics []Topic `json:"topics"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all.Topics
}

// Topic returns what /stats says of a topic; ok is false if it is not listed.
func (d *Daemon) Topic(t testing.TB, name string) (topic Topic, ok bool) {
	t.Helper()
	for _, topic := range d.Topics(t, name) {
		if topic.Name == name {
			return topic, true
		}
	}
	return Topic{}, false
}

// Channel returns what /stats says of a channel; ok is false if it is not listed.
func (d *Daemon) Channel(t testing.TB, topic, name string) (channel Channel, ok bool) {
	t.Helper()
	all, _ := d.Topic(t, topic)
	for _, ch := range all.Channels {
		if ch.Name == name {
			return ch, true
		}
	}
	return Channel{}, false
}

// Settles waits until a channel satisfies want, which what puts into words, and
// returns its numbers. The test fails after the time given.
func (d *Daemon) Settles(t testing.TB, within time.Duration, topic, channel, what string, want func(Channel) bool) Channel {
	t.Helper()
	var last Channel
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s/%s, when last asked whether %s: %+v", topic, channel, what, last)
		}
	})
	Eventually(t, within, fmt.Sprintf("%s/%s: %s", topic, channel, what), func() bool {
		var ok bool
		last, ok = d.Channel(t, topic, channel)
		return ok && want(last)
	})
	return last
}

// Create makes a topic of an nsqd and its channels.
func (d *Daemon) Create(t testing.TB, topic string, channels ...string) {
	t.Helper()
	query := url.Values{"topic": {topic}}
	d.Post(t, "/topic/create", query, "")
	for _, ch := range channels {
		query.Set("channel", ch)
		d.Post(t, "/channel/create", query, "")
	}
}
