package engine_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
)

// An authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

var serials = big.NewInt(time.Now().UnixNano())

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	der, key := a.sign("an authority", true)
	a.cert, a.key = parse(t, der), key
	a.pool.AddCert(a.cert)
	return a
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) sign(name string, ca bool) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).Add(serials, big.NewInt(time.Now().UnixNano())), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err = x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// files writes a certificate and its key to the two files.
func (a *authority) files(name, certFile, keyFile string) {
	a.t.Helper()
	der, key := a.sign(name, false)
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// pair is a certificate for a client.
func (a *authority) pair(name string) tls.Certificate {
	a.t.Helper()
	der, key := a.sign(name, false)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// client trusts the authority and expects the daemon called "zsq".
func (a *authority) client() *tls.Config { return &tls.Config{RootCAs: a.pool, ServerName: "zsq"} }

// secure adds a certificate for "zsq" to o, and the authority as the one that
// client certificates come from.
func secure(t *testing.T, o *engine.Options) *authority {
	t.Helper()
	a := newAuthority(t)
	dir := t.TempDir()
	o.TLSCert, o.TLSKey, o.TLSRootCAFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "ca")
	a.files("zsq", o.TLSCert, o.TLSKey)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	if err := os.WriteFile(o.TLSRootCAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}
