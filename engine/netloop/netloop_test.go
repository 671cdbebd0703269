package netloop

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/internal/invariant"
)

// A script is a Handler made of functions; the ones left nil do nothing.
type script struct {
	open    func(c *Conn)
	traffic func(c *Conn, b []byte) int
	drained func(c *Conn)
	closed  func(c *Conn, err error)
	round   func(l *Loop, now int64)
	timer   func(l *Loop, now int64) int64
	woken   func(l *Loop)
}

func (s *script) Open(c *Conn) {
	if s.open != nil {
		s.open(c)
	}
}

func (s *script) Traffic(c *Conn, b []byte) int {
	if s.traffic != nil {
		return s.traffic(c, b)
	}
	return len(b)
}

func (s *script) Drained(c *Conn) {
	if s.drained != nil {
		s.drained(c)
	}
}

func (s *script) Closed(c *Conn, err error) {
	if s.closed != nil {
		s.closed(c, err)
	}
}

func (s *script) Round(l *Loop, now int64) {
	if s.round != nil {
		s.round(l, now)
	}
}

func (s *script) Timer(l *Loop, now int64) int64 {
	if s.timer != nil {
		return s.timer(l, now)
	}
	return 0
}

func (s *script) Woken(l *Loop) {
	if s.woken != nil {
		s.woken(l)
	}
}

func echo(c *Conn, b []byte) int {
	c.Write(b)
	return len(b)
}

// here is where tests listen: at an address of this package's own, so that whoever
// still looks for a server that had the same port a moment ago does not come to us.
const here = "127.0.0.2:0"

// patience bounds every wait. Nothing comes near it unless something hangs, not even
// on a machine that stands still for a minute.
const patience = 2 * time.Minute

// start runs s on a fresh group until the test ends, and returns its address.
func start(t testing.TB, o Options, h Handler) (*Group, string) {
	t.Helper()
	g, err := NewGroup(o, func(int) Handler { return h })
	if err != nil {
		t.Fatal(err)
	}
	addr, err := g.Listen("tcp", here)
	if err != nil {
		t.Fatal(err)
	}
	g.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = g.Shutdown(ctx)
	})
	return g, addr.String()
}

// dial connects, with a deadline that only a broken test meets.
func dial(t testing.TB, network, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if c, ok := c.(*net.TCPConn); ok { // what the kernel holds must not be all of it, however large it may grow
		_ = c.SetReadBuffer(256 << 10)
		_ = c.SetWriteBuffer(256 << 10)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// on runs f on the loop and waits for it.
func on(t testing.TB, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	l.Do(func() { f(); close(done) })
	wait(t, done)
}

func wait[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing happened")
		panic("unreachable")
	}
}

func randomBytes(seed int64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.New(rand.NewSource(seed)).Read(b)
	return b
}

// echoes sends want in random pieces and checks that it comes back.
func echoes(t *testing.T, c net.Conn, seed int64, want []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		rnd := rand.New(rand.NewSource(seed))
		rest := want
		for len(rest) > 0 {
			n := min(1+rnd.Intn(1<<rnd.Intn(19)), len(rest))
			if _, err := c.Write(rest[:n]); err != nil {
				sent <- err
				return
			}
			rest = rest[n:]
		}
		sent <- nil
	}()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("seed %d: read %d of %d bytes: %v", seed, n, len(want), err)
	}
	if err := wait(t, sent); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("seed %d: other bytes came back", seed)
	}
}

// Whatever part of its input a handler uses, bytes come in order and whole.
func TestEchoUnderRandomUse(t *testing.T) {
	rnd := rand.New(rand.NewSource(7))
	_, addr := start(t, Options{ReadBuffer: 8 << 10}, &script{traffic: func(c *Conn, b []byte) int {
		used := len(b)
		if rnd.Intn(2) == 0 && len(b) < 300<<10 {
			used = rnd.Intn(len(b) + 1)
		}
		c.Write(b[:used])
		if used == len(b) {
			return used
		}
		// What is held back must come again even if the peer sends no more.
		c.PauseRead()
		c.ResumeRead()
		return used
	}})
	for seed := range int64(4) {
		echoes(t, dial(t, "tcp", addr), seed, randomBytes(seed, 2<<20))
	}
}

