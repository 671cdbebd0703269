package interop

import (
	"testing"

	"github.com/nsqio/go-nsq"
)

// TestRestartKeepsMessages stops a broker with SIGTERM while messages wait, are
// in flight and lie in a topic without channels. Afterwards all of them are
// there, and those that had been delivered count their attempts on.
func TestRestartKeepsMessages(t *testing.T) {
	t.Parallel()
	const count, held, finished = 1_000, 10, 5
	// The small memory queue makes some of them overflow before the stop.
	b := startBroker(t, "--mem-queue-size=300")
	b.Create(t, "kept", "ch")
	b.Create(t, "kept.paused", "ch")
	b.Post(t, "/channel/pause", on("kept.paused", "ch"), "")
	p := newProducer(t, b)
	must(t, p.MultiPublish("kept", numbered(count)))
	must(t, p.MultiPublish("kept.early", numbered(count)))

	c := make(chan *nsq.Message, count)
	consumer := consume(t, b, "kept", "ch", config(held), hold(c))
	gone := map[string]bool{}
	for range finished {
		m := receive(t, c, "a message")
		gone[string(m.Body)] = true
		m.Finish()
	}
	b.settles(t, "kept", "ch", "window full", func(ch channelStats) bool {
		return ch.InFlightCount == held && ch.Depth == count-held-finished
	})
	tried := map[string]bool{}
	for range held {
		tried[string(receive(t, c, "a message").Body)] = true
	}
	b.Stop(t)
	consumer.Stop()

	b.RestartElsewhere(t)
	if got, ok := b.Channel(t, "kept.paused", "ch"); !ok || !got.Paused {
		t.Errorf("the paused channel after the restart: %+v", got)
	}
	f := func(topic string, want int, attempts func(body string) uint16) {
		t.Helper()
		c := make(chan *nsq.Message, count)
		consume(t, b, topic, "ch", config(100), hold(c))
		seen := map[string]bool{}
		for range want {
			m := receive(t, c, "a message after the restart")
			body := string(m.Body)
			if seen[body] {
				t.Errorf("%s: %s came twice", topic, body)
			}
			seen[body] = true
			if want := attempts(body); m.Attempts != want {
				t.Errorf("%s: %s has attempts %d, want %d", topic, body, m.Attempts, want)
			}
			m.Finish()
		}
		b.settles(t, topic, "ch", "drained", drained)
		if len(c) != 0 {
			t.Errorf("%s: %d messages too many", topic, len(c))
		}
	}
	f("kept", count-finished, func(body string) uint16 {
		if gone[body] {
			t.Errorf("%s came again, although it was finished", body)
		}
		if tried[body] {
			return 2
		}
		return 1
	})
	f("kept.early", count, func(string) uint16 { return 1 })
}
