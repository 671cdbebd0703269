package engine_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/snappy"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/internal/wire"
)

// An authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

var serials = big.NewInt(time.Now().UnixNano())

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	der, key := a.sign("an authority", true)
	a.cert, a.key = parse(t, der), key
	a.pool.AddCert(a.cert)
	return a
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) sign(name string, ca bool) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).Add(serials, big.NewInt(time.Now().UnixNano())), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err = x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// files writes a certificate and its key to the two files.
func (a *authority) files(name, certFile, keyFile string) {
	a.t.Helper()
	der, key := a.sign(name, false)
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// pair is a certificate for a client.
func (a *authority) pair(name string) tls.Certificate {
	a.t.Helper()
	der, key := a.sign(name, false)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// client trusts the authority and expects the daemon called "zsq".
func (a *authority) client() *tls.Config { return &tls.Config{RootCAs: a.pool, ServerName: "zsq"} }

// secure adds a certificate for "zsq" to o, and the authority as the one that
// client certificates come from.
func secure(t *testing.T, o *engine.Options) *authority {
	t.Helper()
	a := newAuthority(t)
	dir := t.TempDir()
	o.TLSCert, o.TLSKey, o.TLSRootCAFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "ca")
	a.files("zsq", o.TLSCert, o.TLSKey)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	if err := os.WriteFile(o.TLSRootCAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// A streamer is a peer whose bytes may go through TLS and compression.
type streamer struct {
	t *testing.T
	r *bufio.Reader
	w io.Writer
	c net.Conn
}

// dripping writes a byte at a time.
type dripping struct{ net.Conn }

func (d dripping) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// eager sends its prelude together with the first write, and takes the frame that
// answers it off the front of what it reads.
type eager struct {
	net.Conn
	prelude string
	answer  []byte
}

func (e *eager) Write(b []byte) (int, error) {
	if e.prelude == "" {
		return e.Conn.Write(b)
	}
	_, err := e.Conn.Write(append([]byte(e.prelude), b...))
	e.prelude = ""
	return len(b), err
}

func (e *eager) Read(b []byte) (int, error) {
	if e.answer == nil {
		head := make([]byte, wire.FrameHeaderSize)
		if _, err := io.ReadFull(e.Conn, head); err != nil {
			return 0, err
		}
		e.answer = make([]byte, int(head[2])<<8+int(head[3])-4)
		if _, err := io.ReadFull(e.Conn, e.answer); err != nil {
			return 0, err
		}
	}
	return e.Conn.Read(b)
}

// plain greets the daemon over c.
func plain(t *testing.T, c net.Conn) *streamer {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &streamer{t: t, r: bufio.NewReader(c), w: c, c: c}
}

func connect(t *testing.T, e *engine.Engine) net.Conn {
	t.Helper()
	a := e.TCPAddr()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *streamer) send(script string) {
	s.t.Helper()
	if _, err := io.WriteString(s.w, script); err != nil {
		s.t.Fatalf("sending %.40q: %v", script, err)
	}
	if f, ok := s.w.(interface{ Flush() error }); ok {
		if err := f.Flush(); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *streamer) frame() ([]byte, error) {
	head, err := s.r.Peek(wire.FrameHeaderSize)
	if err != nil {
		return nil, err
	}
	f := make([]byte, 4+int(head[0])<<24+int(head[1])<<16+int(head[2])<<8+int(head[3]))
	_, err = io.ReadFull(s.r, f)
	return f, err
}

func (s *streamer) next() string {
	s.t.Helper()
	f, err := s.frame()
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(f[wire.FrameHeaderSize:])
}

func (s *streamer) want(texts ...string) {
	s.t.Helper()
	for i, want := range texts {
		if got := s.next(); got != want {
			s.t.Fatalf("frame %d: got %q, want %q", i, got, want)
		}
	}
}

// startTLS takes the client's side of the handshake.
func (s *streamer) startTLS(cfg *tls.Config) *tls.Conn {
	s.t.Helper()
	c := tls.Client(s.c, cfg)
	if err := c.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	s.r, s.w, s.c = bufio.NewReader(c), c, c
	return c
}

func (s *streamer) startSnappy() {
	s.r, s.w = bufio.NewReader(snappy.NewReader(s.r)), snappy.NewBufferedWriter(s.c)
}

func (s *streamer) startDeflate() {
	s.t.Helper()
	w, err := flate.NewWriter(s.c, 6)
	if err != nil {
		s.t.Fatal(err)
	}
	s.r, s.w = bufio.NewReader(flate.NewReader(s.r)), w
}

// grants is what the answer to IDENTIFY says about transports.
type grants struct {
	TLS          bool `json:"tls_v1"`
	Snappy       bool `json:"snappy"`
	Deflate      bool `json:"deflate"`
	DeflateLevel int  `json:"deflate_level"`
}

// upgrade identifies and takes the upgrades that are granted.
func (s *streamer) upgrade(request string, cfg *tls.Config) (g grants) {
	s.t.Helper()
	s.send(wire.Magic + identify(`{"feature_negotiation":true,`+request+`}`))
	if text := s.next(); json.Unmarshal([]byte(text), &g) != nil {
		s.t.Fatalf("IDENTIFY was answered with %q", text)
	}
	if g.TLS {
		s.startTLS(cfg)
		s.want("OK")
	}
	switch {
	case g.Snappy:
		s.startSnappy()
		s.want("OK")
	case g.Deflate:
		s.startDeflate()
		s.want("OK")
	}
	return g
}

// exercise publishes and consumes over s: small messages in one flush, then one
// of more than 64 KiB.
func (s *streamer) exercise(topic string) {
	s.t.Helper()
	large := strings.Repeat("0123456789abcdef", 10_000)
	s.send(pub(topic, "one") + pub(topic, "two") + pub(topic, large))
	s.want("OK", "OK", "OK")
	s.send(sub(topic, "c") + "RDY 3\n")
	s.want("OK")
	for _, want := range []string{"one", "two", large} {
		f, err := s.frame()
		if err != nil {
			s.t.Fatal(err)
		}
		if got := wire.FrameBody(f); string(got) != want {
			s.t.Fatalf("got a body of %d bytes, want %d", len(got), len(want))
		}
		s.send(fin(idOf(s.t, f)))
	}
	s.send("NOP\n" + pub(topic+"-end", "x"))
	s.want("OK")
}

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

// TestTLSRequired shows what a plain connection may do where TLS is required,
// and what HTTP may.
func TestTLSRequired(t *testing.T) {
	for _, c := range []struct {
		required engine.TLSRequired
		policy   string
		tcp      bool
		http     int
	}{
		{engine.TLSNotRequired, "", true, 200},
		{engine.TLSExceptHTTP, "", false, 200},
		{engine.TLSAlways, "", false, 403},
		{engine.TLSNotRequired, "require", false, 403},
		{engine.TLSExceptHTTP, "require-verify", false, 200},
	} {
		t.Run(fmt.Sprint(c.required, c.policy), func(t *testing.T) {
			o := options(t)
			o.HTTPSAddress = "127.0.0.1:0"
			o.TLSRequired, o.TLSClientAuthPolicy = c.required, c.policy
			a := secure(t, o)
			e := start(t, o)
			f := transcripts(t, e)
			if c.tcp {
				f(wire.Magic+pub("t", "x"), "OK")
			} else {
				for _, name := range []string{"NOP", "PUB t", "SUB t c", "nonsense here"} {
					word, _, _ := strings.Cut(name, " ")
					want := "E_INVALID cannot " + word + " in current state (TLS required)"
					greet(t, e, name+"\n").want(want, ended)
					greet(t, e, identify(`{}`)+name+"\n").want("OK", want, ended)
				}
			}
			resp, err := http.Get("http://" + e.HTTPAddr().String() + "/ping")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.http {
				t.Errorf("http: %s %s", resp.Status, body)
			}
			port := e.HTTPSAddr().(*net.TCPAddr).Port
			if want := fmt.Sprintf(`{"message": "TLS_REQUIRED", "https_port": %d}`, port); c.http == 403 && string(body) != want {
				t.Errorf("http: %s, want %s", body, want)
			}
			cfg := a.client()
			cfg.Certificates = []tls.Certificate{a.pair("client")}
			hc := http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
			defer hc.CloseIdleConnections()
			resp, err = hc.Get("https://" + e.HTTPSAddr().String() + "/ping")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 200 || resp.ProtoMajor != 1 {
				t.Errorf("https: %s %s", resp.Proto, resp.Status)
			}
			s := plain(t, connect(t, e))
			s.upgrade(`"tls_v1":true`, cfg)
			s.exercise("secure")
		})
	}
}

// handshakeError shakes hands in vain and returns what the daemon says in clear.
func handshakeError(t *testing.T, e *engine.Engine, cfg *tls.Config) string {
	t.Helper()
	raw := connect(t, e)
	s := plain(t, raw)
	s.send(wire.Magic + identify(`{"feature_negotiation":true,"tls_v1":true}`))
	s.next()
	var seen bytes.Buffer
	c := tls.Client(teeing{raw, &seen}, cfg)
	err := c.Handshake()
	if err == nil { // TLS 1.3: the server looks at the certificate later
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil {
		t.Error("the handshake succeeded")
	}
	_, _ = io.Copy(&seen, raw)
	_, text, ok := strings.Cut(seen.String(), "\x00\x00\x00\x01E_")
	if !ok {
		t.Errorf("no error frame in %q", seen.String())
	}
	return "E_" + text
}

type teeing struct {
	net.Conn
	seen *bytes.Buffer
}

func (c teeing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.seen.Write(b[:n])
	return n, err
}

// TestWrongCertificates shows who gets in under each policy.
func TestWrongCertificates(t *testing.T) {
	for _, policy := range []string{"require", "require-verify"} {
		t.Run(policy, func(t *testing.T) {
			o := options(t)
			o.TLSClientAuthPolicy = policy
			a := secure(t, o)
			e := start(t, o)
			cfg := a.client()
			if got := handshakeError(t, e, cfg); got != "E_IDENTIFY_FAILED IDENTIFY failed tls: client didn't provide a certificate" {
				t.Errorf("no certificate: %q", got)
			}
			stranger := a.client()
			stranger.Certificates = []tls.Certificate{newAuthority(t).pair("stranger")}
			if policy == "require-verify" {
				if got := handshakeError(t, e, stranger); !strings.HasPrefix(got, "E_IDENTIFY_FAILED IDENTIFY failed tls: failed to verify certificate: x509: certificate signed by unknown authority") {
					t.Errorf("a stranger: %q", got)
				}
			} else {
				s := plain(t, connect(t, e))
				s.upgrade(`"tls_v1":true`, stranger)
				s.exercise("stranger")
			}
			cfg.Certificates = []tls.Certificate{a.pair("friend")}
			s := plain(t, connect(t, e))
			s.upgrade(`"tls_v1":true`, cfg)
			s.exercise("friend")
		})
	}
}

// TestVersions shows that --tls-min-version is kept, and that the default takes
// TLS 1.0.
func TestVersions(t *testing.T) {
	f := func(least engine.TLSVersion, client uint16, want bool) {
		t.Helper()
		o := options(t)
		if least != 0 {
			o.TLSMinVersion = least
		}
		a := secure(t, o)
		e := start(t, o)
		cfg := a.client()
		cfg.MinVersion, cfg.MaxVersion = client, client
		if !want {
			if got := handshakeError(t, e, cfg); !strings.HasPrefix(got, "E_IDENTIFY_FAILED IDENTIFY failed tls: client offered only unsupported versions") {
				t.Errorf("%q", got)
			}
			return
		}
		s := plain(t, connect(t, e))
		s.upgrade(`"tls_v1":true`, cfg)
		s.exercise("t")
		resp, err := http.Get("http://" + e.HTTPAddr().String() + "/stats?format=json")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		for _, part := range []string{
			`"tls":true`, fmt.Sprintf(`"tls_version":"TLS1.%d"`, client-tls.VersionTLS10),
			`"tls_negotiated_protocol":"","tls_negotiated_protocol_is_mutual":true`,
		} {
			if !bytes.Contains(body, []byte(part)) {
				t.Errorf("/stats has no %s", part)
			}
		}
	}
	f(0, tls.VersionTLS10, true)
	f(0, tls.VersionTLS13, true)
	f(tls.VersionTLS12, tls.VersionTLS11, false)
	f(tls.VersionTLS12, tls.VersionTLS12, true)
	f(tls.VersionTLS13, tls.VersionTLS12, false)
}

// TestHandshakeTrouble shows the end of clients that say they will use TLS and do
// not: they speak on in clear, stall, or leave.
func TestHandshakeTrouble(t *testing.T) {
	o := options(t)
	o.ReapTimeout = 200 * time.Millisecond
	secure(t, o)
	e := start(t, o)
	f := func(more string, want string) {
		t.Helper()
		p := greet(t, e, identify(`{"feature_negotiation":true,"tls_v1":true}`), more)
		if text := p.next(); !strings.Contains(text, `"tls_v1":true`) {
			t.Fatal(text)
		}
		if want == "EOF" {
			if err := p.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		all, err := io.ReadAll(p.r)
		if err != nil || !strings.HasSuffix(string(all), "E_IDENTIFY_FAILED IDENTIFY failed "+want) {
			t.Errorf("%q: got %q, %v", more, all, err)
		}
	}
	f(pub("t", "x"), "tls: first record does not look like a TLS handshake")
	f("", "i/o timeout")
	f("\x16\x03\x01\x02\x00\x01", "i/o timeout")
	f("\x16\x03\x01\x02\x00\x01", "EOF")
	// Gone without a word. Shutdown waits for its handshake.
	p := greet(t, e, identify(`{"feature_negotiation":true,"tls_v1":true}`))
	p.next()
	if err := p.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	// Still shaking hands when the daemon stops.
	greet(t, e, identify(`{"feature_negotiation":true,"tls_v1":true}`)).next()
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

// TestUnixSockets serves both protocols on paths, which a clean stop removes and
// which a start does not take from anybody.
func TestUnixSockets(t *testing.T) {
	dir := t.TempDir()
	o := options(t)
	o.TCPAddress, o.HTTPAddress = filepath.Join(dir, "tcp"), filepath.Join(dir, "http")
	a := secure(t, o)
	e := open(t, o)
	for _, request := range []string{`"snappy":false`, `"snappy":true`, `"tls_v1":true,"deflate":true`} {
		s := plain(t, connect(t, e))
		s.upgrade(request, a.client())
		s.exercise("t" + strings.NewReplacer(`"`, "", ":", "", ",", "").Replace(request))
	}
	hc := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", o.HTTPAddress) }}}
	get := func(path string) string {
		t.Helper()
		resp, err := hc.Get("http://nowhere" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	if text := get("/info"); !strings.Contains(text, `"http_port":-1,"tcp_port":-1`) {
		t.Error(text)
	}
	if text := get("/stats?format=json"); !strings.Contains(text, `"remote_address":"@"`) {
		t.Error(text)
	}

	o2 := options(t)
	o2.TCPAddress = o.TCPAddress
	if _, err := engine.New(o2, io.Discard); err == nil || !strings.Contains(err.Error(), "bind: address already in use") {
		t.Errorf("a second daemon on the same path: %v", err)
	}
	o2.TCPAddress, o2.HTTPAddress = "127.0.0.1:0", o.HTTPAddress
	if _, err := engine.New(o2, io.Discard); err == nil || !strings.Contains(err.Error(), "bind: address already in use") {
		t.Errorf("a second daemon on the same HTTP path: %v", err)
	}
	connect(t, e) // the first one is still there
	hc.CloseIdleConnections()
	if err := e.Shutdown(); err != nil {
		t.Error(err)
	}
	for _, path := range []string{o.TCPAddress, o.HTTPAddress} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s after a clean stop: %v", path, err)
		}
	}
}

// TestBadFiles shows that a daemon does not start with TLS files it cannot use.
func TestBadFiles(t *testing.T) {
	f := func(spoil func(o *engine.Options), want string) {
		t.Helper()
		o := options(t)
		secure(t, o)
		spoil(o)
		_, err := engine.New(o, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), "failed to build TLS config - ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	f(func(o *engine.Options) { o.TLSCert += "-not" }, "no such file")
	f(func(o *engine.Options) { o.TLSKey = o.TLSCert }, "found a certificate rather than a key")
	f(func(o *engine.Options) { o.TLSRootCAFile += "-not" }, "no such file")
	f(func(o *engine.Options) { o.TLSRootCAFile = o.TLSKey }, "failed to append certificate to pool")
}

// TestReload changes the certificate under load: who is connected stays so, who
// comes later meets the new one, and files that make no sense change nothing.
func TestReload(t *testing.T) {
	for _, how := range []string{"asked", "noticed"} {
		t.Run(how, func(t *testing.T) {
			o := options(t)
			o.TLSReloadInterval = 0
			if how == "noticed" {
				o.TLSReloadInterval = time.Millisecond
			}
			a := secure(t, o)
			o.HTTPSAddress = "127.0.0.1:0"
			e := start(t, o)

			stop := make(chan struct{})
			var wg sync.WaitGroup
			for i := range 4 {
				s := plain(t, connect(t, e))
				s.upgrade(`"tls_v1":true`, a.client())
				wg.Go(func() {
					for {
						s.send(pub(fmt.Sprintf("load%d", i), "x"))
						if got := s.next(); got != "OK" {
							t.Errorf("publisher %d: %q", i, got)
							return
						}
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
			// serial is that of the certificate a new connection meets.
			serial := func(addr net.Addr, identify bool) string {
				t.Helper()
				c, err := net.Dial("tcp", addr.String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				s := plain(t, c)
				if identify {
					s.upgrade(`"tls_v1":true`, a.client())
				} else {
					s.startTLS(a.client())
				}
				return s.c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
			}
			both := func() [2]string { return [2]string{serial(e.TCPAddr(), true), serial(e.HTTPSAddr(), false)} }
			old := both()
			for range 3 {
				a.files("zsq", o.TLSCert, o.TLSKey)
				if how == "asked" {
					if both() != old {
						t.Error("nobody asked for a reload")
					}
					if err := e.ReloadCertificates(); err != nil {
						t.Fatal(err)
					}
				}
				for end := time.Now().Add(patience); ; {
					now := both()
					if now[0] != old[0] && now[1] != old[1] {
						old = now
						break
					}
					if how == "asked" || time.Now().After(end) {
						t.Fatal("still the old certificate")
					}
				}
			}
			if err := os.WriteFile(o.TLSKey, []byte("garbage"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := e.ReloadCertificates(); err == nil {
				t.Error("garbage was taken for a key")
			}
			if both() != old {
				t.Error("garbage took the certificate away")
			}
			close(stop)
			wg.Wait()
		})
	}
}
