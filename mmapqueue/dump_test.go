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
