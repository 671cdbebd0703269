package upgrade_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/snappy"

	"github.com/zsqio/zsq/engine/upgrade"
)

// patience bounds every wait. Nothing comes near it unless something hangs, not even
// on a machine that stands still for a minute.
const patience = 2 * time.Minute

// decode feeds src to f in pieces of at most step bytes, with room for at most
// room bytes, and returns all that comes out before an error.
func decode(t testing.TB, f upgrade.Filter, src []byte, step, room int) ([]byte, error) {
	t.Helper()
	var out []byte
	dst := make([]byte, room)
	for first := true; first || len(src) > 0; first = false {
		piece := src[:min(step, len(src))]
		src = src[len(piece):]
		for {
			wrote, used, err := f.Decode(dst, piece)
			out = append(out, dst[:wrote]...)
			piece = piece[used:]
			if err != nil {
				if wrote > 0 {
					t.Fatalf("Decode wrote %d bytes together with error %v", wrote, err)
				}
				return out, err
			}
			if wrote == 0 {
				if len(piece) > 0 {
					t.Fatalf("Decode wrote nothing and left %d bytes", len(piece))
				}
				break
			}
		}
	}
	return out, nil
}

func encode(t testing.TB, f upgrade.Filter, dst, plain []byte) []byte {
	t.Helper()
	dst, err := f.Encode(dst, plain)
	if err != nil {
		t.Fatal(err)
	}
	return dst
}

// samples are bodies that compress well, badly, and not at all, short and long.
func samples() [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	return [][]byte{
		[]byte("\x00\x00\x00\x06\x00\x00\x00\x00OK"),
		{7},
		bytes.Repeat([]byte("abcdefghij"), 20),
		noise(300),
		make([]byte, 70_000),
		noise(70_000),
		bytes.Repeat(noise(1000), 70),
		[]byte(strings.Repeat("x", 64<<10)),
		[]byte(strings.Repeat("y", 64<<10+1)),
	}
}

// records are samples of which one fills more than a TLS record.
func records() [][]byte { return append(samples()[:4], samples()[5][:20_000]) }

// splits are how pieces of input and room for output are cut.
var splits = []struct{ step, room int }{{1 << 20, 1 << 20}, {1 << 20, 100}, {1000, 1 << 20}, {37, 41}, {1, 100_000}, {5, 1}}

// TestSnappyDecode reads what another implementation wrote, cut in every way.
func TestSnappyDecode(t *testing.T) {
	var wire, want []byte
	w := new(bytes.Buffer)
	enc := snappy.NewBufferedWriter(w)
	for _, b := range samples() {
		if _, err := enc.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := enc.Flush(); err != nil {
			t.Fatal(err)
		}
		want = append(want, b...)
	}
	wire = w.Bytes()
	for _, s := range splits {
		got, err := decode(t, new(upgrade.Snappy), wire, s.step, s.room)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("step %d, room %d: %d bytes of %d, error %v", s.step, s.room, len(got), len(want), err)
		}
	}
}

// TestSnappyEncode has another implementation read what we wrote.
func TestSnappyEncode(t *testing.T) {
	f := new(upgrade.Snappy)
	var wire, want []byte
	for _, b := range samples() {
		wire = encode(t, f, wire, b)
		want = append(want, b...)
	}
	got, err := io.ReadAll(snappy.NewReader(bytes.NewReader(wire)))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, error %v", len(got), len(want), err)
	}
}

// TestSnappyGolden holds the first answer to the bytes that nsqd sends.
func TestSnappyGolden(t *testing.T) {
	got := encode(t, new(upgrade.Snappy), nil, samples()[0])
	if want := "ff060000734e61507059" + "010e0000" + "26982bcf" + "00000006000000004f4b"; hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
}

