package interop

import (
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
)

// TestExactlyOncePerChannel publishes through four producers and consumes on
// two channels with four consumers each: every message arrives once on each.
func TestExactlyOncePerChannel(t *testing.T) {
	t.Parallel()
	fanOut(t, startBroker(t), 20_000, 16)
}

// fanOut publishes count messages of size bytes, numbered in their first eight,
// and expects each of them once on each of two channels.
func fanOut(t *testing.T, b *broker, count, size int) {
	t.Helper()
	const topic, producers, batchSize = "fanout", 4, 100
	channels := []string{"left", "right"}
	b.Create(t, topic, channels...)

	seen := make([][]atomic.Uint32, len(channels))
	received := make([]atomic.Int64, len(channels))
	for i, ch := range channels {
		seen[i] = make([]atomic.Uint32, count)
		for range 4 {
			consume(t, b, topic, ch, config(250), func(m *nsq.Message) error {
				n := binary.BigEndian.Uint64(m.Body)
				if n >= uint64(count) || len(m.Body) != size {
					t.Errorf("%s: message %d of %d bytes was never published", ch, n, len(m.Body))
					return nil
				}
				if seen[i][n].Add(1) > 1 {
					t.Errorf("%s: message %d again, attempt %d", ch, n, m.Attempts)
				}
				received[i].Add(1)
				return nil
			})
		}
	}

	// Each producer sends a share, by turns one by one and as a batch.
	failed := make(chan error, producers)
	for i := range producers {
		p := newProducer(t, b)
		go func() { failed <- publishShare(p, topic, count*i/producers, count*(i+1)/producers, size, batchSize) }()
	}
	for range producers {
		must(t, <-failed)
	}

	for i, ch := range channels {
		// A large run may rightly take longer than our patience, so it is
		// progress that we wait for.
		for last := int64(-1); received[i].Load() < int64(count); {
			eventually(t, ch+" makes progress", func() bool { return received[i].Load() > last })
			last = received[i].Load()
		}
		got := b.settles(t, topic, ch, "drained, with 4 clients", func(ch channelStats) bool { return drained(ch) && ch.ClientCount == 4 })
		if got.MessageCount != count || got.RequeueCount != 0 || got.TimeoutCount != 0 {
			t.Errorf("%s: %+v, want %d messages, no requeues, no timeouts", ch, got, count)
		}
		if n := received[i].Load(); n != int64(count) {
			t.Errorf("%s: received %d, want %d", ch, n, count)
		}
	}
}

// publishShare sends the messages numbered from first up to end.
func publishShare(p *nsq.Producer, topic string, first, end, size, batchSize int) error {
	var batch [][]byte
	single := false
	for n := first; n < end; n++ {
		body := make([]byte, size)
		binary.BigEndian.PutUint64(body, uint64(n))
		batch = append(batch, body)
		if len(batch) < batchSize && n < end-1 {
			continue
		}
		var err error
		if single {
			err = publishEach(p, topic, batch)
		} else {
			err = p.MultiPublish(topic, batch)
		}
		if err != nil {
			return err
		}
		batch, single = nil, !single
	}
	return nil
}

// publishEach sends each body with a PUB of its own, without waiting in between.
func publishEach(p *nsq.Producer, topic string, bodies [][]byte) error {
	done := make(chan *nsq.ProducerTransaction, len(bodies))
	for _, body := range bodies {
		if err := p.PublishAsync(topic, body, done); err != nil {
			return err
		}
	}
	for range bodies {
		if tx := <-done; tx.Error != nil {
			return tx.Error
		}
	}
	return nil
}

// TestBacklogGoesToTheFirstChannel publishes before there is any channel.
func TestBacklogGoesToTheFirstChannel(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	p := newProducer(t, b)
	must(t, p.MultiPublish("early", [][]byte{[]byte("a"), []byte("b"), []byte("c")}))
	if got, _ := b.Topic(t, "early"); got.Depth != 3 {
		t.Errorf("topic depth %d, want 3", got.Depth)
	}
	c := make(chan *nsq.Message, 3)
	consume(t, b, "early", "ch", config(10), hold(c))
	var bodies string
	for range 3 {
		m := receive(t, c, "the backlog")
		bodies += string(m.Body)
		m.Finish()
	}
	if bodies != "abc" {
		t.Errorf("received %q, want abc", bodies)
	}
	b.settles(t, "early", "ch", "drained", drained)
}

