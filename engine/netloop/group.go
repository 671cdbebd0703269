package netloop

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Handler gives bytes a meaning. Each loop has its own; all its methods are
// called on that loop's goroutine and must not block.
type Handler interface {
	// Open greets a new connection. Its Ctx is the handler's to set.
	Open(c *Conn)

	// Traffic shows all bytes that were not used yet, contiguous, and returns
	// how many of them it used. The rest is shown again in front of newer bytes.
	// b is valid during the call only, and may be overwritten in place.
	Traffic(c *Conn, b []byte) (used int)

	// Drained says that the output of c, which was Full since the last call, is
	// empty again. What the handler writes in it leaves in the next round.
	Drained(c *Conn)

	// Closed says that c is gone. It is called exactly once for each Open. The
	// error is nil after the peer's end of stream and after CloseAfterFlush.
	Closed(c *Conn, err error)

	// Round ends each round in which anything happened, before output is sent.
	Round(l *Loop, now int64)

	// Timer is called when the time given to SetTimer has come, and returns the
	// next one, or 0 for none.
	Timer(l *Loop, now int64) (next int64)

	// Woken answers Loop.Wake; several calls of Wake may be answered by one.
	Woken(l *Loop)
}

// An EOFHandler is a Handler that wants to decide what the peer's end of stream
// means. Without it the connection is closed after a flush. The connection reads
// no more in either case; EOF should lead to CloseAfterFlush or Close.
type EOFHandler interface {
	EOF(c *Conn)
}

// A MemoryHandler is a Handler that has a last word for a connection whose unused
// input has to grow beyond Options.MemoryLimit. Without it the connection is
// closed with ErrMemory. With it the connection reads no more, and NoMemory should
// lead to CloseAfterFlush or Close. rest is that input, valid during the call only.
type MemoryHandler interface {
	NoMemory(c *Conn, rest []byte)
}

// Options are the settings of a Group; zero values mean the defaults.
type Options struct {
	// Loops is the number of event loops; 1 by default.
	Loops int

	// ReadBuffer is the most that one read takes, in bytes; 256 KiB by default,
	// measured: 64 KiB costs a fifth more per message, 1 MiB brings nothing.
	ReadBuffer int

	// OutputLimit is the number of unsent bytes at which Conn.Full says so; 1 MiB
	// by default. A message written before Full is always taken whole.
	OutputLimit int64

	// KeepAlive is the idle time and the interval of TCP keep-alive probes, 15 s
	// by default; negative turns them off.
	KeepAlive time.Duration

	// Linger bounds how long a connection that was closed after its last output
	// waits for the peer's kernel to have it; 2 s by default.
	Linger time.Duration

	// ConnLimit is the number of connections beyond which new ones wait in the
	// kernel's queue until one closes; 0 means no limit.
	ConnLimit int

	// MemoryLimit bounds the buffers of all connections together, in bytes; 0
	// means no limit. Each loop has its part. At the limit, what has unsent output
	// is Full, and a connection whose unused input has to grow is ended, see
	// MemoryHandler.
	MemoryLimit int64

	// Logf takes a line about what the world did to us; nothing by default.
	Logf func(format string, args ...any)
}

func (o *Options) setDefaults() {
	if o.Loops <= 0 {
		o.Loops = 1
	}
	if o.ReadBuffer <= 0 {
		o.ReadBuffer = 256 << 10
	}
	if o.OutputLimit <= 0 {
		o.OutputLimit = 1 << 20
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 15 * time.Second
	}
	if o.Linger <= 0 {
		o.Linger = 2 * time.Second
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
}

// A Group is a set of loops and the listeners that feed them.
type Group struct {
	opt     Options
	loops   []*Loop
	accept4 func(fd int) (int, unix.Sockaddr, error) // a test may replace it

	next    atomic.Uint64 // connections placed, for the round robin
	conns   atomic.Int64  // connections open or on their way to a loop
	starved atomic.Bool   // an acceptor waits for a connection to close
	freed   chan struct{} // wakes it; capacity 1

	mu        sync.Mutex // guards what follows
	listeners []*listener
	started   bool
	stopping  bool
	closing   chan struct{} // closed when stopping becomes true

	wg  sync.WaitGroup // the loops' goroutines
	err error          // the first loop failure; guarded by mu
}

// ErrMemory ends a connection that would take more than Options.MemoryLimit.
var ErrMemory = errors.New("connections have no memory left")

// NewGroup makes the loops; handler is called once for each, with its index.
// Nothing runs before Start. It fails when the kernel gives no descriptors.
func NewGroup(o Options, handler func(loop int) Handler) (*Group, error) {
	o.setDefaults()
	g := &Group{opt: o, accept4: accept4, freed: make(chan struct{}, 1), closing: make(chan struct{})}
	for i := range o.Loops {
		l, err := newLoop(g, i, handler(i))
		if err != nil {
			for _, l := range g.loops {
				l.closeFiles()
			}
			return nil, fmt.Errorf("netloop: open loop %d: %w", i, err)
		}
		g.loops = append(g.loops, l)
	}
	return g, nil
}

// Loops returns the loops in order of their index.
func (g *Group) Loops() []*Loop { return g.loops }

// Conns returns the number of open connections.
func (g *Group) Conns() int { return int(g.conns.Load()) }

// Start runs each loop on a goroutine of its own. Shutdown ends them.
func (g *Group) Start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started || g.stopping {
		return
	}
	g.started = true
	for _, l := range g.loops {
		g.wg.Add(1)
		go func() {
			defer g.wg.Done()
			if err := l.run(); err != nil {
				g.mu.Lock()
				g.err = errors.Join(g.err, fmt.Errorf("netloop: loop %d: %w", l.index, err))
				g.mu.Unlock()
			}
		}()
	}
}

// Run is Start, followed by a wait for the end of all loops. An error means that
// a loop failed; after Shutdown it is nil.
func (g *Group) Run() error {
	g.Start()
	g.wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// StopAccepting closes the listeners; connections go on. It waits for the
// acceptors, and may be called again.
func (g *Group) StopAccepting() {
	g.mu.Lock()
	if !g.stopping {
		g.stopping = true
		close(g.closing)
	}
	list := g.listeners
	g.listeners = nil
	g.mu.Unlock()
	for _, ln := range list {
		ln.close()
	}
}

// Shutdown ends the group: it stops accepting and reading, sends what the
// connections still hold, closes them and waits for the loops. What a peer does
// not read before ctx is done is lost, and Shutdown then returns ctx's error.
func (g *Group) Shutdown(ctx context.Context) error {
	g.StopAccepting()
	g.mu.Lock()
	started := g.started
	g.mu.Unlock()
	if !started {
		for _, l := range g.loops {
			l.end()
		}
		return nil
	}
	for _, l := range g.loops {
		l.Do(l.shutdown)
	}
	ended := make(chan struct{})
	go func() { g.wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	err := fmt.Errorf("netloop: shutdown: %w", ctx.Err())
	for _, l := range g.loops {
		l.Do(func() { l.closeAll(err) })
	}
	<-ended
	return err
}