// frames echoes messages of a 4-byte size and a body, whole, and returns how
// many bytes were not enough although Expect had said so.
func frames(early *atomic.Int64) func(c *Conn, b []byte) int {
	return func(c *Conn, b []byte) int {
		if want, ok := c.Ctx.(int); ok && len(b) < want {
			early.Add(1)
		}
		c.Ctx = nil
		used := 0
		for {
			rest := b[used:]
			if len(rest) < 4 {
				return used
			}
			n := 4 + int(binary.BigEndian.Uint32(rest))
			if len(rest) < n {
				c.Expect(n)
				c.Ctx = n
				return used
			}
			c.Write(rest[:n])
			used += n
		}
	}
}

// Messages of all sizes are assembled whole, and Traffic is not called early.
func TestExpectAssemblesMessages(t *testing.T) {
	var early atomic.Int64
	_, addr := start(t, Options{}, &script{traffic: frames(&early)})
	rnd := rand.New(rand.NewSource(3))
	var in []byte
	for range 300 {
		n := rnd.Intn(1 << rnd.Intn(19))
		in = binary.BigEndian.AppendUint32(in, uint32(n))
		in = append(in, randomBytes(int64(n), n)...)
	}
	echoes(t, dial(t, "tcp", addr), 9, in)
	if early.Load() != 0 {
		t.Errorf("%d calls of Traffic came before the bytes that Expect named", early.Load())
	}
}

// What a client announces costs nothing; memory follows what it sends.
func TestExpectDoesNotAllocate(t *testing.T) {
	seen := make(chan *Conn, 1)
	g, addr := start(t, Options{}, &script{traffic: func(c *Conn, b []byte) int {
		c.Expect(1 << 30)
		seen <- c
		return 0
	}})
	c := dial(t, "tcp", addr)
	if _, err := c.Write([]byte("big")); err != nil {
		t.Fatal(err)
	}
	conn := wait(t, seen)
	on(t, g.Loops()[0], func() {
		if cap(conn.in) > 1024 {
			t.Errorf("3 bytes are kept in %d", cap(conn.in))
		}
	})
}

