package mmapqueue_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// journalSmall has segments of a few dozen records.
var journalSmall = mmapqueue.JournalOptions{SegmentBytes: 12 << 10}

func mustJournal(t testing.TB, dir string, o mmapqueue.JournalOptions) (*mmapqueue.Journal, *mmapqueue.Recovered) {
	t.Helper()
	j, err := mmapqueue.OpenJournal(dir, o)
	must(t, err)
	r, err := j.Replay()
	must(t, err)
	return j, r
}

// jmessage is a message in the model.
type jmessage struct {
	id       uint64
	due      int64
	attempts uint16
	body     string
	segment  uint64
}

// jqueue is a queue in the model: a slice in order.
type jqueue struct {
	q        *mmapqueue.JournalQueue
	topic    string
	channel  string
	messages []jmessage
	finished []uint64
	defined  bool
}

// jmodel drives a journal and slices side by side.
type jmodel struct {
	t      testing.TB
	rng    *rand.Rand
	j      *mmapqueue.Journal
	queues []*jqueue
	groups []jgroup
	lastID uint64
	names  int
	sync   bool // some batches ask for the disk
}

type jgroup struct {
	g  *mmapqueue.JournalGroup
	of []*jqueue
}

func (m *jmodel) newQueue() *jqueue {
	m.names++
	q := &jqueue{topic: fmt.Sprint("topic", m.names%3), channel: fmt.Sprint("channel", m.names)}
	q.q = m.j.NewQueue(q.topic, q.channel)
	m.queues = append(m.queues, q)
	return q
}

// group returns a group of one to three queues of one topic.
func (m *jmodel) group() jgroup {
	if len(m.groups) > 0 && m.rng.IntN(4) > 0 {
		g := m.groups[m.rng.IntN(len(m.groups))]
		if !slices.ContainsFunc(g.of, func(q *jqueue) bool { return !slices.Contains(m.queues, q) }) {
			return g
		}
	}
	first := m.queues[m.rng.IntN(len(m.queues))]
	g := jgroup{of: []*jqueue{first}}
	for _, q := range m.queues {
		if q != first && q.topic == first.topic && m.rng.IntN(2) == 0 {
			g.of = append(g.of, q)
		}
	}
	var qs []*mmapqueue.JournalQueue
	for _, q := range g.of {
		qs = append(qs, q.q)
	}
	g.g = m.j.NewGroup(qs)
	m.groups = append(m.groups, g)
	return g
}

// step submits one batch of random records and does the same to the slices.
func (m *jmodel) step() {
	if len(m.queues) < 2 || len(m.queues) < 6 && m.rng.IntN(8) == 0 {
		m.newQueue()
	}
	b := m.j.Batch()
	segment := m.j.Segment()
	for range 1 + m.rng.IntN(3) {
		q := m.queues[m.rng.IntN(len(m.queues))]
		switch m.rng.IntN(12) {
		case 0, 1, 2, 3:
			g := m.group()
			b.Use(g.g)
			for range 1 + m.rng.IntN(8) {
				m.lastID++
				msg := jmessage{
					m.lastID, int64(m.rng.IntN(2)) * m.rng.Int64(), uint16(m.rng.IntN(5)),
					fmt.Sprintf("body %d %s", m.lastID, bytes.Repeat([]byte("y"), m.rng.IntN(120))), segment,
				}
				b.Message(g.g, msg.id, int64(msg.id)*7, msg.due, msg.attempts, []byte(msg.body))
				for _, q := range g.of {
					q.messages, q.defined = append(q.messages, msg), true
				}
			}
		case 4, 5, 6, 7, 8:
			var ids []uint64
			q.messages = slices.DeleteFunc(q.messages, func(msg jmessage) bool {
				gone := m.rng.IntN(10) < 8
				if gone {
					ids = append(ids, msg.id)
				}
				return gone
			})
			if len(ids) > 0 {
				b.Finish(q.q, ids)
			}
		case 9:
			var ups []mmapqueue.JournalUpdate
			for i := range q.messages {
				if m.rng.IntN(3) == 0 {
					msg := &q.messages[i]
					msg.attempts, msg.due = msg.attempts+1, m.rng.Int64()
					ups = append(ups, mmapqueue.JournalUpdate{ID: msg.id, Due: msg.due, Attempts: msg.attempts})
				}
			}
			b.Update(q.q, ups)
		case 10:
			seqs := []uint64{m.rng.Uint64(), m.rng.Uint64()}
			b.FinishBacklog(q.q, seqs)
			q.finished, q.defined = append(q.finished, seqs...), true
		case 11:
			switch m.rng.IntN(4) {
			case 0:
				b.End(q.q)
				m.queues = slices.DeleteFunc(m.queues, func(o *jqueue) bool { return o == q })
				m.groups = nil
				if len(m.queues) == 0 {
					m.newQueue()
				}
			case 1:
				q.channel += "'"
				b.Rename(q.q, q.channel)
				b.Define(q.q.Alone())
				q.defined = true
			case 2:
				// What one queue holds goes to others that do not.
				g := m.group()
				if slices.Contains(g.of, q) || g.of[0].topic != q.topic {
					break
				}
				var ids []uint64
				for _, msg := range q.messages {
					ids = append(ids, msg.id)
					for _, to := range g.of {
						to.defined = true
						at := slices.IndexFunc(to.messages, func(o jmessage) bool { return o.id == msg.id })
						if at >= 0 {
							to.messages[at] = msg
						} else {
							to.messages = append(to.messages, msg)
						}
					}
				}
				if len(ids) > 0 {
					b.Move(q.q, g.g, ids)
					q.messages = nil
				}
			case 3:
				// What is old is written again, and the old segments may go.
				for i := range q.messages {
					msg := &q.messages[i]
					msg.segment = segment
					b.Use(q.q.Alone())
					b.Message(q.q.Alone(), msg.id, int64(msg.id)*7, msg.due, msg.attempts, []byte(msg.body))
					q.defined = true
				}
			}
		}
	}
	if m.sync && m.rng.IntN(2) == 0 {
		b.Sync()
	}
	m.j.Submit(b, func(err error) {
		if err != nil {
			m.t.Error(err)
		}
	})
	oldest := segment
	for _, q := range m.queues {
		for _, msg := range q.messages {
			oldest = min(oldest, msg.segment)
		}
	}
	if m.rng.IntN(4) == 0 {
		m.j.Release(oldest)
	}
}

