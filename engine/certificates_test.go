package engine_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
)

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

// TestReloadUnseen changes the files and nothing that a listing of the directory
// shows, as somebody does who writes them twice between two ticks of the file system's
// clock.
func TestReloadUnseen(t *testing.T) {
	o := options(t)
	a := secure(t, o)
	then := time.Now().Add(-time.Hour)
	size := int64(0)
	write := func() {
		for {
			a.files("zsq", o.TLSCert, o.TLSKey)
			for _, name := range []string{o.TLSCert, o.TLSKey} {
				if err := os.Chtimes(name, then, then); err != nil {
					t.Fatal(err)
				}
			}
			fi, err := os.Stat(o.TLSCert)
			if err != nil {
				t.Fatal(err)
			}
			if size == 0 || fi.Size() == size { // signatures differ in length by a byte or two
				size = fi.Size()
				return
			}
		}
	}
	write()
	o.TLSReloadInterval = 0
	e := start(t, o)
	if e.CertificatesChanged() {
		t.Error("the files are the same")
	}
	write()
	if !e.CertificatesChanged() {
		t.Error("the files say something else")
	}
	if err := e.ReloadCertificates(); err != nil {
		t.Fatal(err)
	}
	if e.CertificatesChanged() {
		t.Error("they were loaded")
	}
	if err := os.Remove(o.TLSKey); err != nil {
		t.Fatal(err)
	}
	if !e.CertificatesChanged() {
		t.Error("a file is missing")
	}
	if err := e.ReloadCertificates(); err == nil {
		t.Error("a missing file was loaded")
	}
	if e.CertificatesChanged() {
		t.Error("it is missing as before")
	}
}
