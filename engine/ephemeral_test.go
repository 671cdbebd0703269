package engine_test

import (
	"sync"
	"testing"

	"github.com/zsqio/zsq/engine"
)

// TestSubscribeToWhatGoes has clients come and go on a topic and a channel that
// vanish with their last client. A SUB that meets them on their way out waits
// and finds, or makes, the next ones; meanwhile its loop serves others.
func TestSubscribeToWhatGoes(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Loops = 2
	e := start(t, o)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { comeAndGo(t, e, 40) })
	}
	wg.Wait()
}

// comeAndGo subscribes n times, on a connection each, and publishes behind the
// SUB in the same segment.
func comeAndGo(t *testing.T, e *engine.Engine, n int) {
	for range n {
		p := greet(t, e, sub("e#ephemeral", "c#ephemeral"), pub("other", "x"))
		for range 2 {
			if got := p.next(); got != "OK" {
				t.Errorf("got %q", got)
				return
			}
		}
		_ = p.Close()
	}
}