// TestPublishOverHTTP sends through /pub and both forms of /mpub.
func TestPublishOverHTTP(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	b.Create(t, "web", "ch")
	c := make(chan *nsq.Message, 10)
	consume(t, b, "web", "ch", config(10), hold(c))
	topic := url.Values{"topic": {"web"}}
	b.Post(t, "/pub", topic, "one")
	b.Post(t, "/mpub", topic, "two\n\nthree\n")
	b.Post(t, "/mpub", url.Values{"topic": {"web"}, "binary": {"true"}},
		"\x00\x00\x00\x02\x00\x00\x00\x04four\x00\x00\x00\x05fi\nve")
	got := map[string]bool{}
	for range 5 {
		m := receive(t, c, "a message")
		got[string(m.Body)] = true
		m.Finish()
	}
	for _, want := range []string{"one", "two", "three", "four", "fi\nve"} {
		if !got[want] {
			t.Errorf("%q did not arrive, only %v", want, got)
		}
	}
}

// TestRequeue gives a message back, at once and with a delay, and expects it
// again with one more attempt and not before it is due.
func TestRequeue(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	c := make(chan *nsq.Message, 1)
	consume(t, b, "again", "ch", config(1), hold(c))
	must(t, newProducer(t, b).Publish("again", []byte("x")))

	m := receive(t, c, "first delivery")
	if m.Attempts != 1 {
		t.Errorf("first delivery has attempts %d", m.Attempts)
	}
	m.RequeueWithoutBackoff(0)
	m2 := receive(t, c, "second delivery")
	if m2.Attempts != 2 || m2.ID != m.ID || m2.Timestamp != m.Timestamp {
		t.Errorf("second delivery %v, attempts %d; the first was %v", m2.ID, m2.Attempts, m.ID)
	}

	const delay = 2 * time.Second // long enough for a busy machine to see it deferred
	before := time.Now()
	m2.RequeueWithoutBackoff(delay)
	b.seenDeferred(t, "again", before.Add(delay), func(ch channelStats) bool { return ch.RequeueCount == 2 })
	m3 := receive(t, c, "third delivery")
	early(t, before, delay)
	if m3.Attempts != 3 {
		t.Errorf("third delivery has attempts %d", m3.Attempts)
	}
	m3.Finish()
	b.settles(t, "again", "ch", "drained", drained)
}

// seenDeferred looks at the one message of a channel, which has to be deferred from
// when started holds until it is due. A machine that stands still for as long shows
// nothing.
func (b *broker) seenDeferred(t *testing.T, topic string, due time.Time, started func(channelStats) bool) {
	t.Helper()
	elsewhere := 0
	b.settles(t, topic, "ch", "deferred", func(ch channelStats) bool {
		switch {
		case !time.Now().Before(due):
			return true
		case started(ch) && ch.DeferredCount == 1 && ch.InFlightCount == 0 && ch.Depth == 0:
			elsewhere = 0
			return true
		case started(ch):
			elsewhere++
		}
		return false
	})
	if elsewhere > 2 { // the figures of a channel are not of one instant
		t.Errorf("%s/ch: %d looks at it before it was due, and it was not deferred", topic, elsewhere)
	}
}

// early fails when a delay that began after start ended too soon. A broker that
// reads its clock once per event may be a little behind the socket.
func early(t *testing.T, start time.Time, delay time.Duration) {
	t.Helper()
	if took := time.Since(start); took < delay-20*time.Millisecond {
		t.Errorf("it came after %v, before its delay of %v", took, delay)
	}
}

// TestDeferredPublish expects a DPUB message when it is due, and others before.
func TestDeferredPublish(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	c := make(chan *nsq.Message, 2)
	consume(t, b, "later", "ch", config(2), hold(c))
	p := newProducer(t, b)
	const delay = 2 * time.Second // as above
	before := time.Now()
	must(t, p.DeferredPublish("later", delay, []byte("deferred")))
	b.seenDeferred(t, "later", before.Add(delay), func(ch channelStats) bool { return ch.MessageCount == 1 })
	must(t, p.Publish("later", []byte("now")))
	inTime := time.Since(before) < delay
	first := receive(t, c, "the undelayed message")
	second := receive(t, c, "the deferred message")
	early(t, before, delay)
	if !inTime && string(first.Body) == "deferred" {
		first, second = second, first // the machine stood still
	}
	if string(first.Body) != "now" || string(second.Body) != "deferred" || second.Attempts != 1 {
		t.Errorf("received %q, then %q (attempts %d)", first.Body, second.Body, second.Attempts)
	}
	first.Finish()
	second.Finish()
	b.settles(t, "later", "ch", "drained", drained)
}

