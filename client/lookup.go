package nsq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// lookupBodyMax bounds what is read of an nsqlookupd's answer.
	lookupBodyMax = 64 << 20
	// connectsMax is how many nsqds are connected to at once.
	connectsMax = 16
)

// lookups is what a consumer knows of nsqlookupds. All but wake is guarded by the
// consumer's mutex.
type lookups struct {
	endpoints []string     // URLs that are queried
	client    *http.Client // nil: own
	own       *http.Client
	polling   bool
	wake      chan struct{} // asks for a query soon
}

func (l *lookups) init() {
	l.wake = make(chan struct{}, 1)
}

// look asks for a query now. Requests that come together are one.
func (l *lookups) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// ConnectToNSQLookupd adds an nsqlookupd, a host:port or a URL, whose nsqds the
// consumer connects to, now and whenever there are new ones. The first one is
// queried before the call returns; that a query failed is only logged.
func (r *Consumer) ConnectToNSQLookupd(addr string) error {
	return r.ConnectToNSQLookupds([]string{addr})
}

// ConnectToNSQLookupds adds all addresses, up to the first that is none.
func (r *Consumer) ConnectToNSQLookupds(addresses []string) error {
	var first bool
	var failed error
	r.mu.Lock()
	for _, addr := range addresses {
		if failed = r.connectableLocked(); failed != nil {
			break
		}
		var endpoint string
		if endpoint, failed = lookupEndpoint(addr, r.topic); failed != nil {
			break
		}
		if !slices.Contains(r.lookup.endpoints, endpoint) {
			r.lookup.endpoints = append(r.lookup.endpoints, endpoint)
		}
	}
	if len(r.lookup.endpoints) > 0 && !r.lookup.polling {
		first, r.lookup.polling = true, true
	}
	r.mu.Unlock()
	if first {
		r.queryLookupds()
		r.mu.Lock()
		if !r.stopped {
			r.work.Go(r.poll)
		}
		r.mu.Unlock()
	}
	return failed
}

// DisconnectFromNSQLookupd removes an nsqlookupd. It fails with ErrNotConnected if
// it was not added, and if it is the last one. Connections stay.
func (r *Consumer) DisconnectFromNSQLookupd(addr string) error {
	endpoint, err := lookupEndpoint(addr, r.topic)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.lookup.endpoints, endpoint)
	if i < 0 {
		return ErrNotConnected
	}
	if len(r.lookup.endpoints) == 1 {
		return fmt.Errorf("cannot disconnect from only remaining nsqlookupd HTTP address %s", addr)
	}
	r.lookup.endpoints = slices.Delete(r.lookup.endpoints, i, i+1)
	return nil
}

// lookupEndpoint makes the URL to query of a host:port, or of a URL that may have
// a path and parameters of its own.
func lookupEndpoint(addr, topic string) (string, error) {
	return endpoint(addr, "/lookup", url.Values{"topic": {topic}})
}

func endpoint(addr, path string, query url.Values) (string, error) {
	if !strings.Contains(addr, "://") {
		addr = "http://" + addr
	}
	u, err := url.Parse(addr)
	if err != nil {
		return "", err
	}
	if u.Port() == "" {
		return "", errors.New("missing port")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = path
	}
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", err
	}
	for name, values := range query {
		params[name] = values
	}
	u.RawQuery = params.Encode()
	return u.String(), nil
}

// poll queries the nsqlookupds at each interval, and when asked. It ends when the
// consumer stops.
func (r *Consumer) poll() {
	defer r.logf(LogLevelInfo, "exiting lookupdLoop")
	interval := r.config.LookupdPollInterval
	// Consumers that were started together shall not poll together.
	wait := interval + time.Duration(rand.Float64()*r.config.LookupdPollJitter*float64(interval))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.lookup.wake:
		case <-r.serving.Done():
			return
		}
		timer.Reset(min(interval, r.queryLookupds()))
	}
}

