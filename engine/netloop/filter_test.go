package netloop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// A toy is a filter for tests. On the wire a byte is the byte itself, turned
// round, and a check byte; the value blow stands for blowUp plain zeros, and
// stop for the end. End says "bye".
type toy struct {
	half   bool
	first  byte
	zeros  int
	err    error
	owes   bool
	closed int
}

const (
	blow   = 0xfe
	stop   = 0xff
	blowUp = 1 << 20
)

func (f *toy) Decode(dst, src []byte) (wrote, used int, err error) {
	for wrote < len(dst) {
		switch {
		case f.zeros > 0:
			n := min(f.zeros, len(dst)-wrote)
			clear(dst[wrote : wrote+n])
			wrote += n
			f.zeros -= n
		case f.err != nil || used == len(src):
			if wrote > 0 {
				return wrote, used, nil
			}
			return 0, used, f.err
		case !f.half:
			f.half, f.first = true, src[used]
			used++
		default:
			f.half = false
			switch b := f.first ^ 0x55; {
			case src[used] != ^f.first:
				f.err = errors.New("toy: check byte")
			case b == stop:
				f.err = io.EOF
			case b == blow:
				f.zeros = blowUp
			case b == 'K':
				f.owes = true
			default:
				dst[wrote] = b
				wrote++
			}
			used++
		}
	}
	return wrote, used, nil
}

func (f *toy) Encode(dst, plain []byte) ([]byte, error) {
	if f.owes {
		f.owes = false
		dst = append(dst, toyBytes("k")...)
	}
	return append(dst, toyBytes(string(plain))...), nil
}

func toyBytes(plain string) []byte {
	var b []byte
	for i := range len(plain) {
		b = append(b, plain[i]^0x55, ^(plain[i] ^ 0x55))
	}
	return b
}

func (f *toy) Owes() bool            { return f.owes }
func (f *toy) Step() int             { return 64 << 10 }
func (f *toy) End(dst []byte) []byte { return append(dst, toyBytes("bye")...) }
func (f *toy) Close()                { f.closed++ }

// toyServer answers with s, and puts a toy in when it has seen the byte '!'.
func toyServer(t *testing.T, o Options, s *script) (addr string, filters chan *toy) {
	t.Helper()
	filters = make(chan *toy, 10)
	inner := s.traffic
	var upgrading []*Conn
	s.traffic = func(c *Conn, b []byte) int {
		if c.Ctx != nil {
			return inner(c, b)
		}
		i := bytes.IndexByte(b, '!')
		if i < 0 {
			return len(b)
		}
		c.Write([]byte("clear"))
		c.Ctx = true
		c.PauseRead()
		upgrading = append(upgrading, c)
		return i + 1
	}
	s.round = func(*Loop, int64) {
		for _, c := range upgrading {
			f := new(toy)
			c.SetFilter(f)
			c.Write([]byte("hidden"))
			c.ResumeRead()
			filters <- f
		}
		upgrading = nil
	}
	_, addr = start(t, o, s)
	return addr, filters
}

