package survival

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestWithoutPermission takes away the right to make files where a topic would
// overflow to: what needs one is refused, what was acknowledged comes, and all is well
// when the right is back.
func TestWithoutPermission(t *testing.T) {
	const batch = 20
	for _, mode := range []string{"memory", "process"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			d := run(t, dir, "--mem-queue-size=10", "--durability="+mode)
			d.Create(t, "t", "c")
			next := uint64(1)
			var acked []uint64
			publish := func(n int) error {
				first := next
				next += uint64(n)
				err := d.mpub(t, "t", first, n, damageSize)
				if err == nil {
					acked = append(acked, keysFrom(int(first), n)...)
				}
				return err
			}
			must(t, publish(5)) // these fit in memory
			queues := filepath.Join(dir, "zsq")
			// Root may do what a mode forbids, but nobody makes a file here.
			if err := syscall.Mount("zsq-test", queues, "tmpfs", syscall.MS_RDONLY, "size=1m"); err != nil {
				t.Skipf("a file system cannot be mounted here: %v", err)
			}
			mounted := true
			unmount := func() {
				if mounted {
					must(t, syscall.Unmount(queues, syscall.MNT_DETACH))
				}
				mounted = false
			}
			t.Cleanup(unmount)
			for range 3 {
				if publish(batch) == nil {
					t.Error("there is nowhere to put them, and they were accepted")
				}
			}
			if text := d.ping(t); !strings.Contains(text, "read-only file system") {
				t.Errorf("/ping: %s", text)
			}
			unmount()
			eventually(t, "healthy again", func() bool { return d.ping(t) == "OK" })
			must(t, publish(batch))
			if mode == "process" {
				d.Kill()
				d.RestartElsewhere(t)
			}
			got := d.consume(t, "t", "c", 1<<20, damageSize)
			for _, key := range acked {
				if got[key] == 0 {
					t.Errorf("message %d was acknowledged and is lost", key)
				}
			}
			if found := d.damage(t); found.Places > 0 {
				t.Errorf("nothing was damaged, and /stats counts %+v", found)
			}
			d.Stop(t)
		})
	}
}
