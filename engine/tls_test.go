package engine_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

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
	t.Parallel() // it waits, mostly
	o := options(t)
	secure(t, o)
	e := start(t, o)
	hasty := options(t)
	hasty.TLSCert, hasty.TLSKey = o.TLSCert, o.TLSKey
	hasty.ReapTimeout = 2 * time.Second // enough for a busy machine to come as far as to stall
	stalled := start(t, hasty)
	f := func(e *engine.Engine, more string, want string) {
		t.Helper()
		began := time.Now()
		p := greet(t, e, identify(`{"feature_negotiation":true,"tls_v1":true}`), more)
		text := p.next()
		for e == stalled && time.Since(began) > hasty.ReapTimeout/2 { // the machine stood still: it may be given up before
			began = time.Now()
			p = greet(t, e, identify(`{"feature_negotiation":true,"tls_v1":true}`), more)
			text = p.next()
		}
		if !strings.Contains(text, `"tls_v1":true`) {
			t.Error(text)
			return
		}
		if want == "EOF" {
			if err := p.CloseWrite(); err != nil {
				t.Error(err)
			}
		}
		all, err := io.ReadAll(p.r)
		if err != nil || !strings.HasSuffix(string(all), "E_IDENTIFY_FAILED IDENTIFY failed "+want) {
			t.Errorf("%q: got %q, %v", more, all, err)
		}
	}
	var wg sync.WaitGroup
	for _, more := range []string{"", "\x16\x03\x01\x02\x00\x01"} {
		wg.Go(func() { f(stalled, more, "i/o timeout") })
	}
	f(e, pub("t", "x"), "tls: first record does not look like a TLS handshake")
	f(e, "\x16\x03\x01\x02\x00\x01", "EOF")
	wg.Wait()
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
