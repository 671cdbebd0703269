package survival

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestFilesHarmedUnderDaemon damages, cuts, removes and replaces files of a
// backlog that a daemon has open: it goes on, and every intact message comes.
func TestFilesHarmedUnderDaemon(t *testing.T) {
	seed := uint64(200)
	for _, mode := range []string{"memory", "process"} {
		for _, name := range harmNames {
			h := harms[name]
			seed++
			t.Run(name+" in "+mode+" mode", func(t *testing.T) {
				dir := t.TempDir()
				d := run(t, dir, "--mem-queue-size=50", "--durability="+mode)
				d.Create(t, "t", "c")
				d.publish(t, "t", 0, damageCount, damageSize)
				d.consume(t, "t", "c", 5000, damageSize)
				// Those in front of them were in the consumer's hands, and go about.
				keys := keysFrom(8000, damageCount-8000)
				paths := holding(t, files(t, filepath.Join(dir, "zsq"), "*.seg"), keys)
				before := read(t, paths)
				intact := untouched(t, keys, before, h.do(t, random(seed), paths))
				d.harmed(t, keys, intact, true, true)
				d.Stop(t)
			})
		}
	}
}

// TestJournalCutUnderDaemon cuts the journal under a daemon: what is published
// afterwards survives a crash.
func TestJournalCutUnderDaemon(t *testing.T) {
	dir := t.TempDir()
	d := run(t, dir, "--mem-queue-size=100000", "--durability=process")
	d.Create(t, "t", "c")
	d.publish(t, "t", 0, 5000, damageSize)
	cut(t, random(1), holding(t, files(t, filepath.Join(dir, "zsq"), "*.journal"), keysFrom(0, 5000)))
	d.publish(t, "t", 5000, 5000, damageSize)
	d.Kill()
	d.RestartElsewhere(t)
	got := d.consume(t, "t", "c", 20000, damageSize)
	lost := 0
	for key := range uint64(5000) {
		if got[key+5000] == 0 {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of 5000 messages are lost that were published after the journal was cut", lost)
	}
	t.Logf("%d of 10000 messages came", len(got))
}

// copyLive copies a directory that is being written. Files that are on their way to
// another name, which come and go all the time, may be missing; when another one has
// gone the error is fs.ErrNotExist.
func copyLive(to, from string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		passing := strings.HasSuffix(path, ".tmp")
		if passing && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if passing && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
}

// TestCopyOfLiveDirectory starts a daemon on what a copy under load has got.
func TestCopyOfLiveDirectory(t *testing.T) {
	for _, mode := range []string{"memory", "process"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			d := run(t, dir, "--mem-queue-size=10", "--durability="+mode)
			d.Create(t, "t", "c")
			d.publish(t, "t", 0, 5000, damageSize)
			var stop atomic.Bool
			var load sync.WaitGroup
			load.Go(func() {
				for key := uint64(1 << 32); !stop.Load(); key += 20 {
					if err := d.mpub(t, "t", key, 20, damageSize); err != nil {
						t.Error(err)
						return
					}
				}
			})
			copied := filepath.Join(t.TempDir(), "copy")
			err := copyLive(copied, dir)
			for began := time.Now(); errors.Is(err, fs.ErrNotExist) && time.Since(began) < patience; { // a file went meanwhile
				copied += "'"
				err = copyLive(copied, dir)
			}
			stop.Store(true)
			load.Wait()
			must(t, err)
			other := run(t, copied, "--durability="+mode)
			got := other.consume(t, "t", "c", 1<<30, damageSize)
			lossy := 0
			if mode == "memory" {
				lossy = 10 // never on the disk
			}
			lost := 0
			for key := range uint64(5000) {
				if got[key] == 0 {
					lost++
				}
			}
			if lost > lossy {
				t.Errorf("%d of 5000 messages are not in the copy", lost)
			}
			other.Stop(t)
		})
	}
}
