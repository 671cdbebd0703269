package mmapqueue_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// A notebook keeps what a log would log.
type notebook struct {
	mu    sync.Mutex
	lines []string
}

func (n *notebook) logf(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

// about returns the lines that mention what.
func (n *notebook) about(what string) (lines []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.lines {
		if strings.Contains(l, what) {
			lines = append(lines, l)
		}
	}
	return lines
}

// TestMissingFiles removes, cuts and clears files of a log between two runs. What
// a reader misses is counted, at most the names of the two cursors in each file more,
// and logged with the file's name; and a start after that one has nothing to say
// once it was read.
func TestMissingFiles(t *testing.T) {
	const n = 200
	for _, state := range []string{"stop", "crash", "stop, disk mode"} {
		o := small
		o.PowerSafe = strings.HasSuffix(state, "disk mode")
		dir := filepath.Join(t.TempDir(), "log")
		b := mustOpen(t, dir, o)
		a, z := mustCursor(t, b, "a"), mustCursor(t, b, "z")
		for i := range n / 10 {
			must(t, b.Append(publish(1+10*i, 10)))
		}
		drain(t, a, 20)
		drain(t, z, 70)
		if state == "crash" {
			must(t, b.Sync())
			crashed := clone(t, dir)
			must(t, b.Remove())
			dir = crashed
		} else {
			must(t, b.Close())
		}
		paths := segments(t, dir)
		if len(paths) < 5 {
			t.Fatalf("%d segments", len(paths))
		}
		f := func(what string, at int, harm func(path string) error) {
			t.Helper()
			harmed := clone(t, dir)
			path := segments(t, harmed)[at]
			must(t, harm(path))
			var log notebook
			with := o
			with.Logf = log.logf
			b := mustOpen(t, harmed, with)
			got, err := tryDrain(mustCursor(t, b, "a"), n)
			must(t, err)
			missing := int64(n - 20 - len(got))
			if lost := b.Lost(); lost < missing || lost > missing+4 || (missing > 0) != (b.Damaged() > 0) {
				t.Errorf("%s, %s %d of %d: %d records do not come, %d are counted in %d places", state, what, at, len(paths), missing, lost, b.Damaged())
			}
			if lines := log.about(path); missing > 0 && len(lines) == 0 || len(lines) > 2 {
				t.Errorf("%s, %s %d: of the file the log says %q", state, what, at, lines)
			}
			_, err = tryDrain(mustCursor(t, b, "z"), n)
			must(t, err)
			must(t, b.Append(publish(n+1, 1)))
			must(t, b.Close())
			b = mustOpen(t, harmed, with)
			if b.Damaged() > 0 {
				t.Errorf("%s, %s %d: the next start counts %d damaged places", state, what, at, b.Damaged())
			}
			must(t, b.Remove())
		}
		for at := range paths {
			f("removed", at, os.Remove)
			f("cleared", at, func(path string) error { return os.Truncate(path, 0) })
			f("foreign", at, func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("garbage ", 300)), 0o600) })
			f("cut", at, func(path string) error {
				stat, err := os.Stat(path)
				must(t, err)
				return os.Truncate(path, stat.Size()/2)
			})
			f("tail zeroed", at, func(path string) error {
				b, err := os.ReadFile(path)
				must(t, err)
				clear(b[len(b)/2:])
				return os.WriteFile(path, b, 0o600)
			})
		}
	}
}

// TestDamagedRecords damages records here and there: each is counted once, whoever
// reads, and the log stays short.
func TestDamagedRecords(t *testing.T) {
	const n = 2000
	o := mmapqueue.Options{SegmentBytesMin: 1 << 20, SyncEvery: -1, SyncTimeout: -1}
	for _, closed := range []bool{true, false} {
		dir := filepath.Join(t.TempDir(), "log")
		b := mustOpen(t, dir, o)
		mustCursor(t, b, "a")
		mustCursor(t, b, "z")
		must(t, b.Append(publish(1, n)))
		ends := mmapqueue.RecordEnds(b)
		path := segments(t, dir)[0]
		if closed {
			must(t, b.Close())
		} else {
			crashed := clone(t, dir)
			must(t, b.Remove())
			path = segments(t, crashed)[0]
			dir = crashed
		}
		bytes, err := os.ReadFile(path)
		must(t, err)
		lost := int64(0)
		for i := 1; i+2 < n; i += 4 { // a body of one, header and all of another
			bytes[ends[i]-9] ^= 1
			lost++
			if i%8 == 1 {
				bytes[ends[i]] ^= 1 // the length of the next
				lost++
			}
		}
		must(t, os.WriteFile(path, bytes, 0o600))
		var log notebook
		with := o
		with.Logf = log.logf
		b = mustOpen(t, dir, with)
		for _, name := range []string{"a", "z", "a"} {
			got, err := tryDrain(mustCursor(t, b, name), n)
			must(t, err)
			if len(got) > 0 && len(got) != n-int(lost) {
				t.Errorf("closed %t: %d of %d records came, %d are damaged", closed, len(got), n, lost)
			}
		}
		if b.Lost() != lost || b.Damaged() < lost/2 || b.Damaged() > lost {
			t.Errorf("closed %t: %d records in %d places were counted, %d are lost", closed, b.Lost(), b.Damaged(), lost)
		}
		if lines := log.about(path); len(lines) < 16 || len(lines) > 16+10 {
			t.Errorf("closed %t: %d lines tell of %d places: %q", closed, len(lines), b.Damaged(), lines)
		}
		must(t, b.Remove())
	}
}

// TestNoFalseAlarm crashes at any moment, synced or not, with appends that the disk
// refused: what the process leaves behind is never taken for damage.
func TestNoFalseAlarm(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 21))
		disk := faultfs.New()
		var log notebook
		o := small
		o.FS, o.Logf, o.PowerSafe = disk, log.logf, seed%3 == 2
		dir := filepath.Join(t.TempDir(), "log")
		b := mustOpen(t, dir, o)
		held := map[string][]uint64{}
		next := 1
		names := []string{"a", "b", "c"}
		for step := range 300 {
			name := names[rng.IntN(len(names))]
			switch op := rng.IntN(24); {
			case op < 8:
				n := 1 + rng.IntN(20)
				if rng.IntN(8) == 0 {
					disk.Limit(int64(rng.IntN(600)))
				}
				_ = b.Append(publish(next, n)) // or refused, which is fine
				disk.Limit(-1)
				next += n
			case op < 14:
				held[name] = append(held[name], sequences(read(t, mustCursor(t, b, name), rng.IntN(60)))...)
			case op < 20:
				n := rng.IntN(len(held[name]) + 1)
				rng.Shuffle(len(held[name]), func(i, j int) { held[name][i], held[name][j] = held[name][j], held[name][i] })
				mustCursor(t, b, name).Finish(held[name][:n])
				held[name] = slices.Delete(held[name], 0, n)
			case op == 20:
				must(t, b.Sync())
			case op == 21:
				b.Trim()
			case op == 22 && rng.IntN(4) == 0:
				mustCursor(t, b, name).Empty()
			case op == 23 && rng.IntN(2) == 0:
				if rng.IntN(3) == 0 {
					must(t, b.Close())
				} else {
					crashed := clone(t, dir)
					must(t, b.Remove())
					dir = crashed
				}
				b = mustOpen(t, dir, o)
				clear(held)
			}
			if b.Damaged() > 0 || b.Lost() > 0 {
				t.Fatalf("seed %d, step %d: %d records in %d places are taken for lost: %q", seed, step, b.Lost(), b.Damaged(), log.about("corrupt"))
			}
		}
		must(t, b.Remove())
	}
}
