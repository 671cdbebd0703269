package mmapqueue_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zsqio/zsq/mmapqueue"
)

// TestDump shows what a person gets to see of a log: records, cursors, and where
// it is damaged.
func TestDump(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, mmapqueue.Options{SyncEvery: -1, SyncTimeout: -1})
	c := mustCursor(t, b, "first channel")
	recs := publish(1, 20)
	recs[19].Kind, recs[19].Cursor = mmapqueue.KindPut, c.ID()
	must(t, b.Append(recs))
	drain(t, c, 5)
	must(t, b.Sync())
	f := func(path string, bodyMax int, want ...string) {
		t.Helper()
		var out strings.Builder
		must(t, mmapqueue.Dump(&out, path, mmapqueue.DumpOptions{BodyMax: bodyMax}))
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%q is not in:\n%s", w, out.String())
			}
		}
	}
	open := clone(t, dir)
	f(open, 6, "segment 1, not sealed", `cursor 1 is "first channel"`, `id 0000000000000007`, `"body 7"`,
		"put      for cursor 1", "19 × publish", "1 × put", `cursor 1 "first channel": all below sequence 7`)
	must(t, b.Close())
	f(dir, -1, "segment 1, sealed: 19 publishes", "1 × name")

	path := segments(t, dir)[0]
	image, err := os.ReadFile(path)
	must(t, err)
	image[len(image)/2] ^= 4
	image[70] ^= 1
	must(t, os.WriteFile(path, image, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "cursors"), []byte("no"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "000000000009.seg"), []byte("foreign"), 0o600))
	f(dir, 0, "damaged: the header", "1 × damaged", "no cursor file of ours", "neither header nor footer")
}

// TestDumpJournal shows what a person gets to see of a journal.
func TestDumpJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j, _ := mustJournal(t, dir, journalSmall)
	j.Start()
	a, b, hold := j.NewQueue("topic", "a"), j.NewQueue("topic", "b"), j.NewQueue("topic", "")
	both := j.NewGroup([]*mmapqueue.JournalQueue{a, b})
	batch := j.Batch()
	batch.Use(hold.Alone())
	batch.Define(b.Alone())
	batch.Message(both, 7, 1, 0, 2, []byte("seven"))
	batch.Put(a, 8, 1, 99, 3, []byte("eight"))
	batch.Message(hold.Alone(), 9, 1, 0, 0, []byte("nine"))
	batch.Move(hold, both, []uint64{9})
	batch.Finish(b, []uint64{7, 9})
	batch.FinishBacklog(a, []uint64{41, 42, 43, 44, 45})
	batch.Update(a, []mmapqueue.JournalUpdate{{ID: 7, Attempts: 3}})
	batch.Suspect(a, 46, []uint64{8})
	batch.End(b)
	j.Submit(batch, nil)
	must(t, j.Flush())
	show := func(bodyMax int, want ...string) {
		t.Helper()
		var out strings.Builder
		must(t, mmapqueue.Dump(&out, dir, mmapqueue.DumpOptions{BodyMax: bodyMax}))
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%q is not in:\n%s", w, out.String())
			}
		}
	}
	show(
		4, "segment 1 of a journal", "(topic: a, b), id 0000000000000007", `5 bytes "seve"`, "(topic: held by the topic), id 0000000000000009",
		"due 1970-01-01T00:00:00.000000099Z", ": 1 ids 0000000000000009", ": 2 ids 0000000000000007 0000000000000009",
		": 5 sequences 41 42 43 44 …", "attempts of 1 messages", "below sequence 46", "(topic: b) is gone", "to group ", "2 × message", "1 × put",
	)
	must(t, j.Close())
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	must(t, err)
	image, err := os.ReadFile(files[0])
	must(t, err)
	image[strings.Index(string(image), "seven")] ^= 1
	image[10] ^= 1
	must(t, os.WriteFile(files[0], image, 0o600))
	show(0, "damaged: a record of", "damaged: one copy of the header", "1 × damaged", "1 × message")
	show(-1, "1 × finished")
	must(t, os.WriteFile(files[0], image[:100], 0o600))
	show(0, "damaged: no header")
}
