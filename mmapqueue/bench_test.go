package mmapqueue_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/zsqio/zsq/mmapqueue"
)

const batch = 1000

func bodies(n int) []mmapqueue.Record {
	recs := make([]mmapqueue.Record, n)
	for i := range recs {
		recs[i] = mmapqueue.Record{Kind: mmapqueue.KindPublish, ID: uint64(i), Timestamp: 1, Body: make([]byte, 200)}
	}
	return recs
}

// BenchmarkAppend appends 1,000 records of 200 B a round, spread over the topics
// in turn: one batch of 1,000 for one topic, a thousand of 1 for 1,000. One op is
// one record. After a million records the logs are emptied, so that the disk does not
// fill; that is timed too.
func BenchmarkAppend(b *testing.B) {
	for _, sync := range []string{"default", "never"} {
		for _, topics := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("sync=%s/topics=%d", sync, topics), func(b *testing.B) {
				benchmarkAppend(b, topics, sync == "never")
			})
		}
	}
}

func benchmarkAppend(b *testing.B, topics int, never bool) {
	logs := make([]*mmapqueue.Backlog, topics)
	cursors := make([]*mmapqueue.Cursor, topics)
	dir := b.TempDir()
	o := mmapqueue.Options{}
	if never {
		o.SyncEvery, o.SyncTimeout = -1, -1
	}
	recs := bodies(batch / topics)
	for i := range logs {
		logs[i] = mustOpen(b, filepath.Join(dir, fmt.Sprint(i)), o)
		cursors[i] = mustCursor(b, logs[i], "ch")
		must(b, logs[i].Append(recs)) // the directory and the first segment
	}
	b.SetBytes(200)
	b.ReportAllocs()
	batches := 0
	for done := 0; b.Loop(); done++ {
		if done%len(recs) != 0 {
			continue // the record was appended with its batch
		}
		i := batches % topics
		batches++
		if err := logs[i].Append(recs); err != nil {
			b.Fatal(err)
		}
		if cursors[i].Depth() > 1<<20/int64(topics) {
			cursors[i].Empty()
		}
	}
	b.StopTimer()
	for i := range logs {
		must(b, logs[i].Remove())
	}
}

// BenchmarkRead reads a log of 200 B records through its mapping, 1,000 a call.
// One op is one record. The pages are in the cache.
func BenchmarkRead(b *testing.B) {
	const total = 200 * batch
	log := mustOpen(b, filepath.Join(b.TempDir(), "log"), mmapqueue.Options{SyncEvery: -1, SyncTimeout: -1})
	defer log.Remove()
	held := mustCursor(b, log, "holds the segments")
	recs := bodies(batch)
	fill := func() *mmapqueue.Cursor {
		held.Empty()
		c := mustCursor(b, log, "reader")
		for range total / batch {
			must(b, log.Append(recs))
		}
		return c
	}
	c := fill()
	b.SetBytes(200)
	b.ReportAllocs()
	sum := 0
	for done := 0; b.Loop(); done++ {
		if done%batch != 0 {
			continue
		}
		if c.Depth() == 0 {
			b.StopTimer()
			c = fill()
			b.StartTimer()
		}
		if _, err := c.Read(batch, func(r *mmapqueue.Record) { sum += len(r.Body) }); err != nil {
			b.Fatal(err)
		}
	}
}
