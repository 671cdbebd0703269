package lookup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait; a test that passes does not wait for it.
const patience = 30 * time.Second

// binaries is where TestMain's process keeps what it builds.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "zsq-lookup-")
	if err != nil {
		log.Fatal(err)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// The programs, each built once when it is first asked for.
var (
	ours     = program("ZSQ_NSQLOOKUPD", "../../..", "./cmd/nsqlookupd")
	theirs   = program("", ".", "github.com/nsqio/nsq/apps/nsqlookupd")
	nsqd     = program("ZSQ_NSQD", "../../..", "./cmd/nsqd")
	nsqadmin = program("", ".", "github.com/nsqio/nsq/apps/nsqadmin")
	nsqStat  = program("", ".", "github.com/nsqio/nsq/apps/nsq_stat")
)

// program returns the path of a package's binary: what the environment variable
// names, or else a build of it in the module at dir.
func program(env, dir, pkg string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		if path := os.Getenv(env); path != "" {
			return filepath.Abs(path)
		}
		// Ours and theirs have the same last element.
		out, err := os.MkdirTemp(binaries, "build-")
		if err != nil {
			return "", err
		}
		path := filepath.Join(out, filepath.Base(pkg))
		cmd := exec.Command("go", "build", "-o", path, pkg)
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
		}
		return path, nil
	})
}

// must unwraps what cannot go wrong.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// A text is a log that several goroutines write and read.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A daemon is one process on loopback ports of its own.
type daemon struct {
	t         *testing.T
	path      string
	tcp, http string // addresses
	flags     []string

	cmd    *exec.Cmd
	log    *text
	logged int        // bytes of log when the process started
	done   chan error // closed after the exit status has been sent
}

// launch runs a daemon that takes --tcp-address and --http-address until the
// test ends, and shows its log when the test has failed.
func launch(t *testing.T, path string, flags ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, path: path, flags: flags, log: new(text)}
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			s := d.log.String()
			t.Logf("log of %s, last part:\n%s", path, s[max(0, len(s)-4096):])
		}
	})
	d.start(freeAddr(t), freeAddr(t))
	return d
}

// lookupd runs ours, or upstream's.
func lookupd(t *testing.T, program func() (string, error), flags ...string) *daemon {
	t.Helper()
	return launch(t, must(program())(t), append([]string{"--broadcast-address=127.0.0.1"}, flags...)...)
}

// start runs the process at these addresses and waits until it answers.
func (d *daemon) start(tcp, web string) {
	d.t.Helper()
	d.tcp, d.http, d.logged = tcp, web, len(d.log.String())
	d.cmd = exec.Command(d.path, append([]string{"--tcp-address=" + tcp, "--http-address=" + web}, d.flags...)...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { // ends with the process
		done <- cmd.Wait()
		close(done)
	}(d.cmd, d.done)
	eventually(d.t, "the daemon answers /ping", func() bool {
		select {
		case err := <-d.done:
			d.t.Fatalf("%s has ended: %v\n%s", d.path, err, d.log)
		default:
		}
		resp, err := http.Get("http://" + d.http + "/ping")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// stop sends a signal and returns the exit status.
func (d *daemon) stop(sig syscall.Signal) error {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
	select {
	case err := <-d.done:
		return err
	case <-time.After(patience):
		d.t.Fatalf("%s ignores %v", d.path, sig)
		return nil
	}
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.done
}

// freeAddr returns a loopback address that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// call makes one request that follows no redirect, and returns the response
// with its body read.
func (d *daemon) call(method, path string) (*http.Response, string) {
	d.t.Helper()
	req, err := http.NewRequest(method, "http://"+d.http+path, nil)
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
func (d *daemon) get(path string) string {
	d.t.Helper()
	resp, body := d.call("GET", path)
	if resp.StatusCode != 200 {
		d.t.Fatalf("GET %s: %s %s", path, resp.Status, body)
	}
	return body
}

// post makes a POST that must be answered with 200.
func (d *daemon) post(path string) {
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

func (d *daemon) dial() *link {
	d.t.Helper()
	c, err := net.Dial("tcp", d.tcp)
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
func (d *daemon) join(host string) *link {
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
