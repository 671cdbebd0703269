package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/diskqueue"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// Open finds the backlogs and the journal that an earlier run left, and creates
// their topics and channels with what waits in them. It comes before Restore and
// before any loop runs. It starts the journal.
func (b *Broker) Open() error {
	if b.opts.Durability == DurabilityDisk {
		if err := b.makeRoot(); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	rec, j, err := b.openJournal()
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	b.journal, b.news, b.restored = j, rec.topics, map[string]bool{}
	root := filepath.Join(b.opts.DataPath, backlogsDir)
	dirs, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("broker: read backlogs: %w", err)
	}
	theirs, err := upstreamQueues(b.opts.DataPath)
	if err != nil {
		return err
	}
	opened, err := b.openAll(root, dirs, rec, theirs)
	if err == nil {
		err = b.startJournal(rec, opened)
	}
	if err != nil {
		return err
	}
	for _, t := range opened {
		b.topics.set(t.name, t)
		b.count++
	}
	for _, t := range opened {
		t.refillAll()
	}
	return nil
}

// makeRoot makes the folder of the backlogs and of the journal, so that the power
// does not take its name away with all that is in it.
func (b *Broker) makeRoot() error {
	disk := b.opts.Journal.FS
	if disk == nil {
		disk = mmapqueue.OS
	}
	if err := disk.MkdirAll(filepath.Join(b.opts.DataPath, backlogsDir)); err != nil {
		return err
	}
	return disk.SyncDir(b.opts.DataPath)
}

// upstreamQueues finds what upstream's nsqd left in the data path, by topic.
func upstreamQueues(dataPath string) (map[string][]diskqueue.Queue, error) {
	queues, err := diskqueue.Find(dataPath)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	byTopic := map[string][]diskqueue.Queue{}
	for _, q := range queues {
		if wire.ValidName(q.Topic) && (q.Channel == "" || wire.ValidName(q.Channel)) {
			byTopic[q.Topic] = append(byTopic[q.Topic], q)
		}
	}
	return byTopic, nil
}

// filesAtOnce is how many topics are opened or closed side by side, where there are
// descriptors for that: a sync
// waits for the disk, and the disk serves many at the price of one.
const filesAtOnce = 64

// sideBySide is filesAtOnce, or less in a process that may open few files.
func sideBySide() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return filesAtOnce
	}
	return int(min(filesAtOnce, max(1, limit.Cur/filesShare)))
}

// filesShare is how many descriptors there must be for each topic that is opened beside others.
const filesShare = 16