// TestSnappyBad shows what is refused, and that a refusal is final.
func TestSnappyBad(t *testing.T) {
	const stream = "\xff\x06\x00\x00sNaPpY"
	ok := string(encode(t, new(upgrade.Snappy), nil, []byte("hello")))
	f := func(wire string, wantOut string, want error) {
		t.Helper()
		for _, step := range []int{1, len(wire)} {
			s := new(upgrade.Snappy)
			got, err := decode(t, s, []byte(wire), step, 100)
			if string(got) != wantOut || !errors.Is(err, want) {
				t.Errorf("%q step %d: got %q, %v; want %q, %v", wire, step, got, err, wantOut, want)
			}
			if _, _, again := s.Decode(make([]byte, 10), []byte(ok)); want != nil && !errors.Is(again, want) {
				t.Errorf("%q: after its error Decode says %v", wire, again)
			}
			s.Close()
		}
	}
	f(ok, "hello", nil)
	f(ok+ok, "hellohello", nil)
	f(ok+"\xfe\x03\x00\x00abc"+"\x80\x00\x00\x00"+ok, "hellohello", nil) // padding, skippable
	f(ok[10:], "", upgrade.ErrSnappyCorrupt)                             // no stream identifier
	f("\xff\x06\x00\x00SnApPy", "", upgrade.ErrSnappyCorrupt)
	f("\xff\x07\x00\x00sNaPpY_", "", upgrade.ErrSnappyCorrupt)
	f(ok+"\x02\x01\x00\x00x", "hello", upgrade.ErrSnappyUnsupported)
	f(stream+"\x00\x03\x00\x00abc", "", upgrade.ErrSnappyCorrupt)                                      // shorter than a checksum
	f(stream+"\x01\x05\x00\x01", "", upgrade.ErrSnappyUnsupported)                                     // more than 64 KiB
	f(stream+"\x00\xff\xff\xff", "", upgrade.ErrSnappyUnsupported)                                     // 16 MB announced
	f(stream+"\x00\x0a\x00\x00\x00\x00\x00\x00\xff\xff\xff\x7f\x00\x00", "", upgrade.ErrSnappyCorrupt) // 256 MB promised
	f(ok[:len(ok)-1]+"O", "", upgrade.ErrSnappyCorrupt)                                                // checksum
}

// TestDeflateDecode reads what another implementation wrote, cut in every way.
func TestDeflateDecode(t *testing.T) {
	var want []byte
	w := new(bytes.Buffer)
	enc, err := flate.NewWriter(w, 6)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range samples() {
		if _, err := enc.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := enc.Flush(); err != nil {
			t.Fatal(err)
		}
		want = append(want, b...)
	}
	for _, s := range splits {
		f := upgrade.NewDeflate(6)
		got, err := decode(t, f, w.Bytes(), s.step, s.room)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("step %d, room %d: %d bytes of %d, error %v", s.step, s.room, len(got), len(want), err)
		}
		f.Close()
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	f := upgrade.NewDeflate(6)
	if got, err := decode(t, f, w.Bytes(), 100, 1000); !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
		t.Errorf("finished stream: %d bytes of %d, error %v, want EOF", len(got), len(want), err)
	}
	f.Close()
}

// TestDeflateEncode has another implementation read what we wrote, flush by
// flush, at every level.
func TestDeflateEncode(t *testing.T) {
	for level := 1; level <= 9; level++ {
		f := upgrade.NewDeflate(level)
		pr, pw := io.Pipe()
		go func() {
			for _, b := range samples() {
				if _, err := pw.Write(encode(t, f, nil, b)); err != nil {
					break
				}
			}
			pw.Close()
		}()
		r := flate.NewReader(pr)
		for i, want := range samples() {
			// Nothing behind the flush is needed to see all of it.
			got := make([]byte, len(want))
			if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("level %d: sample %d of %d bytes: %v", level, i, len(want), err)
			}
		}
		f.Close()
	}
}