// check compares what was recovered with the slices. Backlog sequences and
// names of queues without messages may be gone with their segment.
func (m *jmodel) check(r *mmapqueue.Recovered) {
	m.t.Helper()
	if r.Damaged > 0 {
		m.t.Fatalf("%d damaged places", r.Damaged)
	}
	got := map[string]*mmapqueue.RecoveredQueue{}
	for _, q := range r.Queues {
		got[q.Topic+"/"+q.Channel] = q
	}
	for _, q := range m.queues {
		rq := got[q.topic+"/"+q.channel]
		if rq == nil {
			if len(q.messages) > 0 {
				m.t.Fatalf("queue %s/%s is not there, it has %d messages", q.topic, q.channel, len(q.messages))
			}
			continue
		}
		delete(got, q.topic+"/"+q.channel)
		if len(rq.Messages) != len(q.messages) {
			m.t.Fatalf("queue %s/%s: %d messages, want %d", q.topic, q.channel, len(rq.Messages), len(q.messages))
		}
		slices.SortFunc(q.messages, func(a, b jmessage) int { return int(a.id) - int(b.id) })
		for i, want := range q.messages {
			g := rq.Messages[i]
			if g.ID != want.id || g.Due != want.due || g.Attempts != want.attempts || string(g.Body) != want.body || g.Timestamp != int64(want.id)*7 {
				m.t.Fatalf("queue %s/%s: message %d is %d %d %d %q, want %+v", q.topic, q.channel, i, g.ID, g.Due, g.Attempts, g.Body, want)
			}
			if g.Segment < want.segment {
				m.t.Fatalf("message %d stands in segment %d, could have been released below %d", g.ID, g.Segment, want.segment)
			}
		}
		for _, seq := range q.finished[max(0, len(q.finished)-2):] {
			if len(q.messages) > 0 && len(rq.Finished) > 0 && !slices.Contains(rq.Finished, seq) {
				m.t.Fatalf("queue %s/%s: backlog sequence %d is not finished", q.topic, q.channel, seq)
			}
		}
	}
	for name, q := range got {
		if len(q.Messages) > 0 {
			m.t.Fatalf("queue %s with %d messages is back from the dead", name, len(q.Messages))
		}
	}
}