// TestTimeout leaves a message unanswered: it comes again, with one more
// attempt, and the late answer to the first delivery has no effect.
func TestTimeout(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	cfg := config(1)
	cfg.MsgTimeout = 2 * time.Second // long enough for a busy machine to answer the second time
	c := make(chan *nsq.Message, 4)
	consume(t, b, "slow", "ch", cfg, hold(c))
	before := time.Now()
	must(t, newProducer(t, b).Publish("slow", []byte("x")))
	first := receive(t, c, "first delivery")
	second := receive(t, c, "delivery after the timeout")
	early(t, before, cfg.MsgTimeout)
	if second.Attempts != 2 || second.ID != first.ID {
		t.Errorf("second delivery %v, attempts %d; the first was %v", second.ID, second.Attempts, first.ID)
	}
	second.Finish()
	got := b.settles(t, "slow", "ch", "drained", func(ch channelStats) bool {
		finishAll(c) // what a machine that stood still has had time out again
		return drained(ch)
	})
	// The second delivery began after the first one's time.
	inTime := time.Since(before) < 2*cfg.MsgTimeout
	if got.TimeoutCount < 1 || inTime && got.TimeoutCount > 1 || got.RequeueCount != 0 {
		t.Errorf("%+v, want one timeout and no requeue", got)
	}
}

// TestTouch keeps a message for two of its timeouts.
func TestTouch(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	cfg := config(1)
	cfg.MsgTimeout = 2 * time.Second
	c := make(chan *nsq.Message, 4)
	consume(t, b, "touched", "ch", cfg, hold(c))
	// A channel created long ago has its timers looked at by every broker; a
	// message that times out tells us that this one's are.
	p := newProducer(t, b)
	must(t, p.Publish("touched", []byte("warm-up")))
	receive(t, c, "warm-up")
	receive(t, c, "warm-up again").Finish()

	tick := time.NewTicker(cfg.MsgTimeout / 8)
	defer tick.Stop()
	for round := 0; ; round++ {
		// What is left of earlier rounds times out until it is finished in time.
		before := b.settles(t, "touched", "ch", "drained", func(ch channelStats) bool {
			finishAll(c)
			return drained(ch)
		})
		body := fmt.Sprint("round ", round)
		last, longest := time.Now(), time.Duration(0)
		lap := func() { longest, last = max(longest, time.Since(last)), time.Now() }
		must(t, p.Publish("touched", []byte(body)))
		m := receive(t, c, "the message")
		for string(m.Body) != body { // answered already by its id
			m = receive(t, c, "the message")
		}
		for range 16 {
			<-tick.C
			m.Touch()
			b.Channel(t, "touched", "ch") // the broker does not stand still either
			lap()
		}
		m.Finish()
		got := b.settles(t, "touched", "ch", "drained", func(ch channelStats) bool {
			return drained(ch) || time.Since(last) > cfg.MsgTimeout/2
		})
		lap()
		if longest > cfg.MsgTimeout/2 {
			continue // the machine stood still: it shows nothing
		}
		if got.TimeoutCount != before.TimeoutCount {
			t.Errorf("%d timeouts, want no more than the %d there were", got.TimeoutCount, before.TimeoutCount)
		}
		for len(c) > 0 {
			if m := <-c; string(m.Body) == body {
				t.Errorf("%q was delivered again, attempt %d", m.Body, m.Attempts)
			}
		}
		return
	}
}

// finishAll finishes the messages that are there.
func finishAll(c <-chan *nsq.Message) {
	for {
		select {
		case m := <-c:
			m.Finish()
		default:
			return
		}
	}
}

// TestProducerErrors expects upstream's error texts through the stock producer.
func TestProducerErrors(t *testing.T) {
	t.Parallel()
	b := startBroker(t, "--max-msg-size=100", "--max-body-size=1000")
	f := func(want string, publish func(p *nsq.Producer) error) {
		t.Helper()
		err := publish(newProducer(t, b))
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	big := []byte(strings.Repeat("x", 101))
	f(`E_BAD_TOPIC PUB topic name "so*bad" is not valid`, func(p *nsq.Producer) error {
		return p.Publish("so*bad", []byte("x"))
	})
	f(`E_BAD_MESSAGE PUB message too big 101 > 100`, func(p *nsq.Producer) error {
		return p.Publish("ok", big)
	})
	f(`E_BAD_MESSAGE MPUB invalid message(1) body size 0`, func(p *nsq.Producer) error {
		return p.MultiPublish("ok", [][]byte{[]byte("x"), nil})
	})
	f(`E_BAD_MESSAGE MPUB message too big 101 > 100`, func(p *nsq.Producer) error {
		return p.MultiPublish("ok", [][]byte{[]byte("x"), big})
	})
	f(`E_INVALID DPUB timeout 7200000 out of range 0-3600000`, func(p *nsq.Producer) error {
		return p.DeferredPublish("ok", 2*time.Hour, []byte("x"))
	})
	// A refused batch leaves nothing behind.
	if got, _ := b.Topic(t, "ok"); got.MessageCount != 0 || got.Depth != 0 {
		t.Errorf("after errors only: %+v, want no messages", got)
	}
}