// TestDeflateBad shows that garbage is refused for good, and that what came
// before it is not lost.
func TestDeflateBad(t *testing.T) {
	good := encode(t, upgrade.NewDeflate(6), nil, []byte("hello"))
	for _, step := range []int{1, 100} {
		f := upgrade.NewDeflate(6)
		got, err := decode(t, f, append(bytes.Clone(good), 0xff, 0xff, 0xff), step, 100)
		if string(got) != "hello" || err == nil {
			t.Errorf("step %d: got %q, %v", step, got, err)
		}
		if _, _, again := f.Decode(make([]byte, 10), good); again == nil {
			t.Errorf("step %d: garbage was forgiven", step)
		}
		f.Close()
	}
	upgrade.NewDeflate(6).Close() // never used at all
}

// TestDeflateCloses shows that a filter closed in the middle of a block, or with
// output left, leaves no goroutine behind.
func TestDeflateCloses(t *testing.T) {
	good := encode(t, upgrade.NewDeflate(6), nil, make([]byte, 10_000))
	before := runtime.NumGoroutine()
	for range 100 {
		f := upgrade.NewDeflate(6)
		if _, err := decode(t, f, good[:3], 1, 100); err != nil {
			t.Error(err)
		}
		f.Close()
		f = upgrade.NewDeflate(6)
		if wrote, _, err := f.Decode(make([]byte, 10), good); wrote != 10 || err != nil {
			t.Error(wrote, err)
		}
		f.Close()
	}
	for end := time.Now().Add(patience); ; runtime.Gosched() { // they end by themselves
		after := runtime.NumGoroutine()
		if after <= before+50 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after 200 filters", before, after)
		}
	}
}

// TestBomb shows that a filter expands as much as it is asked for, and that
// small input is not taken up for more.
func TestBomb(t *testing.T) {
	const size = 8 << 20
	w := new(bytes.Buffer)
	enc, err := flate.NewWriter(w, 9)
	if err != nil {
		t.Fatal(err)
	}
	for range size >> 20 {
		if _, err := enc.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Flush(); err != nil {
		t.Fatal(err)
	}
	f := upgrade.NewDeflate(9)
	defer f.Close()
	src, dst, total := w.Bytes(), make([]byte, 1000), 0
	allocs := testing.AllocsPerRun(100, func() {
		wrote, used, err := f.Decode(dst, src)
		if err != nil {
			t.Fatal(err)
		}
		if total += wrote; wrote != len(dst) {
			t.Fatalf("%d of %d bytes after %d", wrote, len(dst), total)
		}
		src = src[used:]
	})
	if allocs > 1 {
		t.Errorf("%.1f allocations for 1000 bytes of a bomb", allocs)
	}
	if used := w.Len() - len(src); used > 8<<10 {
		t.Errorf("%d bytes taken up for %d given out", used, total)
	}
}

// pair returns a server's configuration and a client's that trusts it.
func pair(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, DynamicRecordSizingDisabled: true}
	return server, &tls.Config{RootCAs: pool, ServerName: "test"}
}

// A patient connection waits for a reader as long as it takes: crypto/tls gives its
// goodbye five seconds, which is less than a busy machine may stand still.
type patient struct{ net.Conn }

func (patient) SetWriteDeadline(time.Time) error { return nil }

