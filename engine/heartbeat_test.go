package engine_test

import (
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
)

// beating greets as a client that asks for heartbeats as often as it can, and reads them.
func beating(t *testing.T, e *engine.Engine) *peer {
	t.Helper()
	p := greet(t, e, identify(`{"heartbeat_interval":1000}`))
	p.beats = true
	return p
}

// TestSilence has clients that ask for heartbeats every second and then stop:
// between commands, in a command's line and in its body.
func TestSilence(t *testing.T) {
	t.Parallel()
	e := start(t, options(t))
	type client struct {
		*peer
		script, want string
	}
	var clients []client
	begin := func(script, want string) {
		p := beating(t, e)
		p.want("OK")
		p.send(script)
		clients = append(clients, client{p, script, want})
	}
	begin("", "")
	begin("NOP\n", "")
	begin("PUB t", "")
	for _, c := range stalls {
		begin(c.script, c.want)
	}
	for _, c := range clients {
		beats := 0
		got := c.next()
		for ; got == "_heartbeat_"; got = c.next() {
			beats++
		}
		if beats == 0 {
			t.Errorf("%q: no heartbeat before the end", c.script)
		}
		if c.want != "" {
			if got != c.want {
				t.Errorf("%q: got %q, want %q", c.script, got, c.want)
				continue
			}
			got = c.next()
		}
		if got != ended {
			t.Errorf("%q: got %q, want the end", c.script, got)
		}
	}
}

// TestHeartbeatsAnswered keeps a consumer that answers for longer than a silent
// one lives.
func TestHeartbeatsAnswered(t *testing.T) {
	t.Parallel()
	p := beating(t, start(t, options(t)))
	p.send(sub("t", "c"))
	for beats, oks := 0, 0; beats < 3 || oks < 3; {
		switch got := p.next(); got {
		case "OK": // of IDENTIFY, of SUB, and of the PUB
			oks++
		case "_heartbeat_":
			p.send("NOP\n")
			if beats++; beats == 3 {
				p.send(pub("t", "x"))
			}
		default:
			t.Fatalf("got %q", got)
		}
	}
}

// TestHeartbeatsLate has the loop stand still for longer than its clients may be
// silent. They have not been asked, so they stay; who does not answer now goes.
func TestHeartbeatsLate(t *testing.T) {
	t.Parallel()
	e := start(t, options(t))
	p := beating(t, e)
	p.want("OK")
	silent := beating(t, e)
	silent.want("OK")
	e.OnLoop(func() { time.Sleep(2100 * time.Millisecond) })
	p.want("_heartbeat_")
	p.send(pub("t", "x"))
	for got := p.next(); got != "OK"; got = p.next() {
		if got != "_heartbeat_" {
			t.Fatalf("got %q", got)
		}
	}
	for got := silent.next(); got != ended; got = silent.next() {
		if got != "_heartbeat_" {
			t.Fatalf("a client that does not answer: got %q", got)
		}
	}
}