// A paused connection takes nothing more, and goes on where it stopped.
func TestPauseHoldsTheSender(t *testing.T) {
	const size = 64 << 20
	paused := make(chan *Conn, 1)
	var got atomic.Int64
	all := make(chan struct{})
	g, addr := start(t, Options{}, &script{traffic: func(c *Conn, b []byte) int {
		if c.Ctx == nil {
			c.Ctx = "paused"
			c.PauseRead()
			paused <- c
			return 0
		}
		if got.Add(int64(len(b))) == size {
			close(all)
		}
		return len(b)
	}})
	c := dial(t, "tcp", addr)
	var sent atomic.Int64
	go func() {
		b := make([]byte, 1<<20)
		for range size >> 20 {
			n, err := c.Write(b)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	conn := wait(t, paused)
	l := g.Loops()[0]
	for range 200 { // rounds enough to read everything, were it not paused
		on(t, l, func() {
			if n := len(conn.in); n > headroom+256<<10 {
				t.Errorf("a paused connection holds %d bytes", n)
			}
		})
	}
	if sent.Load() == size {
		t.Error("the sender was not held back")
	}
	on(t, l, conn.ResumeRead)
	wait(t, all)
}

func TestManyConnections(t *testing.T) {
	closed := make(chan error, 100)
	g, addr := start(t, Options{Loops: 2}, &script{traffic: echo, closed: func(_ *Conn, err error) { closed <- err }})
	var conns []net.Conn
	for range 100 {
		conns = append(conns, dial(t, "tcp", addr))
	}
	for i, c := range conns {
		echoes(t, c, int64(i), randomBytes(int64(i), 1000))
	}
	for _, l := range g.Loops() {
		on(t, l, func() {
			if l.count != 50 {
				t.Errorf("loop %d has %d of 100 connections", l.Index(), l.count)
			}
		})
	}
	for _, c := range conns {
		_ = c.Close()
	}
	for range conns {
		if err := wait(t, closed); err != nil {
			t.Error(err)
		}
	}
	if n := g.Conns(); n != 0 {
		t.Errorf("%d connections left", n)
	}
	for _, l := range g.Loops() {
		on(t, l, func() {
			if l.count != 0 || len(l.lingers) != 0 {
				t.Errorf("loop %d: %d connections, %d lingering", l.Index(), l.count, len(l.lingers))
			}
		})
	}
}

// A handler that asks Full holds at most the limit and one message for a peer
// that does not read; Drained then lets it go on, to the last byte.
func TestFullAndDrained(t *testing.T) {
	const limit, message, total = 256 << 10, 10 << 10, 32 << 20
	body := randomBytes(1, message)
	var drained, most atomic.Int64
	fill := func(c *Conn) {
		left := c.Ctx.(int)
		for left > 0 && !c.Full() {
			n := min(left, message)
			c.Write(body[:n])
			left -= n
			most.Store(max(most.Load(), c.Buffered()))
		}
		c.Ctx = left
	}
	stuck := make(chan struct{}, 1)
	g, addr := start(t, Options{OutputLimit: limit}, &script{
		open:    func(c *Conn) { c.Ctx = total },
		traffic: func(c *Conn, b []byte) int { fill(c); return len(b) },
		drained: func(c *Conn) { drained.Add(1); fill(c) },
		round: func(l *Loop, _ int64) {
			l.Conns(func(c *Conn) {
				if c.blocked {
					select {
					case stuck <- struct{}{}:
					default:
					}
				}
			})
		},
	})
	c := dial(t, "tcp", addr)
	if _, err := c.Write([]byte("go")); err != nil {
		t.Fatal(err)
	}
	// The kernel takes no more; the next event of the loop sees it.
	for blocked := false; !blocked; {
		on(t, g.Loops()[0], func() {})
		select {
		case <-stuck:
			blocked = true
		default:
		}
	}
	got := 0
	b := make([]byte, 64<<10)
	for got < total {
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", got, total, err)
		}
		for i := range n {
			if at := (got + i) % message; b[i] != body[at] {
				t.Fatalf("byte %d differs", got+i)
			}
		}
		got += n
	}
	if drained.Load() == 0 {
		t.Error("Drained was never called")
	}
	if most.Load() > limit+message {
		t.Errorf("%d bytes buffered, limit %d and one message of %d", most.Load(), limit, message)
	}
}

// Running out of descriptors neither ends nor spins the acceptor; it goes on
// when a connection closes.
func TestAcceptSurvivesEMFILE(t *testing.T) {
	var fail atomic.Bool
	var calls atomic.Int64
	failed := make(chan struct{}, 1)
	s := &script{traffic: echo}
	g, err := NewGroup(Options{}, func(int) Handler { return s })
	if err != nil {
		t.Fatal(err)
	}
	g.accept4 = func(fd int) (int, unix.Sockaddr, error) {
		if !fail.Load() {
			return accept4(fd)
		}
		calls.Add(1)
		select {
		case failed <- struct{}{}:
		default:
		}
		return -1, nil, unix.EMFILE
	}
	addr, err := g.Listen("tcp", here)
	if err != nil {
		t.Fatal(err)
	}
	g.Start()
	defer func() { _ = g.Shutdown(context.Background()) }()
	first := dial(t, "tcp", addr.String())
	echoes(t, first, 1, []byte("first"))
	begin := time.Now() // before the first of the calls that are counted
	fail.Store(true)
	second := dial(t, "tcp", addr.String()) // waits in the kernel's queue
	wait(t, failed)
	wait(t, failed)       // it looks again
	count := calls.Load() // first: more may come while we look at the clock
	if looks := int64(time.Since(begin)/acceptRetry) + 2; count > looks {
		t.Errorf("%d calls of accept where %d would do", count, looks)
	}
	echoes(t, first, 2, []byte("still served"))
	fail.Store(false)
	_ = first.Close()
	echoes(t, second, 3, []byte("second"))
}

// TestConnLimit has a second connection wait until the first one has gone.
func TestConnLimit(t *testing.T) {
	said := make(chan string, 10)
	g, addr := start(t, Options{ConnLimit: 1, Logf: func(f string, args ...any) {
		said <- fmt.Sprintf(f, args...)
	}}, &script{traffic: echo})
	first := dial(t, "tcp", addr)
	echoes(t, first, 1, []byte("first"))
	second := dial(t, "tcp", addr)
	if text := wait(t, said); !strings.Contains(text, "limit of 1 connections") {
		t.Errorf("said %q", text)
	}
	echoes(t, first, 2, []byte("first goes on"))
	if n := g.Conns(); n != 1 {
		t.Errorf("%d connections", n)
	}
	_ = first.Close()
	echoes(t, second, 3, []byte("second"))
}

// TestMemoryLimit fills the buffers of connections: the one that has to grow
// then is closed, and the others go on.
func TestMemoryLimit(t *testing.T) {
	const limit = 1 << 20
	closed := make(chan error, 100)
	h := &script{traffic: func(c *Conn, b []byte) int {
		if b[0] == 'x' { // a command that never ends
			return 0
		}
		return echo(c, b)
	}, closed: func(_ *Conn, err error) { closed <- err }}
	_, addr := start(t, Options{MemoryLimit: limit}, h)
	good := dial(t, "tcp", addr)
	echoes(t, good, 1, []byte("before"))
	glutton := dial(t, "tcp", addr)
	junk := bytes.Repeat([]byte("x"), 64<<10)
	for err := error(nil); err == nil; {
		_, err = glutton.Write(junk)
	}
	if err := wait(t, closed); !errors.Is(err, ErrMemory) {
		t.Errorf("closed: %v, want ErrMemory", err)
	}
	echoes(t, good, 2, []byte("after"))
}

// lastWord is a script that answers a lack of memory.
type lastWord struct {
	*script
	said chan string
}

func (h lastWord) NoMemory(c *Conn, rest []byte) {
	h.said <- string(rest[:4])
	c.Write(rest[:4])
	c.CloseAfterFlush()
}

// TestMemoryLastWord shows that a connection which needs too much memory gets
// what its handler answers, and is closed without an error. The client sends no
// more before it knows what became of the last: to bytes that come after the close
// the kernel answers with a reset.
func TestMemoryLastWord(t *testing.T) {
	const limit = 64 << 10
	closed := make(chan error, 1)
	shown := make(chan int, 1)
	h := lastWord{&script{
		traffic: func(_ *Conn, b []byte) int { shown <- len(b); return 0 },
		closed:  func(_ *Conn, err error) { closed <- err },
	}, make(chan string, 1)}
	_, addr := start(t, Options{MemoryLimit: limit}, h)
	c := dial(t, "tcp", addr)
	piece := bytes.Repeat([]byte("word"), 1<<10)
	word := ""
	for sent := 0; word == ""; {
		if sent > 4*limit { // a buffer is at most twice what it holds
			t.Fatalf("%d bytes are kept, with a limit of %d", sent, limit)
		}
		n, err := c.Write(piece)
		if err != nil {
			t.Fatal(err)
		}
		for sent += n; word == ""; {
			select {
			case seen := <-shown:
				if seen < sent {
					continue
				}
			case word = <-h.said:
			case err := <-closed:
				t.Fatalf("closed without a word: %v", err)
			case <-time.After(patience):
				t.Fatal("nothing happened")
			}
			break
		}
	}
	if got, err := io.ReadAll(c); string(got) != word || word != "word" || err != nil {
		t.Errorf("got %q, %v; the last word was %q", got, err, word)
	}
	if err := wait(t, closed); err != nil {
		t.Errorf("closed: %v", err)
	}
}

// TestLingerEnds shows that a connection whose peer reads nothing goes at its time,
// however many others begin to linger meanwhile.
func TestLingerEnds(t *testing.T) {
	closed := make(chan int, 2000) // which one it was, in the order of opening
	lingers := make(chan struct{}, cap(closed))
	opened := 0
	h := &script{
		open: func(c *Conn) { c.Ctx = opened; opened++ },
		traffic: func(c *Conn, b []byte) int {
			c.Write(make([]byte, 64<<10))
			c.CloseAfterFlush()
			lingers <- struct{}{}
			return len(b)
		},
		closed: func(c *Conn, _ error) { closed <- c.Ctx.(int) },
	}
	_, addr := start(t, Options{Linger: 20 * time.Millisecond}, h)
	small := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048) })
	}}
	for range cap(closed) {
		c, err := small.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		<-lingers // the loop keeps up, so its time goes on
		select {
		case first := <-closed:
			if first != 0 {
				t.Errorf("connection %d went first", first)
			}
			return
		default:
		}
	}
	t.Errorf("no connection of %d has gone", cap(closed))
}

