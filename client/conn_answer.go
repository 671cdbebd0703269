package nsq

import "time"

// The answers to messages. Each first tells the delegate and then appends the
// command, so that a change of ready counts goes out before the answer that
// caused it. None of them waits for the socket.

func (c *Conn) finish(m *Message) {
	c.beginAnswer()
	if c.log.enabled(LogLevelDebug) {
		c.logf(LogLevelDebug, "FIN %s", m.ID)
	}
	c.delegate.OnMessageFinished(c, m)
	c.delegate.OnResume(c)
	if c.out.lock() == nil {
		before := len(c.out.buf)
		c.out.buf = appendFin(c.out.buf, &m.ID)
		c.out.unlock(before)
	}
	c.endAnswer()
}

func (c *Conn) requeue(m *Message, delay time.Duration, backoff bool) {
	if delay == -1 {
		delay = min(c.config.DefaultRequeueDelay*time.Duration(m.Attempts), c.config.MaxRequeueDelay)
	}
	c.beginAnswer()
	if c.log.enabled(LogLevelDebug) {
		c.logf(LogLevelDebug, "REQ %s", m.ID)
	}
	c.delegate.OnMessageRequeued(c, m)
	if backoff {
		c.delegate.OnBackoff(c)
	} else {
		c.delegate.OnContinue(c)
	}
	if c.out.lock() == nil {
		before := len(c.out.buf)
		c.out.buf = appendReq(c.out.buf, &m.ID, delay)
		c.out.unlock(before)
	}
	c.endAnswer()
}

func (c *Conn) touch(m *Message) {
	if c.out.lock() == nil {
		before := len(c.out.buf)
		c.out.buf = appendTouch(c.out.buf, &m.ID)
		c.out.unlock(before)
	}
}

// beginAnswer keeps the callbacks of a delegate that is not ours apart.
func (c *Conn) beginAnswer() {
	if c.internal == nil {
		c.respond.Lock()
	}
}

// endAnswer counts the answer, whose command is in the outbox by now; the last one
// after Close lets the connection end.
func (c *Conn) endAnswer() {
	if c.internal == nil {
		c.respond.Unlock()
	}
	if c.inFlight.Add(-1) == 0 && c.closing.Load() {
		c.drain()
	}
}
