package survival

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// TestRefusedDirectories shows that a data path which cannot be used is refused
// with one line that says why.
func TestRefusedDirectories(t *testing.T) {
	refused := func(dir, want string) {
		t.Helper()
		cmd := exec.Command(zsq.Path(t), "--data-path="+dir, "--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0", "--log-level=warn")
		text, err := cmd.CombinedOutput()
		if lines := strings.Count(string(text), "\n"); err == nil || lines != 1 || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, with %d lines, want one with %q:\n%s", dir, err, lines, want, text)
		}
	}
	used := t.TempDir()
	run(t, used)
	refused(used, "possibly in use by another instance")

	refused(filepath.Join(t.TempDir(), "missing"), "no such file or directory")

	later := t.TempDir()
	d := run(t, later)
	d.Create(t, "t", "c")
	d.Stop(t)
	must(t, os.WriteFile(filepath.Join(later, "zsq", "format"), []byte("99\n"), 0o600))
	refused(later, "has format 99, written by a later zsq")

	earlier := t.TempDir()
	must(t, os.Mkdir(filepath.Join(earlier, "zsq"), 0o700))
	must(t, os.WriteFile(filepath.Join(earlier, "zsq", "format"), []byte("1\n"), 0o600))
	run(t, earlier).Stop(t)
	if b, err := os.ReadFile(filepath.Join(earlier, "zsq", "format")); err != nil || string(b) == "1\n" {
		t.Errorf("the format of a data path that was taken over is %q, %v", b, err)
	}

	if os.Getuid() != 0 {
		locked := t.TempDir()
		must(t, os.Chmod(locked, 0o500))
		refused(locked, "permission denied")
		return
	}
	readOnly := smallDisk(t, "size=1m,ro")
	refused(readOnly, "read-only file system")
}

// TestWithoutDescriptors has many topics overflow in a daemon that may not open
// files for all of them at a time: nobody is refused, and everything comes.
func TestWithoutDescriptors(t *testing.T) {
	const topics, each = 100, 40
	for _, mode := range []string{"memory", "process"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			flags := []string{"--data-path=" + dir, "--broadcast-address=127.0.0.1", "--log-level=warn", "--mem-queue-size=5", "--durability=" + mode}
			d := nsqd{daemon.Start(t, daemon.Config{Program: zsq, Flags: flags, Command: func(path string, args ...string) *exec.Cmd {
				return exec.Command("sh", append([]string{"-c", `ulimit -n 100; exec "$0" "$@"`, path}, args...)...)
			}})}
			for i := range topics {
				topic := fmt.Sprint("t", i)
				d.Create(t, topic, "c")
				must(t, d.mpub(t, topic, 0, each, damageSize))
			}
			if mode == "memory" {
				must(t, d.Signal(t, syscall.SIGTERM))
			} else {
				d.Kill()
			}
			d.Command = nil
			d.RestartElsewhere(t)
			for i := range topics {
				topic := fmt.Sprint("t", i)
				if got := d.consume(t, topic, "c", each, damageSize); len(got) != each {
					t.Errorf("topic %s: %d of %d messages came", topic, len(got), each)
				}
			}
		})
	}
}