// TestParted shows a connection as parted from its last output on, while its peer has
// not taken that and it is therefore not closed.
func TestParted(t *testing.T) {
	conns, closed := make(chan *Conn, 1), make(chan error, 1)
	g, addr := start(t, Options{Linger: time.Hour}, &script{
		traffic: func(c *Conn, b []byte) int {
			if c.Parted() {
				t.Error("parted before its end")
			}
			c.Write(make([]byte, 64<<10)) // more than the peer's kernel takes
			c.CloseAfterFlush()
			conns <- c
			return len(b)
		},
		closed: func(_ *Conn, err error) { closed <- err },
	})
	small := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048) })
	}}
	peer, err := small.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	c := <-conns
	got := make(chan bool, 1)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		on(t, g.Loops()[0], func() { got <- c.Parted() })
		if <-got {
			break
		}
		if time.Now().After(end) {
			t.Fatal("never parted")
		}
	}
	select {
	case err := <-closed:
		t.Errorf("closed before its peer took the output: %v", err)
	default:
	}
	if _, err := io.Copy(io.Discard, peer); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, closed); err != nil {
		t.Errorf("closed: %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	g, _ := start(t, Options{}, &script{traffic: func(c *Conn, b []byte) int {
		c.Write([]byte(c.RemoteAddr()))
		c.CloseAfterFlush()
		return len(b)
	}})
	path := filepath.Join(t.TempDir(), "s")
	if _, err := g.Listen("unix", path); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Listen("unix", path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listen on the path: %v", err)
	}
	c := dial(t, "unix", path)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "@" {
		t.Errorf("read %q, %v", b, err)
	}
}

