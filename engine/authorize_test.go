package engine_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

// An authServer answers a question about a secret with what the test has for it,
// and "" with an error. Its questions come from asked.
type authServer struct {
	*httptest.Server
	asked chan string

	mu      sync.Mutex
	answers map[string]chan string // by secret
}

func newAuthServer(t *testing.T) *authServer {
	a := &authServer{asked: make(chan string, 100), answers: map[string]chan string{}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked <- r.URL.RequestURI()
		select {
		case text := <-a.answersTo(r.URL.Query().Get("secret")):
			if text == "" {
				http.Error(w, "no", http.StatusInternalServerError)
			}
			_, _ = io.WriteString(w, text)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { a.CloseClientConnections(); a.Close() })
	return a
}

// start runs a daemon that asks this server.
func (a *authServer) start(t *testing.T) *engine.Engine {
	o := options(t)
	o.AuthHTTPAddresses = []string{strings.TrimPrefix(a.URL, "http://")}
	return start(t, o)
}

func (a *authServer) answersTo(secret string) chan string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answers[secret] == nil {
		a.answers[secret] = make(chan string, 100)
	}
	return a.answers[secret]
}

// allow answers the secret's next question with one authorization.
func (a *authServer) allow(secret string, ttl int, topic, channel, permission string) {
	a.answersTo(secret) <- fmt.Sprintf(`{"ttl":%d,"identity":"me","identity_url":"u","authorizations":[{"topic":%q,"channels":[%q],"permissions":[%q]}]}`,
		ttl, topic, channel, permission)
}

func (a *authServer) question(t *testing.T) string {
	t.Helper()
	select {
	case q := <-a.asked:
		return q
	case <-time.After(patience):
		t.Fatal("the auth server is not asked")
		return ""
	}
}

func auth(secret string) string { return string(wire.AppendAuth(nil, []byte(secret))) }

const authed = `{"identity":"me","identity_url":"u","permission_count":1}`

// TestAuth shows every answer to AUTH and to what needs it.
func TestAuth(t *testing.T) {
	a := newAuthServer(t)
	e := a.start(t)
	f := func(script string, want ...string) {
		t.Helper()
		greet(t, e, script).want(append(want, ended)...)
	}
	denied := func(cmd, topic, channel string) string {
		return fmt.Sprintf("E_UNAUTHORIZED AUTH failed for %s on %q %q", cmd, topic, channel)
	}
	f(pub("t", "x"), "E_AUTH_FIRST AUTH required before PUB")
	f(sub("t", "c"), "E_AUTH_FIRST AUTH required before SUB")
	f("DPUB t 0\n"+size(1)+"x", "E_AUTH_FIRST AUTH required before DPUB")
	f("MPUB t\n", "E_AUTH_FIRST AUTH required before MPUB") // before its body
	f("PUB t\n"+size(0), "E_BAD_MESSAGE PUB invalid message body size 0")

	a.answersTo("x") <- ""
	f(auth("x"), "E_AUTH_FAILED AUTH failed")
	a.answersTo("x") <- `{"ttl":0}`
	f(auth("x"), "E_AUTH_FAILED AUTH failed")
	a.answersTo("x") <- `{"ttl":1}`
	f(auth("x"), "E_UNAUTHORIZED AUTH no authorizations found")
	a.allow("x", 3600, "t", ".*", "publish")
	f(auth("x")+auth("x"), authed, "E_INVALID AUTH already set")

	// Commands behind AUTH wait for its answer and are carried out in order.
	a.allow("x", 3600, "^t$", ".*", "publish")
	f(auth("x")+pub("t", "1")+mpub("t", "2")+pub("t", "3")+pub("u", "4"), authed, "OK", "OK", "OK", denied("PUB", "u", ""))
	a.allow("x", 3600, "^t$", ".*", "publish")
	f(auth("x")+"MPUB u\n", authed, denied("MPUB", "u", ""))
	a.allow("x", 3600, "^t$", "^c$", "publish")
	f(auth("x")+pub("t", "1"), authed, denied("PUB", "t", "")) // no channel pattern matches nothing
	a.allow("x", 3600, "^t$", "^c$", "subscribe")
	f(auth("x")+sub("t", "d"), authed, denied("SUB", "t", "d"))

	a.allow("x", 3600, "^t$", "^c$", "subscribe")
	c := greet(t, e, auth("x")+sub("t", "c")+"RDY 5\n")
	c.want(authed, "OK", "message 1", "message 2", "message 3")
	s := topicStats(t, e, "t").Channels[0].Clients[0]
	if !s.Authed || s.AuthIdentity != "me" || s.AuthIdentityURL != "u" {
		t.Errorf("got %+v", s)
	}
}

// TestAuthQuestion shows what the server is asked and what IDENTIFY says of it.
func TestAuthQuestion(t *testing.T) {
	a := newAuthServer(t)
	e := a.start(t)
	c := greet(t, e, identify(`{"feature_negotiation":true}`))
	if got := c.next(); !strings.Contains(got, `"auth_required":true`) {
		t.Errorf("got %s", got)
	}
	a.allow("s3cret&x=1", 1, ".", ".", "publish")
	c.send(auth("s3cret&x=1"))
	c.want(authed)
	if q := a.question(t); q != "/auth?common_name=&remote_ip=127.0.0.1&secret=s3cret%26x%3D1&tls=false" {
		t.Errorf("asked %s", q)
	}
	off := start(t, options(t))
	greet(t, off, auth("x")).want("E_AUTH_DISABLED AUTH disabled", ended)
}

