package engine_test

import (
	"testing"
)

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
		p := greet(t, e, identify(`{"heartbeat_interval":1000}`))
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
	p := greet(t, start(t, options(t)), identify(`{"heartbeat_interval":1000}`), sub("t", "c"))
	p.want("OK", "OK")
	for range 3 {
		p.want("_heartbeat_")
		p.send("NOP\n")
	}
	p.send(pub("t", "x"))
	p.want("OK")
}