// shake runs a handshake with a client and returns the filter and the client's
// side. The client's bytes come in pieces of at most step bytes.
func shake(t testing.TB, server, client *tls.Config, step int) (*upgrade.TLS, *tls.Conn, net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	type result struct {
		f   *upgrade.TLS
		err error
	}
	done := make(chan result, 1)
	wanted := make(chan struct{}, 1)
	var mu sync.Mutex
	var toClient [][]byte
	more := make(chan struct{}, 1)
	h := upgrade.StartHandshake(server,
		func(b []byte) {
			mu.Lock()
			toClient = append(toClient, b)
			mu.Unlock()
			select {
			case more <- struct{}{}:
			default:
			}
		},
		func() { wanted <- struct{}{} },
		func(f *upgrade.TLS, err error) { done <- result{f, err} })
	c := tls.Client(patient{far}, client)
	clientDone := make(chan error, 1)
	go func() { clientDone <- c.Handshake() }()
	over := make(chan struct{})
	go func() {
		for {
			select {
			case <-more:
			case <-over:
				return
			}
			mu.Lock()
			list := toClient
			toClient = nil
			mu.Unlock()
			for _, b := range list {
				if _, err := near.Write(b); err != nil {
					return
				}
			}
		}
	}()
	buf := make([]byte, step)
	for {
		select {
		case <-wanted:
			n, err := near.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			h.Feed(buf[:n])
			continue
		case r := <-done:
			if r.err != nil {
				t.Fatal(r.err)
			}
			if err := <-clientDone; err != nil {
				t.Fatal(err)
			}
			close(over)
			return r.f, c, near
		case <-time.After(patience):
			t.Fatal("the handshake hangs")
		}
	}
}

// TestTLS shakes hands and talks in both directions, in every version that
// crypto/tls offers, with input cut in every way. It is the test of what no
// documentation promises: that crypto/tls goes on after a temporary error.
func TestTLS(t *testing.T) {
	server, client := pair(t)
	server.MinVersion = tls.VersionTLS10
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		for _, s := range splits {
			t.Run(fmt.Sprintf("%s/%d,%d", tls.VersionName(version), s.step, s.room), func(t *testing.T) {
				client := client.Clone()
				client.MinVersion, client.MaxVersion = version, version
				f, c, near := shake(t, server, client, s.step)
				if v := f.State().Version; v != version {
					t.Fatalf("version %x", v)
				}
				var want []byte
				go func() {
					for _, b := range records() {
						if _, err := c.Write(b); err != nil {
							return
						}
					}
					c.CloseWrite()
					near.Close()
				}()
				for _, b := range records() {
					want = append(want, b...)
				}
				wire := new(bytes.Buffer)
				_, _ = io.Copy(wire, near)
				got, err := decode(t, f, wire.Bytes(), s.step, s.room)
				if !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
					t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
				}
			})
		}
	}
}

// TestChain talks through TLS with compression inside, in both directions, and
// ends in good order.
func TestChain(t *testing.T) {
	server, client := pair(t)
	inner := map[string]func() upgrade.Filter{
		"snappy":  func() upgrade.Filter { return new(upgrade.Snappy) },
		"deflate": func() upgrade.Filter { return upgrade.NewDeflate(6) },
	}
	for name, makeInner := range inner {
		for _, s := range splits {
			t.Run(fmt.Sprintf("%s/%d,%d", name, s.step, s.room), func(t *testing.T) {
				outer, c, near := shake(t, server, client, s.step)
				f := upgrade.NewChain(outer, makeInner())
				theirs := makeInner()
				var want []byte
				for _, b := range records() {
					want = append(want, b...)
				}
				go func() {
					for _, b := range records() {
						if wire, err := theirs.Encode(nil, b); err != nil {
							return
						} else if _, err := c.Write(wire); err != nil {
							return
						}
					}
					c.CloseWrite()
				}()
				buf := make([]byte, 32<<10)
				var got []byte
				var err error
				for err == nil {
					n, rerr := near.Read(buf)
					if rerr != nil {
						t.Fatal(rerr)
					}
					var out []byte
					out, err = decode(t, f, buf[:n], s.step, s.room)
					got = append(got, out...)
				}
				if !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
					t.Fatalf("in: %d bytes of %d, %v", len(got), len(want), err)
				}

				go func() {
					for _, b := range records() {
						out, err := f.Encode(nil, b)
						if err != nil {
							break
						}
						if _, err := near.Write(out); err != nil {
							break
						}
					}
					near.Write(f.End(nil))
					near.Close()
				}()
				compressed, err := io.ReadAll(c)
				if err != nil {
					t.Fatal(err)
				}
				got, err = decode(t, theirs, compressed, 1<<20, 1<<20)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("out: %d bytes of %d, %v", len(got), len(want), err)
				}
				f.Close()
			})
		}
	}
}