// TestFilter echoes through a filter that came in mid-stream: no byte is lost
// where it begins, whatever the pieces, and it ends with its goodbye.
func TestFilter(t *testing.T) {
	closed := make(chan error, 1)
	addr, filters := toyServer(t, Options{OutputLimit: 64 << 10}, &script{
		traffic: func(c *Conn, b []byte) int {
			c.Write(b)
			if i := bytes.IndexByte(b, '.'); i >= 0 {
				c.CloseAfterFlush()
			}
			return len(b)
		},
		closed: func(_ *Conn, err error) { closed <- err },
	})
	body := string(bytes.Repeat([]byte("0123456789abcdefghij"), 20_000))
	f := func(step int, body string) {
		t.Helper()
		c := dial(t, "tcp", addr)
		go func() {
			for rest := append([]byte("!"), toyBytes(body+"K"+".")...); len(rest) > 0; rest = rest[min(step, len(rest)):] {
				if _, err := c.Write(rest[:min(step, len(rest))]); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		rest, ok := bytes.CutPrefix(got, []byte("clear"))
		plain := make([]byte, len(rest)+1)
		n, _, err := new(toy).Decode(plain, rest)
		// The filter's own word goes somewhere among ours.
		text := string(bytes.Replace(plain[:n], []byte("k"), nil, 1))
		if want := "hidden" + body + "." + "bye"; !ok || err != nil || text != want || n != len(want)+1 {
			t.Fatalf("step %d: %d bytes in clear, %d of %d behind the filter, %v", step, len(got)-len(rest), n, len(want)+1, err)
		}
		toy := wait(t, filters)
		if err := wait(t, closed); err != nil {
			t.Errorf("step %d: closed with %v", step, err)
		}
		if toy.closed != 1 {
			t.Errorf("step %d: the filter was closed %d times", step, toy.closed)
		}
	}
	f(1<<20, body)
	f(1<<20, "")
	f(1, "a short text")
	f(7919, body)
}

// TestFilterPause shows that nothing is decoded for a handler that has paused,
// and that all of it comes when it goes on, with no new input.
func TestFilterPause(t *testing.T) {
	shown := make(chan int, 1000)
	conns := make(chan *Conn, 1)
	total := 0
	addr, filters := toyServer(t, Options{}, &script{
		open: func(c *Conn) { conns <- c },
		traffic: func(c *Conn, b []byte) int {
			total += len(b)
			c.PauseRead()
			shown <- len(b)
			return len(b)
		},
	})
	c := dial(t, "tcp", addr)
	if _, err := c.Write(append([]byte("!"), toyBytes("\xfe\xfe\xfe\xfeend")...)); err != nil {
		t.Fatal(err)
	}
	sc := wait(t, conns)
	f := wait(t, filters)
	const want = 4*blowUp + 3
	for done := 0; done < want; {
		n := wait(t, shown)
		if n > f.Step() {
			t.Fatalf("%d bytes at once", n)
		}
		done += n
		on(t, sc.loop, func() {
			if total != done {
				t.Errorf("%d bytes were shown to a paused handler", total-done)
			}
			sc.ResumeRead()
		})
	}
}

// TestFilterEnds shows how a stream ends: by the peer's word, by a fault, and by
// the peer going away.
func TestFilterEnds(t *testing.T) {
	closed := make(chan error, 1)
	addr, filters := toyServer(t, Options{}, &script{
		traffic: func(_ *Conn, b []byte) int { return 0 },
		closed:  func(_ *Conn, err error) { closed <- err },
	})
	f := func(script []byte, want string) {
		t.Helper()
		c := dial(t, "tcp", addr)
		if _, err := c.Write(append([]byte("!"), script...)); err != nil {
			t.Fatal(err)
		}
		toy := wait(t, filters)
		if want == "gone" {
			_ = c.Close()
		}
		err := wait(t, closed)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != want && want != "gone" {
			t.Errorf("%x: closed with %v, want %s", script, err, want)
		}
		if toy.closed != 1 {
			t.Errorf("%x: the filter was closed %d times", script, toy.closed)
		}
	}
	f(toyBytes("abc\xff"), "")
	f([]byte{1, 1}, "toy: check byte")
	f(append(toyBytes("abc"), 1, 1), "toy: check byte")
	f(toyBytes("abc"), "gone")
}

// TestFilterSlowReader shows that a filtered connection whose peer does not read
// is bounded and drains like any other.
func TestFilterSlowReader(t *testing.T) {
	const limit = 64 << 10
	var most int64
	left := 8 << 20
	fill := func(c *Conn) {
		for left > 0 && !c.Full() {
			c.Write(bytes.Repeat([]byte("x"), 1000))
			left -= 1000
		}
		most = max(most, c.Buffered())
	}
	s := &script{
		traffic: func(c *Conn, b []byte) int { fill(c); return len(b) },
		drained: func(c *Conn) { fill(c) },
	}
	g, err := NewGroup(Options{OutputLimit: limit}, func(int) Handler { return s })
	if err != nil {
		t.Fatal(err)
	}
	s.open = func(c *Conn) { c.SetFilter(new(toy)) }
	addr, err := g.Listen("tcp", here)
	if err != nil {
		t.Fatal(err)
	}
	g.Start()
	c := dial(t, "tcp", addr.String())
	if _, err := c.Write(toyBytes("go")); err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyN(io.Discard, c, 2*(8<<20))
	if err != nil {
		t.Errorf("after %d bytes: %v", n, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = g.Shutdown(ctx)
	if most > 3*limit {
		t.Errorf("%d bytes waited", most)
	}
}
