package route_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/zsqio/zsq/internal/route"
)

func TestCanonical(t *testing.T) {
	served := map[string]bool{"/ping": true, "/debug/": true, "/": true}
	f := func(method, p, want string) {
		t.Helper()
		if got := route.Canonical(method, p, strings.ToLower, func(p string) bool { return served[p] }); got != want {
			t.Errorf("%s %s: got %q, want %q", method, p, got, want)
		}
	}
	f("GET", "/ping", "")
	f("GET", "/PING", "/ping")
	f("GET", "/ping/", "/ping")
	f("GET", "//x/../ping", "/ping")
	f("GET", "/Debug", "/debug/")
	f("GET", "/nope", "")
	f("GET", "/", "")
	f("CONNECT", "/PING", "")
}

func TestRedirect(t *testing.T) {
	f := func(method, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		route.Redirect(w, httptest.NewRequest(method, "/P%49NG?a=b", nil), "/ping")
		if got := http.StatusText(w.Code) + " " + w.Header().Get("Location"); got != want {
			t.Errorf("%s: got %q, want %q", method, got, want)
		}
	}
	f("GET", "Moved Permanently /ping?a=b")
	f("POST", "Temporary Redirect /ping?a=b")
}

func TestAllow(t *testing.T) {
	if got := route.Allow(map[string]int{"PUT": 1, "GET": 2}); got != "GET, OPTIONS, PUT" {
		t.Error(got)
	}
}
