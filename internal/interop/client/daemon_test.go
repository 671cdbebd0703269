package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait; upstream looks at a new channel's timers after five
// seconds only, and a machine may stand still for a minute.
const patience = 2 * time.Minute

// Kinds of nsqd.
const kindZsq, kindUpstream = "zsq", "upstream"

var nsqds = map[string]daemon.Program{kindZsq: daemon.Nsqd, kindUpstream: daemon.UpstreamNsqd}

// start runs an nsqd with a fresh data directory until the test ends.
func start(t testing.TB, kind string, flags ...string) *daemon.Daemon {
	t.Helper()
	flags = append([]string{"--broadcast-address=127.0.0.1", "--data-path=" + t.TempDir()}, flags...)
	return daemon.Start(t, daemon.Config{Program: nsqds[kind], Flags: flags})
}

// each runs a test against our daemon and upstream's, and wants goroutines and
// descriptors back where they were.
func each(t *testing.T, f func(t *testing.T, kind string)) {
	for _, kind := range []string{kindZsq, kindUpstream} {
		t.Run(kind, func(t *testing.T) {
			nsqds[kind].Path(t)
			http.DefaultClient.CloseIdleConnections()
			goroutines, files := runtime.NumGoroutine(), descriptors()
			t.Cleanup(func() {
				if t.Failed() {
					return
				}
				eventually(t, "goroutines and descriptors are what they were", func() bool {
					http.DefaultClient.CloseIdleConnections()
					return runtime.NumGoroutine() <= goroutines && descriptors() <= files
				})
			})
			f(t, kind)
		})
	}
}

func descriptors() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	daemon.Eventually(t, patience, what, cond)
}

func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	return daemon.Receive(t, patience, what, c)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// calm is a configuration without time-outs that a machine which stalls could reach,
// our process or the daemon's.
func calm() *nsq.Config {
	cfg := nsq.NewConfig()
	cfg.DialTimeout, cfg.WriteTimeout, cfg.ReadTimeout = patience, patience, patience
	return cfg
}

func newProducer(t *testing.T, addr string, cfg *nsq.Config) *nsq.Producer {
	t.Helper()
	p, err := nsq.NewProducer(addr, cfg)
	must(t, err)
	p.SetLogger(nil, nsq.LogLevelError)
	t.Cleanup(p.Stop)
	return p
}

func newConsumer(t *testing.T, topic string, cfg *nsq.Config, concurrency int, h nsq.HandlerFunc) *nsq.Consumer {
	t.Helper()
	r, err := nsq.NewConsumer(topic, "ch", cfg)
	must(t, err)
	r.SetLogger(nil, nsq.LogLevelError)
	r.AddConcurrentHandlers(h, concurrency)
	t.Cleanup(func() {
		r.Stop()
		receive(t, r.StopChan, "the end of the consumer")
	})
	return r
}

// drained waits until a channel has nothing left, and still has when it is asked
// again: a message that is just being delivered may be counted nowhere.
func drained(t *testing.T, d *daemon.Daemon, topic string) {
	t.Helper()
	empty := func() bool {
		ch, ok := d.Channel(t, topic, "ch")
		return ok && ch.Depth+ch.InFlightCount+ch.DeferredCount == 0
	}
	eventually(t, "the channel is drained", func() bool {
		if !empty() {
			return false
		}
		return empty()
	})
}

// ledger counts how often each message came.
type ledger struct {
	mu   sync.Mutex
	seen map[string]int
}

func (l *ledger) note(m *nsq.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = make(map[string]int)
	}
	l.seen[string(m.Body)]++
}

func (l *ledger) distinct() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen)
}

// TestRoundTrip publishes in every way and consumes each message once.
func TestRoundTrip(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		roundTrip(t, start(t, kind), calm(), 10*time.Millisecond)
	})
}

