package httpapi_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/zsqio/zsq/engine/httpapi"
)

// FuzzRequest gives the API whatever net/http takes for a request. No handler
// panics, JSON is JSON, an error has its word, and nothing beyond the limits is
// published.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /stats?format=json&topic=t&channel=c&include_clients=0 HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /pub?topic=t&defer=5 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
		"POST /mpub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na\nb",
		"POST /mpub?topic=t&binary=true HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n\x00\x00\x00\x01\x00\x00\x00\x01x\r\n0\r\n\r\n",
		"POST /topic/create?topic=%74%23ephemeral HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /channel/pause?topic=t&channel=c;d HTTP/1.1\r\nHost: x\r\n\r\n",
		"PUT /config/log_level HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nwarn",
		"PUT /config/nsqlookupd_tcp_addresses HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD //Stats/ HTTP/1.0\r\n\r\n", "GET http://h/%2e%2e/ping?%zz HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil || strings.Contains(strings.ToLower(r.URL.Path), "/debug") {
			return // profiles take their time
		}
		b := &fakeBroker{}
		cfg := config(t, b)
		cfg.Logf = func(_ int, format string, args ...any) {
			if strings.HasPrefix(format, "panic") {
				t.Errorf("%q: %s", raw, fmt.Sprintf(format, args...))
			}
		}
		w := httptest.NewRecorder()
		httpapi.New(cfg).ServeHTTP(w, r)
		answer := w.Body.Bytes()
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
			var v struct{ Message string }
			switch err := json.Unmarshal(answer, &v); {
			case !json.Valid(answer):
				t.Errorf("%q: answered %q", raw, answer)
			case w.Code >= 400 && (err != nil || v.Message == ""):
				t.Errorf("%q: status %d says %q", raw, w.Code, answer)
			}
		}
		for _, m := range b.published {
			if len(m) == 0 || len(m) > int(cfg.Limits.MaxMsgSize) {
				t.Errorf("%q: published %d bytes", raw, len(m))
			}
		}
		for name := range b.topics {
			if !cfg.ValidTopicName(name) {
				t.Errorf("%q: made topic %q", raw, name)
			}
		}
	})
}