// TestHandshakeFails shows what ends a handshake: a client that speaks something
// else, and an abort.
func TestHandshakeFails(t *testing.T) {
	server, _ := pair(t)
	f := func(want string, act func(h *upgrade.Handshake)) {
		t.Helper()
		done := make(chan error, 1)
		h := upgrade.StartHandshake(server, func([]byte) {}, func() {}, func(_ *upgrade.TLS, err error) { done <- err })
		act(h)
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		case <-time.After(patience):
			t.Error("the handshake hangs")
		}
	}
	f("does not look like a TLS handshake", func(h *upgrade.Handshake) { h.Feed([]byte("PUB topic\n")) })
	f("gone", func(h *upgrade.Handshake) { h.Abort(errors.New("gone")) })
	f("gone", func(h *upgrade.Handshake) {
		h.Feed([]byte{22, 3, 1, 2, 0, 1})
		h.Abort(errors.New("gone"))
	})
}

// FuzzSnappy holds Snappy to a reader of another make, and to itself however the
// input is cut.
func FuzzSnappy(f *testing.F) {
	for _, b := range samples()[:4] {
		f.Add(encode(f, new(upgrade.Snappy), nil, b), uint16(3))
	}
	f.Add([]byte("\xff\x06\x00\x00sNaPpY\xfe\x02\x00\x00ab\x01\x05\x00\x00abcde"), uint16(1))
	f.Fuzz(func(t *testing.T, wire []byte, cut uint16) {
		whole, err := decode(t, new(upgrade.Snappy), wire, len(wire)+1, 100_000)
		pieces, err2 := decode(t, new(upgrade.Snappy), wire, int(cut)+1, int(cut)+1)
		if !bytes.Equal(whole, pieces) || !errors.Is(err, err2) {
			t.Fatalf("whole: %d bytes, %v; in pieces: %d bytes, %v", len(whole), err, len(pieces), err2)
		}
		// The other reader may be stricter, and give up on the end of the input.
		want, err3 := io.ReadAll(snappy.NewReader(bytes.NewReader(wire)))
		if err3 == nil && (err != nil || !bytes.Equal(whole, want)) {
			t.Fatalf("the other reader got %d bytes, we %d and %v", len(want), len(whole), err)
		}
	})
}

// FuzzDeflate does the same for Deflate.
func FuzzDeflate(f *testing.F) {
	for _, b := range samples()[:4] {
		f.Add(encode(f, upgrade.NewDeflate(6), nil, b), uint16(3))
	}
	f.Fuzz(func(t *testing.T, wire []byte, cut uint16) {
		const most = 1 << 20 // a bomb may well be found
		run := func(step, room int) ([]byte, error) {
			d := upgrade.NewDeflate(6)
			defer d.Close()
			return decode(t, d, wire, step, room)
		}
		if n, err := io.Copy(io.Discard, io.LimitReader(flate.NewReader(bytes.NewReader(wire)), most)); n == most && err == nil {
			t.Skip()
		}
		whole, err := run(len(wire)+1, 100_000)
		pieces, err2 := run(int(cut)+1, int(cut)+1)
		if !bytes.Equal(whole, pieces) || (err == nil) != (err2 == nil) {
			t.Fatalf("whole: %d bytes, %v; in pieces: %d bytes, %v", len(whole), err, len(pieces), err2)
		}
		want, err3 := io.ReadAll(flate.NewReader(bytes.NewReader(wire)))
		switch {
		case err3 == nil: // a finished stream
			if !errors.Is(err, io.EOF) || !bytes.Equal(whole, want) {
				t.Fatalf("the other reader got %d bytes, we %d and %v", len(want), len(whole), err)
			}
		case !bytes.HasPrefix(want, whole): // it also gives what no flush has promised
			t.Fatalf("we got %d bytes that the other reader has not", len(whole))
		}
	})
}
