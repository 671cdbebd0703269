package interop

import (
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// numbered makes count small bodies.
func numbered(count int) [][]byte {
	bodies := make([][]byte, count)
	for i := range bodies {
		bodies[i] = fmt.Appendf(nil, "%06d", i)
	}
	return bodies
}

// TestMaxInFlight changes a consumer's maximum under way: the broker never has
// more in flight to it, and uses what it is given.
func TestMaxInFlight(t *testing.T) {
	t.Parallel()
	const count = 40
	b := startBroker(t)
	b.Create(t, "window", "ch")
	must(t, newProducer(t, b).MultiPublish("window", numbered(count)))
	c := make(chan *nsq.Message, count)
	consumer := consume(t, b, "window", "ch", config(1), hold(c))

	inFlight := func(n int) func(channelStats) bool {
		return func(ch channelStats) bool {
			if ch.InFlightCount > n {
				t.Errorf("%d in flight, want at most %d", ch.InFlightCount, n)
			}
			return ch.InFlightCount == n && ch.Depth == count-n && len(ch.Clients) == 1 &&
				ch.Clients[0].InFlightCount == n && ch.Clients[0].ReadyCount == n
		}
	}
	b.settles(t, "window", "ch", "one in flight", inFlight(1))
	consumer.ChangeMaxInFlight(10)
	b.settles(t, "window", "ch", "ten in flight", inFlight(10))
	for range 10 {
		receive(t, c, "a message in flight")
	}
	select {
	case m := <-c:
		t.Errorf("%q was delivered beyond the ready count", m.Body)
	default:
	}

	// Lowering it recalls nothing; the window refills only below the new one.
	consumer.ChangeMaxInFlight(2)
	b.settles(t, "window", "ch", "ready count two", func(ch channelStats) bool {
		return ch.InFlightCount == 10 && len(ch.Clients) == 1 && ch.Clients[0].ReadyCount == 2
	})
}

// TestSampleRate consumes about a third of the messages; the rest are gone.
func TestSampleRate(t *testing.T) {
	t.Parallel()
	const count = 9_000
	b := startBroker(t)
	var received atomic.Int64
	cfg := config(500)
	cfg.SampleRate = 33
	consume(t, b, "sampled", "ch", cfg, func(*nsq.Message) error {
		received.Add(1)
		return nil
	})
	must(t, newProducer(t, b).MultiPublish("sampled", numbered(count)))
	got := b.settles(t, "sampled", "ch", "drained", func(ch channelStats) bool {
		return drained(ch) && ch.MessageCount == count
	})
	// The standard deviation is 45; these limits are over 15 of them away.
	if n := received.Load(); n < count*25/100 || n > count*41/100 {
		t.Errorf("received %d of %d at a sample rate of 33 %%", n, count)
	}
	if len(got.Clients) != 1 || got.Clients[0].SampleRate != 33 {
		t.Errorf("clients %+v, want one with sample rate 33", got.Clients)
	}
}

// TestEphemeral expects an ephemeral channel to go with its last consumer, and
// an ephemeral topic with its last channel.
func TestEphemeral(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	f := func(topic, channel string, topicStays bool) {
		t.Helper()
		c := make(chan *nsq.Message, 2)
		first := consume(t, b, topic, channel, config(1), hold(c))
		second := consume(t, b, topic, channel, config(1), hold(c))
		must(t, newProducer(t, b).Publish(topic, []byte("x")))
		receive(t, c, "a message").Finish()
		b.settles(t, topic, channel, "drained", drained)

		first.Stop()
		<-first.StopChan
		b.settles(t, topic, channel, "one client", func(ch channelStats) bool { return ch.ClientCount == 1 })
		second.Stop()
		<-second.StopChan
		eventually(t, topic+"/"+channel+" is gone", func() bool {
			_, ok := b.Channel(t, topic, channel)
			return !ok
		})
		if topicStays {
			if _, ok := b.Topic(t, topic); !ok {
				t.Errorf("topic %s is gone too", topic)
			}
			return
		}
		eventually(t, topic+" is gone", func() bool {
			_, ok := b.Topic(t, topic)
			return !ok
		})
	}
	f("lasting", "passing#ephemeral", true)
	f("passing#ephemeral", "passing#ephemeral", false)
}

// TestPauseChannel pauses, unpauses and empties a channel over HTTP.
func TestPauseChannel(t *testing.T) {
	t.Parallel()
	const count = 50
	b := startBroker(t)
	b.Create(t, "paused", "ch")
	c := make(chan *nsq.Message, 4*count)
	consume(t, b, "paused", "ch", config(count), hold(c))
	b.settles(t, "paused", "ch", "ready", func(ch channelStats) bool {
		return len(ch.Clients) == 1 && ch.Clients[0].ReadyCount == count
	})
	p := newProducer(t, b)
	waiting := func(ch channelStats) bool {
		return ch.Paused && ch.Depth == count && ch.InFlightCount == 0
	}

	b.Post(t, "/channel/pause", on("paused", "ch"), "")
	must(t, p.MultiPublish("paused", numbered(count)))
	b.settles(t, "paused", "ch", "all waiting", waiting)
	b.Post(t, "/channel/empty", on("paused", "ch"), "")
	b.settles(t, "paused", "ch", "empty", drained)

	must(t, p.MultiPublish("paused", numbered(count)))
	b.settles(t, "paused", "ch", "all waiting", waiting)
	if len(c) != 0 {
		t.Errorf("%d messages were delivered by a paused channel", len(c))
	}
	b.Post(t, "/channel/unpause", on("paused", "ch"), "")
	for range count {
		receive(t, c, "an unpaused message").Finish()
	}
	got := b.settles(t, "paused", "ch", "drained", drained)
	if got.MessageCount != 2*count || got.Paused {
		t.Errorf("%+v, want %d messages, not paused", got, 2*count)
	}
}

// TestEmptyTakesInFlightToo empties a channel whose messages a consumer holds:
// they do not come again, and the consumer goes on with what comes next.
func TestEmptyTakesInFlightToo(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	c := make(chan *nsq.Message, 10)
	consume(t, b, "emptied", "ch", config(3), hold(c))
	p := newProducer(t, b)
	must(t, p.MultiPublish("emptied", numbered(5)))
	b.settles(t, "emptied", "ch", "three in flight", func(ch channelStats) bool {
		return ch.InFlightCount == 3 && ch.Depth == 2
	})
	var held []*nsq.Message
	for range 3 {
		held = append(held, receive(t, c, "a message"))
	}
	b.Post(t, "/channel/empty", on("emptied", "ch"), "")
	b.settles(t, "emptied", "ch", "empty", drained)
	for _, m := range held {
		m.Finish() // fails at the broker, without an end to the connection
	}
	must(t, p.Publish("emptied", []byte("next")))
	m := receive(t, c, "the next message")
	if string(m.Body) != "next" || m.Attempts != 1 {
		t.Errorf("received %q, attempt %d; want the next message", m.Body, m.Attempts)
	}
	m.Finish()
	b.settles(t, "emptied", "ch", "drained", drained)
}

// TestPauseTopic pauses a topic: messages stay in the topic, and come out of it
// when it goes on.
func TestPauseTopic(t *testing.T) {
	t.Parallel()
	const count = 20
	b := startBroker(t)
	b.Create(t, "held", "ch")
	topic := url.Values{"topic": {"held"}}
	c := make(chan *nsq.Message, count)
	consume(t, b, "held", "ch", config(count), hold(c))
	b.Post(t, "/topic/pause", topic, "")
	must(t, newProducer(t, b).MultiPublish("held", numbered(count)))
	eventually(t, "all wait in the topic", func() bool {
		got, _ := b.Topic(t, "held")
		return got.Paused && got.Depth == count && got.MessageCount == count && len(got.Channels) == 1 &&
			got.Channels[0].MessageCount == 0
	})
	b.Post(t, "/topic/unpause", topic, "")
	for range count {
		receive(t, c, "a message of the unpaused topic").Finish()
	}
	b.settles(t, "held", "ch", "drained", drained)
}

// TestStatsAddUp follows the counters of two channels and one consumer while
// its messages go from waiting to held, given back, deferred and finished.
func TestStatsAddUp(t *testing.T) {
	t.Parallel()
	const count, window = 30, 6
	b := startBroker(t)
	b.Create(t, "counted", "idle", "busy")
	must(t, newProducer(t, b).MultiPublish("counted", numbered(count)))
	b.settles(t, "counted", "idle", "all waiting", func(ch channelStats) bool { return ch.Depth == count })
	topic, _ := b.Topic(t, "counted")
	if topic.Depth != 0 || topic.MessageCount != count || topic.MessageBytes != 6*count {
		t.Errorf("topic %+v, want depth 0, %d messages, %d bytes", topic, count, 6*count)
	}

	c := make(chan *nsq.Message, count)
	consume(t, b, "counted", "busy", config(window), hold(c))
	b.settles(t, "counted", "busy", "window full", func(ch channelStats) bool {
		return ch.Depth == count-window && ch.InFlightCount == window
	})
	for range 3 {
		receive(t, c, "a message").Finish()
	}
	for range 2 {
		receive(t, c, "a message").RequeueWithoutBackoff(10 * time.Minute)
	}
	got := b.settles(t, "counted", "busy", "window full again", func(ch channelStats) bool {
		// The channel's figures and its client's are not of one instant.
		return ch.Depth == count-window-5 && ch.InFlightCount == window && ch.DeferredCount == 2 &&
			ch.RequeueCount == 2 && len(ch.Clients) == 1 && ch.Clients[0].RequeueCount == 2 && ch.Clients[0].MessageCount == window+5
	})
	if got.MessageCount != count || got.TimeoutCount != 0 || got.ClientCount != 1 {
		t.Errorf("%+v, want %d messages, no timeouts, 1 client", got, count)
	}
	want := daemon.Client{ReadyCount: window, InFlightCount: window, MessageCount: window + 5, FinishCount: 3, RequeueCount: 2}
	if len(got.Clients) != 1 || got.Clients[0] != want {
		t.Errorf("clients %+v, want %+v", got.Clients, want)
	}
	if idle, _ := b.Channel(t, "counted", "idle"); idle.Depth != count || idle.MessageCount != count {
		t.Errorf("the other channel: %+v, want depth %d", idle, count)
	}
}
