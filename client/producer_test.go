package nsq_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

// TestPublishBytes looks at what each way of publishing says to the server.
func TestPublishBytes(t *testing.T) {
	said := make(chan string, 16)
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		for {
			line, body := c.command()
			if line == "" {
				return
			}
			said <- fmt.Sprintf("%s %q", line, body)
			c.send(nsq.FrameTypeResponse, "OK")
		}
	})
	p, _ := newProducer(t, f.addr(), calm())
	check := func(err error, want string) {
		t.Helper()
		must(t, err)
		if got := receive(t, said, "a command"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	check(p.Publish("t", []byte("body")), `PUB t "body"`)
	check(p.Publish("t", nil), `PUB t ""`) // upstream says no size, and is out of step
	check(p.DeferredPublish("t", 1500*time.Microsecond, []byte("later")), `DPUB t 1 "later"`)
	check(p.MultiPublish("t#ephemeral", [][]byte{[]byte("a"), nil, []byte("bc")}),
		`MPUB t#ephemeral "\x00\x00\x00\x03\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x02bc"`)
	done := make(chan *nsq.ProducerTransaction, 1)
	check(p.PublishAsync("t", []byte("x"), done, 1, "two"), `PUB t "x"`)
	if tx := receive(t, done, "its result"); tx.Error != nil || len(tx.Args) != 2 || tx.Args[1] != "two" {
		t.Errorf("transaction %+v", tx)
	}
	check(p.PublishAsync("t", []byte("forget"), nil), `PUB t "forget"`)
}

// TestPublishBadName refuses names here, and the connection lives.
func TestPublishBadName(t *testing.T) {
	f := newFake(t, healthy)
	p, _ := newProducer(t, f.addr(), calm())
	must(t, p.Publish("good", []byte("x")))
	for _, name := range []string{"", "bad topic", "new\nline", strings.Repeat("x", 65)} {
		want := nsq.ErrProtocol{Reason: fmt.Sprintf("E_BAD_TOPIC PUB topic name %q is not valid", name)}
		if err := p.Publish(name, []byte("x")); err != want {
			t.Errorf("%q: error %v, want %v", name, err, want)
		}
		wantText(t, p.MultiPublish(name, nil), "E_BAD_TOPIC MPUB")
		wantText(t, p.DeferredPublishAsync(name, 0, nil, nil), "E_BAD_TOPIC DPUB")
	}
	must(t, p.Publish("good", []byte("x")))
	if n := f.connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestResultsInOrder gives every publish its own answer, and the channel the
// answers in order.
func TestResultsInOrder(t *testing.T) {
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		for {
			_, body := c.command()
			switch {
			case c.gone:
				return
			case strings.HasSuffix(string(body), "7"):
				c.send(nsq.FrameTypeError, "E_SEVEN "+string(body))
			default:
				c.send(nsq.FrameTypeResponse, "OK")
			}
		}
	})
	p, _ := newProducer(t, f.addr(), calm())
	const count = 2000
	done := make(chan *nsq.ProducerTransaction)
	go func() {
		for i := range count {
			if err := p.PublishAsync("t", fmt.Append(nil, i), done, i); err != nil {
				t.Error(err)
			}
		}
	}()
	var others sync.WaitGroup
	for i := range 8 {
		others.Go(func() {
			for range 50 {
				err := p.Publish("t", fmt.Append(nil, i))
				if bad := errors.As(err, new(nsq.ErrProtocol)); bad != (i == 7) {
					t.Errorf("publish of %d: %v", i, err)
				}
			}
		})
	}
	for i := range count {
		tx := receive(t, done, "a result")
		if tx.Args[0] != i {
			t.Fatalf("result of %v, want %d", tx.Args[0], i)
		}
		want := error(nil)
		if i%10 == 7 {
			want = nsq.ErrProtocol{Reason: fmt.Sprintf("E_SEVEN %d", i)}
		}
		if tx.Error != want {
			t.Errorf("%d: error %v, want %v", i, tx.Error, want)
		}
	}
	others.Wait()
}

// TestSlowResults leaves the done channel full: others still publish, and nothing
// is lost or out of order.
func TestSlowResults(t *testing.T) {
	f := newFake(t, healthy)
	p, _ := newProducer(t, f.addr(), calm())
	const count = 1000
	done := make(chan *nsq.ProducerTransaction)
	for i := range count {
		must(t, p.PublishAsync("t", []byte("x"), done, i))
	}
	for range 10 {
		must(t, p.Publish("t", []byte("sync")))
	}
	for i := range count {
		if tx := receive(t, done, "a result"); tx.Args[0] != i || tx.Error != nil {
			t.Fatalf("result %+v, want of %d", tx, i)
		}
	}
}

