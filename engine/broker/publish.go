package broker

import (
	"errors"
	"sync"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/wire"
)

// A Publisher is one producer's view of its rounds. It belongs to a connection's
// loop. It may publish in further rounds while earlier ones are still to be
// accepted; their answers come in order.
type Publisher struct {
	Waiter Waiter
	open   []openRound // in which it published and which are not answered, oldest first
	head   int         // of open
	first  uint32      // the number of open[0], counted from the first one ever
	last   *Topic      // whose batch it joined last, in round
	round  uint64      // the shard's
}

// openRound is what a publisher has published in one round.
type openRound struct {
	pending int   // batches that are not yet accepted
	err     error // of the first that failed
}

// waiter is a publisher's round.
type waiter struct {
	p *Publisher
	n uint32 // its number
}

// Waiter hears that everything a publisher has published in a round is accepted,
// or that some of it is not. It is called on the publisher's loop, once for each
// round in which it published, in their order: in EndRound or later.
type Waiter interface{ Accepted(err error) }

// Pending returns the number of rounds for which an answer is owed.
func (p *Publisher) Pending() int { return len(p.open) - p.head }

// begin opens a round.
func (p *Publisher) begin() {
	if p.head > 0 && len(p.open) == cap(p.open) {
		p.first += uint32(p.head)
		p.open = p.open[:copy(p.open, p.open[p.head:])]
		p.head = 0
	}
	p.open = append(p.open, openRound{})
}

// join adds a batch to the round that was opened last.
func (p *Publisher) join() waiter {
	p.open[len(p.open)-1].pending++
	return waiter{p, p.first + uint32(len(p.open)-1)}
}

// settle says what became of one batch.
func (w waiter) settle(err error) {
	r := &w.p.open[w.n-w.p.first]
	r.pending--
	if err != nil && r.err == nil {
		r.err = err
	}
}

// answer calls the Waiter for the rounds that are accepted, up to the first that
// is not.
func (p *Publisher) answer() {
	for p.head < len(p.open) && p.open[p.head].pending == 0 {
		err := p.open[p.head].err
		p.head++
		p.Waiter.Accepted(err)
	}
	if p.head == len(p.open) {
		p.first += uint32(p.head)
		p.open, p.head = p.open[:0], 0
	}
}

// Publish stores a message and puts it into the round's batch of its topic.
// body is copied. A dueNs above zero holds it back until then (monotonic).
// The message counts as accepted when p's Waiter hears so.
func (s *Shard) Publish(t *Topic, p *Publisher, body []byte, dueNs int64) error {
	if t.exiting.Load() {
		return ErrExiting
	}
	if err := t.journalFailed(); err != nil {
		return err
	}
	l := &t.locals[s.index]
	if !l.queued {
		l.queued = true
		l.batch = s.takeBatch()
		s.topics = append(s.topics, t)
	}
	if dueNs != 0 {
		dueNs += s.wallNs - s.nowNs
		l.batch = append(l.batch, store(s.cold, s.ids.take(&s.b.ids), s.wallNs, dueNs, body))
	} else {
		l.batch = append(l.batch, store(s.arena, s.ids.take(&s.b.ids), s.wallNs, 0, body))
	}
	l.bytes += uint64(len(body))
	if p.last != t || p.round != s.round {
		s.opened(p)
		p.last = t
		l.waiters = append(l.waiters, p.join())
	}
	return nil
}

// opened makes sure that p takes part in the round.
func (s *Shard) opened(p *Publisher) {
	if p.round != s.round {
		p.begin()
		p.last, p.round = nil, s.round
		s.publishers = append(s.publishers, p)
	}
}

