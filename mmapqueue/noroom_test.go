package mmapqueue_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/mmapqueue"
)

// bounded makes no file larger than most: a quota, or a limit of the process.
type bounded struct {
	mmapqueue.FS
	most int64
	err  error
}

func (b bounded) Create(path string, size int64) (mmapqueue.File, error) {
	if size > b.most {
		return nil, &os.PathError{Op: "fallocate", Path: path, Err: b.err}
	}
	return b.FS.Create(path, size)
}

// TestJournalWithinQuota shows that a journal makes do with small files where large ones do not
// fit, whatever the system's word for that is.
func TestJournalWithinQuota(t *testing.T) {
	for _, word := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		dir := filepath.Join(t.TempDir(), "journal")
		j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{SegmentBytes: 8 << 20, FS: bounded{mmapqueue.OS, 1 << 20, word}})
		j.Start()
		q := j.NewQueue("topic", "channel")
		b := j.Batch()
		b.Use(q.Alone())
		b.Message(q.Alone(), 1, 1, 0, 1, []byte("body"))
		answer := make(chan error, 1)
		j.Submit(b, func(err error) { answer <- err })
		if err := <-answer; err != nil {
			t.Errorf("%v: %v", word, err)
		}
		must(t, j.Close())
	}
}
