package broker

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/edsrzf/mmap-go"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// diskBroker returns a broker on a disk, with a channel that nobody reads.
func diskBroker(t *testing.T, dir string, log mmapqueue.Options) (*Broker, *Topic) {
	t.Helper()
	b := New(Options{
		Shards: 1, MemQueueSize: 5, DataPath: dir, MaxMsgTimeout: int64(time.Hour), Log: log,
		Wall: func() int64 { return int64(time.Hour) }, Waker: &world{woken: make([]bool, 1), calls: make([][]func(), 1)},
	}, 1)
	topic, err := b.Topic("t")
	if err == nil {
		_, err = topic.Channel("c")
	}
	if err != nil {
		t.Fatal(err)
	}
	return b, topic
}

// stored returns the bodies' sequences of what a closed broker has left for its
// channel.
func stored(t *testing.T, dir string) map[uint32]int {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(dir, backlogsDir, "t@*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("backlogs %q, %v", dirs, err)
	}
	log, err := mmapqueue.Open(dirs[0], mmapqueue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c, err := log.Cursor("c")
	if err != nil {
		t.Fatal(err)
	}
	got := map[uint32]int{}
	if _, err := c.Read(1<<20, func(r *mmapqueue.Record) { got[binary.BigEndian.Uint32(r.Body[4:])]++ }); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestDiskFaults publishes while a disk fills up, tears writes, fails to sync, and
// works again: what was accepted is there after a stop, once, whatever happened
// meanwhile, and what the disk did is told.
func TestDiskFaults(t *testing.T) {
	faults := []faultfs.Faults{
		{},
		{Create: syscall.ENOSPC},
		{Write: syscall.ENOSPC},
		{Write: syscall.ENOSPC, Room: 700},
		{Write: syscall.EIO, Room: 3},
		{Sync: syscall.EIO},
		{Rename: syscall.EIO},
	}
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 8))
		dir, disk := t.TempDir(), faultfs.New()
		b, topic := diskBroker(t, dir, mmapqueue.Options{SegmentBytesMin: 1024, SegmentBytesMax: 8192, SyncEvery: 50, FS: disk})
		accepted := map[uint32]bool{}
		refused := 0
		for seq := uint32(0); seq < 600; {
			if rng.IntN(6) == 0 {
				disk.Set(faults[rng.IntN(len(faults))])
			}
			var batch [][]byte
			for range 1 + rng.IntN(20) {
				batch = append(batch, body(1, seq))
				seq++
			}
			if err := b.PublishForeign(topic, batch, 0); err != nil {
				if refused++; b.Health() == nil {
					t.Fatalf("seed %d: a publish was refused (%v) by a healthy broker", seed, err)
				}
				continue
			}
			for i := range batch {
				accepted[seq-1-uint32(i)] = true
			}
		}
		disk.Set(faultfs.Faults{})
		if refused == 0 {
			t.Errorf("seed %d: the disk never failed a publish", seed)
		}
		if err := b.Close(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got := stored(t, dir)
		for seq := range accepted {
			if got[seq] != 1 {
				t.Fatalf("seed %d: message %d was accepted and is there %d times", seed, seq, got[seq])
			}
		}
		// Of a batch that was refused, what fitted into memory is there as well.
		for seq, n := range got {
			if n != 1 {
				t.Fatalf("seed %d: message %d is there %d times", seed, seq, n)
			}
		}
	}
}

