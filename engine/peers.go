package engine

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/engine/discover"
	"github.com/zsqio/zsq/engine/httpapi"
	"github.com/zsqio/zsq/internal/peerhttp"
)

// peers is what the daemon has to do with nsqlookupd.
type peers struct {
	e         *Engine
	http      *peerhttp.Client
	registrar *discover.Registrar
	ctx       context.Context
	cancel    context.CancelFunc
	asking    chan struct{} // a slot for each topic whose channels are being asked for

	mu      sync.Mutex // guards what follows
	running bool       // topics that come are new, and not from an earlier run
	list    []string   // addresses as they were last set, nil after null
	waiting map[*broker.Topic]chan struct{}
}

// askingMax bounds the questions that are under way at a time. A topic that gets
// no slot in time begins without its channels.
const askingMax = 64

func newPeers(e *Engine) *peers {
	o := e.opts
	p := &peers{e: e, list: o.NSQLookupdTCPAddresses, waiting: map[*broker.Topic]chan struct{}{}, asking: make(chan struct{}, askingMax)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.http = peerhttp.New(peerhttp.Options{
		ConnectTimeout: o.HTTPClientConnectTimeout, RequestTimeout: o.HTTPClientRequestTimeout, BodyMax: o.MaxBodySize,
	})
	p.registrar = discover.New(discover.Options{
		Node: p.node, Registry: p, HTTP: p.http, ReplyMax: o.MaxBodySize,
		Logf: func(level int, format string, args ...any) { e.log.printf(LogLevel(level), format, args...) },
	})
	return p
}

// start begins to register. What exists by now is not asked for.
func (p *peers) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = true
	p.registrar.SetAddresses(p.list)
}

// stop leaves the peers without a word, which is how nsqlookupd learns of it.
// Topics whose channels are being asked for keep their messages.
func (p *peers) stop() {
	p.cancel()
	p.registrar.Close()
	p.http.Close()
}

// node is what nsqlookupds are told of this daemon.
func (p *peers) node() discover.Node {
	o := p.e.opts
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return discover.Node{
		BroadcastAddress: o.BroadcastAddress, Hostname: host, Version: Version,
		TCPPort: p.e.broadcastPort(o.BroadcastTCPPort, port(p.e.tcpAddr)), HTTPPort: p.e.broadcastPort(o.BroadcastHTTPPort, port(p.e.httpAddr)),
		TopologyRegion: o.TopologyRegion, TopologyZone: o.TopologyZone,
	}
}

// broadcastPort is the port given, or else the one listened on; a unix socket
// has none.
func (e *Engine) broadcastPort(given, real int) int {
	if given != 0 {
		return given
	}
	return max(0, real)
}

// Topics and Topic make peers a discover.Registry.
func (p *peers) Topics() []discover.Topic {
	var all []discover.Topic
	for _, t := range p.e.broker.Topics() {
		if !t.Exiting() {
			all = append(all, registryTopic(t))
		}
	}
	return all
}

// Topic returns the topic of that name as it is now.
func (p *peers) Topic(name string) (discover.Topic, bool) {
	t := p.e.broker.Find([]byte(name))
	if t == nil || t.Exiting() {
		return discover.Topic{}, false
	}
	return registryTopic(t), true
}

func registryTopic(t *broker.Topic) discover.Topic {
	all := t.Channels()
	r := discover.Topic{Name: t.Name(), Birth: t, Channels: make([]string, len(all))}
	for i, c := range all {
		r.Channels[i] = c.Name()
	}
	return r
}

// created is told of a new topic, perhaps on a loop, and asks for its channels
// beside. Until the answer is there, or its time is over, the topic keeps its
// messages, and nobody waits.
func (p *peers) created(t *broker.Topic) (wait bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running || !p.registrar.HasPeers() {
		return false
	}
	o := p.e.opts
	done := make(chan struct{})
	// The time runs from now, not from when there is a slot.
	ctx, cancel := context.WithTimeout(p.ctx, o.HTTPClientConnectTimeout+o.HTTPClientRequestTimeout)
	if !p.e.help(func() {
		defer cancel()
		defer close(done)
		p.addChannels(ctx, t)
		if p.ctx.Err() == nil {
			t.Release()
		}
		p.mu.Lock()
		delete(p.waiting, t)
		p.mu.Unlock()
	}) {
		cancel()
		return false
	}
	p.waiting[t] = done
	return true
}

func (p *peers) addChannels(ctx context.Context, t *broker.Topic) {
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	case <-ctx.Done():
		p.e.log.printf(LogWarn, "no time was left to ask nsqlookupd for the channels of topic %s", t.Name())
		return
	}
	names, err := p.registrar.Channels(ctx, t.Name())
	if err != nil {
		p.e.log.printf(LogWarn, "failed to query nsqlookupd for channels of topic %s - %s", t.Name(), strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for _, name := range names {
		if _, err := t.Channel(name); err != nil {
			p.e.log.printf(LogWarn, "channel %s of topic %s is not made - %v", name, t.Name(), err)
			return
		}
	}
}

// await returns when a topic has the channels that it begins with. It must not
// be called on a loop.
func (p *peers) await(t *broker.Topic) {
	p.mu.Lock()
	done := p.waiting[t]
	p.mu.Unlock()
	if done != nil {
		<-done
	}
}

// addresses returns the list as it was last set.
func (p *peers) addresses() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.list)
}

// setAddresses takes a JSON list of addresses, or null for none.
func (p *peers) setAddresses(value []byte) error {
	var list []string
	if err := json.Unmarshal(value, &list); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = list
	if p.running {
		p.registrar.SetAddresses(list)
	}
	return nil
}

// changed tells who writes topics down and who registers them.
func (e *Engine) changed(topic string, ephemeral bool) {
	e.meta.changed(ephemeral)
	e.peers.registrar.Changed(topic)
}

// A setting that can be changed while the daemon runs, and those of which the
// value in effect differs from the one given.
func (e *Engine) option(name string) (any, bool) {
	switch name {
	case "log_level":
		return LogLevel(e.log.level.Load()), true
	case "statsd_prefix":
		return e.statsdPrefix(), true
	case "log_format":
		return string(e.opts.LogFormat), true
	case "metrics":
		return string(e.opts.Metrics), true
	case "nsqlookupd_tcp_addresses":
		return e.peers.addresses(), true
	case "broadcast_tcp_port":
		return e.broadcastPort(e.opts.BroadcastTCPPort, port(e.tcpAddr)), true
	case "broadcast_http_port":
		return e.broadcastPort(e.opts.BroadcastHTTPPort, port(e.httpAddr)), true
	}
	return e.opts.Lookup(name)
}

func (e *Engine) setOption(name string, value []byte) error {
	switch name {
	case "log_level":
		var level LogLevel
		if err := level.Set(string(value)); err != nil {
			return err
		}
		e.log.level.Store(int64(level))
		return nil
	case "nsqlookupd_tcp_addresses":
		return e.peers.setAddresses(value)
	default:
		return httpapi.ErrInvalidOption
	}
}