// inParallel calls f for 0 to n-1 and returns all errors.
func inParallel(n, atOnce int, f func(i int) error) error {
	errs := make([]error, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, atOnce) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				errs[i] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// topicOf returns the topic whose backlog a directory is. Others may lie there, a copy that
// somebody has made for one; only names that we give count.
func topicOf(d fs.DirEntry) (name string, ok bool) {
	name, number, _ := strings.Cut(d.Name(), "@")
	ok = d.IsDir() && wire.ValidName(name) && len(number) == incarnationDigits && incarnationOf(d.Name()) != 0
	return name, ok
}

// openTopic opens a topic's backlog, if it has one, and has it take over what
// upstream left for the topic, and what the journal has found for it.
func (b *Broker) openTopic(name, dir string, found []*mmapqueue.RecoveredQueue, theirs []diskqueue.Queue) (*Topic, []load, error) {
	t := b.newTopic(name, dir)
	v := *t.view.Load()
	if _, err := os.Stat(dir); err == nil || len(theirs) > 0 {
		if err := t.openLog(&v, found, theirs); err != nil {
			return nil, nil, fmt.Errorf("broker: topic %s: %w", name, err)
		}
	}
	loads := t.adopt(&v, found)
	for _, q := range append([]*queue{v.hold}, queuesOf(v.channels)...) {
		n := int64(len(q.left))
		if q.cursor != nil {
			n += q.cursor.Depth()
		}
		q.outstanding.Store(n)
	}
	slices.SortFunc(v.channels, func(x, y *Channel) int { return strings.Compare(x.name, y.name) })
	v.hold.gate.count.Store(v.hold.outstanding.Load())
	switch {
	case len(v.channels) == 0:
	case v.hold.outstanding.Load() > 0:
		t.opening = true
		t.paused.Store(true) // Restore ends the pause unless it was one
	case v.hold.cursor != nil:
		// Nothing is held, but the cursor is there: let the gate end it.
		v.hold.spilled.Store(true)
		defer t.SetPaused(false)
		t.paused.Store(true)
	default:
		v.hold = nil
	}
	t.setView(&v)
	return t, loads, nil
}

// openLog opens the backlog of a topic that is being opened.
func (t *Topic) openLog(v *view, found []*mmapqueue.RecoveredQueue, theirs []diskqueue.Queue) error {
	if err := t.writer.open(); err != nil {
		return err
	}
	log := t.writer.log
	// In this order: the sequences are those of the run that ended.
	if err := t.finishRecovered(found); err != nil {
		return err
	}
	for _, name := range log.Names() {
		if name == "" || !t.b.died(t.name, name) {
			continue
		}
		c, err := log.Cursor(name)
		if err == nil {
			err = c.Delete()
		}
		if err != nil {
			return err
		}
	}
	if err := log.Adopt(theirs); err != nil {
		return err
	}
	// The topic's own queue first: a channel made before it would inherit it.
	for _, name := range log.Names() {
		c, err := log.Cursor(name)
		if err != nil {
			return err
		}
		q := v.hold
		if name != "" {
			q = t.queueOf(v, name)
		}
		q.cursor = c
		q.spilled.Store(true)
	}
	return nil
}

func queuesOf(channels []*Channel) (all []*queue) {
	for _, c := range channels {
		all = append(all, c.q)
	}
	return all
}

// refillAll starts bringing back what a restored topic has on disk.
func (t *Topic) refillAll() {
	for _, c := range t.Channels() {
		t.b.kickRefill(c.q)
	}
	t.b.kickRefill(t.hold())
}

// hold returns the queue of what the topic holds back, or an empty one.
func (t *Topic) hold() *queue {
	if q := t.view.Load().hold; q != nil {
		return q
	}
	return new(queue)
}

// Close saves everything that waits, is deferred or in flight to the backlogs.
// No loop may run any more. Who is no loop may still be publishing: that is refused
// with ErrExiting or saved. What could not be saved is told in the error.
func (b *Broker) Close() error {
	b.closing.Store(true)
	b.foreign.grace() // who published before has handed it over
	close(b.closed)
	if b.opts.Log.Budget != nil {
		b.opts.Log.Budget.Lift()
	}
	for _, t := range b.topics.all() {
		t.writer.wait()
	}
	b.helpers.Wait()
	if b.journal != nil {
		_ = b.journal.Flush() // it says whose the messages are before they are saved: see writer.awaitMoves
	}
	b.writeMail()
	b.pool.Shed()
	held := b.held()
	topics := b.topics.all()
	end, atOnce := (*mmapqueue.Backlog).Close, sideBySide()
	logs := slices.ContainsFunc(topics, func(t *Topic) bool { return !t.ephemeral })
	together := logs && len(topics) >= syncTogether
	if together {
		end, atOnce = (*mmapqueue.Backlog).CloseUnsynced, 2*runtime.GOMAXPROCS(0)
	}
	err := inParallel(len(topics), atOnce, func(i int) error {
		if err := topics[i].close(held, end); err != nil {
			return fmt.Errorf("topic %s: %w", topics[i].name, err)
		}
		return nil
	})
	if together {
		err = errors.Join(err, mmapqueue.SyncFileSystem(b.opts.DataPath))
	}
	switch {
	case b.journal == nil:
	case err != nil:
		_ = b.journal.Close() // it still has what could not be saved
	default:
		err = b.leave()
	}
	return err
}

// syncTogether is the number of topics from which on Close syncs the whole file
// system once: 10,000 of them took 4 s with a sync each. With few topics that
// would only make us wait for other people's files.
const syncTogether = 256

// saved is a message that is not in a queue, with its due time on the wall
// clock, 0 for none.
type saved struct {
	ref block.Ref
	due int64
}

// held collects what the shards hold, by channel.
func (b *Broker) held() map[*Channel][]saved {
	held := map[*Channel][]saved{}
	for _, s := range b.shards {
		for i := range s.wheel.slab {
			switch e := &s.wheel.slab[i]; e.kind {
			case kindInFlight:
				c := s.subs[e.owner].local.c
				held[c] = append(held[c], saved{ref: e.ref})
			case kindDeferred:
				c := s.locals[e.owner].c
				held[c] = append(held[c], saved{e.ref, e.dueNs - s.nowNs + s.wallNs})
			}
		}
	}
	return held
}

// writeMail defers what foreign publishers have mailed and no loop has read.
func (b *Broker) writeMail() {
	for _, s := range b.shards {
		s.Woken()
		s.flushBack()
	}
}

// close saves what the topic holds and closes its log, if it has one, with end.
func (t *Topic) close(held map[*Channel][]saved, end func(*mmapqueue.Backlog) error) error {
	t.writer.wait()
	v := t.view.Load()
	var all []collector
	if v.hold != nil {
		all = append(all, collector{b: t.b, q: v.hold})
	}
	for _, c := range v.channels {
		all = append(all, collector{b: t.b, q: c.q, more: held[c]})
	}
	var errs []error
	if !t.b.leaves(all) {
		for i := range all {
			errs = append(errs, t.save(&all[i]))
		}
	}
	if t.writer.log != nil {
		errs = append(errs, end(t.writer.log))
	}
	return errors.Join(errs...)
}

// A collector takes what a queue has in memory, and what of it was in other hands.
type collector struct {
	b    *Broker
	q    *queue
	more []saved
}

// saveBytes is how much save writes at once: enough for the huge pages that
// mmapqueue writes, and the memory for it is the same each time. A stop with a million
// messages of 200 bytes took 350 MB more in one piece. Of smaller segments it is an
// eighth: several pieces fill one, and few bytes are left over.
const saveBytes = 4 << 20

// waits returns how many messages are still to be taken. (It is not what the queue
// counts: that includes its backlog.)
func (c *collector) waits() int {
	if c.q.ephemeral {
		return 0
	}
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	return c.q.ring.Len() + len(c.q.left) + len(c.more)
}

// take puts the next messages into j, instead of those that are in it: as many as
// have bytes together. It reports whether there were any.
func (c *collector) take(j *job, bytes int) bool {
	j.refs, j.due = j.refs[:0], j.due[:0]
	if c.q.ephemeral {
		return false
	}
	size := 0
	var refs [8]block.Ref // few: no piece becomes much larger than asked for
	for size < bytes {
		n := c.q.ring.TryPop(refs[:])
		if n == 0 {
			break
		}
		for _, r := range refs[:n] {
			size += int(r.Len)
		}
		j.refs = append(j.refs, refs[:n]...)
	}
	c.q.mu.Lock()
	for len(c.q.left) > 0 && size < bytes { // read but not put into the ring, or given back
		size += int(c.q.left[0].Len)
		j.refs = append(j.refs, c.q.left[0])
		c.q.left = c.q.left[1:]
	}
	c.q.mu.Unlock()
	for _, r := range j.refs {
		j.due = append(j.due, dueOf(c.b.pool, r))
	}
	for len(c.more) > 0 && size < bytes {
		size += int(c.more[0].ref.Len)
		j.refs = append(j.refs, c.more[0].ref)
		j.due = append(j.due, c.more[0].due)
		c.more = c.more[1:]
	}
	return len(j.refs) > 0
}

// giveBack has all that was taken come again.
func (c *collector) giveBack(j *job) {
	for i, r := range j.refs {
		c.more = append(c.more, saved{r, j.due[i]})
	}
}

// A piece is a part of what save writes, on its way to the backlog.
type piece struct {
	job  job
	recs []mmapqueue.Record
}

// save writes what is collected to the backlog, piece by piece, the next one being read
// meanwhile, and gives its memory back as it goes: that is what the system's copy of it
// is made in. After an error the pieces before it are there.
func (t *Topic) save(c *collector) error {
	waiting := c.waits()
	if waiting == 0 {
		return nil
	}
	if err := t.writer.open(); err != nil {
		return err
	}
	c.q.mu.Lock()
	err := c.q.open(t.writer.log)
	c.q.mu.Unlock()
	if err != nil {
		return err
	}
	kind := mmapqueue.Record{Kind: mmapqueue.KindPublish}
	if t.writer.log.Cursors() > 1 {
		kind = mmapqueue.Record{Kind: mmapqueue.KindPut, Cursor: c.q.cursor.ID()}
	}
	bytes := saveBytes
	if most := t.b.opts.Log.SegmentBytesMax; most > 0 {
		bytes = min(bytes, int(most/8))
	}
	pieces, used := make(chan *piece, 1), make(chan *piece, 2)
	for range cap(used) {
		used <- new(piece)
	}
	go func() {
		defer close(pieces)
		for p := range used {
			if !c.take(&p.job, bytes) {
				return
			}
			p.recs = t.writer.records(p.recs[:0], &p.job, kind, 0, len(p.job.refs))
			pieces <- p
		}
	}()
	for p := range pieces {
		if err != nil {
			continue // until the goroutine has ended
		}
		if first := len(p.job.refs); waiting > first {
			t.writer.log.Expect(int64(waiting) * p.job.size() / int64(first))
			waiting = 0
		}
		if err = t.writer.log.Append(p.recs); err != nil {
			close(used)
			continue
		}
		t.b.finishSource(source{q: c.q, sequences: t.b.sequences(p.job.refs)})
		t.b.releaseAll(p.job.refs)
		used <- p
	}
	return err
}

// arenas are what refillers bring messages back into. Each step takes one for
// itself, so that nothing is locked for a message, nor while the disk is read;
// with them filled in turn, quiet topics share their chunks.
type arenas struct {
	pool *block.Pool
	mu   sync.Mutex
	free []*block.Arena // the one used last is last
}

// arenasMax is how many arenas are kept, with a chunk each. More are at work only
// while reads wait for the disk.
const arenasMax = 4

// take returns an arena for keep to take back.
func (a *arenas) take() *block.Arena {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.free); n > 0 {
		arena := a.free[n-1]
		a.free = a.free[:n-1]
		return arena
	}
	arena := block.NewArena(a.pool)
	arena.SetMark(block.Unmarked)
	return arena
}

func (a *arenas) keep(arena *block.Arena) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.free) < arenasMax {
		a.free = append(a.free, arena)
	} else {
		arena.Close()
	}
}

// storeRecord brings a message back from the backlog.
func storeRecord(a *block.Arena, r *mmapqueue.Record) block.Ref {
	ref := storeBehind(a, r.ID, r.Timestamp, r.Due, r.Sequence, r.Body)
	ref.Aux |= uint32(r.Attempts)
	return ref
}
