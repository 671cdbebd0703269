package nsq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// restFirst and restMax bound how long an nsqd that has failed is left alone;
	// the time doubles with each failure.
	restFirst, restMax = 20 * time.Millisecond, 2 * time.Second
	// retriersMax is how many failed publishes are tried again at once.
	retriersMax = 64
	// retryFor is how long a publish without a context is tried.
	retryFor = time.Minute
)

// FailoverProducer publishes to any of several nsqds: each message goes to the next
// one in turn that works, and to another one if that fails.
//
// A publish is tried again when it is not known to have been refused: the
// connection could not be made, or was lost before the answer came, or the nsqd
// could not store the message. The first nsqd may have taken it all the same, so a
// message can be published twice. That is the price; a Producer never pays it.
//
// A publish without a context is tried for a minute. Every asynchronous publish
// completes exactly once, in whatever order. An nsqd that hangs is given up after
// Config.ReadTimeout, so a lower one, with a HeartbeatInterval below it, is quicker.
type FailoverProducer struct {
	config *Config
	log    logging

	mu      sync.Mutex
	members []*member
	fixed   map[string]bool // addresses that were given, and are never removed
	lookups []string        // URLs that are queried
	stopped bool

	turn  atomic.Uint64
	ctx   context.Context // ends when Stop is called
	stop  context.CancelFunc
	work  sync.WaitGroup
	slots chan struct{} // one for each asynchronous publish under way

	retryMu  sync.Mutex
	retries  []*asyncPublish
	retriers int

	results results
}

// member is one of the nsqds.
type member struct {
	p *Producer

	mu       sync.Mutex
	failures int
	rest     atomic.Int64 // leave it alone until then, nanoseconds since 1970; 0: it works
}

// NewFailoverProducer returns a producer for the nsqds at these addresses, and
// those that ConnectToNSQLookupds adds. It fails if the configuration is not valid,
// and does not connect.
func NewFailoverProducer(addresses []string, config *Config) (*FailoverProducer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	f := &FailoverProducer{
		config: config.copied(),
		fixed:  make(map[string]bool),
		slots:  make(chan struct{}, pendingMax),
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.results.init(func() { <-f.slots })
	standard(&f.log)
	for _, addr := range addresses {
		f.fixed[addr] = true
		if err := f.addLocked(addr); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// addLocked adds an nsqd, unless it is there.
func (f *FailoverProducer) addLocked(addr string) error {
	if slices.ContainsFunc(f.members, func(m *member) bool { return m.p.addr == addr }) {
		return nil
	}
	p, err := NewProducer(addr, f.config)
	if err != nil {
		return err
	}
	p.log.state.Store(f.log.state.Load())
	// Readers have the old slice.
	f.members = append(slices.Clone(f.members), &member{p: p})
	return nil
}

// SetLogger sets the logger of all levels and the lowest level that is logged. A
// nil logger is silent.
func (f *FailoverProducer) SetLogger(l logger, lvl LogLevel) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log.set(l, lvl, "")
	for _, m := range f.members {
		m.p.SetLogger(l, lvl)
	}
}

// String returns the addresses, with commas between them.
func (f *FailoverProducer) String() string {
	var addrs []string
	for _, m := range f.list() {
		addrs = append(addrs, m.p.addr)
	}
	return strings.Join(addrs, ",")
}

func (f *FailoverProducer) list() []*member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.members
}

// ConnectToNSQLookupds adds all nsqds that the nsqlookupds at these addresses know
// of, whatever their topics, now and whenever there are new ones. Those that have
// gone there, and fail, are removed. That a query failed is only logged. It fails
// for what is no address, and with ErrStopped.
func (f *FailoverProducer) ConnectToNSQLookupds(addresses []string) error {
	var urls []string
	for _, addr := range addresses {
		u, err := endpoint(addr, "/nodes", url.Values{})
		if err != nil {
			return err
		}
		urls = append(urls, u)
	}
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		return ErrStopped
	}
	first := len(f.lookups) == 0 && len(urls) > 0
	f.lookups = append(f.lookups, urls...)
	f.mu.Unlock()
	client := ownClient(f.ctx)
	f.query(client)
	f.mu.Lock()
	defer f.mu.Unlock()
	if first && !f.stopped {
		f.work.Go(func() { f.poll(client) })
	}
	return nil
}

// poll queries the nsqlookupds at each interval until Stop.
func (f *FailoverProducer) poll(client *http.Client) {
	ticker := time.NewTicker(f.config.LookupdPollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			f.query(client)
		case <-f.ctx.Done():
			return
		}
	}
}

