// Package daemon starts nsqd and nsqlookupd processes for the tests of this
// module: ours, built from the repository, and upstream's, built from the modules
// that go.mod names. It listens on loopback ports that the system chooses.
package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
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

// patience bounds every wait.
const patience = 30 * time.Second

// Kinds of daemons.
const (
	Zsq      = "zsq"      // our nsqd, or the one that ZSQ_NSQD names
	Upstream = "upstream" // upstream's nsqd
	Lookupd  = "lookupd"  // upstream's nsqlookupd
)

var (
	mu    sync.Mutex
	built = make(map[string]string) // kind to path
	dir   string
)

// Main runs the tests of a package and removes what was built for them.
func Main(m *testing.M) {
	code := m.Run()
	if dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// Binary returns the path of the kind's binary, built if need be.
func Binary(t testing.TB, kind string) string {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if path := built[kind]; path != "" {
		return path
	}
	if path := os.Getenv("ZSQ_NSQD"); path != "" && kind == Zsq {
		return path
	}
	if dir == "" {
		made, err := os.MkdirTemp("", "zsq-daemon-")
		if err != nil {
			t.Fatal(err)
		}
		dir = made
	}
	path := filepath.Join(dir, kind)
	cmd := exec.Command("go", "build", "-o", path, map[string]string{
		Zsq:      "./cmd/nsqd",
		Upstream: "github.com/nsqio/nsq/apps/nsqd",
		Lookupd:  "github.com/nsqio/nsq/apps/nsqlookupd",
	}[kind])
	root, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Dir = filepath.Dir(string(bytes.TrimSpace(root)))
	if kind == Zsq {
		cmd.Dir = filepath.Join(cmd.Dir, "..", "..")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build of %s: %v\n%s", kind, err, text)
	}
	built[kind] = path
	return path
}

// A Daemon is a process.
type Daemon struct {
	TCP, HTTP string // addresses

	kind  string
	dir   string
	flags []string
	cmd   *exec.Cmd
	log   *log
	done  chan struct{} // closed when the process has ended
}

// Start runs a daemon with a fresh data directory. It is killed when the test
// ends, and its log is shown when the test has failed.
func Start(t testing.TB, kind string, flags ...string) *Daemon {
	t.Helper()
	d := &Daemon{kind: kind, dir: t.TempDir(), flags: flags, log: new(log)}
	d.TCP, d.HTTP = freeAddr(t), freeAddr(t)
	t.Cleanup(func() {
		d.Kill()
		if t.Failed() {
			t.Logf("the log of %s, last part:\n%s", kind, d.log.tail(4<<10))
		}
	})
	d.Restart(t)
	return d
}

// Restart runs the daemon again, on the same addresses and data, after Kill or
// Terminate.
func (d *Daemon) Restart(t testing.TB) {
	t.Helper()
	args := []string{"--tcp-address=" + d.TCP, "--http-address=" + d.HTTP, "--broadcast-address=127.0.0.1"}
	if d.kind != Lookupd {
		args = append(args, "--data-path="+d.dir)
	}
	d.cmd = exec.Command(Binary(t, d.kind), append(args, d.flags...)...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		cmd.Wait()
		close(done)
	}(d.cmd, d.done)
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if resp, err := http.Get("http://" + d.HTTP + "/ping"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-d.done:
			t.Fatalf("%s does not start:\n%s", d.kind, d.log.tail(4<<10))
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not answer /ping", d.kind)
		}
	}
}

// Kill ends the process as a crash does.
func (d *Daemon) Kill() {
	if d.cmd != nil && d.cmd.Process != nil {
		d.cmd.Process.Kill()
		<-d.done
	}
}

// Terminate ends the process as an operator does.
func (d *Daemon) Terminate() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.done
}

// Channel is what /stats says of a channel.
type Channel struct {
	Name          string `json:"channel_name"`
	Depth         int    `json:"depth"`
	InFlightCount int    `json:"in_flight_count"`
	DeferredCount int    `json:"deferred_count"`
	MessageCount  int    `json:"message_count"`
	ClientCount   int    `json:"client_count"`
}

// Channel returns what /stats says of a channel; the zero value if it is not there.
func (d *Daemon) Channel(t testing.TB, topic, channel string) Channel {
	t.Helper()
	resp, err := http.Get("http://" + d.HTTP + "/stats?format=json&topic=" + topic)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var stats struct {
		Topics []struct {
			Name     string    `json:"topic_name"`
			Channels []Channel `json:"channels"`
		} `json:"topics"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&stats); err != nil {
		t.Fatal(err)
	}
	for _, top := range stats.Topics {
		for _, ch := range top.Channels {
			if top.Name == topic && ch.Name == channel {
				return ch
			}
		}
	}
	return Channel{}
}

// Post calls one of the daemon's HTTP commands, such as "/topic/create?topic=x".
func (d *Daemon) Post(t testing.TB, command string) {
	t.Helper()
	resp, err := http.Post("http://"+d.HTTP+command, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(fmt.Errorf("POST %s: %s", command, resp.Status))
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// log collects a process's output.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends p.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.buf.Bytes()
	return string(text[max(0, len(text)-n):])
}
