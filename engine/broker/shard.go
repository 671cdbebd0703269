package broker

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/latency"
	"github.com/zsqio/zsq/mmapqueue"
)

// A Shard is the part of the broker that belongs to one event loop: only that
// loop calls it, except for Post-like methods that say otherwise.
//
// A round goes Begin, any number of calls, EndRound.
type Shard struct {
	b     *Broker
	index int

	nowNs  int64 // this round's monotonic time
	wallNs int64 // the same instant on the wall clock
	round  uint64

	arena *block.Arena // bodies of messages on their way
	cold  *block.Arena // bodies of deferred messages, which stay long
	drops block.Drops
	ids   idRun
	wheel wheel
	rng   *rand.Rand

	topics     []*Topic      // with a batch in this round
	spare      [][]block.Ref // batches without messages
	publishers []*Publisher  // that published in this round
	looks      []*channelLocal
	later      []*channelLocal // to be looked at in the next round: see Bound
	bound      int             // messages of this round; 0: no bound
	share      int             // of that, for each channel
	given      int             // of the share, to the channel under way
	touched    []*channelLocal // counters to be published
	locals     []*channelLocal // by index; nil where freed
	freeLocals []uint32
	subs       []*Subscriber // by index; nil where freed
	freeSubs   []uint32
	timers     func(token uint32) // heartbeats and such
	e2e        latency.Histogram  // from publication to FIN, all channels

	copyAt uint32 // of the wheel's slab: where copyOld goes on; 0: nothing to do

	// What the journal gets at the end of the round, and the backlogs when it has.
	batch   *mmapqueue.JournalBatch // nil: nothing yet
	room    []memory                // by topic and queue; see decide
	scratch []uint64
	sources []source
	unborn  births    // that the round waits for
	tickets []*ticket // to be used again

	mailMu  sync.Mutex
	mailbox []mail
	mailed  []mail // scratch of Woken
}

// mail is what other goroutines tell a shard.
type mail struct {
	channel  *Channel  // look at it
	deferred block.Ref // with channel: a message to defer
	ticket   *ticket   // a batch was written
}

// channelLocal is a shard's part of a channel: its subscribers, its deferred
// messages, its counters.
type channelLocal struct {
	c        *Channel
	index    uint32
	subs     []*Subscriber // attached ones
	orphans  []*Subscriber // gone, with messages in flight until they time out
	turn     int           // round robin over subs
	deferred uint32        // head of the list of deferred entries, 0 for none
	back     []block.Ref   // requeued, timed out or come due in this round

	// What the journal and the backlog are told at the end of the round.
	gone      []uint64 // ids
	goneBelow []uint64 // sequences in the backlog
	updates   []mmapqueue.JournalUpdate

	inFlightCount, deferredCount int64
	inFlightShown, deferredShown int64 // what the channel's sums have of it; together never less than there is, what is in back included
	requeues, timeouts           uint64
	delivered                    [nearCount]uint64
	e2e                          atomic.Pointer[latency.Sketch] // nil before the first FIN, and unless it is asked for

	looking, isTouched bool
	trim               uint32      // entry of kindTrim, 0 for none
	woken              atomic.Bool // a look is in the mail
	closed             bool
}

func newShard(b *Broker, index int) *Shard {
	s := &Shard{b: b, index: index, arena: block.NewArena(b.pool), cold: block.NewArena(b.pool)}
	s.rng = rand.New(rand.NewPCG(uint64(index), 0x5eed))
	s.locals = make([]*channelLocal, 1) // index 0 means none
	s.subs = make([]*Subscriber, 1)
	return s
}

// Start makes the shard ready at nowNs, monotonic. timer is called by Advance
// for every timer that is due.
func (s *Shard) Start(nowNs, wallNs int64, timer func(token uint32)) {
	s.nowNs, s.wallNs, s.timers = nowNs, wallNs, timer
	s.wheel.init(nowNs)
}

// Begin opens a round.
func (s *Shard) Begin(nowNs, wallNs int64) {
	s.nowNs, s.wallNs = nowNs, wallNs
	s.bound = 0
	s.round++
}

