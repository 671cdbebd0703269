package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/internal/wire"
)

// TestTransports takes every combination that can be had, in pieces of every
// kind.
func TestTransports(t *testing.T) {
	o := options(t)
	o.MaxDeflateLevel = 8
	a := secure(t, o)
	e := start(t, o)
	ways := map[string]func(net.Conn) net.Conn{
		"whole":    func(c net.Conn) net.Conn { return c },
		"dripping": func(c net.Conn) net.Conn { return dripping{c} },
	}
	n := 0
	for request, want := range map[string]grants{
		`"tls_v1":true`:                                   {TLS: true, DeflateLevel: 6},
		`"snappy":true`:                                   {Snappy: true, DeflateLevel: 6},
		`"deflate":true`:                                  {Deflate: true, DeflateLevel: 6},
		`"deflate":true,"deflate_level":1`:                {Deflate: true, DeflateLevel: 1},
		`"deflate":true,"deflate_level":99`:               {Deflate: true, DeflateLevel: 8},
		`"tls_v1":true,"snappy":true`:                     {TLS: true, Snappy: true, DeflateLevel: 6},
		`"tls_v1":true,"deflate":true,"deflate_level":3`:  {TLS: true, Deflate: true, DeflateLevel: 3},
		`"tls_v1":false,"snappy":false,"deflate_level":3`: {DeflateLevel: 6},
	} {
		for way, wrap := range ways {
			n++
			topic := fmt.Sprintf("t%d", n)
			t.Run(request+" "+way, func(t *testing.T) {
				if way == "dripping" && testing.Short() {
					t.Skip("160,000 writes")
				}
				s := plain(t, wrap(connect(t, e)))
				if got := s.upgrade(request, a.client()); got != want {
					t.Errorf("granted %+v, want %+v", got, want)
				}
				s.exercise(topic)
			})
		}
	}
}

// TestEarlyHello sends IDENTIFY and the ClientHello in one segment. Upstream
// loses the latter.
func TestEarlyHello(t *testing.T) {
	o := options(t)
	a := secure(t, o)
	e := start(t, o)
	c := &eager{Conn: connect(t, e), prelude: wire.Magic + identify(`{"feature_negotiation":true,"tls_v1":true}`)}
	s := plain(t, c)
	s.startTLS(a.client())
	if !bytes.Contains(c.answer, []byte(`"tls_v1":true`)) {
		t.Errorf("IDENTIFY was answered with %s", c.answer)
	}
	s.want("OK")
	s.exercise("early")
}

// TestAnswersBeforeUpgrade shows that what was asked in clear is answered in
// clear, in order, and that a second IDENTIFY does not upgrade again.
func TestAnswersBeforeUpgrade(t *testing.T) {
	o := options(t)
	a := secure(t, o)
	e := start(t, o)
	s := plain(t, connect(t, e))
	s.send(wire.Magic + pub("t", "x") + pub("t", "y") + identify(`{"feature_negotiation":true,"tls_v1":true}`))
	s.want("OK", "OK")
	if text := s.next(); !strings.Contains(text, `"tls_v1":true`) {
		t.Fatal(text)
	}
	s.startTLS(a.client())
	s.want("OK")
	s.send(identify(`{"feature_negotiation":true,"tls_v1":true,"snappy":true,"output_buffer_size":1024}`) + pub("t", "z"))
	if text := s.next(); !strings.Contains(text, `"tls_v1":false`) || !strings.Contains(text, `"snappy":false`) {
		t.Error(text)
	}
	s.want("OK")
}

// TestNotOffered shows what is granted without a certificate and with
// compression turned off, and that both compressions at once are refused.
func TestNotOffered(t *testing.T) {
	o := options(t)
	o.SnappyEnabled = false
	e := start(t, o)
	s := plain(t, connect(t, e))
	if got := s.upgrade(`"tls_v1":true,"snappy":true,"deflate":true`, nil); got != (grants{Deflate: true, DeflateLevel: 6}) {
		t.Errorf("granted %+v", got)
	}
	s.exercise("t")

	f := transcripts(t, start(t, options(t)))
	f(wire.Magic+identify(`{"feature_negotiation":true,"snappy":true,"deflate":true}`),
		"E_IDENTIFY_FAILED cannot enable both deflate and snappy compression", ended)
	f(wire.Magic+identify(`{"snappy":true}`), "OK")
}

// TestCorruptStream shows that a broken stream ends its connection and no other.
func TestCorruptStream(t *testing.T) {
	o := options(t)
	a := secure(t, o)
	e := start(t, o)
	for _, request := range []string{`"tls_v1":true`, `"snappy":true`, `"deflate":true`, `"tls_v1":true,"snappy":true`} {
		c := connect(t, e)
		s := plain(t, c)
		s.upgrade(request, a.client())
		if _, err := io.WriteString(c, strings.Repeat("\xff\x06\x17\x03\x03\xfe", 500)); err != nil {
			t.Fatal(err)
		}
		// An alert may come first.
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", request, err)
		}
	}
	greet(t, e, pub("t", "x")).want("OK")
}

// TestBombs sends messages that compress to nearly nothing, and far more of them
// than fits into the limits; memory must not follow.
func TestBombs(t *testing.T) {
	o := options(t)
	e := start(t, o)
	n := 48
	if invariant.Enabled {
		n = 12 // poisoning takes its time
	}
	for _, request := range []string{`"snappy":true`, `"deflate":true`} {
		s := plain(t, connect(t, e))
		s.upgrade(request, nil)
		// A command that never ends: the line limit holds behind the filter too.
		for range n {
			if _, err := s.w.Write(make([]byte, 1<<20)); err != nil {
				break
			}
		}
		if f, ok := s.w.(interface{ Flush() error }); ok {
			_ = f.Flush()
		}
		if got := s.next(); strings.HasPrefix(got, "E_") {
			t.Errorf("%s: %q", request, got)
		}

		s = plain(t, connect(t, e))
		s.upgrade(request, nil)
		large := []byte(pub("bomb", strings.Repeat("\x00", 1<<20)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		go func() {
			for range n {
				if _, err := s.w.Write(large); err != nil {
					return
				}
			}
			if f, ok := s.w.(interface{ Flush() error }); ok {
				_ = f.Flush()
			}
		}()
		for range n {
			s.want("OK")
		}
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 36<<20 {
			t.Errorf("%s: the heap grew by %d MB for %d MB of zeros", request, grown>>20, n)
		}
	}
}
