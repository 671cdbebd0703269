package nsq

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// errLinkOver says that a connection took nothing because it is about to end.
var errLinkOver = errors.New("nsq: the connection is over")

// A link is one connection of a producer, and the publishes that wait for their
// answers on it. The server answers in the order of the commands, so the answers
// need no name: each is for the oldest publish that waits.
type link struct {
	p      *Producer
	conn   *Conn
	closed chan struct{} // closed when the connection is, and nothing waits

	pending queue                  // guarded by conn.out.mu, so that it has the outbox's order
	waiting int                    // goroutines in awaitRoom; guarded by conn.out.mu
	blocked atomic.Bool            // waiting > 0, for those who do not have the lock
	scratch []*ProducerTransaction // the reader's
}

// enqueue appends the request's command, and the transaction that its answer
// ends. It waits while too much is unwritten or unanswered; ctx ends the wait.
func (l *link) enqueue(ctx context.Context, q *request, tx *ProducerTransaction) error {
	o := &l.conn.out
	o.mu.Lock()
	if l.full(tx) {
		if err := l.awaitRoom(ctx, tx); err != nil {
			o.mu.Unlock()
			return err
		}
	}
	if o.err != nil || o.ending {
		o.mu.Unlock()
		return errLinkOver
	}
	before := len(o.buf)
	o.buf = q.appendTo(o.buf)
	l.pending.push(tx)
	o.unlock(before)
	return nil
}

// full reports whether the transaction has to wait. Those with a done channel also
// wait for results that nobody has taken yet.
func (l *link) full(tx *ProducerTransaction) bool {
	count := l.pending.len()
	if tx.done != nil {
		count += int(l.p.results.backlog.Load())
	}
	return count >= pendingMax || len(l.conn.out.buf) >= outboxFull
}

// awaitRoom waits with the outbox's lock until there is room or the link is over.
func (l *link) awaitRoom(ctx context.Context, tx *ProducerTransaction) error {
	o := &l.conn.out
	stop := context.AfterFunc(ctx, l.wakeWaiting)
	defer stop()
	l.waiting++
	l.blocked.Store(true)
	defer func() {
		l.waiting--
		l.blocked.Store(l.waiting > 0)
	}()
	for l.full(tx) && o.err == nil && !o.ending {
		if err := ctx.Err(); err != nil {
			return err
		}
		o.cond.Wait()
	}
	return nil
}

// resultSent lets publishers go on that wait because results were not taken.
func (w *Producer) resultSent() {
	if left := w.results.backlog.Load(); left != pendingMax/2 && left != 0 {
		return
	}
	if l := w.link.Load(); l != nil && l.blocked.Load() {
		l.wakeWaiting()
	}
}

// wakeWaiting lets publishers look for room again.
func (l *link) wakeWaiting() {
	l.conn.out.mu.Lock()
	defer l.conn.out.mu.Unlock()
	if l.waiting > 0 {
		l.conn.out.cond.Broadcast()
	}
}

// take removes the count oldest transactions, or none if there are not as many.
// The slice is the reader's scratch.
func (l *link) take(count int) []*ProducerTransaction {
	o := &l.conn.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if count > l.pending.len() {
		return nil
	}
	l.scratch = l.scratch[:0]
	for range count {
		l.scratch = append(l.scratch, l.pending.pop())
	}
	if l.waiting > 0 {
		o.cond.Broadcast()
	}
	return l.scratch
}

// answer ends the count oldest publishes with err.
func (l *link) answer(count int, err error, frameType int32, data []byte) {
	txs := l.take(count)
	if txs == nil {
		l.conn.logf(LogLevelError, "unexpected response type=%d len=%d data[:32]=0x%x",
			frameType, len(data), data[:min(32, len(data))])
		l.conn.abort()
		return
	}
	for _, tx := range txs {
		tx.complete(l.p, err)
	}
	clear(txs)
}

// complete ends a publish. It does not wait for whoever wants to know.
func (tx *ProducerTransaction) complete(p *Producer, err error) {
	switch {
	case tx.wait != nil:
		tx.wait <- err // it has room for one
	case tx.notify != nil:
		tx.notify(err)
	case tx.done != nil:
		tx.Error = err
		p.results.deliver(tx)
	}
}