// queryLookupds asks all nsqlookupds and connects to what they name. It returns
// how long the next query may be late: an nsqd that has failed is left alone for
// a while.
func (r *Consumer) queryLookupds() time.Duration {
	next := r.config.LookupdPollInterval
	r.mu.Lock()
	endpoints := slices.Clone(r.lookup.endpoints)
	filter := r.filter
	r.mu.Unlock()

	found, answered := r.askAll(endpoints)
	if answered == 0 {
		next = min(next, time.Second+rand.N(time.Second))
	}
	if filter != nil {
		found = filter.Filter(found)
	}
	tokens := make(chan struct{}, connectsMax)
	var connects sync.WaitGroup
	for _, addr := range found {
		wait, ok := r.mayConnect(addr)
		if !ok {
			continue
		}
		if wait > 0 {
			next = min(next, wait)
			continue
		}
		tokens <- struct{}{}
		connects.Go(func() {
			defer func() { <-tokens }()
			if err := r.connectTo(addr, false); err != nil && err != ErrAlreadyConnected && err != errConsumerStopped {
				r.logf(LogLevelError, "(%s) error connecting to nsqd - %s", addr, err)
				r.lookup.look()
			}
		})
	}
	connects.Wait()
	return max(next, time.Millisecond)
}

// mayConnect reports whether there is no connection to addr, and how long to leave
// it alone.
func (r *Consumer) mayConnect(addr string) (wait time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connecting[addr] != nil || r.connections[addr] != nil {
		return 0, false
	}
	return r.known[addr].wait(), true
}

// askAll returns the nsqds that any nsqlookupd names, sorted, and how many of the
// nsqlookupds have answered.
func (r *Consumer) askAll(endpoints []string) (found []string, answered int) {
	var mu sync.Mutex
	var asks sync.WaitGroup
	for _, endpoint := range endpoints {
		asks.Go(func() {
			r.logf(LogLevelInfo, "querying nsqlookupd %s", endpoint)
			addrs, err := ask(r.serving, r.lookupClient(), r.config, endpoint)
			if err == errNoSuchTopic {
				r.logf(LogLevelInfo, "nsqlookupd (%s) knows no nsqd with this topic", endpoint)
				err = nil
			}
			if err != nil {
				if r.serving.Err() == nil {
					r.logf(LogLevelError, "error querying nsqlookupd (%s) - %s", endpoint, err)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answered++
			found = append(found, addrs...)
		})
	}
	asks.Wait()
	slices.Sort(found)
	return slices.Compact(found), answered
}

var errNoSuchTopic = errors.New("nsq: topic not found")

// ask queries one nsqlookupd.
func ask(ctx context.Context, client *http.Client, cfg *Config, endpoint string) ([]string, error) {
	limit := cfg.LookupdPollTimeout
	if limit <= 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.nsq; version=1.0")
	if cfg.AuthSecret != "" && cfg.LookupdAuthorization {
		req.Header.Set("Authorization", "Bearer "+cfg.AuthSecret)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, lookupBodyMax))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, errNoSuchTopic
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("got response %s %q", resp.Status, body[:min(len(body), 1024)])
	}
	return parseLookup(body, resp.Header.Get("X-NSQ-Content-Type") == "nsq; version=1.0")
}

// lookupClient returns the program's client, or one that keeps its connections
// until the consumer stops.
func (r *Consumer) lookupClient() *http.Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lookup.client != nil {
		return r.lookup.client
	}
	if r.lookup.own == nil {
		r.lookup.own = ownClient(r.ctx)
	}
	return r.lookup.own
}

// ownClient returns a client whose connections end with ctx.
func ownClient(ctx context.Context) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	context.AfterFunc(ctx, transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// parseLookup takes the nsqds' addresses out of an answer, which old nsqlookupds
// wrap once more.
func parseLookup(body []byte, plain bool) ([]string, error) {
	if len(body) == 0 {
		return nil, nil
	}
	if !plain {
		var wrapper struct {
			Data json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(body, &wrapper); err != nil {
			return nil, err
		}
		body = wrapper.Data
		if len(body) == 0 {
			return nil, nil
		}
	}
	var answer struct {
		Producers []struct {
			BroadcastAddress string `json:"broadcast_address"`
			TCPPort          int    `json:"tcp_port"`
		} `json:"producers"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	var addrs []string
	for _, p := range answer.Producers {
		addrs = append(addrs, net.JoinHostPort(p.BroadcastAddress, strconv.Itoa(p.TCPPort)))
	}
	return addrs, nil
}
