package broker

import (
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/mmapqueue"
)

// fewSegments is a disk that has room for so many segments.
type fewSegments struct {
	mmapqueue.FS
	left int
}

func (d *fewSegments) Create(path string, size int64) (mmapqueue.File, error) {
	if strings.HasSuffix(path, ".seg") {
		if d.left <= 0 {
			return nil, syscall.ENOSPC
		}
		d.left--
	}
	return d.FS.Create(path, size)
}

// TestCloseInPieces closes a broker that has more in memory than it saves at once.
// All is there, once; where the disk has no room for it, Close says so, and what was
// written before is there.
func TestCloseInPieces(t *testing.T) {
	const count = 50 // of 300 KB: four pieces
	for _, room := range []int{100, 2, 1, 0} {
		dir := t.TempDir()
		b := New(Options{
			Shards: 1, MemQueueSize: 2 * count, DataPath: dir, MaxMsgTimeout: int64(time.Hour),
			Log:  mmapqueue.Options{FS: &fewSegments{mmapqueue.OS, room}, SegmentBytesMax: 1 << 20},
			Wall: func() int64 { return int64(time.Hour) }, Waker: &world{woken: make([]bool, 1), calls: make([][]func(), 1)},
		}, 1)
		topic, err := b.Topic("t")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"c", "d"} {
			if _, err := topic.Channel(name); err != nil {
				t.Fatal(err)
			}
		}
		for i := range uint32(count) {
			body := make([]byte, 300<<10)
			binary.BigEndian.PutUint32(body[4:], i)
			if err := b.PublishForeign(topic, [][]byte{body}, 0); err != nil {
				t.Fatal(err)
			}
		}
		err = b.Close()
		least := count
		if room < 100 {
			least = room // a segment takes one message at least
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("room for %d segments: closed with %v", room, err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if room == 0 {
			continue
		}
		got := stored(t, dir)
		for i, n := range got {
			if n != 1 || i >= count {
				t.Errorf("room for %d segments: message %d is there %d times", room, i, n)
			}
		}
		if len(got) < least {
			t.Errorf("room for %d segments: %d messages, want %d", room, len(got), least)
		}
	}
}
