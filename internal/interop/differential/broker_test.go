package differential

import (
	"bytes"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait for a broker; a test that passes meets it never.
const patience = 20 * time.Second

func TestMain(m *testing.M) { daemon.Main(m) }

// A broker is one nsqd process.
type broker struct {
	*daemon.Daemon
	dir string
}

// newBroker starts a broker in a directory of its own.
func newBroker(t *testing.T, program daemon.Program, flags []string) *broker {
	t.Helper()
	dir := t.TempDir()
	return &broker{daemon.Start(t, daemon.Config{
		Program: program,
		Flags:   append([]string{"--data-path=" + dir, "--broadcast-address=b", "--log-level=fatal"}, flags...),
		Ready:   stoppable,
	}), dir}
}

// stoppable reports whether the broker answers and would stop cleanly: upstream
// serves before it listens to signals.
func stoppable(d *daemon.Daemon) bool {
	resp, err := http.Get("http://" + d.HTTP + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return false
	}
	stacks, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	return err == nil && bytes.Contains(stacks, []byte("os/signal."))
}

// restart stops the broker and starts it again, on other ports.
func (b *broker) restart(t *testing.T) error {
	t.Helper()
	if err := b.Signal(t, syscall.SIGTERM); err != nil {
		return err
	}
	b.RestartElsewhere(t)
	return nil
}