// TestAuthRefresh lets permissions grow old. In the last fifth of their time a
// publish has new ones fetched and does not wait; after it, a publish waits for
// the answer and goes by it.
func TestAuthRefresh(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t)
	e := a.start(t)
	c := a.untilRefreshed(t, e)
	for tries := 0; c == nil; tries++ {
		if tries == 30 {
			t.Fatal("publishes wait for new permissions while the old ones are good")
		}
		c = a.untilRefreshed(t, e)
	}
	// The answer has not come: publishes are taken until the time is over.
	a.allow("x", 3600, "^t$", ".*", "publish")
	c.send(pub("t", "x"))
	c.want("OK")

	// Another client has let its permissions end.
	a.allow("y", 1, ".*", ".*", "publish")
	old := greet(t, e, auth("y"))
	old.want(authed)
	a.question(t)
	<-time.After(time.Second) // the shortest time that a server can give
	old.send(pub("t", "x") + pub("u", "x"))
	if q := a.question(t); !strings.Contains(q, "secret=y") {
		t.Errorf("asked %s", q)
	}
	c.send(pub("t", "others do not wait"))
	c.want("OK")
	a.allow("y", 3600, "^t$", ".*", "publish")
	old.want("OK", `E_UNAUTHORIZED AUTH failed for PUB on "u" ""`, ended)
}

// untilRefreshed has a client publish until that causes a question, which nobody
// answers, and wants all its publishes taken. A machine that stands still until the
// permissions are over shows nothing: then it answers, and returns nil.
func (a *authServer) untilRefreshed(t *testing.T, e *engine.Engine) *peer {
	t.Helper()
	const ttl = 1 // s, the shortest that a server can give
	over := time.Now().Add(ttl * time.Second)
	a.allow("x", ttl, ".*", ".*", "publish")
	c := greet(t, e, auth("x"))
	c.want(authed)
	a.question(t)
	for asked := false; !asked; {
		answer := make(chan string, 1)
		c.send(pub("t", "x"))
		go func() { answer <- c.next() }()
		got := ""
		select {
		case got = <-answer:
		case <-a.asked:
			asked = true
			select {
			case got = <-answer:
			case <-time.After(time.Until(over)):
				a.allow("x", ttl, ".*", ".*", "publish")
				<-answer
				return nil
			}
		}
		if got != "OK" {
			t.Fatalf("got %q", got)
		}
	}
	return c
}

// TestAuthExpiredAndFailed shows that permissions which cannot be renewed end the
// connection.
func TestAuthExpiredAndFailed(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t)
	e := a.start(t)
	a.allow("x", 1, ".*", ".*", "publish")
	c := greet(t, e, auth("x"))
	c.want(authed)
	<-time.After(time.Second)
	a.answersTo("x") <- ""
	c.send(pub("t", "x"))
	c.want("E_AUTH_FAILED AUTH failed", ended)
}

// TestAuthServerHangs shows that a server which does not answer costs its client
// a bounded wait, others nothing, and a stop nothing either.
func TestAuthServerHangs(t *testing.T) {
	a := newAuthServer(t)
	o := options(t)
	o.AuthHTTPAddresses, o.HTTPClientRequestTimeout = []string{a.URL}, time.Hour
	e := open(t, o)
	greet(t, e, auth("x"))
	a.question(t)
	a.allow("y", 3600, ".*", ".*", "publish")
	greet(t, e, auth("y"), pub("t", "x")).want(authed, "OK")
	if err := e.Shutdown(); err != nil {
		t.Error(err)
	}

	o = options(t)
	o.AuthHTTPAddresses, o.HTTPClientRequestTimeout = []string{a.URL}, 20*time.Millisecond
	e = start(t, o)
	greet(t, e, auth("x")).want("E_AUTH_FAILED AUTH failed", ended)
}

// TestAuthOverTLS shows that auth servers are believed by --tls-root-ca-file.
func TestAuthOverTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"ttl":1,"identity":"me","identity_url":"u","authorizations":[{}]}`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it is going to be distrusted
	s.StartTLS()
	defer s.Close()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}
	if err := os.WriteFile(roots, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(roots string, want ...string) {
		t.Helper()
		o := options(t)
		o.AuthHTTPAddresses, o.TLSRootCAFile = []string{s.URL + "/any/path"}, roots
		greet(t, start(t, o), auth("x")).want(want...)
	}
	f(roots, authed)
	f("", "E_AUTH_FAILED AUTH failed", ended)
	o := options(t)
	o.AuthHTTPAddresses, o.TLSRootCAFile = []string{s.URL}, o.DataPath
	if _, err := engine.New(o, io.Discard); err == nil || !strings.HasPrefix(err.Error(), "failed to build client TLS config - ") {
		t.Errorf("a directory for a CA file: %v", err)
	}
}

// TestAuthCertificate shows that the server is told of TLS and of the name in the
// client's certificate, and that AUTH waits inside TLS and compression as well.
func TestAuthCertificate(t *testing.T) {
	a := newAuthServer(t)
	o := options(t)
	ca := secure(t, o)
	o.TLSClientAuthPolicy = "require-verify"
	o.AuthHTTPAddresses = []string{a.URL}
	e := start(t, o)
	s := plain(t, connect(t, e))
	cfg := ca.client()
	cfg.Certificates = []tls.Certificate{ca.pair("friend")}
	s.upgrade(`"tls_v1":true,"snappy":true`, cfg)
	a.allow("x", 3600, "^t$", ".*", "publish")
	s.send(auth("x") + pub("t", "1") + pub("u", "2"))
	if q := a.question(t); q != "/?common_name=friend&remote_ip=127.0.0.1&secret=x&tls=true" {
		t.Errorf("asked %s", q)
	}
	s.want(authed, "OK", `E_UNAUTHORIZED AUTH failed for PUB on "u" ""`)
}
