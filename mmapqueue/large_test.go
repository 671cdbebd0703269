package mmapqueue_test

import (
	"path/filepath"
	"testing"

	"github.com/zsqio/zsq/mmapqueue"
)

// TestLargeBatches appends batches that are written to the end of a huge page, with
// small ones behind them: all are there, for who reads on and for a start that finds
// the log without its seal.
func TestLargeBatches(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, mmapqueue.Options{SyncEvery: -1, SyncTimeout: -1})
	c := mustCursor(t, b, "c")
	mustCursor(t, b, "d") // reads nothing, so that no file goes
	b.Expect(100 << 20)
	large := make([]byte, 700<<10)
	for i := range large {
		large[i] = byte(i)
	}
	var want []mmapqueue.Record
	for i := range 12 {
		recs := publish(len(want)+1, 1+i%8)
		if i%2 == 0 {
			for k := range recs {
				recs[k].Body = large[i*k:]
			}
		}
		must(t, b.Append(recs))
		want = append(want, recs...)
	}
	torn := clone(t, dir)
	wantRecords(t, drain(t, c, len(want)+1), want)
	must(t, b.Close())
	for _, dir := range []string{dir, torn} {
		b := mustOpen(t, dir, mmapqueue.Options{})
		wantRecords(t, drain(t, mustCursor(t, b, "d"), len(want)+1), want)
		must(t, b.Close())
	}
}
