// Package discover tells nsqlookupds which topics and channels this daemon has,
// and asks them which channels a new topic has elsewhere.
//
// Each nsqlookupd has a goroutine of its own, so that one that hangs, lies or is
// gone harms nobody. It does not replay events: it compares what it has
// registered with what there is, for the topics that Changed has named, and
// sends the difference. So nothing queues up behind a slow peer, and whatever
// order things happen in, what is registered in the end is what there is.
//
//	Changed(topic) ──► the peer's set of topics to look at
//	                   │  Registry.Topic: what there is now
//	                   ▼
//	  UNREGISTER, REGISTER, in batches; one reply each
//
// A connection begins with IDENTIFY and all topics, is kept alive by PING, and
// its end is noticed at once; then the address is looked up anew and dialled
// again, after a pause that grows. When the address is a name that no longer
// leads to where the connection goes, the connection is changed over.
//
// No function of this package but Channels and Close waits for a peer.
package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/zsqio/zsq/internal/peerhttp"
	"github.com/zsqio/zsq/internal/wire"
)

// Node is how the daemon introduces itself, key for key as nsqlookupd reads it.
type Node struct {
	BroadcastAddress string `json:"broadcast_address"`
	Hostname         string `json:"hostname"`
	HTTPPort         int    `json:"http_port"`
	TCPPort          int    `json:"tcp_port"`
	TopologyRegion   string `json:"topology_region,omitempty"`
	TopologyZone     string `json:"topology_zone,omitempty"`
	Version          string `json:"version"`
}

// Topic is a topic with its channels, sorted, at one instant. Birth is any
// comparable value that a later topic of the same name does not share.
type Topic struct {
	Name     string
	Birth    any
	Channels []string
}

// Registry is what there is to register. Its methods are called from any
// goroutine.
type Registry interface {
	Topics() []Topic
	Topic(name string) (t Topic, ok bool)
}

// Levels for Options.Logf, numbered as nsqd numbers its log levels.
const (
	LevelInfo  = 2
	LevelWarn  = 3
	LevelError = 4
)

// Options are what New needs. Node, Registry, HTTP, ReplyMax and Logf must be
// set; a zero duration means the default.
type Options struct {
	Node     func() Node // asked at each IDENTIFY
	Registry Registry
	HTTP     *peerhttp.Client
	ReplyMax int64 // bytes of a reply
	Logf     func(level int, format string, args ...any)

	PingEvery    time.Duration // 15 s
	DialTimeout  time.Duration // 1 s
	ReplyTimeout time.Duration // of a batch of commands; 5 s
	RetryMin     time.Duration // first pause after a connection has ended; 250 ms
	RetryMax     time.Duration // longest such pause; 15 s

	// Resolve looks a host name up, Dial connects; nil: the system's.
	Resolve func(ctx context.Context, host string) ([]string, error)
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

func (o *Options) setDefaults() {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&o.PingEvery, 15*time.Second)
	set(&o.DialTimeout, time.Second)
	set(&o.ReplyTimeout, 5*time.Second)
	set(&o.RetryMin, 250*time.Millisecond)
	set(&o.RetryMax, 15*time.Second)
	if o.Resolve == nil {
		o.Resolve = net.DefaultResolver.LookupHost
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
}

// A Registrar keeps the nsqlookupds informed. Its methods may be called from any
// goroutine.
type Registrar struct {
	o Options

	mu     sync.Mutex
	peers  []*peer // in the order given, without duplicates
	closed bool
	wg     sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc
}

// New makes a registrar without peers.
func New(o Options) *Registrar {
	o.setDefaults()
	r := &Registrar{o: o}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// SetAddresses makes these the nsqlookupds: new ones are dialled, those that are
// not named any more are left. An address given twice counts once.
func (r *Registrar) SetAddresses(addresses []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	var kept []*peer
	for _, a := range addresses {
		same := func(p *peer) bool { return p.address == a }
		if slices.ContainsFunc(kept, same) {
			continue
		}
		if i := slices.IndexFunc(r.peers, same); i >= 0 {
			kept = append(kept, r.peers[i])
			continue
		}
		p := newPeer(r, a)
		kept = append(kept, p)
		r.wg.Go(p.run)
	}
	for _, p := range r.peers {
		if !slices.Contains(kept, p) {
			p.cancel()
		}
	}
	r.peers = kept
}

// HasPeers reports whether there is an nsqlookupd to ask.
func (r *Registrar) HasPeers() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.peers) > 0
}

// Changed says that the topic, or a channel of it, came or went. It does not
// block.
func (r *Registrar) Changed(topic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		p.changed(topic)
	}
}

// Close leaves all peers, which is how they learn that this daemon is gone, and
// returns when the goroutines have ended.
func (r *Registrar) Close() {
	r.mu.Lock()
	r.closed = true
	r.peers = nil
	r.cancel()
	r.mu.Unlock()
	r.wg.Wait()
}

// channelsMax bounds what a lying nsqlookupd can make of a topic.
const channelsMax = 10_000

// ErrNoPeer says that no nsqlookupd has answered yet.
var ErrNoPeer = errors.New("no nsqlookupd is connected")

// Channels asks every nsqlookupd for the topic's channels and returns those that
// any of them names, ephemeral ones left out, sorted. A peer that is being
// dialled for the first time is waited for. With an error the channels are those
// that could be learned; the context bounds the wait.
func (r *Registrar) Channels(ctx context.Context, topic string) ([]string, error) {
	r.mu.Lock()
	peers := slices.Clone(r.peers)
	r.mu.Unlock()
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		found []string
		errs  []error
		asked int
	)
	for _, p := range peers {
		wg.Go(func() {
			names, err := p.channels(ctx, topic)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrNoPeer):
				return
			case err != nil:
				errs = append(errs, fmt.Errorf("%s: %w", p.address, err))
			}
			asked++
			found = append(found, names...)
		})
	}
	wg.Wait()
	if len(peers) > 0 && asked == 0 {
		return nil, ErrNoPeer
	}
	slices.Sort(found)
	found = slices.Compact(found)
	if len(found) > channelsMax {
		errs = append(errs, fmt.Errorf("%d channels for topic %s; %d are taken", len(found), topic, channelsMax))
		found = found[:channelsMax]
	}
	return found, errors.Join(errs...)
}

// channels asks one peer.
func (p *peer) channels(ctx context.Context, topic string) ([]string, error) {
	select {
	case <-p.tried:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	base := p.http.Load()
	if base == nil {
		return nil, ErrNoPeer
	}
	var answer struct {
		Channels []string `json:"channels"`
	}
	target := *base + "/channels?topic=" + url.QueryEscape(topic)
	if err := p.r.o.HTTP.Get(ctx, target, &answer); err != nil {
		return nil, err
	}
	var names []string
	bad := 0
	for _, name := range answer.Channels {
		switch {
		case !wire.ValidName(name):
			bad++
		case !wire.IsEphemeral(name):
			names = append(names, name)
		}
	}
	if bad > 0 {
		return names, fmt.Errorf("%d channel names of topic %s are not valid", bad, topic)
	}
	return names, nil
}

// httpBase is where a peer's HTTP API is by its own words; ok is false when they
// make no address.
func httpBase(host string, port int) (base string, ok bool) {
	if host == "" || len(host) > 255 || port < 1 || port > 65535 || strings.ContainsAny(host, "/?#@\\ %[]\"<>\x7f") {
		return "", false
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r < ' ' }) {
		return "", false
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(port)), true
}
