package engine

import (
	"errors"
	"iter"
	"net"
	"os"
	"time"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/engine/httpapi"
	"github.com/zsqio/zsq/internal/wire"
)

// api is the broker as the HTTP API sees it. Its methods run on HTTP
// goroutines.
type api struct{ e *Engine }

func (e *Engine) httpConfig() httpapi.Config {
	return httpapi.Config{
		Broker:           api{e},
		Info:             e.info,
		Limits:           httpapi.Limits{MaxMsgSize: e.opts.MaxMsgSize, MaxBodySize: e.opts.MaxBodySize, MaxReqTimeout: within(e.opts.MaxReqTimeout), MaxBodies: e.opts.ConnectionMemory()},
		ValidTopicName:   wire.ValidName[string],
		ValidChannelName: wire.ValidName[string],
		Option:           e.option,
		SetOption:        e.setOption,
		RequireTLS:       e.opts.RequireTLS() == TLSAlways,
		HTTPSPort:        func() int { return port(e.httpsAddr) },
		StartTime:        e.started,
		StallTimeout:     e.opts.ReapTimeout,
		Metrics:          e.metricsHandler(),
		Logf: func(level int, format string, args ...any) {
			e.log.printf(LogLevel(level), format, args...)
		},
	}
}

func (e *Engine) info() httpapi.Info {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return httpapi.Info{
		Version: Version, OwnVersion: OwnVersion,
		BroadcastAddress: e.opts.BroadcastAddress, Hostname: host,
		HTTPPort: port(e.httpAddr), TCPPort: port(e.tcpAddr), StartTime: e.started.Unix(),
		MaxHeartbeatInterval: e.opts.MaxHeartbeatInterval, MaxOutputBufferSize: e.opts.MaxOutputBufferSize,
		MaxOutputBufferTimeout: e.opts.MaxOutputBufferTimeout, MaxDeflateLevel: e.opts.MaxDeflateLevel,
		TopologyZone: e.opts.TopologyZone, TopologyRegion: e.opts.TopologyRegion,
	}
}

// httpErrors gives the broker's errors the API's names.
func httpErrors(err error) error {
	switch {
	case errors.Is(err, broker.ErrTopicNotFound):
		return httpapi.ErrTopicNotFound
	case errors.Is(err, broker.ErrChannelNotFound):
		return httpapi.ErrChannelNotFound
	case errors.Is(err, broker.ErrTooManyTopics):
		return httpapi.ErrTooManyTopics
	case errors.Is(err, broker.ErrTooManyChannels):
		return httpapi.ErrTooManyChannels
	case errors.Is(err, broker.ErrEphemeral):
		return httpapi.ErrEphemeral
	case errors.Is(err, broker.ErrExiting):
		return httpapi.ErrExiting
	}
	return err
}

// Publish waits until the messages are accepted.
func (a api) Publish(topic string, bodies [][]byte, deferBy time.Duration) error {
	t, err := a.e.broker.Topic(topic)
	if err != nil {
		return httpErrors(err)
	}
	if len(bodies) == 0 {
		return a.e.broker.Settle() // the topic may be new
	}
	due := int64(0)
	if deferBy > 0 {
		due = a.e.system.wall().UnixNano() + int64(deferBy)
	}
	return httpErrors(a.e.broker.PublishForeign(t, bodies, due))
}

// CreateTopic creates a topic if there is none of that name.
func (a api) CreateTopic(name string) error {
	t, err := a.e.broker.Topic(name)
	if err != nil {
		return httpErrors(err)
	}
	a.e.peers.await(t) // as upstream, whose topic has its channels when this is answered
	return a.e.broker.Settle()
}

// HasTopic reports whether there is such a topic.
func (a api) HasTopic(name string) bool { return a.e.broker.Find([]byte(name)) != nil }

// DeleteTopic deletes a topic with its channels.
func (a api) DeleteTopic(name string) error {
	return a.persisted(a.e.broker.DeleteTopic(name))
}

// EmptyTopic drops what the topic itself holds.
func (a api) EmptyTopic(name string) error {
	return a.withTopic(name, (*broker.Topic).Empty)
}

// PauseTopic pauses or unpauses a topic and writes that down.
func (a api) PauseTopic(name string, paused bool) error {
	return a.persisted(a.withTopic(name, func(t *broker.Topic) error { t.SetPaused(paused); return nil }))
}

