package engine_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// gatedFS is a disk whose writes wait while its gate is shut.
type gatedFS struct {
	mmapqueue.FS
	mu    sync.Mutex
	moved sync.Cond
	shut  bool
	stuck int   // writes that wait
	fails error // what the writes to come say
}

type gatedFile struct {
	mmapqueue.File
	g *gatedFS
}

func newGatedFS() *gatedFS {
	g := &gatedFS{FS: mmapqueue.OS}
	g.moved.L = &g.mu
	return g
}

func (g *gatedFS) Create(path string, size int64) (mmapqueue.File, error) {
	f, err := g.FS.Create(path, size)
	return gatedFile{f, g}, err
}

func (g *gatedFS) Open(path string, write bool) (mmapqueue.File, error) {
	f, err := g.FS.Open(path, write)
	return gatedFile{f, g}, err
}

func (f gatedFile) WriteAt(b []byte, offset int64) (int, error) {
	g := f.g
	g.mu.Lock()
	fails := g.fails
	g.stuck++
	g.moved.Broadcast()
	for g.shut {
		g.moved.Wait()
	}
	g.stuck--
	g.mu.Unlock()
	if fails != nil {
		return 0, fails
	}
	return f.File.WriteAt(b, offset)
}

// set shuts or opens the gate, and has writes that begin from now on fail.
func (g *gatedFS) set(shut bool, fails error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.fails = shut, fails
	g.moved.Broadcast()
}

// wait returns when a write waits at the gate.
func (g *gatedFS) wait() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.stuck == 0 {
		g.moved.Wait()
	}
}

