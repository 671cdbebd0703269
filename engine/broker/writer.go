package broker

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// A job is one batch on its way to the backlog. It owns one reference to each
// message for every queue in want.
type job struct {
	refs    []block.Ref
	want    []want
	due     []int64                      // wall ns, or nil: deferred messages being saved
	from    *queue                       // whose backlog the messages with a sequence come from; nil: each queue's own
	after   func()                       // called at the end; may be nil
	done    *ticket                      // nil: nobody waits
	adopted bool                         // what has a sequence was put into the journal as well
	run     func(log *mmapqueue.Backlog) // instead of a batch: an operation in order with the batches; log is nil if it cannot be opened
}

// want says that queue q needs the batch from index from on. journaled says that
// of the messages that are the journal's it has them for q too, until they are written.
type want struct {
	q         *queue
	from      int
	journaled bool
}

// size returns the bytes of the batch's messages.
func (j *job) size() (n int64) {
	for _, r := range j.refs {
		n += int64(r.Len)
	}
	return n
}

// ticket tells a shard, or a foreign publisher, that a batch was written.
type ticket struct {
	waiters []waiter
	shard   *Shard     // told through its mail
	result  chan error // or a foreign publisher
	births  births     // that are written when it is
	err     error
	written func(err error) // the method, for the journal; see Shard.ticket
}

// journalWritten is called by the journal.
func (t *ticket) journalWritten(err error) {
	if t.err = err; err == nil {
		t.births.settle()
	}
	t.shard.post(mail{ticket: t})
}

// writer writes one topic's batches in order. Its goroutine lives while there
// is something to write.
type writer struct {
	b       *Broker
	topic   *Topic
	dir     string
	mu      sync.Mutex
	idle    sync.Cond
	jobs    []job
	running bool
	given   uint64                            // jobs submitted
	done    uint64                            // jobs finished
	log     *mmapqueue.Backlog                // writer goroutine only, once running
	opened  atomic.Pointer[mmapqueue.Backlog] // the same, for whoever asks for its figures
	written []*job                            // written in this turn and not settled
	moves   uint64                            // of the topic's, those that the journal has; writer goroutine only
}

func (w *writer) init(t *Topic, dir string) {
	w.b, w.topic, w.dir = t.b, t, dir
	w.idle.L = &w.mu
}

func (w *writer) submit(j job) {
	w.mu.Lock()
	w.jobs = append(w.jobs, j)
	w.given++
	start := !w.running
	w.running = true
	w.mu.Unlock()
	if start {
		go w.loop()
	}
}

// wait returns when every job submitted so far has been done.
func (w *writer) wait() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for given := w.given; w.done < given; {
		w.idle.Wait()
	}
}

// inOrder runs f behind every job submitted so far and returns when it has run.
func (w *writer) inOrder(f func(log *mmapqueue.Backlog)) {
	done := make(chan struct{})
	w.submit(job{run: func(log *mmapqueue.Backlog) {
		f(log)
		close(done)
	}})
	<-done
}

func (w *writer) loop() {
	w.b.writeSlots <- struct{}{}
	defer func() { <-w.b.writeSlots }()
	var jobs []job
	for {
		w.mu.Lock()
		w.done += uint64(len(jobs))
		w.idle.Broadcast()
		if len(w.jobs) == 0 {
			w.running = false
			w.jobs, w.written = nil, nil // an idle topic holds no memory
			w.mu.Unlock()
			return
		}
		jobs, w.jobs = w.jobs, jobs[:0]
		w.mu.Unlock()
		for i := range jobs {
			if jobs[i].run != nil {
				w.settleAll()
			}
			w.begin(&jobs[i])
		}
		w.settleAll()
		clear(jobs)
	}
}

func (w *writer) open() error {
	if w.log != nil {
		return nil
	}
	log, err := mmapqueue.Open(w.dir, w.b.opts.Log)
	if err == nil {
		w.log = log
		w.opened.Store(log)
	}
	return err
}

// do carries a batch out, to its end.
func (w *writer) do(j *job) {
	w.begin(j)
	w.settleAll()
}

