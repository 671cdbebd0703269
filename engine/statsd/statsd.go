// Package statsd pushes figures to a statsd over UDP.
//
// A Pusher has one goroutine. Once an interval it looks the address up, collects
// the figures and sends them, spread over the interval so that the receiver's
// buffer is not run over. A statsd that is not there, or hangs, costs a log line:
// UDP waits for nobody, and looking an address up has a limit.
package statsd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Topic is what is pushed of a topic. Counts are totals since the start of the
// daemon; the pusher makes differences of them.
type Topic struct {
	Name            string
	Messages, Bytes uint64
	Depth, Backend  int64
	EndToEnd        []Quantile
	Channels        []Channel
}

// Channel is what is pushed of a channel.
type Channel struct {
	Name                         string
	Messages, Requeues, Timeouts uint64
	Depth, Backend               int64
	InFlight, Deferred, Clients  int64
	EndToEnd                     []Quantile
}

// Quantile is one point of a latency's distribution.
type Quantile struct {
	Quantile float64
	Value    float64 // nanoseconds
}

// Memory is what is pushed of the process: gauges in their order, and the number
// of collections since its start.
type Memory struct {
	Gauges []Gauge
	GCRuns uint64
}

// Gauge is a named figure.
type Gauge struct {
	Name  string
	Value uint64
}

// Options are what Start needs. What says nothing else must be set.
type Options struct {
	Address    string        // host:port
	Prefix     string        // complete, "" for none
	Interval   time.Duration // above a second
	PacketSize int           // bytes of a datagram; 0 or less means 4096
	Topics     func() []Topic
	Memory     func() Memory // nil: no memory figures
	Failed     func(error)   // hears why a push did not work

	// LookupTimeout bounds how long the address is looked up; 0 means a second.
	LookupTimeout time.Duration

	// After tells when a time has passed; nil: time.After.
	After func(d time.Duration) <-chan time.Time
}

// packetSizeDefault is the size of a datagram when the option names none.
const packetSizeDefault = 4096

// lookupTimeoutDefault is the limit of looking the address up when the option names
// none.
const lookupTimeoutDefault = time.Second

// A Pusher pushes until it is stopped.
type Pusher struct {
	o    Options
	done chan struct{}
	wg   sync.WaitGroup

	topics map[string]*topicCounts // of the last push
	gcRuns uint64
}

type topicCounts struct {
	messages, bytes uint64
	channels        map[string]*channelCounts
}

type channelCounts struct{ messages, requeues, timeouts uint64 }

// Start begins to push; the first push comes after one interval.
func Start(o Options) *Pusher {
	if o.PacketSize <= 0 {
		o.PacketSize = packetSizeDefault
	}
	if o.LookupTimeout <= 0 {
		o.LookupTimeout = lookupTimeoutDefault
	}
	if o.After == nil {
		o.After = time.After
	}
	p := &Pusher{o: o, done: make(chan struct{}), topics: map[string]*topicCounts{}}
	p.wg.Go(p.run)
	return p
}

// Stop ends the pushing. Datagrams of a push that has begun still go out, at
// once.
func (p *Pusher) Stop() {
	close(p.done)
	p.wg.Wait()
}

func (p *Pusher) run() {
	for {
		next := p.o.After(p.o.Interval)
		select {
		case <-p.done:
			return
		case <-next:
		}
		if err := p.push(); err != nil {
			p.o.Failed(err)
		}
	}
}

// push sends one set of figures.
func (p *Pusher) push() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.o.LookupTimeout)
	conn, err := new(net.Dialer).DialContext(ctx, "udp", p.o.Address)
	cancel()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	b := &builder{prefix: p.o.Prefix, sizeMax: p.o.PacketSize}
	p.collect(b)
	packets := b.finish()
	var failed error
	gap := (p.o.Interval - time.Second) / time.Duration(max(1, len(packets)))
	for i, packet := range packets {
		// Go on after an error: it may be the answer to an earlier datagram.
		if _, err := conn.Write(packet); err != nil {
			failed = err
		}
		if i == len(packets)-1 {
			break
		}
		select {
		case <-p.o.After(gap):
		case <-p.done:
		}
	}
	return failed
}

