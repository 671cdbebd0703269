package netloop

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/internal/invariant"
)

// headroom is the space in front of the read buffer for the rest of the last
// read; a longer rest is assembled in a buffer of the connection.
const headroom = 64 << 10

// one is what a signal writes to an eventfd, in either byte order.
var one = [8]byte{0: 1}

// A Loop serves its connections on one goroutine. Its methods must be called
// there, except for Index, Do and Wake.
type Loop struct {
	// Ctx is the handler's to use, on the loop only.
	Ctx any

	group   *Group
	handler Handler
	eof     EOFHandler    // handler, when it is one
	short   MemoryHandler // likewise
	index   int
	poller  *poller

	wakeFd   int // eventfd, edge-triggered and never read
	timerFd  int // likewise
	wakeFile *os.File
	timeFile *os.File

	// What follows belongs to the loop's goroutine.
	table []*Conn // by descriptor
	count int     // entries in table
	rbuf  []byte  // headroom, then ReadBuffer bytes
	pool  pool
	wire  []byte // ReadBuffer bytes for what filters decode; nil until one does

	now     int64
	lightNs int64 // when there was light traffic last; 0: never
	again   bool  // something happened after Round: run another round
	yielded int64 // when the loop last went through the scheduler
	leaving bool  // shutdown was asked for: end when the last connection did

	dirty   []*Conn // have output to send, or a change of interest, or a close
	dirty2  []*Conn // the spare of dirty
	resumed []*Conn // ResumeRead was called and bytes wait
	lingers []*Conn // closed, waiting for the peer's kernel to take the rest

	due       int64 // when Handler.Timer is due; 0: not
	lingerDue int64 // when lingers wants a look; 0: not
	armed     int64 // what timerFd is set to; 0: nothing
	timerSpec unix.ItimerSpec

	_       [128]byte   // what other goroutines write stands apart
	pending atomic.Bool // wakeFd was written and its event not seen yet
	woken   atomic.Bool // Wake was called and not answered yet

	mu     sync.Mutex // guards what follows
	ended  bool       // no more tasks or connections are taken
	tasks  []func()
	adopts []*Conn
}

func newLoop(g *Group, index int, h Handler) (*Loop, error) {
	l := &Loop{group: g, handler: h, index: index, wakeFd: -1, timerFd: -1}
	l.eof, _ = h.(EOFHandler)
	l.short, _ = h.(MemoryHandler)
	if g.opt.MemoryLimit > 0 {
		l.pool.limit = max(1, g.opt.MemoryLimit/int64(g.opt.Loops))
	}
	l.rbuf = make([]byte, headroom+g.opt.ReadBuffer)
	var err error
	if l.poller, err = openPoller(); err != nil {
		return nil, err
	}
	if l.wakeFd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err == nil {
		// Other goroutines may still signal a loop that has ended, so these two
		// are closed by the garbage collector, when nobody can.
		l.wakeFile = os.NewFile(uintptr(l.wakeFd), "eventfd")
		err = l.poller.addEdge(l.wakeFd)
	}
	if err == nil {
		l.timerFd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	}
	if err == nil {
		l.timeFile = os.NewFile(uintptr(l.timerFd), "timerfd")
		err = l.poller.addEdge(l.timerFd)
	}
	if err != nil {
		l.closeFiles()
		return nil, err
	}
	return l, nil
}

func (l *Loop) closeFiles() { _ = l.poller.Close() }

// Index returns the loop's place in Group.Loops. Any goroutine may ask.
func (l *Loop) Index() int { return l.index }

// Now returns the round's reading of Now's clock, in nanoseconds.
func (l *Loop) Now() int64 { return l.now }

// Conns calls f for each open connection of the loop.
func (l *Loop) Conns(f func(c *Conn)) {
	for _, c := range l.table {
		if c != nil {
			f(c)
		}
	}
}

// Do runs f on the loop, in order with other calls of Do; any goroutine may
// call it. After the loop has ended f is dropped.
func (l *Loop) Do(f func()) { l.do(f) }

func (l *Loop) do(f func()) bool {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return false
	}
	l.tasks = append(l.tasks, f)
	l.mu.Unlock()
	l.signal()
	return true
}

// Wake makes the loop call Handler.Woken soon. Any goroutine may call it, it
// does not allocate, and calls that find another one waiting cost one load.
//
// No wake-up is lost: the loop takes the flag down before it calls Woken, so
// what was stored before Wake either is seen by that Woken or brings another.
func (l *Loop) Wake() {
	if !l.woken.Load() && l.woken.CompareAndSwap(false, true) {
		l.signal()
	}
}

// Again has the next round follow at once. The loop's handler calls it in its Round.
func (l *Loop) Again() { l.again = true }

// signal makes the loop see an event on wakeFd.
func (l *Loop) signal() {
	if l.pending.Load() || !l.pending.CompareAndSwap(false, true) {
		return
	}
	// The counter has room for 2^64 signals, so the write cannot fail.
	_, err := unix.Write(l.wakeFd, one[:])
	if invariant.Enabled {
		invariant.Check(err == nil, "netloop: signal: %v", err)
	}
}