func (f *FailoverProducer) query(client *http.Client) {
	f.mu.Lock()
	urls := slices.Clone(f.lookups)
	f.mu.Unlock()
	found := make(map[string]bool)
	complete := true
	for _, u := range urls {
		addrs, err := ask(f.ctx, client, f.config, u)
		if err != nil {
			complete = false
			if f.ctx.Err() == nil {
				f.log.line(LogLevelError, "failover", "error querying nsqlookupd (%s) - %s", u, err)
			}
			continue
		}
		for _, addr := range addrs {
			found[addr] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return
	}
	for _, addr := range slices.Sorted(maps.Keys(found)) {
		if err := f.addLocked(addr); err != nil {
			f.log.line(LogLevelError, "failover", "(%s) %s", addr, err)
		}
	}
	if !complete {
		return // who is missing may be known to the one that did not answer
	}
	f.members = slices.DeleteFunc(slices.Clone(f.members), func(m *member) bool {
		gone := !found[m.p.addr] && !f.fixed[m.p.addr] && m.rest.Load() > 0
		if gone {
			f.work.Go(m.p.Stop)
		}
		return gone
	})
}

// pick returns the next nsqd in turn that works, or the one that may be tried
// again first, and how long to wait for that. Without any it returns nil.
func (f *FailoverProducer) pick() (next *member, wait time.Duration) {
	members := f.list()
	if len(members) == 0 {
		return nil, restFirst
	}
	first := f.turn.Add(1)
	now := time.Now().UnixNano()
	for i := range uint64(len(members)) {
		m := members[(first+i)%uint64(len(members))]
		rest := m.rest.Load()
		if rest <= now {
			return m, 0
		}
		if next == nil || rest < next.rest.Load() {
			next = m
		}
	}
	return next, max(0, time.Duration(next.rest.Load()-now))
}

// worked and failed note how a publish went.
func (m *member) worked() {
	if m.rest.Load() != 0 {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.failures = 0
		m.rest.Store(0)
	}
}

func (m *member) failed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now().UnixNano()
	if m.rest.Load() > now {
		return // many publishes fail at once when a connection is lost
	}
	d := min(restFirst<<min(m.failures, 10), restMax)
	m.failures++
	m.rest.Store(now + int64(d/2+rand.N(d/2+1)))
}

// refused reports whether an error is the last word on a publish: another nsqd
// would say the same.
func refused(err error) bool {
	var e ErrProtocol
	if !errors.As(err, &e) {
		return err == errBatchSize
	}
	switch code, _, _ := strings.Cut(e.Reason, " "); code {
	case "E_PUB_FAILED", "E_MPUB_FAILED", "E_DPUB_FAILED":
		return false
	}
	return true
}

// publish tries until one nsqd has answered. Once ctx has ended, whatever else has
// ended at the same moment, the error says so.
func (f *FailoverProducer) publish(ctx context.Context, q request) error {
	if ctx.Done() == nil {
		limited, cancel := context.WithTimeout(ctx, retryFor)
		defer cancel()
		ctx = limited
	}
	var last error
	for {
		if err := ctx.Err(); err != nil {
			return joined(last, err)
		}
		if f.ctx.Err() != nil {
			return ErrStopped
		}
		m, wait := f.pick()
		if wait > 0 {
			f.sleep(ctx, wait)
			continue
		}
		err := m.p.publish(ctx, q)
		switch {
		case err == nil:
			m.worked()
			return nil
		case refused(err):
			return err
		case err == ctx.Err():
			continue // which is not the nsqd's failure
		}
		last = err
		m.failed()
	}
}

// joined returns the nsqd's error, if there was one, together with err.
func joined(last, err error) error {
	if last != nil {
		return fmt.Errorf("%w, and then: %w", last, err)
	}
	return err
}

// sleep waits; it ends with ctx and with Stop.
func (f *FailoverProducer) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-f.ctx.Done():
	}
}

// asyncPublish is an asynchronous publish until it completes.
type asyncPublish struct {
	q  request
	tx *ProducerTransaction // nil if nobody wants to know
}

// publishAsync hands the publish to the next nsqd, and to the retriers if that
// fails, now or later.
func (f *FailoverProducer) publishAsync(q request, done chan *ProducerTransaction, args []any) error {
	if err := q.check(); err != nil {
		return err
	}
	select {
	case f.slots <- struct{}{}:
	case <-f.ctx.Done():
		return ErrStopped
	}
	a := &asyncPublish{q: q}
	if done != nil {
		a.tx = &ProducerTransaction{done: done, Args: args}
	}
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		<-f.slots
		return ErrStopped
	}
	f.work.Add(1) // until it completes
	f.mu.Unlock()

	m, wait := f.pick()
	if wait > 0 {
		f.retry(a)
		return nil
	}
	tx := &ProducerTransaction{notify: func(err error) {
		switch {
		case err == nil:
			m.worked()
			f.complete(a, nil)
		case refused(err):
			f.complete(a, err)
		default:
			m.failed()
			f.retry(a)
		}
	}}
	if err := m.p.submit(f.ctx, &a.q, tx); err != nil {
		tx.notify(err)
	}
	return nil
}