// adopt goes on with the queues of a journal opened anew.
func (m *jmodel) adopt(j *mmapqueue.Journal, r *mmapqueue.Recovered) {
	m.j, m.groups = j, nil
	for _, q := range m.queues {
		q.finished = nil
		at := slices.IndexFunc(r.Queues, func(rq *mmapqueue.RecoveredQueue) bool {
			return rq.Topic == q.topic && rq.Channel == q.channel
		})
		if at < 0 {
			q.q = j.NewQueue(q.topic, q.channel)
			continue
		}
		q.q = r.Queues[at].Queue
		for i := range q.messages {
			q.messages[i].segment = r.Queues[at].Messages[i].Segment
		}
	}
}

// TestJournalModel shows that a journal gives back what slices hold, through
// clean ends and copies taken in the middle, while segments are used again.
func TestJournalModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "journal")
			o := journalSmall
			j, _ := mustJournal(t, dir, o)
			j.Start()
			m := &jmodel{t: t, rng: rand.New(rand.NewPCG(seed, 3)), j: j, sync: seed%4 == 0}
			most := 0
			for i := range 400 {
				m.step()
				count, _ := m.j.Segments()
				most = max(most, count)
				if i%40 != 39 {
					continue
				}
				must(t, m.j.Flush())
				copied := clone(t, dir)
				other, r := mustJournal(t, copied, o)
				m.check(r)
				must(t, other.Close())
				if i%80 == 79 {
					must(t, m.j.Close())
					j, r := mustJournal(t, dir, o)
					m.check(r)
					m.adopt(j, r)
					j.Start()
				}
			}
			if most < 2 {
				t.Errorf("never more than %d segments", most)
			}
			must(t, m.j.Remove())
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory is still there: %v", err)
			}
		})
	}
}

// smallJournal writes 200 messages for two queues, of which the first finishes
// every third, and returns the file and what each queue must give back.
func smallJournal(t testing.TB) (path string, want map[string]map[uint64]string) {
	dir := t.TempDir()
	j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{SegmentBytes: 64 << 10})
	j.Start()
	a, b := j.NewQueue("t", "a"), j.NewQueue("t", "b")
	g := j.NewGroup([]*mmapqueue.JournalQueue{a, b})
	want = map[string]map[uint64]string{"a": {}, "b": {}}
	for id := uint64(1); id <= 200; id++ {
		batch := j.Batch()
		batch.Use(g)
		body := fmt.Sprintf("body of %d", id)
		batch.Message(g, id, 1, 0, 0, []byte(body))
		want["a"][id], want["b"][id] = body, body
		if id%3 == 0 {
			batch.Finish(a, []uint64{id - 1})
			delete(want["a"], id-1)
		}
		j.Submit(batch, nil)
	}
	must(t, j.Flush())
	must(t, j.Close())
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("%d files, want 1", len(files))
	}
	return files[0], want
}

// reread opens a journal with these bytes and returns what each channel has.
func reread(t testing.TB, image []byte) map[string]map[uint64]string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "000001.journal"), image, 0o600))
	j, r := mustJournal(t, dir, mmapqueue.JournalOptions{})
	got := map[string]map[uint64]string{}
	for _, q := range r.Queues {
		got[q.Channel] = map[uint64]string{}
		for _, m := range q.Messages {
			got[q.Channel][m.ID] = string(m.Body)
		}
	}
	must(t, j.Close())
	must(t, os.RemoveAll(dir))
	return got
}

// compare fails on a wrong body, and returns how many messages are missing and
// how many finished ones came back.
func compare(t testing.TB, what string, got, want map[string]map[uint64]string) (missing, extra int) {
	t.Helper()
	for channel, messages := range got {
		for id, body := range messages {
			if body != fmt.Sprintf("body of %d", id) {
				t.Fatalf("%s: message %d of %s is %q", what, id, channel, body)
			}
			if _, ok := want[channel][id]; !ok {
				extra++
			}
		}
	}
	for channel, messages := range want {
		for id := range messages {
			if _, ok := got[channel][id]; !ok {
				missing++
			}
		}
	}
	return missing, extra
}

// A flipped bit anywhere costs the record it is in and no other: one message on
// two channels, or one finish.
func TestJournalFlip(t *testing.T) {
	path, want := smallJournal(t)
	image, err := os.ReadFile(path)
	must(t, err)
	end := len(bytes.TrimRight(image, "\x00"))
	image = image[:end+64]
	step := 371 // coprime to 8: all bits of a byte get their turn over the file
	if long {
		step = 1
	}
	for bit := 0; bit < end*8; bit += step {
		image[bit/8] ^= 1 << (bit % 8)
		missing, extra := compare(t, fmt.Sprintf("bit %d flipped", bit), reread(t, image), want)
		image[bit/8] ^= 1 << (bit % 8)
		if missing > 2 || extra > 1 || missing > 0 && extra > 0 {
			t.Fatalf("bit %d of byte %d flipped: %d messages missing, %d came back", bit%8, bit/8, missing, extra)
		}
	}
}

