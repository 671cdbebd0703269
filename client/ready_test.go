package nsq_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

// A field is a set of servers that deliver as they may, and what one can see of
// all of them together.
type field struct {
	mu       sync.Mutex
	ready    map[*fakeConn]int
	inFlight map[*fakeConn]int
	mostOut  int // highest sum of messages in flight
	answered int
}

func newField() *field {
	return &field{ready: make(map[*fakeConn]int), inFlight: make(map[*fakeConn]int)}
}

// serve delivers up to count messages, in the order of the commands.
func (f *field) serve(count int) func(*fakeConn) {
	return func(c *fakeConn) {
		c.subscribed()
		defer f.change(func() { delete(f.ready, c); delete(f.inFlight, c) })
		next := 0
		for {
			line, _ := c.command()
			name, rest, _ := strings.Cut(line, " ")
			switch name {
			case "":
				return
			case "CLS":
				c.send(nsq.FrameTypeResponse, "CLOSE_WAIT")
				f.change(func() { f.ready[c] = 0 })
			case "RDY":
				n, _ := strconv.Atoi(rest)
				f.change(func() { f.ready[c] = n })
			case "FIN":
				f.change(func() { f.inFlight[c]--; f.answered++ })
			}
			var out strings.Builder
			f.change(func() {
				for f.inFlight[c] < f.ready[c] && next < count {
					f.inFlight[c]++
					out.WriteString(message(next, 1, "x"))
					next++
				}
			})
			c.raw(out.String())
		}
	}
}

// change changes the field and measures it.
func (f *field) change(by func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	by()
	out := 0
	for _, n := range f.inFlight {
		out += n
	}
	f.mostOut = max(f.mostOut, out)
}

func (f *field) readyCounts() (counts []int) {
	f.change(func() {
		for _, n := range f.ready {
			counts = append(counts, n)
		}
	})
	return counts
}

// settle waits until the ready counts sum up to want.
func (f *field) settle(t *testing.T, what string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s: ready counts sum up to %d", what, want), func() bool {
		sum := 0
		for _, n := range f.readyCounts() {
			sum += n
		}
		return sum == want
	})
}

// TestShares changes maximum and connections under way: shares follow, down as well
// as up.
func TestShares(t *testing.T) {
	f := newField()
	one, two := newFake(t, f.serve(0)), newFake(t, f.serve(0))
	cfg := calm()
	cfg.MaxInFlight = 10
	r, _ := newConsumer(t, cfg, 1, finish)
	must(t, r.ConnectToNSQD(one.addr()))
	f.settle(t, "one connection", 10)
	must(t, r.ConnectToNSQD(two.addr()))
	eventually(t, "two have five each", func() bool {
		counts := f.readyCounts()
		return len(counts) == 2 && counts[0] == 5 && counts[1] == 5
	})
	for _, n := range []int{4, 1, 8, 0, 10} {
		r.ChangeMaxInFlight(n)
		f.settle(t, fmt.Sprintf("a maximum of %d", n), n)
	}
	must(t, r.DisconnectFromNSQD(two.addr()))
	f.settle(t, "one connection is left", 10)
}

// TestFairness has 20 servers of which one has messages: they come, go on coming, and
// the maximum is never passed. TestTurns looks at how much of it is used.
func TestFairness(t *testing.T) {
	f := func(maxInFlight int) {
		t.Run(fmt.Sprint("max in flight ", maxInFlight), func(t *testing.T) {
			f := newField()
			var addrs []string
			for i := range 20 {
				count := 0
				if i == 13 {
					count = 1 << 30
				}
				addrs = append(addrs, newFake(t, f.serve(count)).addr())
			}
			cfg := calm()
			cfg.MaxInFlight = maxInFlight
			r, _ := newConsumer(t, cfg, maxInFlight, func(*nsq.Message) error {
				<-time.After(time.Millisecond) // a handler that takes its time
				return nil
			})
			r.SetLoggerLevel(nsq.LogLevelError)
			must(t, r.ConnectToNSQDs(addrs))
			eventually(t, "some hundred messages", func() bool { return r.Stats().MessagesFinished >= 400 })
			f.change(func() {
				if f.mostOut > maxInFlight {
					t.Errorf("%d in flight, above the maximum of %d", f.mostOut, maxInFlight)
				}
			})
		})
	}
	f(1)
	f(8)
}

// TestEveryServerHasATurn has 10 busy servers and a maximum of 2: all are served.
func TestEveryServerHasATurn(t *testing.T) {
	var fields []*field
	var addrs []string
	for range 4 {
		f := newField()
		fields = append(fields, f)
		addrs = append(addrs, newFake(t, f.serve(1<<30)).addr())
	}
	cfg := calm()
	cfg.MaxInFlight = 1
	r, _ := newConsumer(t, cfg, 1, finish)
	r.SetLoggerLevel(nsq.LogLevelError)
	must(t, r.ConnectToNSQDs(addrs))
	for i, f := range fields {
		eventually(t, fmt.Sprintf("server %d is served", i), func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.answered > 0
		})
	}
}