// Timers fire, never early, in order of time; a loop with none does not wake.
func TestTimer(t *testing.T) {
	type firing struct{ due, now int64 }
	fired := make(chan firing, 3)
	var due int64
	g, _ := start(t, Options{}, &script{timer: func(l *Loop, now int64) int64 {
		fired <- firing{due, now}
		if len(fired) == cap(fired) {
			return 0
		}
		due = now + int64(time.Millisecond)
		return due
	}})
	l := g.Loops()[0]
	on(t, l, func() {
		due = l.Now() + int64(2*time.Millisecond)
		l.SetTimer(due + int64(time.Hour)) // the earliest counts
		l.SetTimer(due)
	})
	for range cap(fired) {
		if f := wait(t, fired); f.now < f.due {
			t.Errorf("fired %d ns early", f.due-f.now)
		}
	}
}

// Each Wake is followed by a Woken, however they collide.
func TestWakeIsNotLost(t *testing.T) {
	var asked, seen atomic.Int64
	arrived := make(chan struct{}, 1)
	const total = 4 * 5000
	g, _ := start(t, Options{}, &script{woken: func(*Loop) {
		if n := asked.Load(); n > seen.Load() {
			seen.Store(n)
			if n == total {
				arrived <- struct{}{}
			}
		}
	}})
	for range 4 {
		go func() {
			for range total / 4 {
				asked.Add(1)
				g.Loops()[0].Wake()
			}
		}()
	}
	wait(t, arrived)
}