// SetDurability gives a topic a durability of its own.
func (a api) SetDurability(topic, mode string) error {
	var d Durability
	if d.Set(mode) != nil {
		return httpapi.ErrInvalidMode
	}
	return a.withTopic(topic, func(t *broker.Topic) error {
		return a.e.broker.SetDurability(t, broker.Durability(d))
	})
}

// CreateChannel creates a channel of a topic that exists.
func (a api) CreateChannel(topic, channel string) error {
	return a.withTopic(topic, func(t *broker.Topic) error {
		c, err := t.Channel(channel)
		if err != nil {
			return err
		}
		return c.AwaitBirth()
	})
}

// DeleteChannel deletes a channel and closes its consumers.
func (a api) DeleteChannel(topic, channel string) error {
	return a.persisted(httpErrors(a.e.broker.DeleteChannel(topic, channel)))
}

// EmptyChannel drops everything a channel holds.
func (a api) EmptyChannel(topic, channel string) error {
	return a.withChannel(topic, channel, (*broker.Channel).Empty)
}

// PauseChannel pauses or unpauses a channel and writes that down.
func (a api) PauseChannel(topic, channel string, paused bool) error {
	return a.persisted(a.withChannel(topic, channel, func(c *broker.Channel) error { c.SetPaused(paused); return nil }))
}

// Health returns the last disk error.
func (a api) Health() error { return a.e.broker.Health() }

func (a api) withTopic(name string, f func(t *broker.Topic) error) error {
	t := a.e.broker.Find([]byte(name))
	if t == nil {
		return httpapi.ErrTopicNotFound
	}
	return httpErrors(f(t))
}

func (a api) withChannel(topic, channel string, f func(c *broker.Channel) error) error {
	return a.withTopic(topic, func(t *broker.Topic) error {
		c := t.Find(channel)
		if c == nil {
			return broker.ErrChannelNotFound
		}
		return f(c)
	})
}

// persisted has a change written before it is answered, in the journal and, as
// upstream, in nsqd.dat.
func (a api) persisted(err error) error {
	if err == nil {
		err = a.e.broker.Settle()
	}
	if err != nil {
		return httpErrors(err)
	}
	if err := a.e.meta.write(); err != nil {
		a.e.log.printf(LogError, "failed to persist metadata - %s", err)
	}
	return nil
}

// Stats collects the figures of /stats: the connections on their loops, all
// else from counters.
func (a api) Stats(topic, channel string, includeClients bool) httpapi.Stats {
	var st httpapi.Stats
	consumers := map[*broker.Channel][]httpapi.ClientStats{}
	if includeClients {
		for seen := range a.e.clients(topic) {
			if seen.channel != nil {
				consumers[seen.channel] = append(consumers[seen.channel], seen.stats)
			}
			if seen.producer {
				st.Producers = append(st.Producers, seen.stats)
			}
		}
	}
	st.Damage = damage(a.e.broker.Damage())
	e2e := a.e.newEndToEnd()
	for _, t := range a.e.broker.Topics() {
		if topic != "" && t.Name() != topic {
			continue
		}
		if ts, ok := topicStats(t, channel, consumers, includeClients, e2e); ok {
			st.Topics = append(st.Topics, ts)
		}
	}
	return st
}

// damage returns nil where there is none.
func damage(d broker.Damage) *httpapi.Damage {
	if d == (broker.Damage{}) {
		return nil
	}
	return &httpapi.Damage{Places: d.Places, Records: d.Records}
}