// roundTrip publishes in every way, one message with a delay, which takes upstream
// five seconds if it is not zero.
func roundTrip(t *testing.T, d *daemon.Daemon, cfg *nsq.Config, delay time.Duration) {
	t.Helper()
	d.Create(t, "trip", "ch")
	p := newProducer(t, d.TCP, cfg)
	const each = 2000
	var senders sync.WaitGroup
	done := make(chan *nsq.ProducerTransaction, 10)
	senders.Go(func() {
		for i := range each {
			if err := p.PublishAsync("trip", fmt.Appendf(nil, "async %d", i), done); err != nil {
				t.Error(err)
			}
		}
	})
	senders.Go(func() {
		for range each {
			if tx := <-done; tx.Error != nil {
				t.Error(tx.Error)
			}
		}
	})
	for s := range 8 {
		senders.Go(func() {
			for i := range each / 8 {
				if err := p.Publish("trip", fmt.Appendf(nil, "sync %d %d", s, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Go(func() {
		for i := range each / 100 {
			var batch [][]byte
			for j := range 100 {
				batch = append(batch, fmt.Appendf(nil, "batch %d %d %s", i, j, strings.Repeat("x", 10*j)))
			}
			if err := p.MultiPublish("trip", batch); err != nil {
				t.Error(err)
			}
		}
	})
	senders.Wait()
	must(t, p.Publish("trip", []byte(strings.Repeat("large ", 100_000))))
	must(t, p.DeferredPublish("trip", delay, []byte("deferred")))
	must(t, p.Ping())
	const total = 3*each + 2

	cfg.MaxInFlight = 500
	var l ledger
	r := newConsumer(t, "trip", cfg, 4, func(m *nsq.Message) error {
		l.note(m)
		if m.Attempts == 1 && len(m.Body)%100 == 7 {
			m.RequeueWithoutBackoff(0)
		}
		return nil
	})
	must(t, r.ConnectToNSQD(d.TCP))
	eventually(t, "every message has come", func() bool { return l.distinct() == total })
	drained(t, d, "trip")
	s := r.Stats()
	if s.MessagesFinished != total || s.MessagesReceived != s.MessagesFinished+s.MessagesRequeued || s.Connections != 1 {
		t.Errorf("stats %+v, want %d finished", s, total)
	}
}

// TestErrors wants the daemon's words in the errors, and a producer that goes on.
func TestErrors(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		d := start(t, kind, "--max-msg-size=100", "--max-body-size=1000")
		f := func(want string, publish func(*nsq.Producer) error) {
			t.Helper()
			p := newProducer(t, d.TCP, calm())
			if err := publish(p); err != (nsq.ErrProtocol{Reason: want}) {
				t.Errorf("error %v, want %s", err, want)
			}
			eventually(t, "the next publish works", func() bool { return p.Publish("ok", []byte("x")) == nil })
		}
		big := make([]byte, 101)
		f(`E_BAD_TOPIC PUB topic name "so*bad" is not valid`, func(p *nsq.Producer) error {
			return p.Publish("so*bad", []byte("x"))
		})
		f("E_BAD_MESSAGE PUB message too big 101 > 100", func(p *nsq.Producer) error { return p.Publish("ok", big) })
		f("E_BAD_MESSAGE PUB invalid message body size 0", func(p *nsq.Producer) error { return p.Publish("ok", nil) })
		f("E_BAD_MESSAGE MPUB invalid message(1) body size 0", func(p *nsq.Producer) error {
			return p.MultiPublish("ok", [][]byte{[]byte("x"), nil})
		})
		f("E_INVALID DPUB timeout 7200000 out of range 0-3600000", func(p *nsq.Producer) error {
			return p.DeferredPublish("ok", 2*time.Hour, []byte("x"))
		})
		cfg := calm()
		cfg.HeartbeatInterval = 100 * time.Millisecond
		err := newProducer(t, d.TCP, cfg).Publish("ok", []byte("x"))
		if err != (nsq.ErrIdentify{Reason: "E_BAD_BODY IDENTIFY heartbeat interval (100) is invalid"}) {
			t.Errorf("error %v of a bad heartbeat interval", err)
		}
	})
}

// TestHeartbeats keeps idle connections and busy handlers for several heartbeats.
func TestHeartbeats(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		d := start(t, kind)
		cfg := calm()
		cfg.HeartbeatInterval = time.Second
		cfg.ReadTimeout = patience // the daemon's patience is what matters
		cfg.MaxInFlight = 10
		p := newProducer(t, d.TCP, cfg)
		bodies := make([][]byte, 10)
		for i := range bodies {
			bodies[i] = fmt.Append(nil, i)
		}
		must(t, p.MultiPublish("beats", bodies))
		release := make(chan bool)
		var l ledger
		r := newConsumer(t, "beats", cfg, 1, func(m *nsq.Message) error { <-release; l.note(m); return nil })
		must(t, r.ConnectToNSQD(d.TCP))
		connected(t, d)
		close(release)
		drained(t, d, "beats")
		must(t, p.Publish("beats", []byte("on the same connection")))
		eventually(t, "all have come", func() bool { return l.distinct() == 11 })
	})
}

// connected wants one client with ten messages in flight for more than two of its
// heartbeats, after which a silent client is dropped. If it, or the daemon, gets no
// time to run for about as long it is dropped, too, and rightly: then the stretch
// that is looked at begins anew, with the connection that the consumer makes.
func connected(t *testing.T, d *daemon.Daemon) {
	t.Helper()
	var got daemon.Channel
	holds := func() bool {
		got, _ = d.Channel(t, "beats", "ch")
		return got.ClientCount == 1 && got.InFlightCount == 10
	}
	eventually(t, "one client has ten in flight", holds)
	limit := time.Now().Add(2 * patience)
	for begin, last := time.Now(), time.Now(); last.Sub(begin) < 2500*time.Millisecond; {
		if last.After(limit) {
			t.Fatal("the machine stalls all the time")
		}
		time.Sleep(10 * time.Millisecond)
		ok, now := holds(), time.Now()
		if now.Sub(last) > 700*time.Millisecond {
			t.Logf("nothing ran for %v", now.Sub(last))
			time.Sleep(time.Second) // whoever is dropped for that is dropped by then
			eventually(t, "one client has ten in flight again", holds)
			begin, last = time.Now(), time.Now()
			continue
		}
		if !ok {
			t.Fatalf("%+v, want one client with ten in flight", got)
		}
		last = now
	}
}

// TestRestart kills the daemon and brings it back: producer and consumer go on.
func TestRestart(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		d := start(t, kind)
		p := newProducer(t, d.TCP, calm())
		var l ledger
		r := newConsumer(t, "again", calm(), 1, func(m *nsq.Message) error { l.note(m); return nil })
		must(t, r.ConnectToNSQD(d.TCP))
		for i := range 3 {
			body := fmt.Append(nil, i)
			eventually(t, "a publish works", func() bool { return p.Publish("again", body) == nil })
			eventually(t, "it has come", func() bool { return l.distinct() == i+1 })
			if i == 0 {
				d.Kill()
			} else {
				_ = d.Signal(t, syscall.SIGTERM) // upstream may not listen to signals yet
			}
			if err := p.Publish("again", body); err == nil {
				t.Error("a publish to nobody works")
			}
			d.Restart(t)
		}
		eventually(t, "the consumer is back", func() bool { return r.Stats().Connections == 1 })
	})
}

