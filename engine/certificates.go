package engine

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// certificates is what the TLS files say. Connections keep the session they
// have; a new one takes what is current when its handshake begins.
type certificates struct {
	o       *Options
	log     *logger
	current atomic.Pointer[tls.Config]

	mu     sync.Mutex // one load at a time; guards loaded
	loaded tlsFiles   // the last load's, whether they made sense or not

	stop chan struct{}
	wg   sync.WaitGroup
}

// loadCertificates reads the files that o names. It returns nil when o names no
// certificate: there is no TLS then.
func loadCertificates(o *Options, log *logger) (*certificates, error) {
	if o.TLSCert == "" {
		return nil, nil
	}
	c := &certificates{o: o, log: log, stop: make(chan struct{})}
	c.loaded = c.look()
	cfg, err := c.load(c.loaded)
	if err != nil {
		return nil, fmt.Errorf("failed to build TLS config - %w", err)
	}
	c.current.Store(cfg)
	return c, nil
}

// tlsFiles are what the files say that the options name.
type tlsFiles struct{ cert, key, roots tlsFile }

type tlsFile struct {
	text string
	err  error // why it could not be read
}

// look reads the files.
func (c *certificates) look() tlsFiles {
	read := func(name string) tlsFile {
		b, err := os.ReadFile(name)
		return tlsFile{string(b), err}
	}
	f := tlsFiles{cert: read(c.o.TLSCert), key: read(c.o.TLSKey)}
	if c.o.TLSRootCAFile != "" {
		f.roots = read(c.o.TLSRootCAFile)
	}
	return f
}

// same reports whether two looks saw the same. Two failures do: what they say may
// differ, but there is nothing to load.
func (f tlsFile) same(other tlsFile) bool {
	return f.text == other.text && (f.err == nil) == (other.err == nil)
}

// load makes a configuration of the files.
func (c *certificates) load(f tlsFiles) (*tls.Config, error) {
	if err := cmp.Or(f.cert.err, f.key.err, f.roots.err); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair([]byte(f.cert.text), []byte(f.key.text))
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   uint16(c.o.TLSMinVersion),
		// Records start small otherwise, for the sake of browsers; a flush of ours
		// is one unit to its reader.
		DynamicRecordSizingDisabled: true,
	}
	switch c.o.TLSClientAuthPolicy {
	case "require":
		cfg.ClientAuth = tls.RequireAnyClientCert
	case "require-verify":
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if c.o.TLSRootCAFile != "" {
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM([]byte(f.roots.text)) {
			return nil, errors.New("failed to append certificate to pool")
		}
	}
	return cfg, nil
}

// config is what a handshake that begins now should use.
func (c *certificates) config() *tls.Config { return c.current.Load() }

// https is for a listener, which has one configuration for all its life.
func (c *certificates) https() *tls.Config {
	return &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.config(), nil },
		MinVersion:         uint16(c.o.TLSMinVersion),
	}
}

// reload takes the files as they are now. When they make no sense together the
// old ones stay in use.
func (c *certificates) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loaded = c.look()
	cfg, err := c.load(c.loaded)
	if err != nil {
		c.log.printf(LogError, "TLS files not reloaded, the old ones stay in use: %s", err)
		return err
	}
	c.current.Store(cfg)
	c.log.printf(LogInfo, "TLS files reloaded")
	return nil
}

// changed reports whether a file says something else than at the last load. Half of a
// change is one too: its load fails, and the other half brings the next. Times and
// sizes would not tell: a file system's clock may tick every few milliseconds only, and
// one certificate is as long as another.
func (c *certificates) changed() bool {
	now := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	return !now.cert.same(c.loaded.cert) || !now.key.same(c.loaded.key) || !now.roots.same(c.loaded.roots)
}

// watch looks at the files from time to time, until end.
func (c *certificates) watch(every time.Duration) {
	if every <= 0 {
		return
	}
	c.wg.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-c.stop:
				return
			case <-t.C:
			}
			if c.changed() {
				_ = c.reload() // it has logged why not
			}
		}
	})
}

func (c *certificates) end() {
	close(c.stop)
	c.wg.Wait()
}

// ReloadCertificates reads the TLS files again, for connections to come. On an
// error the old ones stay in use. Without TLS it does nothing.
func (e *Engine) ReloadCertificates() error {
	if e.certs == nil {
		e.log.printf(LogInfo, "nothing to reload: TLS is off")
		return nil
	}
	return e.certs.reload()
}

// serverLog takes what net/http has to say about connections, such as failed
// handshakes.
type serverLog struct{ log *logger }

func (s serverLog) Write(p []byte) (int, error) {
	s.log.printf(LogWarn, "%s", bytes.TrimSpace(p))
	return len(p), nil
}