// TestHealthHeals shows that a broker nobody publishes to finds out by itself that
// its disk works again.
func TestHealthHeals(t *testing.T) {
	disk := faultfs.New()
	b, topic := diskBroker(t, t.TempDir(), mmapqueue.Options{FS: disk})
	disk.Set(faultfs.Faults{Create: syscall.ENOSPC})
	var err error
	for i := 0; err == nil; i++ {
		err = b.PublishForeign(topic, [][]byte{body(1, uint32(i))}, 0)
	}
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(b.Health(), syscall.ENOSPC) {
		t.Fatalf("publish: %v, health: %v", err, b.Health())
	}
	for range 100 { // looks at the disk, which still fails
		runtime.Gosched()
		if b.Health() == nil {
			t.Fatal("healthy on a full disk")
		}
	}
	disk.Set(faultfs.Faults{})
	for wait := (patient{}); b.Health() != nil; runtime.Gosched() {
		if wait.over(time.Now(), "") {
			t.Fatalf("still %v", b.Health())
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestBacklogLimit shows that publishes beyond the operator's limit are refused,
// that the broker is healthy all the same, and that a stop saves what it holds.
func TestBacklogLimit(t *testing.T) {
	dir := t.TempDir()
	b, topic := diskBroker(t, dir, mmapqueue.Options{SegmentBytesMin: 4096, Budget: mmapqueue.NewBudget(20_000, 0)})
	accepted := 0
	for {
		err := b.PublishForeign(topic, [][]byte{body(1, uint32(accepted))}, 0)
		if errors.Is(err, mmapqueue.ErrFull) {
			break
		}
		if err != nil || accepted > 10_000 {
			t.Fatalf("after %d messages: %v", accepted, err)
		}
		accepted++
	}
	if err := b.Health(); err != nil || accepted < 100 {
		t.Fatalf("%d messages were accepted, health: %v", accepted, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, dir); len(got) != accepted {
		t.Errorf("%d messages are there, %d were accepted", len(got), accepted)
	}
}

// TestOverflowIsWrittenOnce shows that a message which several channels could not
// keep in memory takes the disk once, whichever of them lag.
func TestOverflowIsWrittenOnce(t *testing.T) {
	bytes := func(lag, keepUp int) int64 {
		b, topic := diskBroker(t, t.TempDir(), mmapqueue.Options{SegmentBytesMin: 16 << 10, SegmentBytesMax: 16 << 10, SyncEvery: -1, SyncTimeout: -1})
		defer b.Close()
		for i := 1; i < lag+keepUp; i++ {
			if _, err := topic.Channel(string(rune('c' + i))); err != nil {
				t.Fatal(err)
			}
		}
		channels := topic.Channels()
		big := make([]byte, 200)
		var refs [64]block.Ref
		for i := range 2000 {
			if err := b.PublishForeign(topic, [][]byte{big, big, big}[:1+i%3], 0); err != nil {
				t.Fatal(err)
			}
			if i == 20 {
				topic.writer.wait()
			}
			for _, c := range channels[lag:] {
				n := c.q.pop(refs[:])
				b.drop(nil, refs[:n])
				if i == 20 { // it was behind, once
					c.q.mu.Lock()
					err := c.q.open(topic.writer.log)
					c.q.mu.Unlock()
					if err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		topic.writer.wait()
		return topic.writer.log.Bytes()
	}
	one := bytes(1, 0)
	for _, x := range []struct{ lag, keepUp int }{{4, 0}, {3, 1}, {2, 2}, {1, 3}} {
		if n := bytes(x.lag, x.keepUp); n > one*11/10 {
			t.Errorf("%d channels of %d that lag write %d bytes, one writes %d", x.lag, x.lag+x.keepUp, n, one)
		}
	}
}

// TestCloseAwaitsNoLoop closes a broker whose loops have ended while somebody waits
// for them, in the order of a topic's writer and beside it.
func TestCloseAwaitsNoLoop(t *testing.T) {
	dir := t.TempDir()
	b, topic := diskBroker(t, dir, mmapqueue.Options{})
	var bodies [][]byte
	for seq := range uint32(3) {
		bodies = append(bodies, binary.BigEndian.AppendUint32(make([]byte, 4), seq))
	}
	if err := b.PublishForeign(topic, bodies, 0); err != nil {
		t.Fatal(err)
	}
	asked := func() int {
		w := b.opts.Waker.(*world)
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.calls[0])
	}
	c := topic.Find("c")
	drained, emptied := make(chan struct{}), make(chan error, 1)
	go func() {
		topic.writer.inOrder(func(*mmapqueue.Backlog) { topic.drain(c.q) })
		close(drained)
	}()
	for asked() < 1 {
		runtime.Gosched()
	}
	other, err := topic.Channel("other#ephemeral")
	if err != nil {
		t.Fatal(err)
	}
	go func() { b.DeleteIfUnused(other); emptied <- nil }()
	for asked() < 2 {
		runtime.Gosched()
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	<-drained
	<-emptied
	if got := stored(t, dir); len(got) != len(bodies) {
		t.Errorf("%d of %d messages are there", len(got), len(bodies))
	}
}

// TestPublishBesideClose closes a broker while goroutines publish that it knows nothing
// of, as requests over HTTP do that outlast a stop: what was accepted is there, once.
func TestPublishBesideClose(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		b, topic := diskBroker(t, dir, mmapqueue.Options{})
		const publishers, some = 4, 20
		accepted := make([][]uint32, publishers)
		var wg sync.WaitGroup
		var begun atomic.Int64
		for i := range accepted {
			wg.Go(func() {
				for seq := uint32(i); ; seq += publishers {
					body := binary.BigEndian.AppendUint32(make([]byte, 4), seq)
					if err := b.PublishForeign(topic, [][]byte{body}, 0); err != nil {
						if !errors.Is(err, ErrExiting) {
							t.Error(err)
						}
						return
					}
					accepted[i] = append(accepted[i], seq)
					begun.Add(1)
				}
			})
		}
		for begun.Load() < some {
			runtime.Gosched()
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		got, want := stored(t, dir), 0
		for _, list := range accepted {
			want += len(list)
			for _, seq := range list {
				if got[seq] != 1 {
					t.Fatalf("message %d is there %d times, want once", seq, got[seq])
				}
			}
		}
		if len(got) != want {
			t.Fatalf("%d messages are there, %d were accepted", len(got), want)
		}
	}
}

// unmappableFS is a disk whose files cannot be mapped, as without descriptors.
type unmappableFS struct {
	mmapqueue.FS
	tries atomic.Int64
}

func (u *unmappableFS) Map(string, int64) (mmap.MMap, error) {
	u.tries.Add(1)
	return nil, syscall.EMFILE
}

// TestCloseWhileNothingCanBeRead closes a broker that cannot bring anything back from
// its backlog: what lies there stays.
func TestCloseWhileNothingCanBeRead(t *testing.T) {
	dir, disk := t.TempDir(), &unmappableFS{FS: mmapqueue.OS}
	b, topic := diskBroker(t, dir, mmapqueue.Options{FS: disk})
	var bodies [][]byte
	for seq := range uint32(8) {
		bodies = append(bodies, binary.BigEndian.AppendUint32(make([]byte, 4), seq))
	}
	if err := b.PublishForeign(topic, bodies, 0); err != nil {
		t.Fatal(err)
	}
	q := topic.Find("c").q
	refs := make([]block.Ref, 5)
	b.drop(nil, refs[:q.pop(refs)]) // somebody has read what was in memory
	b.kickRefill(q)
	for disk.tries.Load() == 0 {
		runtime.Gosched()
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b.Health() == nil {
		t.Error("nobody was told")
	}
	if got := stored(t, dir); len(got) != 3 {
		t.Errorf("%d of 3 messages are there", len(got))
	}
}
