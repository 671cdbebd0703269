package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/mmapqueue"
)

// ExportUpstream writes what a stopped daemon's data path holds into
// o.ExportUpstream, which must be empty or not exist, as files that upstream's
// nsqd reads: every waiting, deferred and unfinished message, and nsqd.dat. The
// data path keeps all of it too. Deferred messages lose their due times, for
// upstream has none on disk. summary gets a line for the operator.
func ExportUpstream(o *Options, summary, logOut io.Writer) error {
	to := o.ExportUpstream
	if err := emptyDir(to); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	// A start and a stop bring what a crash left into the backlogs. Nobody can
	// know the addresses, and nobody is told of them.
	quiet := *o
	quiet.TCPAddress, quiet.HTTPAddress, quiet.HTTPSAddress = "127.0.0.1:0", "", ""
	quiet.NSQLookupdTCPAddresses, quiet.StatsdAddress = nil, ""
	e, err := New(&quiet, logOut)
	if err != nil {
		return err
	}
	e.Start()
	if err := e.Shutdown(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	lock, err := lockDataPath(e.dataPath())
	if err != nil {
		return err
	}
	defer unlockDataPath(lock)
	n, err := broker.Export(e.dataPath(), mmapqueue.Options{
		Logf: func(format string, args ...any) { e.log.printf(LogError, format, args...) },
	}, to, o.fileBytes())
	if err != nil {
		return err
	}
	meta, err := os.ReadFile(filepath.Join(e.dataPath(), "nsqd.dat"))
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := mmapqueue.ReplaceFile(mmapqueue.OS, filepath.Join(to, "nsqd.dat"), meta); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	_, err = fmt.Fprintf(summary, "%d messages of %d topics in %d queues are in %s; %d of them were deferred and are due at once there\n",
		n.Messages, n.Topics, n.Queues, to, n.Deferred)
	return err
}

// emptyDir makes dir, or makes sure that nothing is in it.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o755)
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("directory %s is not empty", dir)
	}
	return err
}

// leaveNote tells whoever looks at our files, or starts upstream on them, how to
// get the messages out. Failing to is no reason not to start.
func leaveNote(dataPath string) {
	path := filepath.Join(dataPath, "zsq", "README")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	note := strings.Join([]string{
		"This data path belongs to zsq. The folders beside this file hold messages that",
		"wait, one folder a topic. Upstream's nsqd does not see them. Before you go back:",
		"",
		"    nsqd --data-path=" + dataPath + " --export-upstream=NEW_DIRECTORY",
		"",
		"writes everything in upstream's format. `mmapdump FOLDER` shows what is in one.",
		"",
	}, "\n")
	_ = os.WriteFile(path, []byte(note), 0o644)
}
