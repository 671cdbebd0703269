package nsq

import (
	"context"
	"time"
)

// PublishContext is Publish that also ends with ctx, whose error it then returns.
// The message may have been published all the same, or be published yet, unless ctx
// had ended before.
func (w *Producer) PublishContext(ctx context.Context, topic string, body []byte) error {
	return w.publish(ctx, request{topic: topic, body: body})
}

// MultiPublishContext is MultiPublish that also ends with ctx, as PublishContext
// does.
func (w *Producer) MultiPublishContext(ctx context.Context, topic string, bodies [][]byte) error {
	return w.publish(ctx, request{kind: multi, topic: topic, bodies: bodies})
}

// DeferredPublishContext is DeferredPublish that also ends with ctx, as
// PublishContext does.
func (w *Producer) DeferredPublishContext(ctx context.Context, topic string, delay time.Duration, body []byte) error {
	return w.publish(ctx, request{kind: deferred, topic: topic, delay: delay, body: body})
}

// Drain waits until the server has answered all that was published so far, so that
// a Stop that follows fails nothing. It returns the context's error if ctx ends
// before that, and nil at once if there is no connection.
func (w *Producer) Drain(ctx context.Context) error {
	l := w.link.Load()
	if l == nil {
		return nil
	}
	return l.drain(ctx)
}

// Run lets the consumer work until ctx ends, or until Stop is called, and returns
// when it has stopped entirely: what it had received is handled and answered. It
// returns context.Cause of ctx, or nil after Stop. Connect the consumer before.
func (r *Consumer) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		r.Stop()
		<-r.StopChan
		return context.Cause(ctx)
	case <-r.StopChan:
		return nil
	}
}
