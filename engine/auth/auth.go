// Package auth asks auth servers what a client may do, and reads their answers.
//
// Ask waits for a server and is called on a helper goroutine; what it returns is
// asked on the client's loop, where nothing waits. An answer is believed as a
// whole or not at all: a permission or a regular expression that makes no sense,
// or a time to live that is none, refuses the client.
package auth

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zsqio/zsq/internal/peerhttp"
)

// Options are what New needs; all but Post must be set.
type Options struct {
	Addresses []string // host:port, or URLs
	Post      bool     // ask with POST, else with GET
	HTTP      *peerhttp.Client
	// Timeout bounds an Ask in all, the wait for other clients' questions and
	// every server that does not answer included.
	Timeout time.Duration
}

// asksMax bounds the questions that are under way at a time.
const asksMax = 64

// distrust is how long a server that has failed is asked last.
const distrust = 5 * time.Second

// An Authority is the auth servers together. It may be used from any goroutine.
type Authority struct {
	o       Options
	servers []*server
	slots   chan struct{}

	mu       sync.Mutex
	patterns map[string]*regexp.Regexp
}

type server struct {
	url    string
	failed atomic.Int64 // Unix ns of the last failure, 0 for none since an answer
}

// New makes an authority.
func New(o Options) *Authority {
	a := &Authority{o: o, slots: make(chan struct{}, asksMax), patterns: map[string]*regexp.Regexp{}}
	for _, address := range o.Addresses {
		if !strings.Contains(address, "://") {
			address = "http://" + address + "/auth"
		}
		a.servers = append(a.servers, &server{url: address})
	}
	return a
}

// A Query is who asks to be let in.
type Query struct {
	RemoteIP   string // "" for a unix socket
	TLS        bool
	CommonName string // of the client's certificate, "" without one
	Secret     string
}

func (q *Query) values() url.Values {
	return url.Values{
		"remote_ip":   {q.RemoteIP},
		"tls":         {strconv.FormatBool(q.TLS)},
		"secret":      {q.Secret},
		"common_name": {q.CommonName},
	}
}

// Ask puts the question to the servers, beginning anywhere, until one answers.
// The error tells of each that did not.
func (a *Authority) Ask(ctx context.Context, q Query) (*Permissions, error) {
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return nil, errors.New("too many questions are waiting for the auth servers")
	}
	var errs []error
	for _, s := range a.order(time.Now().UnixNano()) {
		p, err := a.askOne(ctx, s, &q)
		if err == nil {
			s.failed.Store(0)
			return p, nil
		}
		s.failed.Store(time.Now().UnixNano())
		errs = append(errs, fmt.Errorf("auth server %s: %w", withoutSecrets(s.url), err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// order begins with any server and goes round; those that failed a moment ago
// come last, so that a server that hangs does not hold up every second client.
func (a *Authority) order(nowNs int64) []*server {
	n := len(a.servers)
	first := rand.IntN(n)
	var good, bad []*server
	for i := range n {
		s := a.servers[(first+i)%n]
		if at := s.failed.Load(); at != 0 && nowNs-at < int64(distrust) {
			bad = append(bad, s)
		} else {
			good = append(good, s)
		}
	}
	return append(good, bad...)
}

func (a *Authority) askOne(ctx context.Context, s *server, q *Query) (*Permissions, error) {
	var raw answer
	var err error
	if a.o.Post {
		err = a.o.HTTP.Post(ctx, s.url, q.values(), &raw)
	} else {
		sep := "?"
		if strings.Contains(s.url, "?") {
			sep = "&"
		}
		err = a.o.HTTP.Get(ctx, s.url+sep+q.values().Encode(), &raw)
	}
	if err != nil {
		return nil, err
	}
	return a.read(&raw)
}

// withoutSecrets is a URL for the log.
func withoutSecrets(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "with a bad URL"
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

// answer is what a server says, key for key.
type answer struct {
	TTL            int64           `json:"ttl"` // seconds
	Identity       string          `json:"identity"`
	IdentityURL    string          `json:"identity_url"`
	Authorizations []authorization `json:"authorizations"`
}

type authorization struct {
	Topic       string   `json:"topic"`
	Channels    []string `json:"channels"`
	Permissions []string `json:"permissions"`
}

// Permissions are what a client may do for a time. They do not change and may be
// read from any goroutine.
type Permissions struct {
	Identity    string
	IdentityURL string
	Count       int // of authorizations, as the client is told
	TTL         time.Duration
	grants      []grant
}

type grant struct {
	publish, subscribe bool
	topic              *regexp.Regexp
	channels           []*regexp.Regexp
}

// read checks an answer and compiles its patterns.
func (a *Authority) read(raw *answer) (*Permissions, error) {
	if raw.TTL <= 0 {
		return nil, fmt.Errorf("invalid TTL %d (must be > 0)", raw.TTL)
	}
	p := &Permissions{
		Identity: raw.Identity, IdentityURL: raw.IdentityURL, Count: len(raw.Authorizations),
		TTL: time.Duration(min(raw.TTL, math.MaxInt64/4/int64(time.Second))) * time.Second,
	}
	for _, auth := range raw.Authorizations {
		var g grant
		for _, word := range auth.Permissions {
			switch word {
			case "publish":
				g.publish = true
			case "subscribe":
				g.subscribe = true
			default:
				return nil, fmt.Errorf("unknown permission %.100q", word)
			}
		}
		var err error
		if g.topic, err = a.pattern(auth.Topic); err != nil {
			return nil, fmt.Errorf("topic pattern: %w", err)
		}
		for _, c := range auth.Channels {
			re, err := a.pattern(c)
			if err != nil {
				return nil, fmt.Errorf("channel pattern: %w", err)
			}
			g.channels = append(g.channels, re)
		}
		p.grants = append(p.grants, g)
	}
	return p, nil
}

// patternsMax bounds the compiled patterns that clients share.
const patternsMax = 1024

func (a *Authority) pattern(s string) (*regexp.Regexp, error) {
	a.mu.Lock()
	re := a.patterns[s]
	a.mu.Unlock()
	if re != nil {
		return re, nil
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.patterns) >= patternsMax {
		clear(a.patterns)
	}
	a.patterns[s] = re
	return re, nil
}

// MaySubscribe reports whether the client may subscribe to the channel.
func (p *Permissions) MaySubscribe(topic, channel []byte) bool {
	for i := range p.grants {
		if g := &p.grants[i]; g.subscribe && g.allows(topic, channel) {
			return true
		}
	}
	return false
}

// MayPublish reports whether the client may publish to the topic. As in nsqd,
// one of an authorization's channel patterns must match the empty string.
func (p *Permissions) MayPublish(topic []byte) bool {
	for i := range p.grants {
		if g := &p.grants[i]; g.publish && g.allows(topic, nil) {
			return true
		}
	}
	return false
}

func (g *grant) allows(topic, channel []byte) bool {
	if !g.topic.Match(topic) {
		return false
	}
	for _, re := range g.channels {
		if re.Match(channel) {
			return true
		}
	}
	return false
}
