package peerhttp_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/peerhttp"
)

func newClient(t *testing.T, o peerhttp.Options) *peerhttp.Client {
	if o.BodyMax == 0 {
		o.BodyMax = 1 << 10
	}
	c := peerhttp.New(o)
	t.Cleanup(c.Close)
	return c
}

// TestGet shows what is asked and what comes back.
func TestGet(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Accept"); a != "application/vnd.nsq; version=1.0" {
			t.Errorf("Accept: %s", a)
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"said":%q}`, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Content-Type")+" "+string(body))
	}))
	defer s.Close()
	c := newClient(t, peerhttp.Options{})
	var got struct{ Said string }
	if err := c.Get(t.Context(), s.URL+"/x?a=b", &got); err != nil || got.Said != "GET /x?a=b  " {
		t.Errorf("%q %v", got.Said, err)
	}
	if err := c.Post(t.Context(), s.URL+"/y", map[string]int{"n": 1}, &got); err != nil || got.Said != `POST /y application/json {"n":1}` {
		t.Errorf("%q %v", got.Said, err)
	}
}

// TestBadAnswers shows that whatever a server does ends in an error.
func TestBadAnswers(t *testing.T) {
	f := func(want string, h http.HandlerFunc) {
		t.Helper()
		stop := make(chan struct{})
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h(w, r)
			if want == "Timeout" {
				<-stop
			}
		}))
		defer s.Close()
		defer close(stop)
		timeout := time.Minute
		if want == "Timeout" {
			timeout = 20 * time.Millisecond
		}
		c := newClient(t, peerhttp.Options{RequestTimeout: timeout})
		var v any
		err := c.Get(t.Context(), s.URL+"/auth?secret=hush", &v)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the secret is told: %v", err)
		}
	}
	f("got response 404", http.NotFound)
	f("got response 403", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"https_port":-1}`, http.StatusForbidden) })
	f("unexpected end of JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{`) })
	f("after top-level value", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{} {}`) })
	f(peerhttp.ErrTooLong.Error(), func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat(" ", 1<<20))
	})
	f("stopped after 10 redirects", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/auth?secret=hush", http.StatusFound)
	})
	f("Timeout", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"half":`)
		w.(http.Flusher).Flush()
	})
}

// TestSecureDetour follows a 403 to the port that it names, once.
func TestSecureDetour(t *testing.T) {
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"path":%q}`, r.URL.RequestURI())
	}))
	defer secure.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"message": "TLS_REQUIRED", "https_port": %d}`, secure.Listener.Addr().(*net.TCPAddr).Port)
	}))
	defer plain.Close()
	roots := secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := newClient(t, peerhttp.Options{TLS: &tls.Config{RootCAs: roots}})
	var got struct{ Path string }
	if err := c.Get(t.Context(), plain.URL+"/channels?topic=t", &got); err != nil || got.Path != "/channels?topic=t" {
		t.Errorf("%q %v", got.Path, err)
	}
	// Without the roots the certificate is not believed.
	err := newClient(t, peerhttp.Options{}).Get(t.Context(), plain.URL, &got)
	var bad *tls.CertificateVerificationError
	if !errors.As(err, &bad) {
		t.Errorf("got %v", err)
	}
}
