package nsq_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

func newFailover(t *testing.T, addrs ...string) (*nsq.FailoverProducer, *logBook) {
	t.Helper()
	leakCheck(t)
	p, err := nsq.NewFailoverProducer(addrs, calm())
	must(t, err)
	book := new(logBook)
	book.show(t)
	p.SetLogger(book, nsq.LogLevelDebug)
	t.Cleanup(p.Stop)
	return p, book
}

// TestFailover publishes to three servers, of which one works, one closes at the
// third publish, and one is not there: no publish fails, and each completes once.
func TestFailover(t *testing.T) {
	var stored atomic.Int32
	good := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		for {
			if _, body := c.command(); body == nil {
				return
			}
			stored.Add(1)
			c.send(nsq.FrameTypeResponse, "OK")
		}
	})
	flaky := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		for range 2 {
			c.command()
			stored.Add(1)
			c.send(nsq.FrameTypeResponse, "OK")
		}
		c.command()
	})
	p, _ := newFailover(t, good.addr(), flaky.addr(), "127.0.0.1:1")
	const count = 500
	done := make(chan *nsq.ProducerTransaction)
	go func() {
		for i := range count {
			if err := p.PublishAsync("t", fmt.Append(nil, i), done, i); err != nil {
				t.Error(err)
			}
		}
	}()
	seen := make(map[int]bool)
	for range count {
		tx := receive(t, done, "a result")
		if tx.Error != nil || seen[tx.Args[0].(int)] {
			t.Errorf("result %v of %v, or the second one", tx.Error, tx.Args[0])
		}
		seen[tx.Args[0].(int)] = true
	}
	for range 20 {
		must(t, p.Publish("t", []byte("x")))
		must(t, p.MultiPublish("t", [][]byte{[]byte("x")}))
		must(t, p.DeferredPublish("t", 0, []byte("x")))
	}
	must(t, p.PublishAsync("t", []byte("x"), nil))
	p.Stop()
	select {
	case tx := <-done:
		t.Errorf("one result too many: %+v", tx)
	default:
	}
	if n := stored.Load(); n < count+60 {
		t.Errorf("%d are stored, want %d at least", n, count+60)
	}
}

// TestFailoverRefusal does not try again what every server would refuse, and tries
// again what one could not store.
func TestFailoverRefusal(t *testing.T) {
	asked := make(chan bool, 1000) // more than attempts in any time
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		_, body := c.command()
		asked <- true
		c.send(nsq.FrameTypeError, string(body))
	})
	p, _ := newFailover(t, f.addr())
	want := nsq.ErrProtocol{Reason: "E_BAD_MESSAGE no"}
	if err := p.Publish("t", []byte(want.Reason)); err != want {
		t.Errorf("error %v, want %v", err, want)
	}
	wantText(t, p.Publish("bad topic", nil), "E_BAD_TOPIC")
	wantText(t, p.PublishAsync("bad topic", nil, nil), "E_BAD_TOPIC")
	if len(asked) != 1 {
		t.Errorf("the server was asked %d times, want once", len(asked))
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- p.PublishContext(ctx, "t", []byte("E_PUB_FAILED disk")) }()
	for range 3 {
		receive(t, asked, "another attempt")
	}
	cancel()
	wantErr(t, receive(t, failed, "an error"), context.Canceled)
}

// A lateContext has ended when ended says so, but no select sees it: it is one that
// ends at the very moment at which something else was ready, too.
type lateContext struct {
	context.Context
	ended atomic.Bool
}

// Err returns context.Canceled once the context has ended.
func (c *lateContext) Err() error {
	if c.ended.Load() {
		return context.Canceled
	}
	return nil
}

// TestFailoverEnded says that the context has ended also when a server's error came
// at the same moment, and what that was.
func TestFailoverEnded(t *testing.T) {
	live, cancel := context.WithCancel(t.Context()) // has a Done, as contexts with an end have
	defer cancel()
	ctx := &lateContext{Context: live}
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		c.command()
		ctx.ended.Store(true)
		c.send(nsq.FrameTypeError, "E_PUB_FAILED disk")
	})
	p, _ := newFailover(t, f.addr())
	err := p.PublishContext(ctx, "t", []byte("x"))
	wantErr(t, err, context.Canceled)
	wantText(t, err, "E_PUB_FAILED disk")
	wantErr(t, p.PublishContext(ctx, "t", []byte("x")), context.Canceled)
	p.Stop()
	wantErr(t, p.PublishContext(ctx, "t", []byte("x")), context.Canceled)
	if n := f.connections(); n != 1 {
		t.Errorf("%d connections, want 1: nothing is published once the context has ended", n)
	}
}