// A journal cut anywhere gives back what stands before the cut, whole.
func TestJournalCut(t *testing.T) {
	path, want := smallJournal(t)
	image, err := os.ReadFile(path)
	must(t, err)
	end := len(bytes.TrimRight(image, "\x00"))
	step := 41
	if long {
		step = 1
	}
	last := [2]int{1 << 30, 1 << 30}
	for cut := end; cut >= 4096; cut -= step {
		for zeros := range last {
			short := slices.Clone(image[:cut])
			if zeros == 1 {
				short = append(short, make([]byte, 512)...)
			}
			got := reread(t, short)
			compare(t, fmt.Sprintf("cut at %d", cut), got, want)
			n := len(got["b"])
			if n > last[zeros] {
				t.Fatalf("cut at %d: %d messages, more than a longer file had", cut, n)
			}
			last[zeros] = n
			for id := uint64(1); id <= uint64(n); id++ {
				if _, ok := got["b"][id]; !ok {
					t.Fatalf("cut at %d: message %d of %d is missing", cut, id, n)
				}
			}
		}
	}
	if last[0] > 0 {
		t.Errorf("%d messages in a file without records", last[0])
	}
}

// A disk that fails or fills up: the batch is told so, nothing that was told
// otherwise is lost, finishes are not lost, and it heals by itself.
func TestJournalFaults(t *testing.T) {
	for _, sync := range []bool{false, true} {
		for name, faults := range map[string]faultfs.Faults{
			"write":  {Write: errors.New("no space"), Room: 100},
			"create": {Create: errors.New("no file"), Write: errors.New("no space")},
			"sync":   {Sync: errors.New("lost")},
		} {
			if name == "sync" && !sync {
				continue
			}
			disk := faultfs.New()
			dir := t.TempDir()
			o := mmapqueue.JournalOptions{SegmentBytes: 16 << 10, FS: disk}
			j, _ := mustJournal(t, dir, o)
			j.Start()
			q := j.NewQueue("t", "c")
			put := func(id uint64, finish ...uint64) error {
				b := j.Batch()
				b.Use(q.Alone())
				b.Message(q.Alone(), id, 1, 0, 0, bytes.Repeat([]byte("z"), 300))
				b.Finish(q, finish)
				if sync {
					b.Sync()
				}
				result := make(chan error, 1)
				j.Submit(b, func(err error) { result <- err })
				return <-result
			}
			must(t, put(1))
			must(t, put(2))
			disk.Set(faults)
			if err := put(3, 1); err == nil {
				t.Fatalf("%s, sync %t: no error", name, sync)
			}
			if j.Err() == nil {
				t.Fatalf("%s, sync %t: Err is nil", name, sync)
			}
			disk.Set(faultfs.Faults{})
			must(t, put(4))
			if err := j.Err(); err != nil {
				t.Fatalf("%s, sync %t: Err is %v after it healed", name, sync, err)
			}
			_, r := mustJournal(t, clone(t, dir), mmapqueue.JournalOptions{})
			var got []uint64
			for _, m := range r.Queues[0].Messages {
				if m.ID != 3 { // may be there or not
					got = append(got, m.ID)
				}
			}
			if !slices.Equal(got, []uint64{2, 4}) {
				t.Errorf("%s, sync %t: %d after the failure, want 2 and 4", name, sync, got)
			}
			must(t, j.Close())
		}
	}
}

// TestJournalPowerCut shows that what was answered in a journal that syncs is
// there after a loss of power that keeps only what was synced and, of the rest,
// any pages. It finds faults that are planted: a disk that lies.
func TestJournalPowerCut(t *testing.T) {
	cuts := uint64(40)
	if long {
		cuts = 500
	}
	for seed := range cuts {
		if bad := powerCut(t, seed, faultfs.Faults{}); bad != "" {
			t.Fatalf("seed %d: %s", seed, bad)
		}
	}
	for name, lie := range map[string]faultfs.Faults{
		"unsynced data":  {LieDatasync: true},
		"unsynced names": {LieSyncDir: true},
		"missing writes": {SkipWrite: 9},
	} {
		found := false
		for seed := range uint64(20) {
			found = found || powerCut(t, seed, lie) != ""
		}
		if !found {
			t.Errorf("%s were not noticed", name)
		}
	}
}

