package mmapqueue_test

import (
	"cmp"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// filledJournal returns the directory of a journal as a crash leaves it, with n
// messages of one queue in several segments.
func filledJournal(t *testing.T, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "journal")
	j, _ := mustJournal(t, dir, journalSmall)
	j.Start()
	q := j.NewQueue("topic", "channel")
	for id := range n {
		b := j.Batch()
		b.Use(q.Alone())
		b.Message(q.Alone(), uint64(id+1), 1, 0, 1, make([]byte, 200))
		j.Submit(b, nil)
		must(t, j.Flush())
	}
	crashed := clone(t, dir)
	must(t, j.Close())
	return crashed
}

// journalFiles returns the files of a journal that are in use, oldest first: a file's
// name says when it was made, its header which segment it is now.
func journalFiles(t *testing.T, dir string) (paths []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	must(t, err)
	numbers := map[string]uint64{}
	for _, path := range all {
		b, err := os.ReadFile(path)
		must(t, err)
		if len(b) < 16 {
			continue // caught while it was made ahead
		}
		if n := binary.LittleEndian.Uint64(b[8:]); n > 0 {
			numbers[path] = n
			paths = append(paths, path)
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Compare(numbers[a], numbers[b]) })
	return paths
}

// TestJournalDamage takes files of a journal away and damages others: what is known
// to be lost is counted, and each place is one line.
func TestJournalDamage(t *testing.T) {
	const n = 200
	dir := filledJournal(t, n)
	files := journalFiles(t, dir)
	if len(files) < 4 {
		t.Fatalf("%d files", len(files))
	}
	f := func(what string, at int, harm func(path string, b []byte) error, places int64, lost func(missing int64) (least, most int64), says string) {
		t.Helper()
		harmed := clone(t, dir)
		path := journalFiles(t, harmed)[at]
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, harm(path, b))
		var log notebook
		o := journalSmall
		o.Logf = log.logf
		j, r := mustJournal(t, harmed, o)
		got := 0
		for _, q := range r.Queues {
			got += len(q.Messages)
		}
		missing := int64(n - got)
		least, most := lost(missing)
		if missing == 0 || j.Damaged() != places || j.Lost() < least || j.Lost() > most {
			t.Errorf("%s %d: %d messages are missing, %d records in %d places are counted, want %d to %d in %d", what, at, missing, j.Lost(), j.Damaged(), least, most, places)
		}
		if lines := log.about(says); int64(len(lines)) != places {
			t.Errorf("%s %d: %d lines with %q, want %d: %q", what, at, len(lines), says, places, log.lines)
		}
		j.Start()
		must(t, j.Flush()) // it works on
		must(t, j.Close())
	}
	unknown := func(int64) (int64, int64) { return 0, 0 }
	for at := range files[:len(files)-1] {
		f("removed", at, func(path string, _ []byte) error { return os.Remove(path) }, 1, unknown, "of the journal are missing")
		f("cut", at, func(path string, b []byte) error { return os.Truncate(path, int64(len(b)/2)) }, 1, unknown, filepath.Base(files[at]))
		f("zeroed", at, func(path string, b []byte) error {
			clear(b[len(b)/2:])
			return os.WriteFile(path, b, 0o600)
		}, 1, unknown, filepath.Base(files[at]))
	}
	f("bodies damaged", 1, func(path string, b []byte) error {
		for _, at := range []int{6000, 8000} {
			b[at] ^= 1
		}
		return os.WriteFile(path, b, 0o600)
	}, 2, func(missing int64) (int64, int64) { return missing, missing }, "at least 1 records are lost")
	f("a part damaged", 1, func(path string, b []byte) error {
		for at := 6000; at < 8000; at++ {
			b[at] ^= 0xff
		}
		return os.WriteFile(path, b, 0o600)
	}, 1, func(missing int64) (int64, int64) { return 1, missing }, filepath.Base(files[1]))
}

// TestJournalOfEarlierFormat shows that files of the format before are kept aside, with
// one line for all of them, and that the journal begins anew.
func TestJournalOfEarlierFormat(t *testing.T) {
	dir := filledJournal(t, 100)
	files := journalFiles(t, dir)
	for _, path := range files {
		b, err := os.ReadFile(path)
		must(t, err)
		b[7], b[2048+7] = 1, 1
		must(t, os.WriteFile(path, b, 0o600))
	}
	var log notebook
	o := journalSmall
	o.Logf = log.logf
	j, r := mustJournal(t, dir, o)
	if len(r.Queues) > 0 || j.Damaged() != int64(len(files)) || len(log.lines) != 1 || !strings.Contains(log.lines[0], "earlier format") {
		t.Errorf("%d queues, %d of %d files counted, log: %q", len(r.Queues), j.Damaged(), len(files), log.lines)
	}
	for _, path := range files {
		if _, err := os.Stat(path + ".bad"); err != nil {
			t.Error(err)
		}
	}
	j.Start()
	must(t, j.Flush())
	must(t, j.Close())
}

// TestForeignThings puts what is no file under the names of files into the directories
// of a journal and of a backlog: neither waits for it, and nothing is lost.
func TestForeignThings(t *testing.T) {
	const n = 100
	foreign := map[string]func(path string) error{
		"pipe":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.MkdirAll(filepath.Join(path, "within"), 0o700) },
		"device":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"dangling":  func(path string) error { return os.Symlink(filepath.Join(filepath.Dir(path), "nothing"), path) },
		"empty":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
	}
	for name, put := range foreign {
		t.Run(name, func(t *testing.T) {
			dir := filledJournal(t, n)
			must(t, put(filepath.Join(dir, "000000.journal")))
			must(t, put(filepath.Join(dir, "900000.journal")))
			j, r := mustJournal(t, dir, journalSmall)
			got := 0
			for _, q := range r.Queues {
				got += len(q.Messages)
			}
			if got != n {
				t.Errorf("%d of %d messages came from the journal", got, n)
			}
			j.Start()
			must(t, j.Flush())
			must(t, j.Close())

			dir = filepath.Join(t.TempDir(), "log")
			b := mustOpen(t, dir, small)
			mustCursor(t, b, "c")
			must(t, b.Append(publish(1, n)))
			must(t, b.Close())
			must(t, put(filepath.Join(dir, "000000999999.seg")))
			b = mustOpen(t, dir, small)
			if got := mustCursor(t, b, "c").Depth(); got != n {
				t.Errorf("%d of %d messages are in the backlog", got, n)
			}
			must(t, b.Append(publish(n+1, n)))
			must(t, b.Close())
		})
	}
}
