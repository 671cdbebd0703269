package nsq

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// A peer is one of a consumer's connections, and its delegate.
type peer struct {
	r      *Consumer
	c      *Conn
	cancel context.CancelFunc // ends connecting

	gone      bool      // OnClose was called; guarded by r.mu
	connected time.Time // guarded by r.mu
	subAt     time.Time // set before SUB is sent
	rtt       atomic.Int64
	received  atomic.Bool // any message
	warm      atomic.Bool // as ready saw it last

	share // guarded by ready.mu
}

func (p *peer) onMessages(_ *Conn, messages []*Message) {
	p.r.received.Add(uint64(len(messages)))
	p.received.Store(true)
	if !p.warm.Load() {
		p.r.ready.look()
	}
	p.r.unhandled.Add(int64(len(messages)))
	p.r.inbox.put(messages)
}

// onOKs sees the answer to SUB.
func (p *peer) onOKs(*Conn, int) {
	p.rtt.CompareAndSwap(0, int64(time.Since(p.subAt)))
}

// OnResponse closes the connection when the server has agreed to send no more.
func (p *peer) OnResponse(c *Conn, data []byte) {
	if string(data) == string(closeWaitText) {
		p.r.logf(LogLevelInfo, "(%s) received CLOSE_WAIT from nsqd", c)
		c.Close()
	}
}

// OnMessageFinished counts.
func (p *peer) OnMessageFinished(*Conn, *Message) { p.r.finished.Add(1) }

// OnMessageRequeued counts.
func (p *peer) OnMessageRequeued(*Conn, *Message) { p.r.requeued.Add(1) }

// OnBackoff is a failure.
func (p *peer) OnBackoff(*Conn) { p.r.ready.signal(failure) }

// OnContinue is neither failure nor success.
func (p *peer) OnContinue(*Conn) { p.r.ready.signal(neither) }

// OnResume is a success.
func (p *peer) OnResume(*Conn) { p.r.ready.signal(success) }

// OnClose finds out what comes next: reconnecting, or the consumer's end.
func (p *peer) OnClose(c *Conn) { p.r.onClose(p) }

// OnMessage is not called: onMessages is.
func (p *peer) OnMessage(*Conn, *Message) {}

// OnError does nothing; the connection has logged it.
func (p *peer) OnError(*Conn, []byte) {}

// OnIOError does nothing; OnClose follows.
func (p *peer) OnIOError(*Conn, error) {}

// OnHeartbeat does nothing; the connection answers.
func (p *peer) OnHeartbeat(*Conn) {}

// ConnectToNSQD connects to the nsqd at addr and subscribes. It fails with
// ErrAlreadyConnected if that has been done, or is under way. It does not wait for
// the answer to SUB, whose refusal is logged. A connection that is lost is made
// again until DisconnectFromNSQD or Stop; one that could not be made is not.
func (r *Consumer) ConnectToNSQD(addr string) error {
	return r.connectTo(addr, true)
}

// ConnectToNSQDs connects to each address and stops at the first error.
func (r *Consumer) ConnectToNSQDs(addresses []string) error {
	for _, addr := range addresses {
		if err := r.ConnectToNSQD(addr); err != nil {
			return err
		}
	}
	return nil
}

func (r *Consumer) connectTo(addr string, direct bool) error {
	p, ctx, err := r.newPeer(addr, direct)
	if err != nil {
		return err
	}
	defer p.cancel()
	if err := r.subscribe(ctx, p); err != nil {
		r.mu.Lock()
		delete(r.connecting, addr)
		r.failedLocked(addr)
		r.mu.Unlock()
		r.stopHandlersIfAlone()
		return err
	}
	r.mu.Lock()
	delete(r.connecting, addr)
	switch {
	case r.stopped:
		err = errConsumerStopped
	case ctx.Err() != nil: // DisconnectFromNSQD
		err = ErrNotConnected
	case p.gone: // it was connected, for a moment
		r.lostLocked(p)
	default:
		r.connections[addr] = p
		p.connected = time.Now()
	}
	r.mu.Unlock()
	if err != nil {
		p.c.abort()
		r.stopHandlersIfAlone()
		return err
	}
	r.ready.add(p)
	return nil
}

var errConsumerStopped = errors.New("consumer stopped")

// newPeer notes that a connection to addr is being made.
func (r *Consumer) newPeer(addr string, direct bool) (*peer, context.Context, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.connectableLocked(); err != nil {
		return nil, nil, err
	}
	if r.connecting[addr] != nil || r.connections[addr] != nil {
		return nil, nil, ErrAlreadyConnected
	}
	p := &peer{r: r}
	p.c = NewConn(addr, r.config, p)
	if s := r.log.state.Load(); s != nil {
		own := *s
		for i := range own.fmt {
			own.fmt[i] = r.where() + " (%s)"
		}
		p.c.log.state.Store(&own)
	}
	ctx, cancel := context.WithCancel(r.serving)
	p.cancel = cancel
	r.connecting[addr] = p
	if direct {
		r.direct[addr] = struct{}{}
	}
	if r.known[addr] == nil {
		r.known[addr] = new(attempts)
	}
	return p, ctx, nil
}

