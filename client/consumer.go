package nsq

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// stopPatience is how long Stop waits for servers and handlers before it gives the
// connections up.
const stopPatience = 30 * time.Second

// Handler handles messages. With several goroutines it is called from all of them.
type Handler interface {
	// HandleMessage handles one message. Its error requeues the message, nil
	// finishes it, unless the handler has answered it or has disabled that.
	HandleMessage(message *Message) error
}

// HandlerFunc makes a function a Handler.
type HandlerFunc func(message *Message) error

// HandleMessage calls the function.
func (h HandlerFunc) HandleMessage(m *Message) error {
	return h(m)
}

// FailedMessageLogger is a Handler that is told of messages given up after
// Config.MaxAttempts.
type FailedMessageLogger interface {
	// LogFailedMessage is called before the message is finished unseen.
	LogFailedMessage(message *Message)
}

// DiscoveryFilter chooses among the nsqds that nsqlookupds have named.
type DiscoveryFilter interface {
	// Filter returns the addresses to connect to.
	Filter([]string) []string
}

// ConsumerStats counts what a consumer has done.
type ConsumerStats struct {
	MessagesReceived uint64
	MessagesFinished uint64
	MessagesRequeued uint64
	Connections      int
}

// Consumer receives the messages of one channel from any number of nsqds, and
// calls handlers with them. Handlers are added first, then it is connected. All
// its methods may be called from any goroutine.
type Consumer struct {
	// StopChan is closed when the consumer has stopped entirely.
	StopChan chan int

	id      int64
	topic   string
	channel string
	config  *Config
	log     logging
	inbox   inbox

	// unhandled counts messages that were received and that no handler has got
	// yet. The readers add, the handlers' goroutines subtract.
	unhandled atomic.Int64

	received atomic.Uint64
	finished atomic.Uint64
	requeued atomic.Uint64

	ready ready // shares, backoff

	mu          sync.Mutex
	filter      DiscoveryFilter
	connecting  map[string]*peer     // by address as given, as are all
	connections map[string]*peer     // subscribed, until OnClose
	direct      map[string]struct{}  // given to ConnectToNSQD: reconnected until removed
	known       map[string]*attempts // connected to once, not removed
	lookup      lookups
	handlers    int  // added
	running     int  // have not ended
	connectedTo bool // no more handlers
	stopped     bool
	draining    bool // the inbox is closed

	serving     context.Context // ends when Stop is called
	stopServing context.CancelFunc
	ctx         context.Context // ends when the handlers have ended
	cancel      context.CancelFunc
	work        sync.WaitGroup // goroutines that end with ctx
	exit        sync.Once
}