func topicStats(t *broker.Topic, channel string, consumers map[*broker.Channel][]httpapi.ClientStats, includeClients bool, e2e *endToEnd) (httpapi.TopicStats, bool) {
	ts := httpapi.TopicStats{TopicName: t.Name(), Channels: []httpapi.ChannelStats{}, Paused: t.Paused()}
	if d, own := t.Durability(); own {
		ts.Durability = Durability(d).String()
	}
	ts.Damage = damage(t.Damage())
	ts.Depth, ts.BackendDepth = t.Depth()
	ts.MessageCount, ts.MessageBytes = t.Messages()
	e2e.begin()
	for _, c := range t.Channels() {
		lat := e2e.channel(c) // the topic's has those of all its channels
		if channel != "" && c.Name() != channel {
			continue
		}
		f := c.Figures()
		cs := httpapi.ChannelStats{
			ChannelName: c.Name(), InFlightCount: int(f.InFlight), DeferredCount: int(f.Deferred),
			MessageCount: f.Messages, RequeueCount: f.Requeues, TimeoutCount: f.Timeouts,
			Depth: f.Depth, BackendDepth: f.Backend, ClientCount: int(f.Clients), Paused: c.Paused(),
		}
		cs.ZoneLocalMsgCount, cs.RegionLocalMsgCount, cs.GlobalMsgCount = c.Delivered()
		cs.E2E = lat
		if includeClients {
			cs.Clients = consumers[c]
			if cs.Clients == nil {
				cs.Clients = []httpapi.ClientStats{}
			}
		}
		ts.Channels = append(ts.Channels, cs)
	}
	ts.E2E = e2e.topic()
	return ts, channel == "" || len(ts.Channels) > 0
}

// A seenClient is a connection as its loop has described it.
type seenClient struct {
	stats    httpapi.ClientStats
	channel  *broker.Channel // nil for none
	producer bool
}

// clientsAtOnce is how many connections a loop describes in one go. It takes
// some tenths of a millisecond; then the loop serves whoever waits.
const clientsAtOnce = 128

// clients describes every connection, loop by loop. Each is seen as it is at some
// moment of the iteration, and one that comes or goes meanwhile perhaps not.
func (e *Engine) clients(topic string) iter.Seq[seenClient] {
	return func(yield func(seenClient) bool) {
		seen := make([]seenClient, 0, clientsAtOnce)
		done := make(chan bool, 1) // the loop does not wait for us
		for i, l := range e.group.Loops() {
			h := e.handlers[i]
			for from, more := 0, true; more; from += clientsAtOnce {
				seen = seen[:0]
				l.Do(func() {
					seen = h.describe(seen, from, topic)
					done <- from+clientsAtOnce < len(h.conns)
				})
				select {
				case more = <-done:
				case <-e.stopped: // a loop that has ended drops what it is asked
					return
				}
				for i := range seen {
					if !yield(seen[i]) {
						return
					}
				}
			}
		}
	}
}

// describe adds to seen the connections from that place on, clientsAtOnce places.
func (h *handler) describe(seen []seenClient, from int, topic string) []seenClient {
	to := min(from+clientsAtOnce, len(h.conns))
	for _, c := range h.conns[min(from, to):to] {
		// Who has seen the end does not expect to be listed.
		if c != nil && c.greeted && !c.nc.Parted() && (c.sub != nil || len(c.pubs) > 0) {
			one := seenClient{stats: c.stats(topic), producer: len(c.pubs) > 0}
			if c.sub != nil {
				one.channel = c.sub.Channel()
			}
			seen = append(seen, one)
		}
	}
	return seen
}

// stats describes the connection; topic is the one whose publishes to count.
func (c *conn) stats(topic string) httpapi.ClientStats {
	cs := httpapi.ClientStats{
		ClientID: c.client.ClientID, Hostname: c.client.Hostname, UserAgent: c.client.UserAgent,
		Version: "V2", RemoteAddress: c.peerAddr(), State: int32(c.state), ConnectTime: c.connected.Unix(),
		SampleRate: c.client.SampleRate, TopologyZone: c.client.TopologyZone, TopologyRegion: c.client.TopologyRegion,
	}
	if !c.identified {
		// Upstream names a client that says nothing of itself by its address.
		host, _, _ := net.SplitHostPort(cs.RemoteAddress) // a unix socket's has none
		cs.ClientID, cs.Hostname = host, host
	}
	c.tr.describe(&cs)
	if a := c.auth; a != nil && a.perms != nil {
		cs.Authed, cs.AuthIdentity, cs.AuthIdentityURL = true, a.perms.Identity, a.perms.IdentityURL
	}
	if s := c.sub; s != nil {
		n := s.Counts()
		cs.ReadyCount, cs.InFlightCount = n.Ready, n.InFlight
		cs.MessageCount, cs.FinishCount, cs.RequeueCount = n.Sent, n.Finished, n.Requeued
	}
	for i := range c.pubs {
		if p := &c.pubs[i]; topic == "" || p.topic.Name() == topic {
			cs.PubCounts = append(cs.PubCounts, httpapi.PubCount{Topic: p.topic.Name(), Count: p.count})
			break
		}
	}
	return cs
}
