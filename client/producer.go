package nsq

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// instances counts producers and consumers; logs show the number.
var instances atomic.Int64

// pendingMax is how many publishes of one producer may be on their way, or
// waiting for a full done channel, before the next one waits.
const pendingMax = 16 << 10

// Producer publishes to one nsqd. All its methods may be called from any
// goroutine. It connects when it is first used, and again when it is used after
// the connection was lost; it never publishes anything twice.
//
// Publishes of several goroutines share the connection and its writes. Results
// come in the order of the publishes.
type Producer struct {
	id     int64
	addr   string
	config *Config
	log    logging

	link atomic.Pointer[link] // the connection in use, if any

	mu      sync.Mutex
	dialing *dialing // the attempt under way, if any
	links   map[*link]struct{}
	stopped bool
	ctx     context.Context // ends dials when the producer stops
	cancel  context.CancelFunc
	done    chan struct{} // closed when Stop has finished

	results results
}

// dialing is an attempt to connect that publishers share.
type dialing struct {
	done chan struct{} // closed when link and err are set
	link *link
	err  error
}

// ProducerTransaction is the result of an asynchronous publish.
type ProducerTransaction struct {
	Error error         // nil when the server has taken the messages
	Args  []interface{} // as they were given to the publish

	done   chan *ProducerTransaction // of an asynchronous publish
	wait   chan error                // of a synchronous one
	notify func(error)               // of one that is ours; must not wait
}

// NewProducer returns a producer for the nsqd at addr. It fails if the
// configuration is not valid, and does not connect.
func NewProducer(addr string, config *Config) (*Producer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	p := &Producer{
		id:     instances.Add(1),
		addr:   addr,
		config: config.copied(),
		links:  make(map[*link]struct{}),
		done:   make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.results.init(p.resultSent)
	standard(&p.log)
	return p, nil
}

// SetLogger sets the logger of all levels and the lowest level that is logged. A
// nil logger is silent. It applies to later connections.
func (w *Producer) SetLogger(l logger, lvl LogLevel) {
	w.log.set(l, lvl, "")
}

// SetLoggerForLevel sets the logger of one level.
func (w *Producer) SetLoggerForLevel(l logger, lvl LogLevel) {
	w.log.setForLevel(l, lvl, "")
}

// SetLoggerLevel sets the lowest level that is logged.
func (w *Producer) SetLoggerLevel(lvl LogLevel) {
	w.log.setLevel(lvl)
}

func (w *Producer) logf(lvl LogLevel, format string, args ...any) {
	if w.log.enabled(lvl) {
		w.log.line(lvl, fmt.Sprintf("%3d", w.id), format, args...)
	}
}

// String returns the address.
func (w *Producer) String() string {
	return w.addr
}

// Ping connects if there is no connection, and writes to it. It does not wait for
// an answer.
func (w *Producer) Ping() error {
	l, err := w.connected(context.Background())
	if err != nil {
		return err
	}
	return l.conn.WriteCommand(Nop())
}

// Publish publishes one message and waits for the server's answer. A refusal is an
// ErrProtocol; ErrNotConnected says that the connection was lost before the answer
// came, so that the message may or may not have been taken.
func (w *Producer) Publish(topic string, body []byte) error {
	return w.publish(context.Background(), request{topic: topic, body: body})
}

// MultiPublish publishes several messages, all or none, and waits for the answer.
func (w *Producer) MultiPublish(topic string, body [][]byte) error {
	return w.publish(context.Background(), request{kind: multi, topic: topic, bodies: body})
}

// DeferredPublish publishes a message that is delivered after delay, in steps of
// a millisecond, and waits for the answer.
func (w *Producer) DeferredPublish(topic string, delay time.Duration, body []byte) error {
	return w.publish(context.Background(), request{kind: deferred, topic: topic, delay: delay, body: body})
}

// PublishAsync publishes one message and does not wait for the answer: the
// transaction is sent to doneChan, with args, when it is known. A nil doneChan
// means that nobody wants to know. An error that is returned is not sent.
//
// The transactions of a producer are sent in the order of the answers, by a
// goroutine that waits while doneChan is full; many that nobody takes let further
// publishes wait. The body may be reused as soon as PublishAsync has returned.
func (w *Producer) PublishAsync(topic string, body []byte, doneChan chan *ProducerTransaction,
	args ...interface{},
) error {
	return w.publishAsync(request{topic: topic, body: body}, doneChan, args)
}

// MultiPublishAsync is MultiPublish in the manner of PublishAsync.
func (w *Producer) MultiPublishAsync(topic string, body [][]byte, doneChan chan *ProducerTransaction,
	args ...interface{},
) error {
	return w.publishAsync(request{kind: multi, topic: topic, bodies: body}, doneChan, args)
}

// DeferredPublishAsync is DeferredPublish in the manner of PublishAsync.
func (w *Producer) DeferredPublishAsync(topic string, delay time.Duration, body []byte,
	doneChan chan *ProducerTransaction, args ...interface{},
) error {
	return w.publishAsync(request{kind: deferred, topic: topic, delay: delay, body: body}, doneChan, args)
}

// kind is which of the publishing commands a request is.
type kind uint8

const (
	single kind = iota
	multi
	deferred
)

var kindNames = [...]string{single: "PUB", multi: "MPUB", deferred: "DPUB"}

// request is what to publish.
type request struct {
	kind   kind
	topic  string
	delay  time.Duration
	body   []byte
	bodies [][]byte
}

// check refuses what must not get into the stream of commands: the server would
// take a bad name apart, or close the connection, on which others wait.
func (q *request) check() error {
	if !IsValidTopicName(q.topic) {
		return ErrProtocol{fmt.Sprintf("E_BAD_TOPIC %s topic name %q is not valid", kindNames[q.kind], q.topic)}
	}
	if q.kind == multi && batchSize(q.bodies) > math.MaxInt32 || len(q.body) > math.MaxInt32 {
		return errBatchSize
	}
	return nil
}

func (q *request) appendTo(b []byte) []byte {
	switch q.kind {
	case multi:
		return appendMpub(b, q.topic, q.bodies)
	case deferred:
		return appendDpub(b, q.topic, q.delay, q.body)
	}
	return appendPub(b, q.topic, q.body)
}

// waiters are the transactions of synchronous publishes.
var waiters = sync.Pool{New: func() any { return &ProducerTransaction{wait: make(chan error, 1)} }}

// publish sends the request and waits for its answer, or for the end of ctx. In
// that case the answer is dropped when it comes. Nothing is sent once ctx has ended.
func (w *Producer) publish(ctx context.Context, q request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx := waiters.Get().(*ProducerTransaction)
	if err := w.submit(ctx, &q, tx); err != nil {
		waiters.Put(tx)
		return err
	}
	if ctx.Done() == nil {
		err := <-tx.wait
		waiters.Put(tx)
		return err
	}
	select {
	case err := <-tx.wait:
		waiters.Put(tx)
		return err
	case <-ctx.Done():
		return ctx.Err() // the transaction stays with whoever answers it
	}
}

// ignored is the transaction of publishes whose result nobody wants to know.
var ignored = new(ProducerTransaction)

func (w *Producer) publishAsync(q request, done chan *ProducerTransaction, args []any) error {
	if done == nil {
		return w.submit(context.Background(), &q, ignored)
	}
	return w.submit(context.Background(), &q, &ProducerTransaction{done: done, Args: args})
}

// submit puts the request and its transaction into the connection, made if need
// be. After an error the transaction is the caller's.
func (w *Producer) submit(ctx context.Context, q *request, tx *ProducerTransaction) error {
	if err := q.check(); err != nil {
		return err
	}
	for range 3 {
		l := w.link.Load()
		if l == nil {
			var err error
			if l, err = w.connected(ctx); err != nil {
				return err
			}
		}
		if err := l.enqueue(ctx, q, tx); err != errLinkOver {
			return err
		}
		// It was over before it took anything, so another one may. A producer
		// that has stopped makes no other.
		w.drop(l)
	}
	return ErrNotConnected
}

// connected returns the connection in use, and makes one if there is none. All who
// ask meanwhile share the attempt and its error.
func (w *Producer) connected(ctx context.Context) (*link, error) {
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return nil, ErrStopped
	}
	if l := w.link.Load(); l != nil {
		w.mu.Unlock()
		return l, nil
	}
	d := w.dialing
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		w.dialing = d
		go w.dial(d)
	}
	w.mu.Unlock()
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dial makes a connection. The goroutine ends with the attempt, which the
// configuration's timeouts bound and Stop ends.
func (w *Producer) dial(d *dialing) {
	defer close(d.done)
	l, err := w.connect()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialing = nil
	switch {
	case w.stopped:
		d.err = ErrStopped
		if err == nil {
			l.conn.abort()
		}
	case err != nil:
		d.err = err
	default:
		d.link = l
		w.link.Store(l)
		select {
		case <-l.closed: // before anyone knew it
			w.link.Store(nil)
		default:
		}
	}
}