// TestUpgrades talks through TLS and compression, alone and together.
func TestUpgrades(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		cert, key := certificate(t)
		flags := []string{"--snappy=true", "--deflate=true", "--max-deflate-level=6", "--tls-cert=" + cert, "--tls-key=" + key, "--https-address="}
		for _, options := range [][]string{{"snappy"}, {"deflate"}, {"tls_v1"}, {"tls_v1", "snappy"}, {"tls_v1", "deflate"}} {
			t.Run(strings.Join(options, " and "), func(t *testing.T) {
				cfg := calm()
				for _, o := range options {
					must(t, cfg.Set(o, true))
				}
				must(t, cfg.Set("tls-root-ca-file", cert))
				must(t, cfg.Set("tls-min-version", "tls1.2"))
				roundTrip(t, start(t, kind, flags...), cfg, 0)
			})
		}
		t.Run("an unknown authority", func(t *testing.T) {
			cfg := calm()
			cfg.TlsV1 = true
			err := newProducer(t, start(t, kind, flags...).TCP, cfg).Ping()
			if !errors.As(err, new(nsq.ErrIdentify)) || !strings.Contains(err.Error(), "certificate") {
				t.Errorf("error %v, want one of the certificate", err)
			}
		})
	})
}

// TestAuth sends the secret.
func TestAuth(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.FormValue("secret") != "sesame" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{
			"ttl": 60, "identity": "ali", "identity_url": "http://cave",
			"authorizations": []any{map[string]any{
				"topic": ".*", "channels": []string{".*"}, "permissions": []string{"publish", "subscribe"},
			}},
		})
	}))
	defer s.Close()
	each(t, func(t *testing.T, kind string) {
		d := start(t, kind, "--auth-http-address="+strings.TrimPrefix(s.URL, "http://"),
			"--http-client-connect-timeout=2m", "--http-client-request-timeout=2m")
		f := func(secret, want string) {
			t.Helper()
			cfg := calm()
			cfg.AuthSecret = secret
			if err := newProducer(t, d.TCP, cfg).Publish("t", []byte("x")); err == nil || err.Error() != want {
				t.Errorf("secret %q: error %v, want %s", secret, err, want)
			}
		}
		f("", "Auth Required")
		f("wrong", "Error authenticating E_AUTH_FAILED AUTH failed")
		cfg := calm()
		cfg.AuthSecret = "sesame"
		roundTrip(t, d, cfg, 0)
	})
}