// adopt takes a connection from an acceptor. It returns false when the loop has
// ended.
func (l *Loop) adopt(c *Conn) bool {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return false
	}
	l.adopts = append(l.adopts, c)
	l.mu.Unlock()
	l.signal()
	return true
}

// run serves events, a batch to a round, until shutdown.
func (l *Loop) run() error {
	defer l.end()
	for !l.leaving || l.count > 0 {
		ready, err := l.poller.look()
		if err == nil && len(ready) == 0 && !l.again {
			ready, err = l.poller.wait()
		}
		if err != nil {
			return err
		}
		l.round(ready)
		if l.now-l.yielded > yieldEvery {
			l.yielded = l.now
			runtime.Gosched()
		}
	}
	return nil
}

// yieldEvery is how often a loop goes through the scheduler. It has no need to: but a
// goroutine that has not done so for 10 ms has its processor taken away in the middle
// of the next system call, however short, and after that the runtime's monitor looks
// for more to take every 20 us for some milliseconds.
const yieldEvery = int64(4 * time.Millisecond)

// end refuses further work and gives back the loop's descriptors.
func (l *Loop) end() {
	l.mu.Lock()
	ended := l.ended
	l.ended = true
	adopts := l.adopts
	l.adopts, l.tasks = nil, nil
	l.mu.Unlock()
	if ended {
		return
	}
	for _, c := range adopts {
		_ = unix.Close(c.Fd)
		l.group.connClosed()
	}
	l.closeFiles()
}

// round serves the descriptors that are ready, then lets everybody finish.
//
// Events can be stale: a connection that closed earlier in the batch may have
// left its number to another one. That is harmless, because an event never says
// more here than "try": the read or write then tells what is so.
func (l *Loop) round(ready []unix.EpollEvent) {
	l.again = false
	l.now = Now()
	resumed := len(l.resumed) // what is resumed meanwhile has its turn in the next round
	signalled := false
	for i := range ready {
		switch fd := int(ready[i].Fd); fd {
		case l.wakeFd:
			signalled = true
		case l.timerFd:
			l.armed = 0
		default:
			if fd < len(l.table) && l.table[fd] != nil {
				l.table[fd].onEvent(ready[i].Events)
			}
		}
	}
	if signalled {
		l.onSignal()
	}
	for _, c := range l.resumed[:resumed] {
		c.resumed = false
		c.goOn()
	}
	l.resumed = slices.Delete(l.resumed, 0, resumed)
	if len(ready) > 1 {
		l.now = Now()
	}
	l.endRound()
}

// onSignal does what other goroutines ask for.
func (l *Loop) onSignal() {
	l.pending.Store(false) // first: later work brings another signal
	l.mu.Lock()
	tasks, adopts := l.tasks, l.adopts
	l.tasks, l.adopts = nil, nil
	l.mu.Unlock()
	for _, c := range adopts {
		l.open(c)
	}
	for _, f := range tasks {
		f()
	}
	if l.woken.Load() && l.woken.Swap(false) {
		l.handler.Woken(l)
	}
}

// endRound lets the handler finish the round, sends what it wrote, and arms the
// timer.
func (l *Loop) endRound() {
	l.runTimer()
	l.checkLingers()
	l.handler.Round(l, l.now)
	l.flushDirty()
	l.arm()
	l.again = l.again || len(l.dirty) > 0 || len(l.resumed) > 0
}

// flushDirty sends what the round wrote, once for each connection. What the
// handler writes meanwhile, in Drained or Closed, waits for the next round, so
// that one fast reader cannot keep the loop from the others.
func (l *Loop) flushDirty() {
	list := l.dirty
	l.dirty = l.dirty2[:0]
	if len(list) > 1 && l.LightTraffic() {
		lightFirst(list)
	}
	for i, c := range list {
		list[i] = nil
		c.dirty = false
		c.settle()
	}
	l.dirty2 = list[:0]
}

// open registers a new connection.
func (l *Loop) open(c *Conn) {
	err := l.poller.change(c.Fd, wantNone, wantRead)
	if err != nil || l.leaving {
		if err != nil {
			l.group.opt.Logf("netloop: connection from %s: %v", c.RemoteAddr(), err)
		}
		_ = unix.Close(c.Fd)
		l.group.connClosed()
		return
	}
	c.interest = wantRead
	if c.Fd >= len(l.table) {
		table := make([]*Conn, max(64, 2*len(l.table), c.Fd+1))
		copy(table, l.table)
		l.table = table
	}
	if invariant.Enabled {
		invariant.Check(l.table[c.Fd] == nil, "netloop: descriptor %d has two owners", c.Fd)
	}
	l.table[c.Fd] = c
	l.count++
	l.handler.Open(c)
}

func (l *Loop) stopReading() {
	l.Conns((*Conn).PauseRead)
	for _, c := range l.table {
		if c != nil {
			c.deaf = true
		}
	}
}

func (l *Loop) shutdown() {
	l.leaving = true
	l.stopReading()
	l.Conns((*Conn).CloseAfterFlush)
}

func (l *Loop) closeAll(err error) {
	l.leaving = true
	l.Conns(func(c *Conn) { c.Close(err) })
}
