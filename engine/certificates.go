package engine

import (
	"bytes"
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

	mu     sync.Mutex // one load at a time; guards stamps
	stamps []os.FileInfo

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
	c.stamps = c.look()
	cfg, err := c.load()
	if err != nil {
		return nil, fmt.Errorf("failed to build TLS config - %w", err)
	}
	c.current.Store(cfg)
	return c, nil
}

// load reads the files into a configuration.
func (c *certificates) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.o.TLSCert, c.o.TLSKey)
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
		pem, err := os.ReadFile(c.o.TLSRootCAFile)
		if err != nil {
			return nil, err
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
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
	c.stamps = c.look()
	cfg, err := c.load()
	if err != nil {
		c.log.printf(LogError, "TLS files not reloaded, the old ones stay in use: %s", err)
		return err
	}
	c.current.Store(cfg)
	c.log.printf(LogInfo, "TLS files reloaded")
	return nil
}

// look describes the files, nil for one that cannot be seen.
func (c *certificates) look() []os.FileInfo {
	var list []os.FileInfo
	for _, name := range []string{c.o.TLSCert, c.o.TLSKey, c.o.TLSRootCAFile} {
		fi, err := os.Stat(name)
		if err != nil {
			fi = nil
		}
		list = append(list, fi)
	}
	return list
}

// changed reports whether a file is another one than at the last load. Half of a
// change is one too: its load fails, and the other half brings the next.
func (c *certificates) changed() bool {
	now := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, fi := range now {
		old := c.stamps[i]
		switch {
		case fi == nil && old == nil:
		case fi == nil || old == nil,
			!os.SameFile(fi, old), !fi.ModTime().Equal(old.ModTime()), fi.Size() != old.Size():
			return true
		}
	}
	return false
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