// gated runs a daemon in process mode whose journal lies behind a gate.
func gated(t *testing.T) (*engine.Engine, *gatedFS) {
	t.Helper()
	g := newGatedFS()
	o := options(t)
	o.Durability = engine.DurabilityProcess
	e, err := engine.NewOn(g, time.Now, o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() {
		g.set(false, nil)
		if err := e.Shutdown(); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return e, g
}

// witness subscribes to the topic: when it has seen a message, the round that
// published it is over, or at its end.
func witness(t *testing.T, e *engine.Engine, topic string) *peer {
	t.Helper()
	c := greet(t, e, sub(topic, "c"))
	c.want("OK")
	c.send("RDY 2500\n")
	return c
}

// inRounds publishes each body in a round of its own.
func inRounds(p, w *peer, topic string, bodies ...string) {
	p.t.Helper()
	for _, body := range bodies {
		p.send(pub(topic, body))
		if got := string(wire.FrameBody(w.message())); got != body {
			p.t.Fatalf("got message %.40q, want %.40q", got, body)
		}
	}
}

// roundTrips has the loop do other work for some rounds, in which it would read
// whatever it wants to read.
func roundTrips(t *testing.T, e *engine.Engine) {
	t.Helper()
	for range 40 {
		greet(t, e, "IDENTIFY\n\x00\x00\x00\x02{}").want("OK") // nothing that the journal hears of
	}
}

// TestAnswersInOrder has several rounds of a connection wait for the journal:
// messages pass, answers come in the order of the commands.
func TestAnswersInOrder(t *testing.T) {
	e, g := gated(t)
	p := greet(t, e, sub("own", "c"))
	p.want("OK")
	p.send("RDY 100\n")
	w := witness(t, e, "t")
	g.set(true, nil)
	inRounds(p, w, "t", "1")
	g.wait()
	inRounds(p, w, "t", "2", "3")
	// Its own message passes the OKs; the error does not.
	p.send(pub("own", "mine"))
	id := idOf(t, p.message())
	p.send(fin(id) + fin(id) + pub("t", "4") + fin(id))
	if got := string(wire.FrameBody(w.message())); got != "4" {
		t.Fatalf("got message %q, want 4", got)
	}
	p.send(fin(id) + "CLS\n" + fin(id))
	roundTrips(t, e)
	p.send(pub("t", "5"))
	w.message()
	g.set(false, nil)
	late := "E_FIN_FAILED FIN " + string(wire.AppendMessageID(nil, id)) + " failed ID not in flight"
	p.want("OK", "OK", "OK", "OK", late, "OK", late, late, "CLOSE_WAIT", late, "OK")

	// The daemon holds nothing back afterwards.
	p.send(pub("t", "6") + fin(id) + pub("t", "7"))
	p.want("OK", late, "OK")
}

// TestSubBehindPub has a SUB wait behind a PUB that the journal has not taken: no
// message comes before its OK.
func TestSubBehindPub(t *testing.T) {
	e, g := gated(t)
	w := witness(t, e, "t")
	p := greet(t, e)
	g.set(true, nil)
	inRounds(p, w, "t", "1")
	g.wait()
	p.send(sub("t", "d") + "RDY 10\n")
	roundTrips(t, e)
	inRounds(p, w, "t", "2")
	g.set(false, nil)
	p.want("OK", "OK")
	for range 2 { // the OK of the second PUB and its message, in either order
		switch got := p.next(); got {
		case "OK", "message 2":
		default:
			t.Fatalf("got %q", got)
		}
	}
}

// TestRoundFails has a round fail while others wait: what came before is
// accepted, and nothing that came later is answered.
func TestRoundFails(t *testing.T) {
	full := errors.New("disk full")
	for _, first := range []bool{true, false} {
		t.Run(fmt.Sprint("first=", first), func(t *testing.T) {
			e, g := gated(t)
			w := witness(t, e, "t")
			p, other := greet(t, e), greet(t, e)
			inRounds(p, w, "t", "0")
			p.want("OK") // and the journal has nothing left to write
			before, after := error(nil), full
			if first {
				before, after = full, nil
			}
			g.set(true, before)
			inRounds(p, w, "t", "1")
			g.wait() // the writes of round 1 have begun, and know what becomes of them
			inRounds(p, w, "t", "2", "3")
			inRounds(other, w, "t", "4")
			roundTrips(t, e)
			g.set(false, after)
			if !first {
				p.want("OK")
			}
			if got := p.next(); !strings.HasPrefix(got, "E_PUB_FAILED PUB failed") {
				t.Errorf("got %q, want E_PUB_FAILED", got)
			}
			p.want(ended)
			// The other connection's fate is that of its own round.
			if got := other.next(); first && got != "OK" || !first && !strings.HasPrefix(got, "E_PUB_FAILED PUB failed") {
				t.Errorf("got %q for the other connection", got)
			}
			g.set(false, nil)
			for healed := false; !healed; {
				again := greet(t, e, pub("t", "5"))
				healed = again.next() == "OK"
			}
		})
	}
}

// TestBackPressure shows what a connection may have published before the journal
// has taken any of it: then it is not read, until the journal goes on.
func TestBackPressure(t *testing.T) {
	t.Run("rounds", func(t *testing.T) {
		e, g := gated(t)
		w := witness(t, e, "t")
		p := greet(t, e)
		g.set(true, nil)
		const rounds = 64
		for i := range rounds {
			inRounds(p, w, "t", fmt.Sprint(i))
		}
		p.send(pub("t", "one more") + pub("t", "and another"))
		roundTrips(t, e)
		if n := topicStats(t, e, "t").MessageCount; n != rounds {
			t.Errorf("%d messages were read, want %d", n, rounds)
		}
		g.set(false, nil)
		for range rounds + 2 {
			p.want("OK")
		}
	})
	t.Run("bytes", func(t *testing.T) {
		e, g := gated(t)
		w := witness(t, e, "t")
		p := greet(t, e)
		g.set(true, nil)
		const count, size, most = 600, 16 << 10, 512 << 10
		sent := make(chan error)
		go func() {
			_, err := io.WriteString(p, strings.Repeat(pub("t", strings.Repeat("x", size)), count))
			sent <- err
		}()
		for range most / size {
			w.message()
		}
		roundTrips(t, e)
		// A round may go beyond, by what one read brings.
		if n := topicStats(t, e, "t").MessageCount; n < most/size || n > 2*most/size {
			t.Errorf("%d messages of %d bytes were read, want about %d", n, size, most/size)
		}
		g.set(false, nil)
		for range count {
			p.want("OK")
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		for range count - most/size {
			w.message()
		}
	})
	t.Run("answers", func(t *testing.T) {
		e, g := gated(t)
		w := witness(t, e, "t")
		p := greet(t, e, sub("own", "c"))
		p.want("OK")
		g.set(true, nil)
		inRounds(p, w, "t", "first")
		const count, most = 50_000, 512 << 10 // of some 60 bytes each
		sent := make(chan error)
		go func() {
			_, err := io.WriteString(p, strings.Repeat("FIN 0123456789abcdef\n", count)+pub("t", "last"))
			sent <- err
		}()
		roundTrips(t, e)
		if n := topicStats(t, e, "t").MessageCount; n != 1 {
			t.Errorf("answers of far more than %d bytes wait", most)
		}
		g.set(false, nil)
		p.want("OK")
		for range count {
			p.want("E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight")
		}
		p.want("OK")
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}

// TestCloseWhilePending closes connections whose publishes wait for the journal.
func TestCloseWhilePending(t *testing.T) {
	e, g := gated(t)
	w := witness(t, e, "t")
	half, gone := greet(t, e), greet(t, e)
	g.set(true, nil)
	inRounds(half, w, "t", "1", "2")
	inRounds(gone, w, "t", "3", "4")
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	roundTrips(t, e)
	g.set(false, nil)
	half.want("OK", "OK", ended)
	p := greet(t, e)
	inRounds(p, w, "t", "5")
	p.want("OK")
}