// EndRound gives the round's publishes and requeues to the channels, delivers
// what the subscribers of this shard can take, and applies what was counted. It
// reports whether another round should follow at once.
func (s *Shard) EndRound() (again bool) {
	s.journalRound()
	s.flushPublishes()
	s.flushBack()
	s.deliverAll()
	again = s.copyOld() || len(s.looks) > 0
	s.gather() // what the second half of the round has added
	s.submit(nil)
	s.flushCounters()
	s.drops.Flush(s.b.pool) // after the submits: see Broker.trimJournal
	return again
}

// Woken reads the mail. The loop calls it after Waker.Wake.
func (s *Shard) Woken() {
	s.mailMu.Lock()
	s.mailed, s.mailbox = s.mailbox, s.mailed[:0]
	s.mailMu.Unlock()
	for i, m := range s.mailed {
		s.mailed[i] = mail{}
		switch {
		case m.ticket != nil:
			for _, w := range m.ticket.waiters {
				w.settle(m.ticket.err)
				w.p.answer()
			}
			s.keepTicket(m.ticket)
		case m.deferred.Len != 0 && m.channel.exiting.Load():
			s.drops.Add(m.deferred.Chunk)
		case m.deferred.Len != 0:
			due := dueOf(s.b.pool, m.deferred)
			s.local(m.channel).deferredShown++ // by who mailed it
			s.deferUntil(m.channel, s.secured(m.channel, m.deferred, due), due-s.wallNs+s.nowNs)
		default:
			if l := m.channel.locals[s.index].Load(); l != nil {
				// First the flag, then the ring: a later push mails again.
				l.woken.Store(false)
				s.look(l)
			}
		}
	}
}

// post may be called from any goroutine.
func (s *Shard) post(m mail) {
	s.mailMu.Lock()
	s.mailbox = append(s.mailbox, m)
	first := len(s.mailbox) == 1
	s.mailMu.Unlock()
	if first {
		s.b.opts.Waker.Wake(s.index)
	}
}

// postDeferred gives a message that is not due yet to the shard. It may be called
// from any goroutine.
func (s *Shard) postDeferred(c *Channel, r block.Ref) {
	c.deferred.came.Add(1)
	s.post(mail{channel: c, deferred: r})
}

// look puts a channel on the round's list of those to deliver from.
func (s *Shard) look(l *channelLocal) {
	if !l.looking {
		l.looking = true
		s.looks = append(s.looks, l)
	}
}

func (s *Shard) touch(l *channelLocal) {
	if !l.isTouched {
		l.isTouched = true
		s.touched = append(s.touched, l)
	}
}

func (s *Shard) flushCounters() {
	for _, l := range s.touched {
		c := l.c
		l.isTouched = false
		l.show()
		if s.b.opts.Topology {
			for near := range l.delivered {
				c.delivered[near].Add(l.delivered[near])
			}
			l.delivered = [nearCount]uint64{}
		}
		if l.requeues != 0 {
			c.requeues.Add(l.requeues)
			l.requeues = 0
		}
		if l.timeouts != 0 {
			c.timeouts.Add(l.timeouts)
			l.timeouts = 0
		}
	}
	clear(s.touched)
	s.touched = s.touched[:0]
}

// show makes the channel's sums what this shard has: what has come first, so that
// what went from the one to the other is never in neither.
func (l *channelLocal) show() {
	inFlight, deferred := l.inFlightCount-l.inFlightShown, l.deferredCount-l.deferredShown
	if inFlight == 0 && deferred == 0 {
		return
	}
	addPositive(&l.c.inFlight.came, inFlight)
	addPositive(&l.c.deferred.came, deferred)
	addPositive(&l.c.inFlight.left, -inFlight)
	addPositive(&l.c.deferred.left, -deferred)
	l.inFlightShown, l.deferredShown = l.inFlightCount, l.deferredCount
}

func addPositive(sum *atomic.Int64, n int64) {
	if n > 0 {
		sum.Add(n)
	}
}