func (w *Producer) connect() (*link, error) {
	w.logf(LogLevelInfo, "(%s) connecting to nsqd", w.addr)
	l := &link{p: w, closed: make(chan struct{})}
	l.conn = NewConn(w.addr, w.config, l)
	if s := w.log.state.Load(); s != nil {
		own := *s
		for i := range own.fmt {
			own.fmt[i] = fmt.Sprintf("%3d (%%s)", w.id)
		}
		l.conn.log.state.Store(&own)
	}
	w.mu.Lock()
	w.links[l] = struct{}{}
	w.mu.Unlock()
	if _, err := l.conn.connect(w.ctx); err != nil {
		w.forget(l)
		w.logf(LogLevelError, "(%s) error connecting to nsqd - %s", w.addr, err)
		return nil, err
	}
	return l, nil
}

// drop takes a connection out of use.
func (w *Producer) drop(l *link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.link.CompareAndSwap(l, nil)
}

func (w *Producer) forget(l *link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.links, l)
}

// Stop ends the producer. What is still unanswered gets ErrNotConnected, though
// the server may have taken it; later publishes get ErrStopped. It returns when
// the connection is closed and every transaction has been sent to its done
// channel, and so waits for whoever reads those.
func (w *Producer) Stop() {
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		<-w.done
		return
	}
	w.stopped = true
	d := w.dialing
	w.mu.Unlock()

	w.logf(LogLevelInfo, "(%s) stopping", w.addr)
	w.cancel()
	if d != nil {
		<-d.done
	}
	w.mu.Lock()
	links := slices.Collect(maps.Keys(w.links))
	w.mu.Unlock()
	for _, l := range links {
		l.conn.abort()
		<-l.closed
	}
	w.results.stop()
	w.logf(LogLevelInfo, "(%s) exiting router", w.addr)
	close(w.done)
}