// flushPublishes gives the round's batches to the channels.
func (s *Shard) flushPublishes() {
	for _, t := range s.topics {
		l := &t.locals[s.index]
		t.messages.Add(uint64(len(l.batch)))
		t.bytes.Add(l.bytes)
		var err error
		if l.view == nil {
			err = ErrExiting
			for _, r := range l.batch {
				s.drops.Add(r.Chunk)
			}
		} else if j := s.b.fanout(l.view, l.batch, s, s.room[l.roomAt:]); j != nil {
			j.done = &ticket{waiters: l.waiters, shard: s}
			l.waiters = nil
			t.writer.submit(*j)
		}
		for _, w := range l.waiters {
			w.settle(err)
		}
		clear(l.waiters)
		s.keepBatch(l.batch)
		l.batch, l.waiters, l.bytes, l.queued, l.view = nil, l.waiters[:0], 0, false, nil
	}
	clear(s.topics)
	s.topics = s.topics[:0]
	for _, p := range s.publishers {
		p.answer()
	}
	clear(s.publishers)
	s.publishers = s.publishers[:0]
}

// Batches live for a round. Their memory goes from topic to topic, so that an
// idle topic holds none, and a busy one does not grow a new slice each round.
const (
	batchKeep  = 1 << 16 // messages; a longer batch is left to the collector
	batchesMax = 16
)

func (s *Shard) takeBatch() []block.Ref {
	n := len(s.spare)
	if n == 0 {
		return nil
	}
	b := s.spare[n-1]
	s.spare[n-1] = nil
	s.spare = s.spare[:n-1]
	return b
}

func (s *Shard) keepBatch(b []block.Ref) {
	if len(s.spare) < batchesMax && cap(b) <= batchKeep {
		s.spare = append(s.spare, b[:0])
	}
}

// fanout gives a batch, with one reference to each message, to every channel of
// a topic's view, or to its hold queue, within the memory that room says for each.
// What does not fit in memory is returned as a job for the topic's writer. s is
// the calling shard, nil for a foreign caller, whose deferred messages go to a
// shard by mail.
func (b *Broker) fanout(v *view, refs []block.Ref, s *Shard, room []memory) *job {
	var j *job
	overflow := func(q *queue, n int, journaled bool) {
		if n == len(refs) {
			return
		}
		if q.ephemeral {
			b.drop(s, refs[n:])
			return
		}
		if j == nil {
			j = &job{refs: append([]block.Ref(nil), refs...)}
		}
		j.want = append(j.want, want{q: q, from: n, journaled: journaled})
	}
	if v.hold != nil {
		v.hold.taken.Add(uint64(len(refs)))
		n := v.hold.put(refs, room[0])
		if n < len(refs) && v.hold.ephemeral {
			v.hold.gate.count.Add(-int64(len(refs) - n))
		}
		overflow(v.hold, n, room[0] != memoryGone)
		// The topic's first channel may have inherited the queue since.
		if c := v.hold.owner.Load(); c != nil && n > 0 {
			b.pushed(c, s)
		}
		return j
	}
	if len(v.channels) > 1 {
		b.retain(refs, int64(len(v.channels)-1))
	}
	due := hasDue(refs)
	for i, c := range v.channels {
		c.q.taken.Add(uint64(len(refs)))
		if due {
			b.putLoose(c, b.deferSome(c, refs, s), s, room[i])
			continue
		}
		n := c.q.put(refs, room[i])
		overflow(c.q, n, room[i] != memoryGone)
		if n > 0 {
			b.pushed(c, s)
		}
	}
	return j
}

// pushed makes somebody look at a channel that has got messages.
func (b *Broker) pushed(c *Channel, s *Shard) {
	if b.opts.Topology {
		b.wake(c, nil) // this shard too, if it is its turn
		return
	}
	if s != nil {
		if l := c.locals[s.index].Load(); l != nil {
			s.look(l)
		}
	}
	b.wake(c, s)
}

// retain adds n references to each message, one atomic operation per run of
// messages in the same chunk.
func (b *Broker) retain(refs []block.Ref, n int64) {
	for i := 0; i < len(refs); {
		k := i + 1
		for k < len(refs) && refs[k].Chunk == refs[i].Chunk {
			k++
		}
		b.pool.Retain(refs[i].Chunk, n*int64(k-i))
		i = k
	}
}