func (l *link) onMessages(*Conn, []*Message) {} // a server that confuses us with a consumer

func (l *link) onOKs(_ *Conn, count int) { l.answer(count, nil, FrameTypeResponse, okText) }

// OnResponse ends the oldest publish.
func (l *link) OnResponse(_ *Conn, data []byte) { l.answer(1, nil, FrameTypeResponse, data) }

// OnError ends the oldest publish with the server's words.
func (l *link) OnError(_ *Conn, data []byte) {
	l.answer(1, ErrProtocol{string(data)}, FrameTypeError, data)
}

// OnIOError takes the connection out of use.
func (l *link) OnIOError(*Conn, error) { l.p.drop(l) }

// OnClose ends what is left. Nothing can be enqueued any more.
func (l *link) OnClose(*Conn) {
	l.p.drop(l)
	for _, tx := range l.take(l.pending.len()) {
		tx.complete(l.p, ErrNotConnected)
	}
	close(l.closed)
	l.p.forget(l)
}

// OnMessage does nothing: producers get no messages.
func (l *link) OnMessage(*Conn, *Message) {}

// OnMessageFinished does nothing.
func (l *link) OnMessageFinished(*Conn, *Message) {}

// OnMessageRequeued does nothing.
func (l *link) OnMessageRequeued(*Conn, *Message) {}

// OnBackoff does nothing.
func (l *link) OnBackoff(*Conn) {}

// OnContinue does nothing.
func (l *link) OnContinue(*Conn) {}

// OnResume does nothing.
func (l *link) OnResume(*Conn) {}

// OnHeartbeat does nothing; the connection answers.
func (l *link) OnHeartbeat(*Conn) {}

// A queue is a first-in first-out ring that grows.
//
// Invariant: head <= tail <= head+len(slots), which is zero or a power of two.
type queue struct {
	slots      []*ProducerTransaction
	head, tail uint
}

func (q *queue) len() int { return int(q.tail - q.head) }

func (q *queue) push(tx *ProducerTransaction) {
	if q.len() == len(q.slots) {
		grown := make([]*ProducerTransaction, max(64, 2*len(q.slots)))
		for i := range q.tail - q.head {
			grown[i] = q.slots[(q.head+i)&uint(len(q.slots)-1)]
		}
		q.tail, q.head, q.slots = q.tail-q.head, 0, grown
	}
	q.slots[q.tail&uint(len(q.slots)-1)] = tx
	q.tail++
}

func (q *queue) pop() *ProducerTransaction {
	slot := &q.slots[q.head&uint(len(q.slots)-1)]
	tx := *slot
	*slot = nil
	q.head++
	return tx
}

// results sends transactions to their done channels, in order. A send that would
// wait goes to a goroutine, which ends when it has sent all there is; while it
// runs everything goes through it.
type results struct {
	mu      sync.Mutex
	idle    sync.Cond
	waiting queue
	sending bool
	backlog atomic.Int64 // waiting, and the one being sent
	sent    func()       // called after each send
}

func (r *results) init(sent func()) {
	r.idle.L = &r.mu
	r.sent = sent
}

func (r *results) deliver(tx *ProducerTransaction) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.sending {
		select {
		case tx.done <- tx:
			r.sent()
			return
		default:
		}
		r.sending = true
		go r.send()
	}
	r.waiting.push(tx)
	r.backlog.Add(1)
}

func (r *results) send() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.waiting.len() > 0 {
		tx := r.waiting.pop()
		r.mu.Unlock()
		tx.done <- tx
		r.backlog.Add(-1)
		r.sent()
		r.mu.Lock()
	}
	r.sending = false
	r.idle.Broadcast()
}

// stop waits until everything has been sent.
func (r *results) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.sending {
		r.idle.Wait()
	}
}

// drain waits until nothing is pending.
func (l *link) drain(ctx context.Context) error {
	o := &l.conn.out
	stop := context.AfterFunc(ctx, l.wakeWaiting)
	defer stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	l.waiting++
	defer func() { l.waiting-- }()
	for l.pending.len() > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		o.cond.Wait()
	}
	return nil
}