func (r *Consumer) subscribe(ctx context.Context, p *peer) error {
	r.logf(LogLevelInfo, "(%s) connecting to nsqd", p.c)
	resp, err := p.c.connect(ctx)
	if err != nil {
		return err
	}
	if limit := r.ready.limit(); resp != nil && resp.MaxRdyCount < int64(limit) {
		r.logf(LogLevelWarning, "(%s) max RDY count %d < consumer max in flight %d, truncation possible",
			p.c, resp.MaxRdyCount, limit)
	}
	p.subAt = time.Now()
	if err := p.c.WriteCommand(Subscribe(r.topic, r.channel)); err != nil {
		p.c.abort()
		return fmt.Errorf("[%s] failed to subscribe to %s:%s - %s", p.c, r.topic, r.channel, err)
	}
	return nil
}

// DisconnectFromNSQD closes the connection to addr, once all it has delivered is
// answered, and does not make it again. It fails with ErrNotConnected if nobody
// has connected to addr.
func (r *Consumer) DisconnectFromNSQD(addr string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[addr] == nil {
		return ErrNotConnected
	}
	delete(r.known, addr)
	delete(r.direct, addr)
	if p := r.connecting[addr]; p != nil {
		p.cancel()
	}
	if p := r.connections[addr]; p != nil {
		p.c.Close()
	}
	return nil
}

// onClose is called when a connection has ended.
func (r *Consumer) onClose(p *peer) {
	r.ready.remove(p)
	addr := p.c.addr
	r.mu.Lock()
	p.gone = true
	if r.connections[addr] != p {
		r.mu.Unlock() // connectTo deals with it
		return
	}
	delete(r.connections, addr)
	left := len(r.connections)
	stopped := r.stopped
	if !stopped {
		r.lostLocked(p)
	}
	r.mu.Unlock()
	r.logf(LogLevelWarning, "there are %d connections left alive", left)
	if stopped {
		r.stopHandlersIfAlone()
	}
}

// lostLocked sees to it that a connection is made again.
func (r *Consumer) lostLocked(p *peer) {
	addr := p.c.addr
	if time.Since(p.connected) < steadyAfter || p.connected.IsZero() {
		r.failedLocked(addr)
	} else if a := r.known[addr]; a != nil {
		a.failures, a.next = 0, time.Time{}
	}
	if _, direct := r.direct[addr]; direct {
		r.work.Go(func() { r.reconnect(addr) })
	}
	r.lookup.look()
}

// reconnect tries until there is a connection again, or until there shall be none.
func (r *Consumer) reconnect(addr string) {
	for {
		r.mu.Lock()
		delay := r.known[addr].wait()
		r.mu.Unlock()
		r.logf(LogLevelInfo, "(%s) re-connecting in %s", addr, delay)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-r.serving.Done():
			timer.Stop()
			return
		}
		r.mu.Lock()
		_, wanted := r.direct[addr]
		r.mu.Unlock()
		if !wanted {
			r.logf(LogLevelWarning, "(%s) skipped reconnect after removal...", addr)
			return
		}
		err := r.connectTo(addr, true)
		if err == nil || err == ErrAlreadyConnected {
			return
		}
		r.logf(LogLevelError, "(%s) error connecting to nsqd - %s", addr, err)
	}
}

const (
	// firstDelay is the first wait before reconnecting; it doubles with each
	// failure.
	firstDelay = 100 * time.Millisecond
	// steadyAfter is how long a connection must have lasted not to count as a
	// failure.
	steadyAfter = 2 * time.Second
)

// attempts remembers how connecting to an address has gone.
type attempts struct {
	failures int
	next     time.Time // leave it alone until then
}

// failedLocked counts a failure of an address that is still wanted. Each one makes
// the wait before the next attempt longer: at random between half and the whole of
// a time that doubles, up to the interval of polls.
func (r *Consumer) failedLocked(addr string) {
	a := r.known[addr]
	if a == nil {
		return
	}
	d := min(firstDelay<<min(a.failures, 20), r.config.LookupdPollInterval)
	a.failures++
	a.next = time.Now().Add(d/2 + rand.N(d/2+1))
}

// wait returns how long to leave the address alone.
func (a *attempts) wait() time.Duration {
	if a == nil {
		return 0
	}
	return max(0, time.Until(a.next))
}