// NewConsumer returns a consumer of the topic's channel. It fails if a name or the
// configuration is not valid.
func NewConsumer(topic string, channel string, config *Config) (*Consumer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if !IsValidTopicName(topic) {
		return nil, errors.New("invalid topic name")
	}
	if !IsValidChannelName(channel) {
		return nil, errors.New("invalid channel name")
	}
	r := &Consumer{
		StopChan:    make(chan int),
		id:          instances.Add(1),
		topic:       topic,
		channel:     channel,
		config:      config.copied(),
		connecting:  make(map[string]*peer),
		connections: make(map[string]*peer),
		direct:      make(map[string]struct{}),
		known:       make(map[string]*attempts),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.serving, r.stopServing = context.WithCancel(r.ctx)
	r.inbox.init()
	r.lookup.init()
	r.ready.init(r)
	standard(&r.log)
	r.work.Go(r.ready.run)
	return r, nil
}

// Stats returns the counts so far.
func (r *Consumer) Stats() *ConsumerStats {
	r.mu.Lock()
	connections := len(r.connections)
	r.mu.Unlock()
	return &ConsumerStats{
		MessagesReceived: r.received.Load(),
		MessagesFinished: r.finished.Load(),
		MessagesRequeued: r.requeued.Load(),
		Connections:      connections,
	}
}

// SetLogger sets the logger of all levels and the lowest level that is logged. A
// nil logger is silent. It applies to later connections.
func (r *Consumer) SetLogger(l logger, lvl LogLevel) {
	r.log.set(l, lvl, "")
}

// SetLoggerForLevel sets the logger of one level.
func (r *Consumer) SetLoggerForLevel(l logger, lvl LogLevel) {
	r.log.setForLevel(l, lvl, "")
}

// SetLoggerLevel sets the lowest level that is logged.
func (r *Consumer) SetLoggerLevel(lvl LogLevel) {
	r.log.setLevel(lvl)
}

func (r *Consumer) logf(lvl LogLevel, format string, args ...any) {
	if r.log.enabled(lvl) {
		r.log.line(lvl, r.where(), format, args...)
	}
}

func (r *Consumer) where() string {
	return fmt.Sprintf("%3d [%s/%s]", r.id, r.topic, r.channel)
}

// SetBehaviorDelegate gives the consumer a DiscoveryFilter; it panics if cb is
// none.
func (r *Consumer) SetBehaviorDelegate(cb interface{}) {
	filter, ok := cb.(DiscoveryFilter)
	if !ok {
		panic("behavior delegate does not have any recognized methods")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.filter = filter
}

// SetLookupdHttpClient sets the client that asks nsqlookupds; nil is the default
// one. It applies to later queries.
//
//lint:ignore ST1003 go-nsq's name
func (r *Consumer) SetLookupdHttpClient(httpclient *http.Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookup.client = httpclient
}

// IsStarved reports whether any connection has at least 85 % of its ready count in
// flight, which is a good moment to finish what one has collected. It is false as
// long as handlers have received messages still to come: what one read brings may
// be a whole ready count, and a handler that collects would otherwise be told to
// finish after every single one of them.
func (r *Consumer) IsStarved() bool {
	if r.unhandled.Load() > 0 {
		return false
	}
	for _, c := range r.snapshot() {
		inFlight, threshold := c.inFlight.Load(), int64(float64(c.RDY())*0.85)
		if inFlight >= threshold && inFlight > 0 && !c.IsClosing() {
			return true
		}
	}
	return false
}

// ChangeMaxInFlight changes Config.MaxInFlight; 0 pauses the consumer. Connections
// that get less are told before those that get more.
func (r *Consumer) ChangeMaxInFlight(maxInFlight int) {
	r.ready.setMax(maxInFlight)
}

// AddHandler adds a goroutine that calls handler. It panics once the consumer has
// been connected to something.
func (r *Consumer) AddHandler(handler Handler) {
	r.AddConcurrentHandlers(handler, 1)
}

// AddConcurrentHandlers adds as many goroutines that call handler. Each message
// goes to one of all the consumer's goroutines. It panics once the consumer has been
// connected to something.
func (r *Consumer) AddConcurrentHandlers(handler Handler, concurrency int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connectedTo {
		panic("already connected")
	}
	if r.stopped {
		return
	}
	r.handlers += concurrency
	r.running += concurrency
	for range concurrency {
		r.inbox.join()
		go r.handle(handler)
	}
}

// connectableLocked checks that connecting makes sense, and closes the list of
// handlers.
func (r *Consumer) connectableLocked() error {
	if r.stopped {
		return errConsumerStopped
	}
	if r.handlers == 0 {
		return errors.New("no handlers")
	}
	r.connectedTo = true
	return nil
}

// batchMax is how many messages the only handler goroutine takes at a time.
const batchMax = 64

// handle is a handler's goroutine. It ends when the inbox is closed and empty.
func (r *Consumer) handle(handler Handler) {
	r.logf(LogLevelDebug, "starting Handler")
	failed, _ := handler.(FailedMessageLogger)
	var room [batchMax]*Message
	for {
		batch := r.inbox.take(room[:])
		if len(batch) == 0 {
			break
		}
		for i, m := range batch {
			batch[i] = nil
			r.unhandled.Add(-1)
			r.handleOne(handler, failed, m)
		}
	}
	r.logf(LogLevelDebug, "stopping Handler")
	r.mu.Lock()
	r.running--
	last := r.running == 0
	r.mu.Unlock()
	if last {
		r.finishStop()
	}
}

func (r *Consumer) handleOne(handler Handler, failed FailedMessageLogger, m *Message) {
	if limit := r.config.MaxAttempts; limit > 0 && m.Attempts > limit {
		r.logf(LogLevelWarning, "msg %s attempted %d times, giving up", m.ID, m.Attempts)
		if failed != nil {
			failed.LogFailedMessage(m)
		}
		m.Finish()
		return
	}
	if err := handler.HandleMessage(m); err != nil {
		r.logf(LogLevelError, "Handler returned error (%s) for msg %s", err, m.ID)
		if !m.IsAutoResponseDisabled() {
			m.Requeue(-1)
		}
		return
	}
	if !m.IsAutoResponseDisabled() {
		m.Finish()
	}
}

// Stop begins to stop the consumer and does not wait; StopChan tells of the end.
// Servers are asked to send no more, what was received is handled, and connections
// close when it is answered. After 30 s they are closed anyway.
func (r *Consumer) Stop() {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return
	}
	r.stopped = true
	r.mu.Unlock()
	connections := r.snapshot()
	r.logf(LogLevelInfo, "stopping...")
	r.ready.stop()
	r.stopServing()
	for _, c := range connections {
		if err := c.send(func(b []byte) []byte { return append(b, "CLS\n"...) }); err != nil {
			r.logf(LogLevelError, "(%s) error sending CLS - %s", c, err)
		}
	}
	if len(connections) > 0 {
		force := time.AfterFunc(stopPatience, r.forceStop)
		context.AfterFunc(r.ctx, func() { force.Stop() })
	}
	r.stopHandlersIfAlone()
}

// stopHandlersIfAlone lets handlers end if the consumer is stopped and nothing can
// bring messages any more.
func (r *Consumer) stopHandlersIfAlone() {
	r.mu.Lock()
	if !r.stopped || r.draining || len(r.connections)+len(r.connecting) > 0 {
		r.mu.Unlock()
		return
	}
	r.draining = true
	none := r.running == 0
	r.mu.Unlock()
	r.logf(LogLevelInfo, "stopping handlers")
	r.inbox.close()
	if none {
		r.finishStop()
	}
}

// forceStop ends what 30 s of patience have not.
func (r *Consumer) forceStop() {
	for _, c := range r.snapshot() {
		c.abort()
	}
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	r.inbox.close()
	r.finishStop()
}

// finishStop ends the consumer's goroutines and closes StopChan.
func (r *Consumer) finishStop() {
	r.exit.Do(func() {
		r.cancel()
		go func() {
			r.work.Wait()
			close(r.StopChan)
		}()
	})
}

// snapshot returns the subscribed connections.
func (r *Consumer) snapshot() []*Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	conns := make([]*Conn, 0, len(r.connections))
	for _, p := range r.connections {
		conns = append(conns, p.c)
	}
	return conns
}