// TestProducerBadServer meets servers that do everything wrong: the call returns
// an error soon, and the next one, to a server come to its senses, works.
func TestProducerBadServer(t *testing.T) {
	f := func(name, want, logged string, bad func(*fakeConn)) {
		t.Run(name, func(t *testing.T) {
			var sane atomic.Bool
			f := newFake(t, func(c *fakeConn) {
				if sane.Load() {
					healthy(c)
				} else {
					bad(c)
				}
			})
			cfg := calm()
			if strings.HasPrefix(name, "never ") {
				cfg = quickConfig()
			}
			p, book := newProducer(t, f.addr(), cfg)
			err := p.Publish("t", []byte("x"))
			for cfg.ReadTimeout < patience && err != nil && strings.Contains(err.Error(), "timeout") && !strings.Contains(err.Error(), want) {
				// The machine stalled before the publish came as far as that.
				err = p.Publish("t", []byte("x"))
			}
			wantText(t, err, want)
			if logged != "" && !book.has(logged) {
				t.Errorf("no log line with %q", logged)
			}
			sane.Store(true)
			eventually(t, "the next publish works", func() bool { return p.Publish("t", []byte("x")) == nil })
		})
	}
	afterHello := func(then func(c *fakeConn)) func(*fakeConn) {
		return func(c *fakeConn) {
			c.hello(greeting)
			c.command()
			then(c)
		}
	}
	f("closes at once", "failed to IDENTIFY - ", "error connecting", func(*fakeConn) {})
	f("refuses IDENTIFY", "failed to IDENTIFY - E_BAD_BODY no", "", func(c *fakeConn) {
		c.magic()
		c.expect("IDENTIFY")
		c.send(nsq.FrameTypeError, "E_BAD_BODY no")
	})
	f("answers IDENTIFY with nothing", "failed to IDENTIFY - empty response", "", func(c *fakeConn) { c.hello("") })
	f("answers IDENTIFY with broken JSON", "failed to IDENTIFY - ", "", func(c *fakeConn) { c.hello("{") })
	f("never answers IDENTIFY", "failed to IDENTIFY - ", "", (*fakeConn).drain)
	f("speaks HTTP", "unexpected HTTP response", "", func(c *fakeConn) {
		c.raw("HTTP/1.1 400 Bad Request\r\n\r\n")
		c.drain()
	})
	f("wants a secret", "Auth Required", "Auth Required", func(c *fakeConn) { c.hello(`{"auth_required":true}`) })
	f("promises snappy and speaks plain", "failed to IDENTIFY - ", "", func(c *fakeConn) {
		c.hello(`{"snappy":true}`)
		c.send(nsq.FrameTypeResponse, "OK")
		c.drain()
	})
	f("promises TLS and speaks plain", "failed to IDENTIFY - ", "", func(c *fakeConn) {
		c.hello(`{"tls_v1":true}`)
		c.send(nsq.FrameTypeResponse, "OK")
		c.drain()
	})
	f("promises deflate and closes", "failed to IDENTIFY - ", "", func(c *fakeConn) { c.hello(`{"deflate":true}`) })
	f("closes on PUB", "not connected", "IO error - EOF", afterHello(func(c *fakeConn) {}))
	f("never answers PUB", "not connected", "IO error", afterHello((*fakeConn).drain))
	f("closes in mid-frame", "not connected", "IO error", afterHello(func(c *fakeConn) { c.raw(frame(0, "OK")[:7]) }))
	f("closes in a large frame", "not connected", "IO error", afterHello(func(c *fakeConn) {
		c.raw(frame(0, strings.Repeat("x", 1<<20))[:1<<19])
	}))
	f("announces 2 GiB", "not connected", "IO error", afterHello(func(c *fakeConn) {
		c.raw("\x7f\xff\xff\xff\x00\x00\x00\x02")
	}))
	f("sends a negative size", "not connected", "response msg size is negative", afterHello(func(c *fakeConn) {
		c.raw("\xff\xff\xff\xff\x00\x00\x00\x00")
		c.drain()
	}))
	f("sends a tiny size", "not connected", "length of response is too small", afterHello(func(c *fakeConn) {
		c.raw("\x00\x00\x00\x03\x00\x00\x00\x00")
		c.drain()
	}))
	f("sends an error frame and closes", "E_BAD_MESSAGE why", "protocol error - E_BAD_MESSAGE why", afterHello(func(c *fakeConn) {
		c.send(nsq.FrameTypeError, "E_BAD_MESSAGE why")
	}))
	f("sends a message that is none", "not connected", "not enough data", afterHello(func(c *fakeConn) {
		c.send(nsq.FrameTypeMessage, "short")
		c.drain()
	}))
	f("sends an unknown frame", "not connected", "unknown frame type 9", afterHello(func(c *fakeConn) {
		c.send(9, "what")
	}))
}