// TestFailoverStop completes what is under way, once each, and refuses the rest.
func TestFailoverStop(t *testing.T) {
	f := newFake(t, func(c *fakeConn) { c.hello(greeting); c.drain() })
	p, _ := newFailover(t, f.addr(), "127.0.0.1:1")
	const count = 200
	done := make(chan *nsq.ProducerTransaction, 2*count)
	for range count {
		must(t, p.PublishAsync("t", []byte("x"), done))
	}
	failed := make(chan error, 1)
	go func() { failed <- p.Publish("t", []byte("x")) }()
	p.Stop()
	wantErr(t, receive(t, failed, "the synchronous publish"), nsq.ErrStopped)
	if len(done) != count {
		t.Errorf("%d results, want %d", len(done), count)
	}
	for range len(done) {
		if tx := <-done; tx.Error == nil {
			t.Error("a publish without answer has no error")
		}
	}
	wantErr(t, p.Publish("t", nil), nsq.ErrStopped)
	wantErr(t, p.PublishAsync("t", nil, done), nsq.ErrStopped)
	wantErr(t, p.ConnectToNSQLookupds([]string{"127.0.0.1:1"}), nsq.ErrStopped)
}

// TestFailoverLookupd finds its servers, and those that come later.
func TestFailoverLookupd(t *testing.T) {
	one, two := newFake(t, healthy), newFake(t, healthy)
	l := newLookupd(t, one.addr())
	leakCheck(t)
	cfg := calm()
	cfg.LookupdPollInterval = 10 * time.Millisecond
	p, err := nsq.NewFailoverProducer(nil, cfg)
	must(t, err)
	t.Cleanup(p.Stop)
	p.SetLogger(nil, nsq.LogLevelError)
	must(t, p.ConnectToNSQLookupds([]string{l.addr}))
	must(t, p.Publish("t", []byte("x")))
	if p.String() != one.addr() {
		t.Errorf("publishes to %s, want %s", p, one.addr())
	}
	l.set(func() { l.nsqds = []string{two.addr()} })
	one.refuse()
	eventually(t, "the first one is removed", func() bool {
		must(t, p.Publish("t", []byte("x")))
		return p.String() == two.addr()
	})
	wantText(t, p.ConnectToNSQLookupds([]string{"nowhere"}), "missing port")
}

// TestPublishContext gives up with the context, and the producer goes on.
func TestPublishContext(t *testing.T) {
	reached, release, rest := make(chan bool, 1), make(chan bool), make(chan string, 3)
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		c.command()
		reached <- true
		<-release
		c.send(nsq.FrameTypeError, "E_FIRST")
		for range 3 {
			_, body := c.command()
			rest <- string(body)
			c.send(nsq.FrameTypeResponse, "OK")
		}
		c.drain()
	})
	p, _ := newProducer(t, f.addr(), calm())
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- p.PublishContext(ctx, "t", []byte("x")) }()
	receive(t, reached, "the publish")
	cancel()
	wantErr(t, receive(t, failed, "an error"), context.Canceled)
	wantErr(t, p.Drain(ctx), context.Canceled)
	wantErr(t, p.PublishContext(ctx, "t", []byte("never sent")), context.Canceled)
	close(release)
	must(t, p.Drain(t.Context()))
	must(t, p.PublishContext(t.Context(), "t", []byte("x")))
	if body := receive(t, rest, "what is sent next"); body != "x" {
		t.Errorf("a context that had ended before has published %q", body)
	}
	must(t, p.MultiPublishContext(t.Context(), "t", [][]byte{[]byte("x")}))
	must(t, p.DeferredPublishContext(t.Context(), "t", 0, []byte("x")))
}

// TestRun stops a consumer with its context.
func TestRun(t *testing.T) {
	f := newFake(t, func(c *fakeConn) { c.subscribed(); c.cls() })
	r, _ := newConsumer(t, calm(), 1, finish)
	must(t, r.ConnectToNSQD(f.addr()))
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	why := errors.New("enough")
	cancel(why)
	wantErr(t, receive(t, ended, "the end"), why)
	must(t, r.Run(t.Context())) // it has stopped
}

// TestSlog logs at the levels that lines begin with.
func TestSlog(t *testing.T) {
	var text strings.Builder
	l := nsq.SlogOutput{Logger: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))}
	p, _ := newProducer(t, "127.0.0.1:1", calm())
	p.SetLogger(l, nsq.LogLevelInfo)
	if p.Ping() == nil {
		t.Fatal("somebody listens on port 1")
	}
	for _, line := range []string{"WRN    1 careful", "DBG    1 detail", "no level"} {
		must(t, l.Output(2, line))
	}
	must(t, nsq.SlogOutput{}.Output(2, "ERR nobody"))
	for _, want := range []string{
		"level=INFO msg=\"", "(127.0.0.1:1) connecting to nsqd", "level=ERROR msg=\"",
		`level=WARN msg="1 careful"`, `level=DEBUG msg="1 detail"`, `level=INFO msg="no level"`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %s in\n%s", want, &text)
		}
	}
}
