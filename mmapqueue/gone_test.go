package mmapqueue_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/zsqio/zsq/mmapqueue"
)

// removals are what somebody may take away from under a log that is open.
var removals = map[string]func(dir string) error{
	"files": func(dir string) error {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		for _, path := range files {
			if err == nil {
				err = os.Remove(path)
			}
		}
		return err
	},
	"directory": os.RemoveAll,
}

// TestJournalTakenAway removes the files of a journal that is being written: what is
// submitted afterwards survives a crash, and so does what stood in the open segment.
func TestJournalTakenAway(t *testing.T) {
	const n = 20
	for name, remove := range removals {
		for _, sync := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "journal")
				j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{SegmentBytes: 1 << 20})
				j.Start()
				q := j.NewQueue("topic", "channel")
				put := func(first int) {
					t.Helper()
					for id := range n {
						b := j.Batch()
						b.Use(q.Alone())
						b.Message(q.Alone(), uint64(first+id), 1, 0, 1, make([]byte, 200))
						if sync {
							b.Sync()
						}
						j.Submit(b, func(err error) {
							if err != nil {
								t.Error(err)
							}
						})
						must(t, j.Flush())
					}
				}
				put(1)
				must(t, remove(dir))
				put(n + 1)
				crashed := clone(t, dir)
				must(t, j.Close())
				k, r := mustJournal(t, crashed, journalSmall)
				got := 0
				for _, q := range r.Queues {
					got += len(q.Messages)
				}
				if got != 2*n {
					t.Errorf("%d of %d messages survive", got, 2*n)
				}
				k.Start()
				must(t, k.Close())
			})
		}
	}
}

// TestBacklogTakenAway removes the files of a backlog that is being written: what is
// appended afterwards stays, in this run and in the next, and what is lost is counted.
func TestBacklogTakenAway(t *testing.T) {
	const n = 20
	for name, remove := range removals {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			o := mmapqueue.Options{SyncEvery: -1, SyncTimeout: -1}
			b := mustOpen(t, dir, o)
			c := mustCursor(t, b, "c")
			must(t, b.Append(publish(1, n)))
			must(t, remove(dir))
			must(t, b.Append(publish(n+1, n)))
			must(t, b.Append(publish(2*n+1, n)))
			crashed := clone(t, dir)
			got, err := tryDrain(c, 3*n)
			for err != nil && len(got) < 2*n { // it goes on behind what is lost
				var more []mmapqueue.Record
				more, err = tryDrain(c, 3*n)
				got = append(got, more...)
			}
			if len(got) < 2*n || b.Damaged() != 1 || b.Lost() > n+1 {
				t.Errorf("%d records came, %d at least were not removed; %d places and %d records are counted", len(got), 2*n, b.Damaged(), b.Lost())
			}
			must(t, b.Close())

			b = mustOpen(t, crashed, o)
			if depth := mustCursor(t, b, "c").Depth(); depth < 2*n {
				t.Errorf("%d of %d records are there after a crash", depth, 2*n)
			}
			must(t, b.Close())
		})
	}
}
