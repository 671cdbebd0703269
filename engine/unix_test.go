package engine_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zsqio/zsq/engine"
)

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
