package differential

import (
	"bytes"
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

// patience bounds every wait for a broker; a test that passes meets it never.
const patience = 20 * time.Second

var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "zsq-differential-")
	if err != nil {
		log.Fatal(err)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// ours builds the broker under test once, or takes the one ZSQ_NSQD names.
var ours = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("ZSQ_NSQD"); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(binaries, "zsq")
	return path, build("../../..", path, "./cmd/nsqd")
})

// theirs builds upstream's broker once.
var theirs = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "upstream")
	return path, build(".", path, "github.com/nsqio/nsq/apps/nsqd")
})

func build(dir, out, pkg string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// A broker is one nsqd process.
type broker struct {
	path, dir string
	flags     []string
	tcp, http string
	cmd       *exec.Cmd
	done      chan error
	log       bytes.Buffer // read after the process has ended
}

// newBroker starts a broker in a directory of its own. It is killed when the
// test ends, and its log is shown when the test has failed.
func newBroker(t *testing.T, binary func() (string, error), flags []string) *broker {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{path: path, dir: t.TempDir(), flags: flags}
	t.Cleanup(func() {
		b.cmd.Process.Kill()
		<-b.done
		if t.Failed() && b.log.Len() > 0 {
			t.Logf("log of %s:\n%.4000s", filepath.Base(b.path), b.log.Bytes())
		}
	})
	b.start(t)
	return b
}

// start runs the process on free ports and waits until it answers. Another
// process may take a port first, so that a start is tried again.
func (b *broker) start(t *testing.T) {
	t.Helper()
	for range 3 {
		b.tcp, b.http = freeAddr(t), freeAddr(t)
		b.cmd = exec.Command(b.path, append([]string{
			"--data-path=" + b.dir, "--tcp-address=" + b.tcp, "--http-address=" + b.http,
			"--broadcast-address=b", "--log-level=fatal",
		}, b.flags...)...)
		b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
		if err := b.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b.done = make(chan error, 1)
		go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait(); close(done) }(b.cmd, b.done)
		if b.up() {
			return
		}
	}
	t.Fatalf("%s does not start: %s", b.path, b.log.Bytes())
}

// up waits until the broker answers and would stop cleanly, or has ended.
func (b *broker) up() bool {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case <-b.done:
			return false
		case <-time.After(2 * time.Millisecond): // nobody tells us when it listens
		}
		// Upstream serves before it listens to signals.
		resp, err := http.Get("http://" + b.http + "/debug/pprof/goroutine?debug=1")
		if err != nil {
			continue
		}
		stacks, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && bytes.Contains(stacks, []byte("os/signal.")) {
			return true
		}
	}
	return false
}

func (b *broker) restart(t *testing.T) error {
	if err := b.stop(); err != nil {
		return err
	}
	b.start(t)
	return nil
}

func (b *broker) stop() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-b.done:
		return err
	case <-time.After(patience):
		return fmt.Errorf("SIGTERM: still there after %v", patience)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
