package diskqueue_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zsqio/zsq/internal/diskqueue"
)

func message(i int) diskqueue.Message {
	m := diskqueue.Message{Timestamp: int64(i) * 7, Attempts: uint16(i), Body: fmt.Appendf(nil, "body %d", i)}
	copy(m.ID[:], fmt.Sprintf("%016x", i))
	return m
}

func write(t *testing.T, dir, topic, channel string, n int, fileBytes int64) {
	t.Helper()
	w := diskqueue.NewWriter(dir, topic, channel, fileBytes)
	for i := range n {
		if err := w.Put(message(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func parseAll(t *testing.T, q diskqueue.Queue) (got []diskqueue.Message) {
	t.Helper()
	for _, f := range q.Files {
		b, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		for b = b[f.Start:]; len(b) > 0; {
			m, size, ok := diskqueue.Parse(b)
			if !ok {
				break
			}
			got = append(got, m)
			b = b[size:]
		}
	}
	return got
}

// TestWriteAndFind shows that what is written is found, in order, over several
// files, and that the meta file is upstream's to the byte.
func TestWriteAndFind(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "orders", "billing", 100, 500)
	write(t, dir, "orders", "", 3, 1<<20)
	write(t, dir, "other", "", 0, 1<<20)
	queues, err := diskqueue.Find(dir)
	if err != nil || len(queues) != 2 || queues[0].Channel != "billing" || queues[1].Channel != "" {
		t.Fatalf("Find = %+v, %v", queues, err)
	}
	got := parseAll(t, queues[0])
	if len(got) != 100 || len(queues[0].Files) < 5 || queues[0].Depth != 100 {
		t.Fatalf("%d messages in %d files, depth %d", len(got), len(queues[0].Files), queues[0].Depth)
	}
	for i, m := range got {
		if want := message(i); m.ID != want.ID || m.Timestamp != want.Timestamp || m.Attempts != want.Attempts || string(m.Body) != string(want.Body) {
			t.Fatalf("message %d is %+v", i, m)
		}
	}
	meta, err := os.ReadFile(filepath.Join(dir, "orders.diskqueue.meta.dat"))
	if want := fmt.Sprintf("3\n0,0\n0,%d\n", 3*(4+26+6)); err != nil || string(meta) != want {
		t.Fatalf("meta file %q, want %q, %v", meta, want, err)
	}
	err = diskqueue.NewWriter(dir, "orders", "", 1<<20).Put(message(1))
	if !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a queue was written over: %v", err)
	}
}

// TestParseBytes holds Parse to a record that upstream wrote.
func TestParseBytes(t *testing.T) {
	record := "\x00\x00\x00\x1f\x18\xe9\xfd\x38\xc2\x7a\xb1\xac\x00\x0118a2d1a275e69000again"
	m, size, ok := diskqueue.Parse([]byte(record + "rest"))
	if !ok || size != len(record) || m.Timestamp != 0x18e9fd38c27ab1ac || m.Attempts != 1 ||
		string(m.ID[:]) != "18a2d1a275e69000" || string(m.Body) != "again" {
		t.Fatalf("Parse = %+v, %d, %t", m, size, ok)
	}
	for cut := range len(record) {
		if _, _, ok := diskqueue.Parse([]byte(record[:cut])); ok {
			t.Fatalf("%d bytes of %d were a record", cut, len(record))
		}
	}
	for _, length := range []string{"\x00\x00\x00\x00", "\x00\x00\x00\x19", "\xff\xff\xff\xff", "\x7f\xff\xff\xff"} {
		if _, _, ok := diskqueue.Parse([]byte(length + record)); ok {
			t.Fatalf("a length of %q was taken", length)
		}
	}
}

// TestFindStanding shows where reading starts, whatever the meta file says.
func TestFindStanding(t *testing.T) {
	f := func(what, meta string, want int) {
		t.Helper()
		dir := t.TempDir()
		write(t, dir, "t", "c", 40, 400) // 36 or 37 bytes a record
		path := filepath.Join(dir, "t:c.diskqueue.meta.dat")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if meta != "" {
			if err := os.WriteFile(path, []byte(meta), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"t:c.diskqueue.000001.dat.bad", "t:c.diskqueue.meta.dat.77.tmp", "nsqd.dat", "t.diskqueue.x.dat", "t:c.diskqueue.12.dat"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("no records"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		queues, err := diskqueue.Find(dir)
		if err != nil || want > 0 && len(queues) != 1 {
			t.Fatalf("%s: Find = %+v, %v", what, queues, err)
		}
		var got []diskqueue.Message
		for _, q := range queues {
			got = append(got, parseAll(t, q)...)
		}
		if len(got) != want || !slices.IsSortedFunc(got, func(a, b diskqueue.Message) int { return int(a.Timestamp - b.Timestamp) }) {
			t.Fatalf("%s: %d messages, want %d", what, len(got), want)
		}
	}
	f("no meta file", "", 40)
	f("a meta file that is none", "what?\n", 40)
	f("a cut one", "40\n0,0\n", 40)
	f("in the first file", "39\n0,36\n3,100\n", 39)
	f("in the second file", "0\n1,37\n3,100\n", 40-11-1)
	f("at the end of a file", "29\n0,400\n3,100\n", 40-11)
	f("behind everything", "0\n9,0\n9,0\n", 0)
	f("a write position behind the end, after a power failure", "40\n0,0\n3,99999\n", 40)
}
