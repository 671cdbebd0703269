package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait; a test that passes does not come near it.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { daemon.Main(m) }

// identity writes a self-signed certificate and its key.
func identity(t *testing.T, dir string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nsqd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, &k.PublicKey, k)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(k)
	must(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
	parsed, err := x509.ParseCertificate(der)
	must(t, err)
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return cert, key, pool
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startBroker runs a broker until the test ends and returns its TCP address.
func startBroker(t *testing.T, flags ...string) string {
	t.Helper()
	return startProgram(t, daemon.Nsqd, flags...)
}

// startProgram is startBroker for a program of the caller's choice.
func startProgram(t *testing.T, program daemon.Program, flags ...string) string {
	t.Helper()
	return daemon.Start(t, daemon.Config{
		Program: program,
		Flags:   append(flags, "--data-path="+t.TempDir(), "--https-address=", "--log-level=error"),
		Ready:   accepts, // where TLS is required, /ping is refused
	}).TCP
}

// accepts reports whether the broker takes connections.
func accepts(d *daemon.Daemon) bool {
	c, err := net.Dial("tcp", d.TCP)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// ways are all the transports that go-nsq can ask for.
func ways(pool *x509.CertPool) map[string]*nsq.Config {
	all := map[string]*nsq.Config{}
	for _, secure := range []bool{false, true} {
		for _, compression := range []string{"", "snappy", "deflate1", "deflate6", "deflate9"} {
			cfg := nsq.NewConfig()
			cfg.MaxInFlight = 50
			cfg.MaxAttempts = 0
			// The machine may be busy; and the stock client's second to write counts
			// from before it compresses, which takes longer under the race detector.
			cfg.DialTimeout, cfg.WriteTimeout, cfg.ReadTimeout = patience, patience, patience
			cfg.MsgTimeout = 5 * patience
			name := "plain"
			if secure {
				name = "tls"
				cfg.TlsV1, cfg.TlsConfig = true, &tls.Config{RootCAs: pool}
			}
			switch compression {
			case "snappy":
				cfg.Snappy = true
			case "deflate1", "deflate6", "deflate9":
				cfg.Deflate, cfg.DeflateLevel = true, int(compression[7]-'0')
			}
			all[name+compression] = cfg
		}
	}
	return all
}

// bodies are what is published each way: short and long, and easy, hard and
// impossible to compress.
func bodies(way string) [][]byte {
	noise := make([]byte, 300_000)
	cha := rand.NewChaCha8(sha256.Sum256([]byte(way)))
	cha.Read(noise)
	list := [][]byte{make([]byte, 900_000), noise, noise[:1], bytes.Repeat(noise[:100], 100)}
	for i := range 60 {
		list = append(list, fmt.Appendf(nil, `{"from":%q,"number":%d,"text":"a message like many others"}`, way, i))
	}
	return list
}

// closed is a deadline that has passed.
var closed = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

var quiet = log.New(io.Discard, "", 0)

// TestEveryTransport publishes each way, with PUB and MPUB, and consumes each
// way: every consumer gets every message once, unchanged.
func TestEveryTransport(t *testing.T) {
	cert, key, pool := identity(t, t.TempDir())
	addr := startBroker(t, "--tls-cert="+cert, "--tls-key="+key, "--max-deflate-level=9")
	const topic = "every_transport"
	want := map[[32]byte]int{}
	for way := range ways(pool) {
		for _, b := range bodies(way) {
			want[sha256.Sum256(b)]++
		}
	}
	total := 0
	for _, n := range want {
		total += n
	}

	type consumer struct {
		way  string
		mu   sync.Mutex
		got  map[[32]byte]int
		n    int
		done chan struct{}
	}
	var consumers []*consumer
	for way, cfg := range ways(pool) {
		// The stock consumer does not wait for its channel to exist; we have to.
		if got, c := say(t, addr, "SUB "+topic+" "+way+"\n", 1); got[0] != "OK" {
			t.Fatalf("SUB: %s", got[0])
		} else {
			c.Close()
		}
		c := &consumer{way: way, got: map[[32]byte]int{}, done: make(chan struct{})}
		q, err := nsq.NewConsumer(topic, way, cfg)
		must(t, err)
		q.SetLogger(quiet, nsq.LogLevelError)
		q.AddConcurrentHandlers(nsq.HandlerFunc(func(m *nsq.Message) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.got[sha256.Sum256(m.Body)]++
			if c.n++; c.n == total {
				close(c.done)
			}
			return nil
		}), 3)
		must(t, q.ConnectToNSQD(addr))
		t.Cleanup(func() { q.Stop(); <-q.StopChan })
		consumers = append(consumers, c)
	}

	var wg sync.WaitGroup
	for way, cfg := range ways(pool) {
		wg.Go(func() {
			p, err := nsq.NewProducer(addr, cfg)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Stop()
			p.SetLogger(quiet, nsq.LogLevelError)
			list := bodies(way)
			for _, b := range list[:20] {
				if err := p.Publish(topic, b); err != nil {
					t.Errorf("%s: %v", way, err)
					return
				}
			}
			if err := p.MultiPublish(topic, list[20:]); err != nil {
				t.Errorf("%s: %v", way, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return // nobody can have it all
	}
	late := time.After(patience)
	for _, c := range consumers {
		select {
		case <-c.done:
		case <-late:
			late = closed
		}
		c.mu.Lock()
		for sum, n := range want {
			if c.got[sum] != n {
				t.Errorf("consumer %s: a message of %d came %d times", c.way, n, c.got[sum])
				break
			}
		}
		if c.n != total {
			t.Errorf("consumer %s got %d of %d messages", c.way, c.n, total)
		}
		c.mu.Unlock()
	}
}

// TestRequired shows the stock client where TLS is required.
func TestRequired(t *testing.T) {
	cert, key, pool := identity(t, t.TempDir())
	addr := startBroker(t, "--tls-cert="+cert, "--tls-key="+key, "--tls-required")
	for way, cfg := range ways(pool) {
		p, err := nsq.NewProducer(addr, cfg)
		must(t, err)
		p.SetLogger(quiet, nsq.LogLevelError)
		if err := p.Publish("t", []byte("x")); (err == nil) != cfg.TlsV1 {
			t.Errorf("%s: %v", way, err)
		}
		p.Stop()
	}
	// A certificate that the client does not know.
	cfg := nsq.NewConfig()
	cfg.TlsV1, cfg.TlsConfig = true, &tls.Config{RootCAs: x509.NewCertPool()}
	p, err := nsq.NewProducer(addr, cfg)
	must(t, err)
	defer p.Stop()
	p.SetLogger(quiet, nsq.LogLevelError)
	if err := p.Ping(); err == nil {
		t.Error("the client trusts anybody")
	}
}