// pull moves messages from the channel's ring to refs and returns their number. The
// channel's sums have them before they leave the ring. What has left this shard in
// the round, and is still in the sums, makes room for them there; if that is not
// enough, as many are added as the channel was given in this round, so that this is
// seldom done.
func (s *Shard) pull(l *channelLocal, refs []block.Ref) int {
	q := l.c.q
	waiting := q.ring.Len()
	n := min(len(refs), waiting)
	if n == 0 {
		return 0
	}
	shown, have := l.inFlightShown+l.deferredShown, l.inFlightCount+l.deferredCount
	if short := have + int64(n) - shown; short > 0 {
		short = max(short, int64(min(s.given, waiting)))
		l.c.inFlight.came.Add(short)
		l.inFlightShown += short
		s.touch(l)
	}
	return q.pop(refs[:n])
}

// local returns this shard's part of a channel, made at first use.
func (s *Shard) local(c *Channel) *channelLocal {
	if l := c.locals[s.index].Load(); l != nil {
		return l
	}
	l := &channelLocal{c: c}
	if n := len(s.freeLocals); n > 0 {
		l.index = s.freeLocals[n-1]
		s.freeLocals = s.freeLocals[:n-1]
		s.locals[l.index] = l
	} else {
		l.index = uint32(len(s.locals))
		s.locals = append(s.locals, l)
	}
	c.locals[s.index].Store(l)
	return l
}

// flushBack puts what came back in this round at the queues' tails.
func (s *Shard) flushBack() {
	for i := 0; i < len(s.touched); i++ {
		l := s.touched[i]
		if len(l.back) == 0 {
			continue
		}
		s.b.putLoose(l.c, l.back, s, s.b.memory())
		l.back = l.back[:0]
		if cap(l.back) > backKeep {
			l.back = nil
		}
	}
}

// backKeep is the longest list of returned messages whose memory a channel
// keeps.
const backKeep = 4096

// AddTimer asks for timer(token) at dueNs. It returns a handle for StopTimer.
func (s *Shard) AddTimer(dueNs int64, token uint32) uint32 {
	i := s.wheel.alloc()
	e := &s.wheel.slab[i]
	e.kind, e.dueNs, e.owner = kindTimer, dueNs, token
	s.wheel.add(i)
	return i
}

// StopTimer cancels a timer that has not fired.
func (s *Shard) StopTimer(handle uint32) {
	s.wheel.remove(handle)
	s.wheel.release(handle)
}

// NextDue returns a monotonic time in nanoseconds before which Advance has
// nothing to do; 0 for none.
func (s *Shard) NextDue() int64 { return s.wheel.nextDue() }

// expiriesPerRound bounds how long a flood of time-outs keeps a loop from its
// connections.
const expiriesPerRound = 2000

// Advance serves what is due at the round's time. When there is more than one
// round should do it returns false and must be called again soon.
func (s *Shard) Advance() bool {
	return s.wheel.advance(s.nowNs, expiriesPerRound, s.expire)
}

func (s *Shard) expire(i uint32) {
	e := &s.wheel.slab[i]
	switch e.kind {
	case kindTimer:
		token := e.owner
		s.wheel.release(i)
		s.timers(token)
	case kindInFlight:
		sub := s.subs[e.owner]
		l := sub.local
		sub.table.remove(e.id)
		l.timeouts++
		s.giveBack(l, s.updated(l, e.ref, e.id))
		s.settled(sub)
		s.wheel.release(i)
	case kindDeferred:
		l := s.locals[e.owner]
		s.unlinkDeferred(l, i)
		s.giveBack(l, s.secured(l.c, e.ref, 0))
		s.wheel.release(i)
	case kindTrim:
		l := s.locals[e.owner]
		l.trim = 0
		l.c.q.ring.Trim()
		s.wheel.release(i)
	}
}

// trimAfterNs is how long after it was seen drained a channel's ring gives its
// block back, unless it holds messages by then.
const trimAfterNs = 1e9

// trimLater makes sure that a drained ring does not keep its block for ever.
func (s *Shard) trimLater(l *channelLocal) {
	if l.trim != 0 {
		return
	}
	l.trim = s.wheel.alloc()
	e := &s.wheel.slab[l.trim]
	e.kind, e.owner, e.dueNs = kindTrim, l.index, s.nowNs+trimAfterNs
	s.wheel.add(l.trim)
}