// powerCut says what was wrong after one cut, "" for nothing.
func powerCut(t testing.TB, seed uint64, planted faultfs.Faults) string {
	rng := rand.New(rand.NewPCG(seed, 5))
	disk := faultfs.New()
	disk.Set(planted)
	root := t.TempDir()
	dir := filepath.Join(root, "journal")
	j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{SegmentBytes: 12 << 10, FS: disk})
	j.Start()
	q := j.NewQueue("t", "c")
	acked := map[uint64]bool{}
	oldest := map[uint64]uint64{}
	result := make(chan error, 1)
	for id := uint64(1); id <= 60+rng.Uint64N(100); id++ {
		b := j.Batch()
		b.Use(q.Alone())
		oldest[id] = j.Segment()
		b.Message(q.Alone(), id, 1, 0, 0, fmt.Appendf(nil, "body of %d", id))
		var gone []uint64
		for _, old := range slices.Sorted(maps.Keys(acked)) { // in one order, so that a seed is one run
			if rng.IntN(8) == 0 {
				gone = append(gone, old)
			}
		}
		b.Finish(q, gone)
		b.Sync()
		j.Submit(b, func(err error) { result <- err })
		must(t, <-result)
		acked[id] = true
		for _, old := range gone {
			delete(acked, old)
			delete(oldest, old)
		}
		low := j.Segment()
		for _, s := range oldest {
			low = min(low, s)
		}
		j.Release(low)
	}
	// The last ones may be cut off in the middle: nobody was told of them.
	const untold = 1000
	for id := uint64(untold); id < untold+5; id++ {
		b := j.Batch()
		b.Use(q.Alone())
		b.Message(q.Alone(), id, 1, 0, 0, fmt.Appendf(nil, "body of %d", id))
		j.Submit(b, nil)
	}
	cut := filepath.Join(root, "cut")
	must(t, disk.PowerCut(rng, root, cut))
	must(t, j.Close())
	_, r := mustJournal(t, filepath.Join(cut, "journal"), mmapqueue.JournalOptions{})
	got := map[uint64]bool{}
	for _, rq := range r.Queues {
		for _, m := range rq.Messages {
			if string(m.Body) != fmt.Sprintf("body of %d", m.ID) {
				return fmt.Sprintf("message %d is %q", m.ID, m.Body)
			}
			if got[m.ID] = true; !acked[m.ID] && m.ID < untold {
				return fmt.Sprintf("message %d was finished, durably, and came back", m.ID)
			}
		}
	}
	for id := range acked {
		if !got[id] {
			return fmt.Sprintf("message %d was acknowledged and is lost", id)
		}
	}
	return ""
}

// Hundreds of batches from several goroutines at once are each answered, and all
// are there.
func TestJournalConcurrent(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustJournal(t, dir, journalSmall)
	j.Start()
	const workers, each = 4, 200
	done := make(chan error, workers*each)
	for w := range workers {
		go func() {
			q := j.NewQueue("t", fmt.Sprint(w))
			for i := range each {
				b := j.Batch()
				b.Use(q.Alone())
				b.Message(q.Alone(), uint64(w*each+i), 1, 0, 0, []byte("x"))
				j.Submit(b, func(err error) { done <- err })
			}
		}()
	}
	for range workers * each {
		must(t, <-done)
	}
	must(t, j.Close())
	_, r := mustJournal(t, dir, journalSmall)
	for _, q := range r.Queues {
		if len(q.Messages) != each {
			t.Errorf("queue %s has %d messages, want %d", q.Channel, len(q.Messages), each)
		}
		for i := 1; i < len(q.Messages); i++ {
			if q.Messages[i].ID != q.Messages[i-1].ID+1 {
				t.Fatalf("queue %s: message %d after %d", q.Channel, q.Messages[i].ID, q.Messages[i-1].ID)
			}
		}
	}
}

// heldSync is a file system whose next sync can be held.
type heldSync struct {
	mmapqueue.FS
	hold  *atomic.Bool
	syncs *atomic.Int64
	begun chan struct{}
	goOn  chan struct{}
}

type heldFile struct {
	mmapqueue.File
	fs heldSync
}

func (h heldSync) Create(path string, size int64) (mmapqueue.File, error) {
	f, err := h.FS.Create(path, size)
	return heldFile{f, h}, err
}

