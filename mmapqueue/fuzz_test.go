package mmapqueue_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/zsqio/zsq/mmapqueue"
)

// The fuzz targets give a start files of any content. It must not panic, what it
// reads must be what somebody wrote, and the log must work on.

// fuzzLog returns a directory with a log of 20 records and two cursors, as a crash
// or a stop leaves it.
func fuzzLog(f *testing.F, stop bool) (dir string) {
	f.Helper()
	dir = filepath.Join(f.TempDir(), "log")
	b := mustOpen(f, dir, small)
	a := mustCursor(f, b, "a")
	mustCursor(f, b, "z")
	must(f, b.Append(publish(1, 20)))
	recs := publish(21, 2)
	recs[0].Kind, recs[0].Cursor = mmapqueue.KindPut, a.ID()
	recs[1].Kind, recs[1].To = mmapqueue.KindSome, []uint32{a.ID()}
	must(f, b.Append(recs))
	drain(f, a, 3)
	must(f, b.Sync())
	if stop {
		must(f, b.Close())
	} else {
		dir = clone(f, dir)
		must(f, b.Close())
	}
	return dir
}

// openAnything opens a log whose file has that content.
func openAnything(t *testing.T, from, file string, content []byte) {
	t.Helper()
	dir := clone(t, from)
	must(t, os.WriteFile(filepath.Join(dir, file), content, 0o600))
	b := mustOpen(t, dir, small)
	defer b.Remove()
	for _, name := range append(b.Names(), "a") {
		c := mustCursor(t, b, name)
		for tries := 0; c.Depth() > 0 && tries < 100; tries++ {
			got, _ := tryDrain(c, 50)
			for _, r := range got {
				want := publish(int(r.ID), 1)[0]
				if r.ID == 0 || r.ID > 1000 || !bytes.Equal(r.Body, want.Body) || r.Timestamp != want.Timestamp || r.Attempts != want.Attempts {
					t.Fatalf("cursor %q: a record that nobody wrote: %+v", name, r)
				}
			}
		}
		if d := c.Depth(); d != 0 {
			t.Fatalf("cursor %q still has %d records to read", name, d)
		}
	}
	must(t, b.Append(publish(500, 3)))
	got, err := tryDrain(mustCursor(t, b, "a"), 10)
	must(t, err)
	wantRecords(t, got, publish(500, 3))
}

func FuzzSegment(f *testing.F) {
	dir := fuzzLog(f, false)
	file := filepath.Base(segments(f, dir)[0])
	for _, stop := range []bool{false, true} {
		content, err := os.ReadFile(segments(f, fuzzLog(f, stop))[0])
		must(f, err)
		f.Add(content)
		f.Add(content[:len(content)/2])
	}
	f.Fuzz(func(t *testing.T, content []byte) { openAnything(t, dir, file, content) })
}

func FuzzCursors(f *testing.F) {
	dir := fuzzLog(f, true)
	content, err := os.ReadFile(filepath.Join(dir, "cursors"))
	must(f, err)
	f.Add(content[:len(content)-8])
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<12 {
			t.Skip("too long")
		}
		for at := range content { // a window of gigabytes is allowed, but not here
			if n, _ := binary.Uvarint(content[at:]); n > 1<<20 && n <= 1<<28 {
				t.Skip("a wide window, perhaps")
			}
		}
		openAnything(t, dir, "cursors", content)
		openAnything(t, dir, "cursors", binary.LittleEndian.AppendUint64(bytes.Clone(content), xxhash.Sum64(content)))
	})
}

func FuzzJournalSegment(f *testing.F) {
	path, _ := smallJournal(f)
	content, err := os.ReadFile(path)
	must(f, err)
	content = bytes.TrimRight(content, "\x00")
	f.Add(content)
	f.Add(content[:5000])
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "000001.journal"), content, 0o600))
		j, r := mustJournal(t, dir, journalSmall)
		for _, q := range r.Queues {
			for _, m := range q.Messages {
				if string(m.Body) != fmt.Sprintf("body of %d", m.ID) {
					t.Fatalf("message %d is %q", m.ID, m.Body)
				}
			}
		}
		j.Start()
		b := j.Batch()
		b.News(mmapqueue.News{Kind: mmapqueue.Birth, Topic: "t"})
		j.Submit(b, nil)
		must(t, j.Flush())
		must(t, j.Close())
		j, r = mustJournal(t, dir, journalSmall)
		if r.Topics["t"] == nil {
			t.Fatal("what was written behind it is lost")
		}
		must(t, j.Close())
	})
}