// TestUnexpectedResponse closes a connection whose server answers what nobody has
// asked.
func TestUnexpectedResponse(t *testing.T) {
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		c.command()
		c.raw(frame(0, "OK") + frame(0, "OK"))
		c.drain()
	}, healthy)
	p, book := newProducer(t, f.addr(), calm())
	p.Publish("t", []byte("x"))
	eventually(t, "a log line", func() bool { return book.has("unexpected response type=0 len=2 data[:32]=0x4f4b") })
	eventually(t, "a second connection", func() bool { return p.Publish("t", []byte("x")) == nil && f.connections() == 2 })
}

// TestNobodyListens returns the dial's error as it is.
func TestNobodyListens(t *testing.T) {
	p, _ := newProducer(t, "127.0.0.1:1", calm())
	for _, err := range []error{p.Ping(), p.Publish("t", []byte("x")), p.PublishAsync("t", []byte("x"), nil)} {
		if _, ok := err.(*net.OpError); !ok {
			t.Errorf("error %T %v, want a *net.OpError", err, err)
		}
	}
}

// TestProducerStop ends what is unanswered, each exactly once.
func TestProducerStop(t *testing.T) {
	reached := make(chan bool, 1)
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		c.command()
		reached <- true
		c.drain()
	})
	p, book := newProducer(t, f.addr(), calm())
	const count = 100
	done := make(chan *nsq.ProducerTransaction, 2*count)
	for range count {
		must(t, p.PublishAsync("t", []byte("x"), done))
	}
	receive(t, reached, "the first publish")
	failed := make(chan error, 1)
	go func() { failed <- p.Publish("t", []byte("x")) }()
	eventually(t, "stopping", func() bool { p.Stop(); return true })
	p.Stop()
	if err := receive(t, failed, "the waiting publish"); err != nsq.ErrNotConnected && err != nsq.ErrStopped {
		t.Errorf("the waiting publish: %v", err)
	}
	if len(done) != count {
		t.Errorf("%d results when Stop has returned, want %d", len(done), count)
	}
	for range len(done) {
		if tx := <-done; tx.Error != nsq.ErrNotConnected {
			t.Errorf("result %v, want ErrNotConnected", tx.Error)
		}
	}
	wantErr(t, p.Publish("t", nil), nsq.ErrStopped)
	wantErr(t, p.PublishAsync("t", nil, done), nsq.ErrStopped)
	wantErr(t, p.Ping(), nsq.ErrStopped)
	if !book.has("stopping") || book.has("ERR") {
		t.Error("the log of a clean stop has errors, or does not say it")
	}
}

// TestProducerHeartbeat answers heartbeats.
func TestProducerHeartbeat(t *testing.T) {
	answered := make(chan string, 1)
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		c.command()
		c.send(nsq.FrameTypeResponse, "_heartbeat_")
		line, _ := c.command()
		answered <- line
		c.send(nsq.FrameTypeResponse, "OK")
		c.drain()
	})
	p, _ := newProducer(t, f.addr(), calm())
	must(t, p.Publish("t", []byte("x")))
	if got := receive(t, answered, "an answer"); got != "NOP" {
		t.Errorf("a heartbeat's answer is %q", got)
	}
}

// TestServerDoesNotRead fills what lies between, and lets the write time out.
func TestServerDoesNotRead(t *testing.T) {
	release := make(chan bool)
	f := newFake(t, func(c *fakeConn) {
		c.hello(greeting)
		<-release
	})
	defer close(release)
	cfg := calm()
	cfg.WriteTimeout = time.Second
	p, _ := newProducer(t, f.addr(), cfg)
	done := make(chan *nsq.ProducerTransaction, 1000)
	body := make([]byte, 1<<20)
	eventually(t, "a connection", func() bool { // which a machine that stalls may keep from being made
		return p.PublishAsync("t", body, done) == nil
	})
	sent := 1
	for ; sent < 1000 && len(done) == 0; sent++ {
		if err := p.PublishAsync("t", body, done); err != nil {
			break
		}
	}
	if tx := receive(t, done, "a failure"); tx.Error != nsq.ErrNotConnected {
		t.Errorf("after %d publishes: %v", sent, tx.Error)
	}
}