// begin carries a job out. A batch is settled by settleAll, with those of the same
// turn: in disk mode one sync is for all of them.
func (w *writer) begin(j *job) {
	err := w.open()
	if j.run != nil {
		if err != nil {
			w.b.diskFailed(err)
		}
		j.run(w.log)
		return
	}
	w.bury(j)
	if err == nil && stands(j) {
		w.replace(j)
		return
	}
	if err == nil {
		err = w.write(j)
	}
	if err != nil {
		w.b.writeFailed(err, j.size())
		w.settle(j, err)
		return
	}
	w.written = append(w.written, j)
}

// bury drops what a batch has for queues that have died while it was on its way.
func (w *writer) bury(j *job) {
	j.want = slices.DeleteFunc(j.want, func(n want) bool {
		if !n.q.dead.Load() {
			return false
		}
		refs := j.refs[n.from:]
		w.b.releaseAll(refs)
		n.q.outstanding.Add(-int64(len(refs)))
		n.q.inWriter.Add(-int64(len(refs)))
		return true
	})
}

// stands reports whether messages of the batch stand in the journal, or further
// up in a backlog: something that a crash brings back.
func stands(j *job) bool {
	places := uint32(auxSequence)
	for _, n := range j.want {
		if n.journaled && n.q.journal != nil {
			places |= auxJournal
		}
	}
	for _, r := range j.refs {
		if r.Aux&places != 0 {
			return true
		}
	}
	return false
}

// replace writes a batch that stands elsewhere, and says at once that it needs
// not stand there. Nobody reads the backlog meanwhile: what a consumer did with
// the message, finish it or put it off, must be the last word about it.
func (w *writer) replace(j *job) {
	err := w.b.adoptJob(j)
	if err != nil && j.from != nil {
		// The journal fails, and in memory the messages would stand nowhere. A crash
		// before the hold queue is known to be done with them brings them twice, and
		// then nobody has finished them: that is told behind it.
		w.b.diskFailed(err)
		err = nil
	}
	if err == nil && j.from == nil {
		err = w.awaitMoves()
	}
	if err != nil {
		w.b.diskFailed(err)
		w.settle(j, err)
		return
	}
	for _, n := range j.want {
		n.q.mu.Lock()
	}
	err = w.writeLocked(j)
	appended := err == nil
	if err == nil {
		err = w.sync()
	}
	if err == nil {
		for _, n := range j.want {
			w.b.carried(j, n)
		}
		if j.from != nil {
			j.from.mu.Lock()
			w.b.finishBelow(j.from, w.b.sequences(j.refs))
			j.from.mu.Unlock()
		}
	} else {
		w.b.writeFailed(err, j.size())
	}
	for _, n := range j.want {
		n.q.mu.Unlock()
	}
	if appended {
		w.settleWritten(j, err)
	} else {
		w.settle(j, err)
	}
}

// sync makes what was written durable, if that is the mode.
func (w *writer) sync() error {
	if !w.topic.syncs() {
		return nil
	}
	return w.log.Sync()
}

// named makes durable what the backlog was told of its cursors' names, if that is the
// mode: the journal's births and deaths are, and under an old name another queue would
// have the messages. It runs in the order of the writer.
func (w *writer) named() {
	if w.log == nil {
		return
	}
	if err := w.sync(); err != nil {
		w.b.diskFailed(err)
	}
}

// awaitMoves returns when the journal has said whose the messages are that the topic
// has given to its channels: until then it has them where they come from.
func (w *writer) awaitMoves() error {
	moves := w.topic.moves.Load()
	if moves == w.moves {
		return nil
	}
	err := w.topic.settle()
	if err == nil {
		w.moves = moves
	}
	return err
}

func (w *writer) settleAll() {
	if len(w.written) == 0 {
		return
	}
	err := w.sync()
	if err != nil {
		w.b.diskFailed(err)
	} else {
		w.b.diskWorked(w.written)
	}
	for _, j := range w.written {
		w.settleWritten(j, err)
	}
	clear(w.written)
	w.written = w.written[:0]
}

