package differential

import (
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// patience bounds every wait for a broker; a test that passes meets it never, not even
// on a machine that stands still for a minute.
const patience = 2 * time.Minute

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
	common := []string{"--data-path=" + dir, "--broadcast-address=b", "--log-level=fatal"}
	if program == daemon.Nsqd {
		common = append(common, "--loops=1") // another loop's message is one that it has not heard of
	}
	return &broker{daemon.Start(t, daemon.Config{
		Program: program,
		Flags:   append(common, flags...),
		Ready:   daemon.Stoppable, // some cases have a broker whose /ping fails
	}), dir}
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
