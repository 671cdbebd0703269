package transport

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// say sends a script to the broker and returns the frames that answer it, until
// there are n or the connection ends. After the frames everything is returned
// as it came.
func say(t *testing.T, addr, script string, n int) (frames []string, rest net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, "  V2"+script)
	must(t, err)
	for range n {
		head := make([]byte, 8)
		if _, err := io.ReadFull(c, head); err != nil {
			return append(frames, "(closed)"), c
		}
		text := make([]byte, binary.BigEndian.Uint32(head)-4)
		_, err := io.ReadFull(c, text)
		must(t, err)
		frames = append(frames, string(text))
	}
	return frames, c
}

func identify(body string) string {
	return "IDENTIFY\n" + string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

// TestAnswers shows byte for byte what IDENTIFY grants, and what a client hears
// that cannot have it.
func TestAnswers(t *testing.T) {
	cert, key, _ := identity(t, t.TempDir())
	addr := startBroker(t, "--tls-cert="+cert, "--tls-key="+key, "--max-deflate-level=7")
	answer := func(secure, deflate bool, level int, snappy bool) string {
		return fmt.Sprintf(`{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":%t,"deflate":%t,`+
			`"deflate_level":%d,"max_deflate_level":7,"snappy":%t,"sample_rate":0,"auth_required":false,"output_buffer_size":16384,`+
			`"output_buffer_timeout":250}`, secure, deflate, level, snappy)
	}
	f := func(request, want string) {
		t.Helper()
		got, _ := say(t, addr, identify(`{"feature_negotiation":true,`+request+`}`), 1)
		if got[0] != want {
			t.Errorf("%s\ngot  %s\nwant %s", request, got[0], want)
		}
	}
	f(`"tls_v1":true`, answer(true, false, 6, false))
	f(`"snappy":true`, answer(false, false, 6, true))
	f(`"deflate":true`, answer(false, true, 6, false))
	f(`"deflate":true,"deflate_level":0`, answer(false, true, 6, false))
	f(`"deflate":true,"deflate_level":-3`, answer(false, true, 6, false))
	f(`"deflate":true,"deflate_level":1`, answer(false, true, 1, false))
	f(`"deflate":true,"deflate_level":7`, answer(false, true, 7, false))
	f(`"deflate":true,"deflate_level":8`, answer(false, true, 7, false))
	f(`"deflate_level":2`, answer(false, false, 6, false))
	f(`"tls_v1":true,"deflate":true,"deflate_level":2`, answer(true, true, 2, false))
	f(`"snappy":true,"deflate":true`, "E_IDENTIFY_FAILED cannot enable both deflate and snappy compression")
	if got, _ := say(t, addr, identify(`{"tls_v1":true,"snappy":true,"deflate":true}`), 1); got[0] != "OK" {
		t.Errorf("without negotiation: %s", got[0])
	}

	// The first bytes behind the filter.
	for request, want := range map[string]string{
		`"snappy":true`: "\xff\x06\x00\x00sNaPpY\x01\x0e\x00\x00\x26\x98\x2b\xcf\x00\x00\x00\x06\x00\x00\x00\x00OK",
	} {
		_, c := say(t, addr, identify(`{"feature_negotiation":true,`+request+`}`), 1)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", request, got, err)
		}
	}

	// Something else where a ClientHello should be.
	_, c := say(t, addr, identify(`{"feature_negotiation":true,"tls_v1":true}`), 1)
	_, err := io.WriteString(c, "PUB topic\n\x00\x00\x00\x01x")
	must(t, err)
	got, err := io.ReadAll(c)
	must(t, err)
	const text = "E_IDENTIFY_FAILED IDENTIFY failed tls: first record does not look like a TLS handshake"
	if want := string(binary.BigEndian.AppendUint32(nil, uint32(4+len(text)))) + "\x00\x00\x00\x01" + text; !strings.HasSuffix(string(got), want) {
		t.Errorf("no ClientHello: %q, want %q", got, want)
	}
}

// TestRefusals shows the texts where TLS, or a client certificate, is required.
func TestRefusals(t *testing.T) {
	cert, key, pool := identity(t, t.TempDir())
	addr := startBroker(t, "--tls-cert="+cert, "--tls-key="+key, "--tls-client-auth-policy=require-verify", "--tls-root-ca-file="+cert)
	for _, line := range []string{"NOP", "PUB t", "SUB t c", "FIN 0", "WHAT is this", ""} {
		word, _, _ := strings.Cut(line, " ")
		want := "E_INVALID cannot " + word + " in current state (TLS required)"
		got, _ := say(t, addr, identify("{}")+line+"\n", 3)
		if len(got) != 3 || got[0] != "OK" || got[1] != want || got[2] != "(closed)" {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	_, c := say(t, addr, identify(`{"feature_negotiation":true,"tls_v1":true}`), 1)
	// The client's TLS takes in what comes behind the alert, so it is recorded.
	seen := &recorder{Conn: c}
	s := tls.Client(seen, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MaxVersion: tls.VersionTLS12})
	if err := s.Handshake(); err == nil {
		t.Error("a client without a certificate got in")
	}
	_, err := io.Copy(io.Discard, seen)
	must(t, err)
	rest := seen.b
	if want := "E_IDENTIFY_FAILED IDENTIFY failed tls: client didn't provide a certificate"; !strings.HasSuffix(string(rest), want) {
		t.Errorf("no certificate: %q, want %q", rest, want)
	}
}

// A recorder keeps what was read.
type recorder struct {
	net.Conn
	b []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.b = append(r.b, b[:n]...)
	return n, err
}
