package main

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/wire"
)

// patience bounds every wait for the daemon, also when both stand still for a minute.
const patience = 2 * time.Minute

// rsaFiles writes a self-signed certificate and its key of the given size.
func rsaFiles(t *testing.T, dir string, bits int) (cert, key string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "old"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for file, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der},
		key:  {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// built is where TestMain's process keeps the daemon.
var built string

func TestMain(m *testing.M) {
	// A daemon inherits from us that hang-ups are ignored, as nohup has it, but not
	// that they are caught.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	dir, err := os.MkdirTemp("", "zsq-nsqd-")
	if err != nil {
		log.Fatal(err)
	}
	built = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// daemon builds the daemon, because the GODEBUG settings are the binary's.
var daemon = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(built, "nsqd")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// runDaemon runs the daemon until the test ends. It returns the process, its TCP
// address and its log.
func runDaemon(t *testing.T, flags ...string) (*exec.Cmd, string, *bufio.Scanner) {
	t.Helper()
	bin, err := daemon()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, append(flags, "--data-path="+t.TempDir(),
		"--tcp-address=127.0.0.1:0", "--http-address=", "--https-address=")...)
	// What the environment says must not be what makes this pass.
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GODEBUG=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	watchdog := time.AfterFunc(patience, func() {
		t.Errorf("the daemon has run for %v and is killed", patience)
		_ = cmd.Process.Kill()
	})
	t.Cleanup(func() { watchdog.Stop() })
	lines := bufio.NewScanner(stderr)
	return cmd, await(t, lines, `TCP: listening on (\S+)`), lines
}

// await reads the log up to a line, and returns what it says.
func await(t *testing.T, lines *bufio.Scanner, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for lines.Scan() {
		if m := re.FindStringSubmatch(lines.Text()); m != nil {
			return m[len(m)-1]
		}
	}
	t.Fatalf("the log has ended without a line %s", pattern)
	return ""
}

// session identifies, shakes hands, and publishes over TLS.
func session(addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return tls.ConnectionState{}, err
	}
	b := wire.AppendIdentify([]byte(wire.Magic), []byte(`{"feature_negotiation":true,"tls_v1":true}`))
	if _, err := c.Write(b); err != nil {
		return tls.ConnectionState{}, err
	}
	head := make([]byte, wire.FrameHeaderSize)
	if _, err := io.ReadFull(c, head); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.CopyN(io.Discard, c, int64(head[2])<<8+int64(head[3])-4); err != nil {
		return tls.ConnectionState{}, err
	}
	s := tls.Client(c, cfg)
	if _, err := s.Write(wire.AppendPub(nil, "t", []byte("x"))); err != nil {
		return tls.ConnectionState{}, err
	}
	oks := make([]byte, 2*len(wire.OKFrame))
	if _, err := io.ReadFull(s, oks); err != nil {
		return tls.ConnectionState{}, err
	}
	if string(oks) != wire.OKFrame+wire.OKFrame {
		return tls.ConnectionState{}, fmt.Errorf("answers %q", oks)
	}
	return s.ConnectionState(), nil
}

// TestOldClients shows that clients which upstream's defaults let in get in: old
// versions, RSA key exchange, 3DES, and the handshake's small RSA key.
func TestOldClients(t *testing.T) {
	cert, key := rsaFiles(t, t.TempDir(), 1024)
	_, addr, _ := runDaemon(t, "--tls-cert="+cert, "--tls-key="+key)
	f := func(version, suite uint16) {
		t.Helper()
		cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}
		if suite != 0 {
			cfg.CipherSuites = []uint16{suite}
		}
		state, err := session(addr, cfg)
		if err != nil {
			t.Errorf("%s with %s: %v", tls.VersionName(version), tls.CipherSuiteName(suite), err)
		} else if state.Version != version || suite != 0 && state.CipherSuite != suite {
			t.Errorf("got %s with %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
		}
	}
	f(tls.VersionTLS10, 0)
	f(tls.VersionTLS11, 0)
	f(tls.VersionTLS10, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA)
	f(tls.VersionTLS12, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA)
	f(tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA)
	f(tls.VersionTLS11, tls.TLS_RSA_WITH_AES_128_CBC_SHA)
	f(tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_CBC_SHA)
	f(tls.VersionTLS12, tls.TLS_RSA_WITH_AES_256_GCM_SHA384)
	f(tls.VersionTLS12, 0)
	f(tls.VersionTLS13, 0)
}

// TestHangUp shows that SIGHUP reloads the certificate, and that the daemon
// survives it, also with files that it cannot read.
func TestHangUp(t *testing.T) {
	dir := t.TempDir()
	cert, key := rsaFiles(t, dir, 2048)
	cmd, addr, lines := runDaemon(t, "--tls-cert="+cert, "--tls-key="+key, "--tls-reload-interval=0")
	serial := func() string {
		t.Helper()
		state, err := session(addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	hangUp := func(log string) {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		await(t, lines, log)
	}
	first := serial()
	rsaFiles(t, dir, 2048)
	if serial() != first {
		t.Error("the certificate changed by itself")
	}
	hangUp("TLS files reloaded")
	second := serial()
	if second == first {
		t.Error("still the first certificate after SIGHUP")
	}
	if err := os.Remove(key); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	hangUp("TLS files not reloaded")
	if serial() != second {
		t.Error("a failed reload changed the certificate")
	}
	// However many hang-ups wait, they keep TERM from nobody.
	for range 100 {
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