// TestDiscovery finds two daemons, one of each kind, through upstream's nsqlookupd.
func TestDiscovery(t *testing.T) {
	lookupd := daemon.Start(t, daemon.Config{Program: daemon.UpstreamNsqlookupd, Flags: []string{"--broadcast-address=127.0.0.1"}})
	d := start(t, kindUpstream, "--lookupd-tcp-address="+lookupd.TCP)
	other := start(t, kindZsq, "--lookupd-tcp-address="+lookupd.TCP)
	for i, d := range []*daemon.Daemon{d, other} {
		must(t, newProducer(t, d.TCP, calm()).Publish("found", fmt.Append(nil, i)))
	}
	cfg := calm()
	cfg.LookupdPollInterval = 50 * time.Millisecond
	cfg.MaxInFlight = 2
	var l ledger
	r := newConsumer(t, "found", cfg, 1, func(m *nsq.Message) error { l.note(m); return nil })
	must(t, r.ConnectToNSQLookupd(lookupd.HTTP))
	eventually(t, "both messages have come", func() bool { return l.distinct() == 2 })
	if s := r.Stats(); s.Connections != 2 {
		t.Errorf("%d connections, want 2", s.Connections)
	}
}

// TestConnAlone uses a Conn with a delegate of the test's own, as some programs do.
func TestConnAlone(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		d := start(t, kind)
		must(t, newProducer(t, d.TCP, calm()).Publish("alone", []byte("x")))
		del := &delegate{messages: make(chan *nsq.Message, 10), closed: make(chan bool)}
		c := nsq.NewConn(d.TCP, calm(), del)
		resp, err := c.Connect()
		must(t, err)
		if resp.MaxRdyCount != 2500 || c.MaxRDY() != 2500 || c.String() != d.TCP || c.RemoteAddr().String() != d.TCP {
			t.Errorf("%+v, max RDY %d, %s", resp, c.MaxRDY(), c)
		}
		must(t, c.WriteCommand(nsq.Subscribe("alone", "ch")))
		_, err = nsq.Ready(1).WriteTo(c)
		must(t, err)
		must(t, c.Flush())
		m := receive(t, del.messages, "the message")
		must(t, c.Close())
		if !c.IsClosing() {
			t.Error("it is not closing")
		}
		m.Finish()
		receive(t, del.closed, "the end of the connection")
		want := []string{"OnResponse OK", "OnMessage", "OnMessageFinished", "OnResume", "OnClose"}
		if got := del.calls(); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		drained(t, d, "alone")
		if err := c.WriteCommand(nsq.Nop()); err == nil {
			t.Error("a closed connection can be written to")
		}
	})
}

// delegate notes what it is told.
type delegate struct {
	mu       sync.Mutex
	told     []string
	messages chan *nsq.Message
	closed   chan bool
}

func (d *delegate) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = append(d.told, what)
}

func (d *delegate) calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.told)
}

func (d *delegate) OnResponse(_ *nsq.Conn, b []byte) { d.note("OnResponse " + string(b)) }
func (d *delegate) OnError(_ *nsq.Conn, b []byte)    { d.note("OnError " + string(b)) }
func (d *delegate) OnMessage(_ *nsq.Conn, m *nsq.Message) {
	d.note("OnMessage")
	d.messages <- m
}
func (d *delegate) OnMessageFinished(*nsq.Conn, *nsq.Message) { d.note("OnMessageFinished") }
func (d *delegate) OnMessageRequeued(*nsq.Conn, *nsq.Message) { d.note("OnMessageRequeued") }
func (d *delegate) OnBackoff(*nsq.Conn)                       { d.note("OnBackoff") }
func (d *delegate) OnContinue(*nsq.Conn)                      { d.note("OnContinue") }
func (d *delegate) OnResume(*nsq.Conn)                        { d.note("OnResume") }
func (d *delegate) OnIOError(_ *nsq.Conn, err error)          { d.note("OnIOError " + err.Error()) }
func (d *delegate) OnHeartbeat(*nsq.Conn)                     {}
func (d *delegate) OnClose(*nsq.Conn) {
	d.note("OnClose")
	close(d.closed)
}