// releaseAll gives up one reference to each message, likewise.
func (b *Broker) releaseAll(refs []block.Ref) {
	for i := 0; i < len(refs); {
		k := i + 1
		for k < len(refs) && refs[k].Chunk == refs[i].Chunk {
			k++
		}
		b.pool.Release(refs[i].Chunk, int64(k-i))
		i = k
	}
}

// drop is releaseAll for the shard s, or for nobody's if that is nil.
func (b *Broker) drop(s *Shard, refs []block.Ref) {
	if s == nil {
		b.releaseAll(refs)
		return
	}
	for _, r := range refs {
		s.drops.Add(r.Chunk)
	}
}

func hasDue(refs []block.Ref) bool {
	for _, r := range refs {
		if r.Aux&auxDue != 0 {
			return true
		}
	}
	return false
}

// deferSome puts the deferred messages of a batch aside and returns the others.
func (b *Broker) deferSome(c *Channel, refs []block.Ref, s *Shard) []block.Ref {
	var rest []block.Ref
	for _, r := range refs {
		switch {
		case r.Aux&auxDue == 0:
			rest = append(rest, r)
		case s != nil:
			s.deferUntil(c, r, dueOf(b.pool, r)-s.wallNs+s.nowNs)
		default:
			b.shards[0].postDeferred(c, r)
		}
	}
	return rest
}

// putLoose puts messages that are in nobody's batch into the channel: what was
// mixed with deferred ones, given back, timed out or has come due. They were
// acknowledged before.
func (b *Broker) putLoose(c *Channel, refs []block.Ref, s *Shard, m memory) {
	if len(refs) == 0 {
		return
	}
	n := c.q.put(refs, m)
	if n > 0 {
		b.pushed(c, s)
	}
	if n == len(refs) {
		return
	}
	if c.q.ephemeral {
		b.drop(s, refs[n:])
		return
	}
	c.topic.writer.submit(job{
		refs: append([]block.Ref(nil), refs[n:]...),
		want: []want{{q: c.q, journaled: true}},
	})
}

// foreign is how goroutines that are no loops publish: the HTTP API, a pump, a
// refiller. It has an arena of its own behind a mutex.
type foreign struct {
	b     *Broker
	mu    sync.Mutex
	arena *block.Arena
	read  arenas       // of what the backlogs give back, which holds no journal back
	views sync.RWMutex // read-held while a topic's view is used, the pump's included
}

// grace returns when no foreign publisher uses a view that was replaced before, and
// what one has told the journal of is where it belongs.
func (f *foreign) grace() {
	f.views.Lock()
	defer f.views.Unlock()
}

func newForeign(b *Broker) *foreign {
	f := &foreign{b: b, arena: block.NewArena(b.pool)}
	f.read.pool = b.pool
	return f
}

// move is for the pump: it gives what the topic held back to its channels. Nobody
// waits for what overflows. A message that the hold queue has read from its
// backlog stands there for that queue alone, so it is written again, for the
// channels, and ends for the hold queue when that is done.
func (f *foreign) move(t *Topic, v *view, refs []block.Ref) {
	b, to := f.b, &view{channels: v.channels}
	f.views.RLock()
	defer f.views.RUnlock()
	for len(refs) > 0 {
		n, place := 1, refs[0].Aux&(auxSequence|auxJournal)
		for n < len(refs) && refs[n].Aux&(auxSequence|auxJournal) == place {
			n++
		}
		part := refs[:n]
		refs = refs[n:]
		room := to.decide(nil, b.memory())
		switch {
		case place == auxSequence: // in memory mode, or the journal failed; see Topic.secure
			f.moveRead(t, v.hold, to, part)
			continue
		case v.hold.journal == nil:
		case place == auxJournal && v.onward != nil:
			batch := b.journal.Batch()
			batch.Move(v.hold.journal, v.onward, b.idsOf(part))
			b.journal.Submit(batch, nil)
			t.moves.Add(1) // before anybody has the messages
			clear(room)    // the journal has it for all channels
		case place == auxJournal:
			b.finishJournaled(v.hold, part)
		case v.onward != nil && t.durable(): // older than the mode
			batch := b.journal.Batch()
			b.journalMessages(batch, t, &view{group: v.onward, hold: v.hold}, part, nil, nil)
			b.journal.Submit(batch, nil)
			clear(room)
		}
		if j := b.fanout(to, part, nil, room); j != nil {
			t.writer.submit(*j)
		}
	}
}

