package survival

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk returns a directory on a file system of its own.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("zsq-test", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("a file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// TestFillAndFree fills a small file system and empties it again, in each mode.
// TestLongFillAndFree does so a hundred times.
func TestFillAndFree(t *testing.T) { fillAndFreeAll(t, 3) }

func fillAndFreeAll(t *testing.T, cycles int) {
	for _, mode := range []string{"memory", "process", "disk"} {
		t.Run(mode, func(t *testing.T) { fillAndFree(t, mode, cycles) })
	}
}

// fillAndFree demands that what was acknowledged comes, that /ping tells of the
// full disk, and that all is well again when there is room. Some of the cycles
// go through a crash or a stop on the full disk, or have another fill it.
func fillAndFree(t *testing.T, mode string, cycles int) {
	const size, batch, memory = 48 << 10, 20, 10
	dir := smallDisk(t, "size=80m")
	flags := []string{"--durability=" + mode, "--mem-queue-size=10"}
	d := run(t, dir, flags...)
	d.Create(t, "t", "c")
	next, accepted := uint64(1), 0
	other := filepath.Join(dir, "other")
	for cycle := 1; cycle <= cycles; cycle++ {
		if cycle%4 == 3 { // another fills the disk, but for a little
			fillFile(t, other)
		}
		var acked []uint64
		for healed := 0; ; healed++ {
			var refused error
			for refused == nil {
				if refused = d.mpub(t, "t", next, batch, size); refused == nil {
					acked = append(acked, keysFrom(int(next), batch)...)
				}
				if next += batch; len(acked)*size > 400<<20 {
					t.Fatal("the disk does not fill")
				}
			}
			text := d.ping(t)
			if strings.Contains(text, "no space left") {
				break
			}
			// Between the two the daemon may have tidied up and tried again.
			if text != "OK" || healed > 2 {
				t.Fatalf("cycle %d: a publish was refused (%v), and /ping says %q", cycle, refused, text)
			}
		}
		if cycle%4 == 3 {
			must(t, os.Remove(other))
		}
		lossy := 0
		switch cycle % 4 {
		case 1: // memory mode promises nothing of what had not overflowed
			d.Kill()
			if mode == "memory" {
				lossy = 2 * memory
			}
			d.RestartElsewhere(t)
		case 2:
			err := d.Signal(t, syscall.SIGTERM)
			if err != nil {
				if !strings.Contains(d.Log.String(), "not everything was saved") {
					t.Errorf("cycle %d: the stop failed (%v) and did not say why", cycle, err)
				}
				if mode == "memory" {
					lossy = 2 * memory
				}
			}
			d.RestartElsewhere(t)
		}
		got := d.consume(t, "t", "c", 1<<20, size)
		lost := 0
		for _, key := range acked {
			if got[key] == 0 {
				lost++
			}
		}
		if lost > lossy {
			t.Fatalf("cycle %d: %d of %d acknowledged messages are lost, up to %d may be", cycle, lost, len(acked), lossy)
		}
		accepted += len(acked)
		if len(acked) == 0 && cycle%4 != 3 {
			t.Errorf("cycle %d: nothing was accepted", cycle)
		}
		eventually(t, "healthy when there is room", func() bool { return d.ping(t) == "OK" })
		select {
		case <-d.Done():
			t.Fatalf("cycle %d: the daemon is gone: %v", cycle, d.Wait())
		default:
		}
	}
	t.Logf("%d cycles, %d messages of %d KB accepted", cycles, accepted, size>>10)
	d.Stop(t)
}

// fillFile takes a file system's room, all but a few messages'.
func fillFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	piece := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Write(piece)
	}
	must(t, f.Close())
}

// TestStopThatCannotSave stops a daemon that holds messages in memory while the
// disk is full: it says so, and the exit status does too.
func TestStopThatCannotSave(t *testing.T) {
	dir := smallDisk(t, "size=16m")
	d := run(t, dir, "--mem-queue-size=10000")
	d.Create(t, "t", "c")
	d.publish(t, "t", 0, 8000, 1000) // more than the daemon has set aside for a stop
	fillFile(t, filepath.Join(dir, "other"))
	err := d.Signal(t, syscall.SIGTERM)
	if err == nil || !strings.Contains(d.Log.String(), "not everything was saved") {
		t.Errorf("the stop ended with %v and logged:\n%s", err, d.Log)
	}
}