// complete ends an asynchronous publish. It is called once for each.
func (f *FailoverProducer) complete(a *asyncPublish, err error) {
	if a.tx != nil {
		a.tx.Error = err
		f.results.deliver(a.tx)
	} else {
		<-f.slots
	}
	f.work.Done()
}

// retry leaves a publish to a retrier. It does not wait.
func (f *FailoverProducer) retry(a *asyncPublish) {
	f.retryMu.Lock()
	defer f.retryMu.Unlock()
	f.retries = append(f.retries, a)
	if f.retriers < retriersMax {
		f.retriers++
		go f.retrier()
	}
}

// retrier publishes what has failed, until there is nothing left. The publishes
// that it completes are what Stop waits for.
func (f *FailoverProducer) retrier() {
	for {
		f.retryMu.Lock()
		if len(f.retries) == 0 {
			f.retriers--
			f.retries = nil
			f.retryMu.Unlock()
			return
		}
		a := f.retries[0]
		f.retries = f.retries[1:]
		f.retryMu.Unlock()
		f.complete(a, f.publish(context.Background(), a.q))
	}
}

// Publish publishes one message and waits until an nsqd has answered.
func (f *FailoverProducer) Publish(topic string, body []byte) error {
	return f.publish(context.Background(), request{topic: topic, body: body})
}

// MultiPublish publishes several messages to one nsqd, all or none, and waits until
// it has answered.
func (f *FailoverProducer) MultiPublish(topic string, bodies [][]byte) error {
	return f.publish(context.Background(), request{kind: multi, topic: topic, bodies: bodies})
}

// DeferredPublish publishes a message that is delivered after delay, and waits until
// an nsqd has answered.
func (f *FailoverProducer) DeferredPublish(topic string, delay time.Duration, body []byte) error {
	return f.publish(context.Background(), request{kind: deferred, topic: topic, delay: delay, body: body})
}

// PublishContext is Publish that is tried until ctx ends. The error is then the
// context's, for errors.Is, together with what the last nsqd that failed has said.
func (f *FailoverProducer) PublishContext(ctx context.Context, topic string, body []byte) error {
	return f.publish(ctx, request{topic: topic, body: body})
}

// MultiPublishContext is MultiPublish that is tried until ctx ends.
func (f *FailoverProducer) MultiPublishContext(ctx context.Context, topic string, bodies [][]byte) error {
	return f.publish(ctx, request{kind: multi, topic: topic, bodies: bodies})
}

// DeferredPublishContext is DeferredPublish that is tried until ctx ends.
func (f *FailoverProducer) DeferredPublishContext(ctx context.Context, topic string, delay time.Duration, body []byte) error {
	return f.publish(ctx, request{kind: deferred, topic: topic, delay: delay, body: body})
}

// PublishAsync publishes one message and sends the result to doneChan, as
// Producer.PublishAsync does, except that the results come in any order, and that
// the body must not be changed before.
func (f *FailoverProducer) PublishAsync(topic string, body []byte, doneChan chan *ProducerTransaction,
	args ...interface{},
) error {
	return f.publishAsync(request{topic: topic, body: body}, doneChan, args)
}

// MultiPublishAsync is MultiPublish in the manner of PublishAsync.
func (f *FailoverProducer) MultiPublishAsync(topic string, bodies [][]byte, doneChan chan *ProducerTransaction,
	args ...interface{},
) error {
	return f.publishAsync(request{kind: multi, topic: topic, bodies: bodies}, doneChan, args)
}

// DeferredPublishAsync is DeferredPublish in the manner of PublishAsync.
func (f *FailoverProducer) DeferredPublishAsync(topic string, delay time.Duration, body []byte,
	doneChan chan *ProducerTransaction, args ...interface{},
) error {
	return f.publishAsync(request{kind: deferred, topic: topic, delay: delay, body: body}, doneChan, args)
}

// Stop ends the producer. Publishes that have no answer complete with an error,
// though an nsqd may have taken them; later ones get ErrStopped. It returns when
// every connection is closed and every result has been sent to its done channel.
func (f *FailoverProducer) Stop() {
	f.mu.Lock()
	f.stopped = true
	members := f.members
	f.mu.Unlock()
	f.stop()
	for _, m := range members {
		m.p.Stop()
	}
	f.work.Wait()
	f.results.stop()
}