// A clean shutdown loses nothing that a slow but reading peer still has to read,
// though the peer's own bytes were never read.
func TestShutdownFlushes(t *testing.T) {
	const size = 32 << 20
	want := randomBytes(5, size)
	wrote := make(chan struct{})
	g, addr := start(t, Options{}, &script{traffic: func(c *Conn, b []byte) int {
		if c.Ctx == nil {
			c.Ctx = true
			c.Write(want)
			close(wrote)
		}
		return len(b)
	}})
	c := dial(t, "tcp", addr)
	if _, err := c.Write([]byte("go")); err != nil {
		t.Fatal(err)
	}
	wait(t, wrote)
	on(t, g.Loops()[0], func() { g.Loops()[0].Conns((*Conn).PauseRead) })
	if _, err := c.Write([]byte("never read")); err != nil {
		t.Fatal(err)
	}
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		down <- g.Shutdown(ctx)
	}()
	got := make([]byte, 0, size)
	b := make([]byte, 16<<10)
	for {
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", len(got), size, err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes arrived, or others", len(got), size)
	}
	if err := wait(t, down); err != nil {
		t.Error(err)
	}
	if g.Conns() != 0 {
		t.Errorf("%d connections left", g.Conns())
	}
}

// A peer that does not read keeps Shutdown no longer than its context.
func TestShutdownGivesUp(t *testing.T) {
	closed := make(chan error, 1)
	wrote := make(chan struct{})
	g, addr := start(t, Options{}, &script{
		traffic: func(c *Conn, b []byte) int {
			c.Write(make([]byte, 64<<20))
			close(wrote)
			return len(b)
		},
		closed: func(_ *Conn, err error) { closed <- err },
	})
	c := dial(t, "tcp", addr)
	if _, err := c.Write([]byte("go")); err != nil {
		t.Fatal(err)
	}
	wait(t, wrote)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
	wait(t, closed)
	if err := g.Run(); err != nil {
		t.Error(err)
	}
}

// What a half-closed peer is owed still reaches it.
func TestEndOfStreamFlushes(t *testing.T) {
	owed := map[*Conn]int{}
	_, addr := start(t, Options{}, &script{
		traffic: func(c *Conn, b []byte) int { owed[c] += len(b); return len(b) },
		round: func(*Loop, int64) {
			for c, n := range owed {
				c.Write(bytes.Repeat([]byte("k"), n))
				delete(owed, c)
			}
		},
	})
	c := dial(t, "tcp", addr).(*net.TCPConn)
	if _, err := c.Write(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "kkkkk" {
		t.Errorf("read %q, %v", b, err)
	}
}

// In steady state a round trip allocates nothing, and neither does Wake; an idle
// connection holds no buffer.
func TestAllocations(t *testing.T) {
	if invariant.Enabled {
		t.Skip("checks allocate")
	}
	var conn *Conn
	g, addr := start(t, Options{}, &script{open: func(c *Conn) { conn = c }, traffic: echo})
	c := dial(t, "tcp", addr)
	b := make([]byte, 200)
	trip := func() {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		trip()
	}
	if n := testing.AllocsPerRun(500, trip); n != 0 {
		t.Errorf("a round trip allocates %v times", n)
	}
	if n := testing.AllocsPerRun(500, g.Loops()[0].Wake); n != 0 {
		t.Errorf("Wake allocates %v times", n)
	}
	on(t, g.Loops()[0], func() {
		if cap(conn.in) != 0 || cap(conn.out) != 0 {
			t.Errorf("an idle connection holds %d, %d", cap(conn.in), cap(conn.out))
		}
	})
}

// One producer that never waits: the cost of reading.
func BenchmarkSink(b *testing.B) {
	const size = 200
	var got atomic.Int64
	done := make(chan struct{}, 1)
	var want int64
	_, addr := start(b, Options{}, &script{traffic: func(_ *Conn, p []byte) int {
		if got.Add(int64(len(p))) == want {
			done <- struct{}{}
		}
		return len(p)
	}})
	c := dial(b, "tcp", addr)
	buf := make([]byte, 1000*size)
	want = int64(b.N) * size
	b.SetBytes(size)
	b.ResetTimer()
	for left := b.N; left > 0; left -= 1000 {
		if _, err := c.Write(buf[:min(left, 1000)*size]); err != nil {
			b.Fatal(err)
		}
	}
	wait(b, done)
}

func BenchmarkPingPong(b *testing.B) {
	_, addr := start(b, Options{}, &script{traffic: echo})
	c := dial(b, "tcp", addr)
	_ = c.SetDeadline(time.Time{})
	buf := make([]byte, 200)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}