// moveRead writes messages that the hold queue has read for all channels; those of
// an ephemeral one, which has no backlog, are given to it.
func (f *foreign) moveRead(t *Topic, hold *queue, to *view, refs []block.Ref) {
	b := f.b
	b.retain(refs, int64(len(to.channels)))
	j := job{refs: append([]block.Ref(nil), refs...), from: hold}
	for _, c := range to.channels {
		c.q.taken.Add(uint64(len(refs)))
		n := 0
		if c.q.ephemeral {
			if n = c.q.put(refs, b.memory()); n > 0 {
				b.pushed(c, nil)
			}
			b.drop(nil, refs[n:])
			continue
		}
		c.q.put(refs, memoryGone)
		j.want = append(j.want, want{q: c.q})
	}
	j.after = func() { b.drop(nil, j.refs) }
	t.writer.submit(j)
}

// withoutSequence returns the messages as another queue may hold them. The
// caller's references go over to what it returns.
func (f *foreign) withoutSequence(refs []block.Ref) []block.Ref {
	arena := f.read.take()
	defer f.read.keep(arena)
	out := make([]block.Ref, len(refs))
	for i, r := range refs {
		frame := frameOf(f.b.pool, r)
		id, _ := wire.FrameID(frame)
		out[i] = store(arena, id, wire.FrameTimestamp(frame), dueOf(f.b.pool, r), wire.FrameBody(frame))
		out[i].Aux |= r.Aux & auxAttempts
	}
	f.b.drop(nil, refs)
	return out
}

func (b *Broker) idsOf(refs []block.Ref) []uint64 {
	ids := make([]uint64, len(refs))
	for i, r := range refs {
		ids[i], _ = wire.FrameID(frameOf(b.pool, r))
	}
	return ids
}

// PublishForeign publishes from a goroutine that is no loop, and returns when
// the messages are accepted. dueWallNs above zero holds them back until then.
func (b *Broker) PublishForeign(t *Topic, bodies [][]byte, dueWallNs int64) error {
	if t.exiting.Load() || b.closing.Load() {
		return ErrExiting
	}
	if err := t.journalFailed(); err != nil {
		return err
	}
	f := b.foreign
	refs := make([]block.Ref, 0, len(bodies))
	bytes := 0
	f.mu.Lock()
	wallNs := b.opts.Wall()
	id := b.ids.take(uint64(len(bodies)))
	for i, body := range bodies {
		refs = append(refs, store(f.arena, id+uint64(i), wallNs, dueWallNs, body))
		bytes += len(body)
	}
	f.arena.Flush()
	f.mu.Unlock()
	t.messages.Add(uint64(len(bodies)))
	t.bytes.Add(uint64(bytes))
	f.views.RLock()
	if t.exiting.Load() || b.closing.Load() { // Close saves what is behind its grace
		f.views.RUnlock()
		b.drop(nil, refs)
		return ErrExiting
	}
	v := t.enter(len(refs))
	room := v.decide(nil, b.memory())
	result := make(chan error, 2)
	waits := 0
	if v.group != nil && v.needsJournal(refs, room) {
		batch := b.journal.Batch()
		b.journalMessages(batch, t, v, refs, room, nil)
		b.journal.Submit(batch, func(err error) { result <- err })
		waits++
	}
	if j := b.fanout(v, refs, nil, room); j != nil {
		j.done = &ticket{result: result}
		t.writer.submit(*j)
		waits++
	}
	f.views.RUnlock()
	var err error
	for range waits {
		err = errors.Join(err, <-result)
	}
	if t.unborn.Load() {
		err = errors.Join(err, b.Settle())
	}
	return err
}