// giveBack puts a message on its channel's list of the round.
func (s *Shard) giveBack(l *channelLocal, r block.Ref) {
	l.back = append(l.back, r)
	s.touch(l)
}

// deferUntil keeps a message, whose reference it takes over, until dueNs.
func (s *Shard) deferUntil(c *Channel, r block.Ref, dueNs int64) {
	l := s.local(c)
	i := s.wheel.alloc()
	e := &s.wheel.slab[i]
	r = stripDue(r)
	e.kind, e.ref, e.dueNs, e.owner = kindDeferred, r, dueNs, l.index
	e.listNext = l.deferred
	if l.deferred != 0 {
		s.wheel.slab[l.deferred].listPrev = i
	}
	l.deferred = i
	l.deferredCount++
	s.wheel.add(i)
	s.touch(l)
}

// stripDue turns a descriptor of a message with a due time into one of the bare
// frame.
func stripDue(r block.Ref) block.Ref {
	if r.Aux&auxDue != 0 {
		r.Off += dueSize
		r.Len -= dueSize
		r.Aux &^= auxDue
	}
	return r
}

func (s *Shard) unlinkDeferred(l *channelLocal, i uint32) {
	e := &s.wheel.slab[i]
	if e.listPrev != 0 {
		s.wheel.slab[e.listPrev].listNext = e.listNext
	} else {
		l.deferred = e.listNext
	}
	if e.listNext != 0 {
		s.wheel.slab[e.listNext].listPrev = e.listPrev
	}
	l.deferredCount--
	s.touch(l)
}

// dropMail forgets messages of a channel that are in the mail. Whose they are may not
// have been told of it yet: see post.
func (s *Shard) dropMail(c *Channel) {
	s.mailMu.Lock()
	defer s.mailMu.Unlock()
	for i, m := range s.mailbox {
		if m.channel == c && m.deferred.Len != 0 && !c.exiting.Load() {
			l := s.local(c)
			s.forgotten(l, m.deferred)
			s.drops.Add(m.deferred.Chunk)
			l.deferredShown++ // by who mailed it
			s.touch(l)
			s.mailbox[i].deferred = block.Ref{}
		}
	}
}

// emptyLocal forgets what this shard holds of a channel.
func (s *Shard) emptyLocal(l *channelLocal) {
	for _, subs := range [][]*Subscriber{l.subs, l.orphans} {
		for _, sub := range subs {
			sub.table.each(func(id uint64, i uint32) {
				s.done(l, s.wheel.slab[i].ref, id)
				s.drops.Add(s.wheel.slab[i].ref.Chunk)
				s.wheel.remove(i)
				s.wheel.release(i)
				l.inFlightCount--
			})
			sub.table.reset()
			sub.inFlight = 0
		}
	}
	for _, sub := range l.orphans {
		s.freeSub(sub)
	}
	l.orphans = nil
	for l.deferred != 0 {
		i := l.deferred
		s.forgotten(l, s.wheel.slab[i].ref)
		s.drops.Add(s.wheel.slab[i].ref.Chunk)
		s.unlinkDeferred(l, i)
		s.wheel.remove(i)
		s.wheel.release(i)
	}
	for _, r := range l.back {
		s.forgotten(l, r)
		s.drops.Add(r.Chunk)
	}
	l.back = nil
	s.touch(l)
	s.look(l)
}

// closeLocal ends this shard's part of a deleted channel.
func (s *Shard) closeLocal(l *channelLocal) {
	s.emptyLocal(l)
	for len(l.subs) > 0 {
		sub := l.subs[0]
		s.detach(sub)
		s.freeSub(sub)
		sub.sink.Kick()
	}
	if l.trim != 0 {
		s.wheel.remove(l.trim)
		s.wheel.release(l.trim)
		l.trim = 0
	}
	l.closed = true
	l.c.locals[s.index].Store(nil)
	s.locals[l.index] = nil
	s.freeLocals = append(s.freeLocals, l.index)
}