// collect writes all figures, in nsqd's order.
func (p *Pusher) collect(b *builder) {
	topics := make(map[string]*topicCounts, len(p.topics))
	for _, t := range p.o.Topics() {
		was := p.topics[t.Name]
		if was == nil || was.messages > t.Messages {
			was = &topicCounts{} // born since, or born again
		}
		now := &topicCounts{messages: t.Messages, bytes: t.Bytes, channels: make(map[string]*channelCounts, len(t.Channels))}
		topics[t.Name] = now
		name := "topic." + t.Name + "."
		b.count(name+"message_count", was.messages, t.Messages)
		b.count(name+"message_bytes", was.bytes, t.Bytes)
		b.gauge(name+"depth", t.Depth)
		b.gauge(name+"backend_depth", t.Backend)
		b.quantiles(name, t.EndToEnd)
		for i := range t.Channels {
			c := &t.Channels[i]
			now.channels[c.Name] = &channelCounts{c.Messages, c.Requeues, c.Timeouts}
			before := was.channels[c.Name]
			if before == nil || before.messages > c.Messages {
				before = &channelCounts{}
			}
			b.channel(name+"channel."+c.Name+".", before, c)
		}
	}
	p.topics = topics
	if p.o.Memory == nil {
		return
	}
	m := p.o.Memory()
	for _, g := range m.Gauges {
		b.line("mem."+g.Name, strconv.FormatUint(g.Value, 10), "g")
	}
	b.count("mem.gc_runs", p.gcRuns, m.GCRuns)
	p.gcRuns = m.GCRuns
}

// builder packs lines into datagrams, which end at the end of a line.
type builder struct {
	prefix  string
	sizeMax int
	packets [][]byte
	packet  []byte
}

func (b *builder) channel(name string, was *channelCounts, c *Channel) {
	b.count(name+"message_count", was.messages, c.Messages)
	b.gauge(name+"depth", c.Depth)
	b.gauge(name+"backend_depth", c.Backend)
	b.gauge(name+"in_flight_count", c.InFlight)
	b.gauge(name+"deferred_count", c.Deferred)
	b.count(name+"requeue_count", was.requeues, c.Requeues)
	b.count(name+"timeout_count", was.timeouts, c.Timeouts)
	b.gauge(name+"clients", c.Clients)
	b.quantiles(name, c.EndToEnd)
}

// count sends what was added since the last push. A counter that has fallen
// belongs to something new of the same name.
func (b *builder) count(name string, was, now uint64) {
	if was > now {
		was = 0
	}
	b.line(name, strconv.FormatUint(now-was, 10), "c")
}

func (b *builder) gauge(name string, v int64) { b.line(name, strconv.FormatInt(v, 10), "g") }

// quantiles names a quantile by its rounded percentage, as nsqd does: 0.999 is
// called 100.
func (b *builder) quantiles(name string, list []Quantile) {
	for _, q := range list {
		b.gauge(fmt.Sprintf("%se2e_processing_latency_%.0f", name, q.Quantile*100), int64(q.Value))
	}
}

func (b *builder) line(name, value, kind string) {
	n := len(b.prefix) + len(name) + len(value) + len(kind) + len(":|\n")
	if len(b.packet) > 0 && len(b.packet)+n > b.sizeMax {
		b.packets = append(b.packets, bytes.Clone(b.packet))
		b.packet = b.packet[:0]
	}
	b.packet = append(b.packet, b.prefix...)
	b.packet = append(b.packet, name...)
	b.packet = append(b.packet, ':')
	b.packet = append(b.packet, value...)
	b.packet = append(b.packet, '|')
	b.packet = append(b.packet, kind...)
	b.packet = append(b.packet, '\n')
}

func (b *builder) finish() [][]byte {
	if len(b.packet) > 0 {
		b.packets = append(b.packets, b.packet)
	}
	return b.packets
}

// ExpandPrefix puts the host into a prefix: each %s becomes address and port with
// underscores for dots and colons. A prefix that is not empty ends in a dot.
func ExpandPrefix(prefix, address string, port int) string {
	host := strings.NewReplacer(".", "_", ":", "_").Replace(net.JoinHostPort(address, strconv.Itoa(port)))
	prefix = strings.ReplaceAll(prefix, "%s", host)
	if prefix != "" && !strings.HasSuffix(prefix, ".") {
		prefix += "."
	}
	return prefix
}
