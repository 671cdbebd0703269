package lookup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait; a test that passes does not wait for it, not even on a
// machine that stands still for a minute.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { daemon.Main(m) }

// The nsqlookupds that are compared.
var ours, theirs = daemon.Nsqlookupd, daemon.UpstreamNsqlookupd

// A server is one process on loopback ports of its own.
type server struct {
	*daemon.Daemon
	t      *testing.T
	logged int // bytes of log when the process started
}

// launch runs a daemon until the test ends.
func launch(t *testing.T, program daemon.Program, flags ...string) *server {
	t.Helper()
	flags = append([]string{"--broadcast-address=127.0.0.1"}, flags...)
	return &server{Daemon: daemon.Start(t, daemon.Config{Program: program, Flags: flags}), t: t}
}

// move starts the daemon again, on other ports.
func (d *server) move() {
	d.t.Helper()
	d.logged = len(d.Log.String())
	d.RestartElsewhere(d.t)
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	daemon.Eventually(t, patience, what, ok)
}

// call makes one request that follows no redirect, and returns the response
// with its body read.
func (d *server) call(method, path string) (*http.Response, string) {
	d.t.Helper()
	req, err := http.NewRequest(method, "http://"+d.HTTP+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp, string(body)
}

// get returns the body of a GET that must be answered with 200.
func (d *server) get(path string) string {
	d.t.Helper()
	resp, body := d.call("GET", path)
	if resp.StatusCode != 200 {
		d.t.Fatalf("GET %s: %s %s", path, resp.Status, body)
	}
	return body
}

// post makes a POST that must be answered with 200.
func (d *server) post(path string) {
	d.t.Helper()
	if resp, body := d.call("POST", path); resp.StatusCode != 200 {
		d.t.Fatalf("POST %s: %s %s", path, resp.Status, body)
	}
}

// A link is one connection to a lookupd's TCP port.
type link struct {
	net.Conn
	t *testing.T
}

func (d *server) dial() *link {
	d.t.Helper()
	c, err := net.Dial("tcp", d.TCP)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		d.t.Fatal(err)
	}
	return &link{c, d.t}
}

// join connects a producer that has identified itself.
func (d *server) join(host string) *link {
	d.t.Helper()
	c := d.dial()
	c.send("  V1")
	c.send(identify(fmt.Sprintf(`{"broadcast_address":%q,"tcp_port":1,"http_port":2,"version":"v"}`, host)))
	c.read()
	return c
}

func identify(body string) string { return "IDENTIFY\n" + sized(len(body)) + body }

func sized(n int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(n))) }

func (l *link) send(s string) {
	l.t.Helper()
	if _, err := io.WriteString(l, s); err != nil {
		l.t.Fatal(err)
	}
}

// closed is what read returns instead of an answer when there is none.
const closed = "(closed)"

// read returns the next answer, or that the connection has been closed.
func (l *link) read() string {
	l.t.Helper()
	var head [4]byte
	_, err := io.ReadFull(l, head[:])
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return closed
	}
	if err != nil {
		l.t.Fatalf("no answer: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(l, b); err != nil {
		l.t.Fatalf("half an answer: %v", err)
	}
	return string(b)
}

// do sends one command and returns its answer.
func (l *link) do(command string) string {
	l.t.Helper()
	l.send(command + "\n")
	return l.read()
}

// isOpen reports whether the other side has neither closed nor said anything.
// It waits only when the answer is yes.
func (l *link) isOpen(wait time.Duration) bool {
	l.t.Helper()
	if err := l.SetReadDeadline(time.Now().Add(wait)); err != nil {
		l.t.Fatal(err)
	}
	_, err := l.Read(make([]byte, 1))
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