// write appends the batch, each message once, for those queues that want it. A queue
// that keeps up in memory must not meet the message a second time on disk.
func (w *writer) write(j *job) error {
	for _, n := range j.want {
		n.q.mu.Lock()
		err := n.q.open(w.log)
		n.q.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return w.append(j)
}

// writeLocked is write for a caller that holds the queues.
func (w *writer) writeLocked(j *job) error {
	for _, n := range j.want {
		if err := n.q.open(w.log); err != nil {
			return err
		}
	}
	return w.append(j)
}

func (w *writer) append(j *job) error {
	recs := records.Get().(*[]mmapqueue.Record)
	defer records.Put(recs)
	*recs = (*recs)[:0]
	cursors := w.log.Cursors()
	wants := j.want
	if len(wants) > 1 {
		wants = slices.SortedStableFunc(slices.Values(wants), func(x, y want) int { return x.from - y.from })
	}
	// More and more queues want it as we go along.
	for i, n := range wants {
		end := len(j.refs)
		if i+1 < len(wants) {
			end = wants[i+1].from
		}
		if n.from == end {
			continue
		}
		r := mmapqueue.Record{Kind: mmapqueue.KindPublish}
		switch {
		case i+1 == cursors:
		case i == 0:
			r.Kind, r.Cursor = mmapqueue.KindPut, n.q.cursor.ID()
		default:
			r.Kind = mmapqueue.KindSome
			for _, n := range wants[:i+1] {
				r.To = append(r.To, n.q.cursor.ID())
			}
		}
		*recs = w.records(*recs, j, r, n.from, end)
	}
	return w.log.Append(*recs)
}

// records holds the slices in which batches become records. Their bodies alias
// arenas, which the collector does not look at.
var records = sync.Pool{New: func() any { return new([]mmapqueue.Record) }}

// open makes sure that the queue has a cursor. A queue that a channel has
// inherited from its topic goes by the channel's name from then on, even for
// publishers that still see it as the topic's. The caller holds q.mu.
func (q *queue) open(log *mmapqueue.Backlog) error {
	if q.cursor != nil {
		return nil
	}
	name := ""
	if c := q.owner.Load(); c != nil {
		name = c.name
	}
	c, err := log.Cursor(name)
	if err != nil {
		return err
	}
	q.cursor = c
	return nil
}

// records appends messages from to end of a batch, for whom rec is for.
func (w *writer) records(recs []mmapqueue.Record, j *job, rec mmapqueue.Record, from, end int) []mmapqueue.Record {
	recs = slices.Grow(recs, end-from)
	for i, r := range j.refs[from:end] {
		rec.Attempts = uint16(r.Aux & auxAttempts)
		frame := frameOf(w.b.pool, r)
		rec.ID, _ = wire.FrameID(frame)
		rec.Timestamp, rec.Body = wire.FrameTimestamp(frame), wire.FrameBody(frame)
		if j.due != nil {
			rec.Due = j.due[from+i]
		} else {
			rec.Due = dueOf(w.b.pool, r)
		}
		recs = append(recs, rec)
	}
	return recs
}

// settleWritten ends a batch that stands in the backlog. It may not have been
// synced, though it should: then a publish is refused, and comes all the same;
// and the journal keeps what it has of the batch.
func (w *writer) settleWritten(j *job, err error) {
	for _, n := range j.want {
		refs := j.refs[n.from:]
		w.b.releaseAll(refs)
		n.q.inWriter.Add(-int64(len(refs)))
		w.b.kickRefill(n.q)
	}
	w.answer(j, err)
}

// settle ends a batch that could not be written: a publish is refused, and anything
// else goes back to memory, because it was acknowledged long ago.
func (w *writer) settle(j *job, err error) {
	for _, n := range j.want {
		refs := j.refs[n.from:]
		if j.done == nil {
			if j.from != nil {
				refs = w.b.foreign.withoutSequence(refs)
			}
			n.q.giveBack(w.b, refs)
		} else {
			if n.journaled {
				w.b.finishJournaled(n.q, refs)
			}
			n.q.outstanding.Add(-int64(len(refs)))
			n.q.gate.count.Add(-int64(len(refs)))
			w.b.releaseAll(refs)
		}
		n.q.inWriter.Add(-int64(len(refs)))
		w.b.kickRefill(n.q)
	}
	w.answer(j, err)
}

// answer ends a job for those who wait.
func (w *writer) answer(j *job, err error) {
	if j.after != nil {
		j.after()
	}
	if t := j.done; t != nil {
		t.err = err
		if t.shard != nil {
			t.shard.post(mail{ticket: t})
		} else {
			t.result <- err
		}
	}
}
