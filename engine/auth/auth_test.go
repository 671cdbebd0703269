package auth_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine/auth"
	"github.com/zsqio/zsq/internal/peerhttp"
)

// authority asks the given servers and nobody waits long.
func authority(t testing.TB, post bool, addresses ...string) *auth.Authority {
	client := peerhttp.New(peerhttp.Options{RequestTimeout: time.Minute, BodyMax: 1 << 20})
	t.Cleanup(client.Close)
	return auth.New(auth.Options{Addresses: addresses, Post: post, HTTP: client, Timeout: time.Minute})
}

// serve answers every question with the text.
func serve(t testing.TB, text string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
	t.Cleanup(s.Close)
	return s
}

const everything = `{"ttl":60,"identity":"me","identity_url":"http://me","authorizations":[
	{"topic":".*","channels":[".*"],"permissions":["publish","subscribe"]}]}`

// TestQuestion shows the question as servers get it.
func TestQuestion(t *testing.T) {
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.RequestURI() + " " + string(body)
		_, _ = io.WriteString(w, everything)
	}))
	defer s.Close()
	f := func(post bool, address string, q auth.Query, want string) {
		t.Helper()
		p, err := authority(t, post, address).Ask(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if p.Identity != "me" || p.IdentityURL != "http://me" || p.Count != 1 || p.TTL != time.Minute {
			t.Errorf("%+v", p)
		}
	}
	host := strings.TrimPrefix(s.URL, "http://")
	f(false, host, auth.Query{RemoteIP: "127.0.0.1", Secret: "s3cret&x=1"}, "GET /auth?common_name=&remote_ip=127.0.0.1&secret=s3cret%26x%3D1&tls=false ")
	f(false, s.URL+"/p?k=v", auth.Query{TLS: true, CommonName: "cn", Secret: "x"}, "GET /p?k=v&common_name=cn&remote_ip=&secret=x&tls=true ")
	f(true, host, auth.Query{RemoteIP: "::1", Secret: "x"}, `POST /auth {"common_name":[""],"remote_ip":["::1"],"secret":["x"],"tls":["false"]}`)
}

// TestPermissions shows what an authorization allows: patterns are not anchored,
// and a publish needs a channel pattern that matches nothing.
func TestPermissions(t *testing.T) {
	f := func(authorizations string, want string) {
		t.Helper()
		p, err := authority(t, false, serve(t, `{"ttl":1,"authorizations":[`+authorizations+`]}`).URL).Ask(t.Context(), auth.Query{})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, topic := range []string{"a", "xay", "b"} {
			if p.MayPublish([]byte(topic)) {
				got += " pub:" + topic
			}
			for _, channel := range []string{"c", "d"} {
				if p.MaySubscribe([]byte(topic), []byte(channel)) {
					got += " sub:" + topic + ":" + channel
				}
			}
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("%s: %s, want %s", authorizations, got, want)
		}
	}
	f(``, "")
	f(`{"topic":"a","channels":[".*"],"permissions":["publish"]}`, "pub:a pub:xay")
	f(`{"topic":"^a$","channels":["^c$"],"permissions":["publish","subscribe"]}`, "sub:a:c")
	f(`{"topic":"a","channels":[],"permissions":["publish","subscribe"]}`, "")
	f(`{"topic":"^a$","channels":["^c$",""],"permissions":["publish"]},{"topic":"b","channels":["d"],"permissions":["subscribe"]}`, "pub:a sub:b:d")
	f(`{"topic":"a","channels":[".*"],"permissions":[]}`, "")
}

// TestRefused shows answers that are not believed.
func TestRefused(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		p, err := authority(t, false, serve(t, text).URL+"/x?token=hush").Ask(t.Context(), auth.Query{Secret: "psst"})
		if p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "psst")) {
			t.Errorf("a secret is told: %v", err)
		}
	}
	f(`{}`, "invalid TTL 0")
	f(`{"ttl":-1}`, "invalid TTL -1")
	f(`{"ttl":1.5}`, "cannot unmarshal number")
	f(`{"ttl":1,"authorizations":[{"permissions":["read"]}]}`, `unknown permission "read"`)
	f(`{"ttl":1,"authorizations":[{"topic":"("}]}`, "topic pattern: error parsing regexp")
	f(`{"ttl":1,"authorizations":[{"channels":["a{2000}"]}]}`, "channel pattern: error parsing regexp")
	f(`{"ttl":1,"identity":"`+strings.Repeat("x", 1<<20)+`"}`, peerhttp.ErrTooLong.Error())
}

// TestServers shows that one good server is enough, that the load is spread, and
// that a server which has failed is asked last for a while.
func TestServers(t *testing.T) {
	var asked, broken atomic.Int64
	good := func() *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			_, _ = io.WriteString(w, everything)
		}))
		t.Cleanup(s.Close)
		return s
	}
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		broken.Add(1)
		http.Error(w, "no", http.StatusInternalServerError)
	}))
	defer bad.Close()
	const count = 200
	a := authority(t, false, bad.URL, good().URL, "127.0.0.1:1")
	for range count {
		if _, err := a.Ask(t.Context(), auth.Query{}); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != count || broken.Load() > count/10 {
		t.Errorf("the good server was asked %d times, the bad one %d times", asked.Load(), broken.Load())
	}
	asked.Store(0)
	other := serve(t, everything)
	a = authority(t, false, good().URL, other.URL)
	for range count {
		if _, err := a.Ask(t.Context(), auth.Query{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n == 0 || n == count {
		t.Errorf("of two servers one was asked %d times of %d", n, count)
	}
	_, err := authority(t, false, bad.URL, "127.0.0.1:1", "http://[").Ask(t.Context(), auth.Query{})
	for _, want := range []string{bad.URL + ": got response 500", "http://127.0.0.1:1/auth: ", "connection refused", "with a bad URL"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

// FuzzAnswer shows any bytes to the reader of answers. What it believes keeps the
// rules.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte(`{"ttl":9223372036854775807,"authorizations":[{"topic":"a|b","channels":["","c"],"permissions":["subscribe"]}]}`))
	f.Add([]byte(`{"ttl":1,"authorizations":[{"topic":"(((","channels":null,"permissions":["publish"]}]}`))
	var text atomic.Pointer[[]byte]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(*text.Load()) }))
	f.Cleanup(s.Close)
	a := authority(f, false, s.URL)
	f.Fuzz(func(t *testing.T, b []byte) {
		text.Store(&b)
		p, err := a.Ask(t.Context(), auth.Query{})
		if (p == nil) == (err == nil) {
			t.Fatal("neither an answer nor an error")
		}
		if err != nil {
			return
		}
		var raw struct {
			TTL            int64
			Authorizations []struct{ Permissions []string }
		}
		if json.Unmarshal(b, &raw) != nil || raw.TTL <= 0 || p.TTL <= 0 || p.Count != len(raw.Authorizations) {
			t.Fatalf("%q came to %+v", b, p)
		}
		publish := strings.Contains(fmt.Sprint(raw), "publish")
		if p.MayPublish([]byte("topic")) && !publish {
			t.Fatalf("%q allows to publish", b)
		}
		p.MaySubscribe([]byte("topic"), []byte("channel"))
	})
}