func (h heldSync) Open(path string, write bool) (mmapqueue.File, error) {
	f, err := h.FS.Open(path, write)
	return heldFile{f, h}, err
}

func (f heldFile) Datasync() error {
	f.fs.syncs.Add(1)
	if f.fs.hold.Swap(false) {
		f.fs.begun <- struct{}{}
		<-f.fs.goOn
	}
	return f.File.Datasync()
}

// TestJournalWish shows that the batches of one commit which did not ask for the
// disk do not wait for it, that those which did and a Flush do, and that without
// a wish nothing is synced.
func TestJournalWish(t *testing.T) {
	h := heldSync{mmapqueue.OS, new(atomic.Bool), new(atomic.Int64), make(chan struct{}), make(chan struct{})}
	j, _ := mustJournal(t, t.TempDir(), mmapqueue.JournalOptions{SegmentBytes: 12 << 10, FS: h})
	q := j.NewQueue("t", "c")
	answers := make(chan string, 8)
	submit := func(name string, size int, sync bool) {
		b := j.Batch()
		b.Use(q.Alone())
		b.Message(q.Alone(), 1, 1, 0, 0, make([]byte, size))
		if sync {
			b.Sync()
		}
		j.Submit(b, func(err error) {
			must(t, err)
			answers <- name
		})
	}
	want := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if got := <-answers; got != name {
				t.Fatalf("%s is answered, want %s", got, name)
			}
		}
	}
	j.Start()
	submit("large", 10<<10, false)
	submit("second", 10<<10, false)
	want("large", "second")
	must(t, j.Flush())
	if n := h.syncs.Load(); n != 0 {
		t.Fatalf("%d syncs that nobody asked for", n)
	}
	submit("first", 1, true)
	want("first")
	if n := h.syncs.Load(); n < 2 {
		t.Errorf("%d syncs before the first answer, there are older segments", n)
	}
	h.hold.Store(true)
	submit("asks", 1, true)
	<-h.begun
	// The writer is busy: these are one commit.
	submit("asks too", 1, true)
	submit("asks not", 1, false)
	flushed := make(chan error, 1)
	go func() { flushed <- j.Flush() }()
	h.hold.Store(true)
	h.goOn <- struct{}{}
	want("asks")
	<-h.begun
	want("asks not")
	select {
	case name := <-answers:
		t.Errorf("%s is answered before the sync", name)
	case <-flushed:
		t.Error("flushed before the sync")
	default:
	}
	h.goOn <- struct{}{}
	want("asks too")
	must(t, <-flushed)
	must(t, j.Close())
}

// What is submitted Later is written without another submit, in its place.
func TestJournalLater(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustJournal(t, dir, journalSmall)
	j.Start()
	must(t, j.Flush())
	q := j.NewQueue("t", "c")
	put := func(id uint64, gone ...uint64) *mmapqueue.JournalBatch {
		b := j.Batch()
		b.Use(q.Alone())
		b.Message(q.Alone(), id, 1, 0, 0, []byte("x"))
		b.Finish(q, gone)
		return b
	}
	j.Later(put(1))
	for {
		_, r := mustJournal(t, clone(t, dir), journalSmall)
		if len(r.Queues) == 1 && len(r.Queues[0].Messages) == 1 {
			break
		}
		runtime.Gosched()
	}
	j.Later(put(2, 1))
	j.Submit(put(3), nil)
	j.Later(put(4, 3, 2))
	must(t, j.Close())
	_, r := mustJournal(t, dir, journalSmall)
	if got := r.Queues[0].Messages; len(got) != 1 || got[0].ID != 4 {
		t.Errorf("%v lives, want message 4", got)
	}
}

func BenchmarkJournal(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprint("batch=", n), func(b *testing.B) {
			j, _ := mustJournal(b, b.TempDir(), mmapqueue.JournalOptions{})
			j.Start()
			q := j.NewQueue("t", "c")
			body := bytes.Repeat([]byte("b"), 200)
			result := make(chan error, 1)
			id := uint64(0)
			ids := make([]uint64, n)
			for b.Loop() {
				batch := j.Batch()
				batch.Use(q.Alone())
				for i := range n {
					id++
					ids[i] = id
					batch.Message(q.Alone(), id, 1, 0, 0, body)
				}
				batch.Finish(q, ids)
				j.Submit(batch, func(err error) { result <- err })
				<-result
				j.Release(j.Segment())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(id), "ns/msg")
			b.StopTimer()
			must(b, j.Remove())
		})
	}
}
