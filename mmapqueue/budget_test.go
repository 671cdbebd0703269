package mmapqueue_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/zsqio/zsq/mmapqueue"
)

// TestBudget shows that logs stay within the limit of each and the one of all,
// that what was accepted stays, and that reading makes room again.
func TestBudget(t *testing.T) {
	const total, each = 200_000, 120_000
	o := mmapqueue.Options{SegmentBytesMin: 4096, SegmentBytesMax: 16 << 10, SyncEvery: -1, SyncTimeout: -1}
	o.Budget = mmapqueue.NewBudget(total, each)
	dir := t.TempDir()
	logs, cursors := make([]*mmapqueue.Backlog, 2), make([]*mmapqueue.Cursor, 2)
	for i := range logs {
		logs[i] = mustOpen(t, filepath.Join(dir, string(rune('a'+i))), o)
		cursors[i] = mustCursor(t, logs[i], "ch")
	}
	fill := func(i int) (n int) {
		t.Helper()
		for {
			err := logs[i].Append(publish(n+1, 20))
			if errors.Is(err, mmapqueue.ErrFull) {
				return n
			}
			must(t, err)
			n += 20
		}
	}
	for cycle := range 5 {
		first, second := fill(0), fill(1)
		if logs[0].Bytes() > each || o.Budget.Used() > total || o.Budget.Used() != logs[0].Bytes()+logs[1].Bytes() {
			t.Fatalf("cycle %d: %d bytes in one log, %d in all", cycle, logs[0].Bytes(), o.Budget.Used())
		}
		if logs[0].Bytes() < each*3/4 || o.Budget.Used() < total*3/4 {
			t.Fatalf("cycle %d: refused at %d bytes in one log, %d in all", cycle, logs[0].Bytes(), o.Budget.Used())
		}
		wantRecords(t, drain(t, cursors[0], 1<<20), publish(1, first))
		wantRecords(t, drain(t, cursors[1], 1<<20), publish(1, second))
	}
	fill(0)
	o.Budget.Lift()
	must(t, logs[0].Append(publish(1, 2000)))
	for _, b := range logs {
		must(t, b.Remove())
	}
	if n := o.Budget.Used(); n != 0 {
		t.Errorf("%d bytes are counted for logs that are gone", n)
	}
}
