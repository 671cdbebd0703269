//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/engine/upgrade"
)

// A codec is what a connection's bytes go through where a row asks for TLS or
// compression. TLS is crypto/tls over a connection in memory. Compression is the
// broker's own code, which its tests hold to other implementations.
//
//	socket ──► raw ──► decode ──► the reader's buffer
//	socket ◄── out ◄── encode ◄── the writer's bytes
type codec struct {
	fd     int
	secure *tls.Conn      // nil for compression
	filter upgrade.Filter // nil for TLS
	mem    tlsWire
	buf    []byte
	raw    []byte // in buf: read and not decoded
	more   bool   // there may be plain bytes without a read
	out    []byte
	sent   int // of out
}

const (
	// codecRead is what a codec asks the kernel for at once.
	codecRead = 256 << 10
	// codecWrite bounds what is encoded at once.
	codecWrite = 256 << 10
)

// tlsWire is the connection that crypto/tls sees.
type tlsWire struct {
	net.Conn // nil; only Read and Write are called
	c        *conn
	driven   bool // the handshake is over
	in, out  []byte
}

// later says that nothing more is there yet. crypto/tls forgives errors that are
// temporary.
type later struct{}

func (later) Error() string   { return "later" }
func (later) Timeout() bool   { return false }
func (later) Temporary() bool { return true }

// Read reads what has come; during the handshake the blocking socket.
func (m *tlsWire) Read(b []byte) (int, error) {
	if !m.driven {
		n, err := unix.Read(m.c.fd, b)
		if err == nil && n == 0 {
			err = net.ErrClosed
		}
		return max(n, 0), err
	}
	if len(m.in) == 0 {
		return 0, later{}
	}
	n := copy(b, m.in)
	m.in = m.in[n:]
	return n, nil
}

// Write keeps what is to be sent; during the handshake it sends it.
func (m *tlsWire) Write(b []byte) (int, error) {
	if !m.driven {
		return len(b), m.c.tell(b)
	}
	m.out = append(m.out, b...)
	return len(b), nil
}

// startTLS shakes hands on a blocking socket.
func (c *conn) startTLS() error {
	k := &codec{fd: c.fd, mem: tlsWire{c: c}}
	k.secure = tls.Client(&k.mem, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	if err := k.secure.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	k.mem.driven = true
	k.more = true
	c.codec = k
	return nil
}

func (c *conn) compress(f upgrade.Filter) { c.codec = &codec{fd: c.fd, filter: f} }

// read fills b as far as one read of the socket goes; 0 means that nothing was
// there.
func (k *codec) read(b []byte) (int, error) {
	if len(k.raw) == 0 && !k.more {
		if k.buf == nil {
			k.buf = make([]byte, codecRead)
		}
		n, err := rawIO(unix.SYS_READ, k.fd, k.buf)
		if n == 0 && err == nil {
			return 0, fmt.Errorf("read: %w", net.ErrClosed)
		}
		if n < 0 {
			return 0, err
		}
		k.raw = k.buf[:n]
	}
	total := 0
	for total < len(b) {
		n, err := k.decode(b[total:])
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		total += n
	}
	k.more = total == len(b)
	return total, nil
}

func (k *codec) decode(b []byte) (int, error) {
	if k.secure == nil {
		n, used, err := k.filter.Decode(b, k.raw)
		k.raw = k.raw[used:]
		return n, err
	}
	k.mem.in = k.raw
	n, err := k.secure.Read(b)
	k.raw = k.mem.in
	if err != nil && errors.Is(err, error(later{})) {
		err = nil
	}
	return n, err
}

// write encodes b, or the front of it, and sends what the socket takes. It
// returns how much of b it took, which is nothing while something else waits.
func (k *codec) write(b []byte) (int, error) {
	if err := k.flush(); err != nil || k.pending() {
		return 0, err
	}
	b = b[:min(len(b), codecWrite)]
	var err error
	if k.secure == nil {
		k.out, err = k.filter.Encode(k.out[:0], b)
	} else {
		k.mem.out = k.out[:0]
		_, err = k.secure.Write(b)
		k.out = k.mem.out
	}
	k.sent = 0
	if err != nil {
		return 0, err
	}
	return len(b), k.flush()
}

func (k *codec) pending() bool { return k != nil && k.sent < len(k.out) }

func (k *codec) flush() error {
	if !k.pending() {
		return nil
	}
	n, err := rawIO(unix.SYS_WRITE, k.fd, k.out[k.sent:])
	k.sent += max(n, 0)
	return err
}

// certificate writes a self-signed certificate to dir and returns the flags that
// make an nsqd use it.
func certificate(dir string) ([]string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	return []string{"--tls-cert=" + certFile, "--tls-key=" + keyFile}, errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
}
