package broker

import (
	"cmp"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/zsqio/zsq/internal/block"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
	"github.com/zsqio/zsq/ring"
)

// Options are plain values, fixed at construction.
type Options struct {
	Shards              int               // one per event loop, 1..64
	MemQueueSize        int               // messages in memory, per topic and per channel
	MemoryLimit         int64             // bytes of message memory; beyond it messages overflow to disk
	MaxMsgTimeout       int64             // ns, the limit of TOUCH
	MaxChannelConsumers int               // 0: no limit
	Topology            bool              // serve subscribers that are near first; see Near
	E2EWindow           int64             // ns of which channels know their end-to-end latency; 0: of none
	MaxTopics           int               // 0: no limit; what an earlier run left is never refused
	MaxChannels         int               // per topic, likewise
	DataPath            string            // parent of the backlogs' directories; "" keeps no backlog beyond this process
	Log                 mmapqueue.Options // for the backlogs
	Durability          Durability        // what the death of the process may take
	Journal             mmapqueue.JournalOptions
	Unload              bool         // Close leaves everything in the backlogs, nothing in the journal
	JournalBudget       int64        // bytes that the journal may take before old messages make way; 0: by the memory in use
	Wall                func() int64 // wall clock, ns
	Waker               Waker
	Changed             func(topic string, ephemeral bool)      // it or a channel of it came, went or was paused; must not block
	Created             func(t *Topic) (wait bool)              // by name, nobody sees it yet; true: it waits for Topic.Release; must not block; may be nil
	Logf                func(level, format string, args ...any) // level is INFO or ERROR; may be nil
}

// Waker reaches the event loops. Both methods may be called from any goroutine.
// The loop runs what they ask for inside a round, so that an EndRound follows.
type Waker interface {
	Wake(shard int)         // soon, call Shard.Woken on that loop
	Do(shard int, f func()) // soon, call f on that loop
}

// Broker holds all topics of a daemon.
type Broker struct {
	opts    Options
	pool    *block.Pool
	blocks  *ring.Pool[block.Ref]
	shards  []*Shard
	foreign *foreign
	ids     ids
	idMark  uint64 // ids from here on are for a later run; see ExtendIDMark

	mu       sync.Mutex // creation and deletion of topics
	topics   directory
	count    int         // of topics; under mu
	limited  atomic.Bool // the limits hold: the restore is over
	closing  atomic.Bool
	closed   chan struct{}  // closed when Close begins: no loop runs any more
	leavings leavings       // of Close
	helpers  sync.WaitGroup // refillers and pumps

	journal  *mmapqueue.Journal // set by Open; nil before
	desk     newsDesk
	news     map[string]*mmapqueue.RecoveredTopic // what the journal told; until EndRestore
	restored map[string]bool                      // topics of news that Restore has seen
	syncing  atomic.Bool                          // there is, or was, a topic in disk mode
	marking  atomic.Bool                          // messages in memory may stand in the journal: it is kept as the marks say
	keepFrom atomic.Uint64                        // journal segments from here on are kept; messages in older ones must move; 0: all may stay
	trimming atomic.Bool
	trim     sync.Mutex // one trimJournal at a time

	writeSlots chan struct{} // bounds the writers that are in a system call
	health     atomic.Pointer[diskFailure]
	gone       struct{ places, records atomic.Int64 } // damage in topics that are deleted
	probing    atomic.Bool                            // a helper looks whether the disk works again
}

// backlogsDir is the folder of all topics' backlogs in the data path.
const backlogsDir = "zsq"

// A journal without messages has small segments.
const journalSegmentSmall = 1 << 20

// What a journal takes by default; the budget is at least twice the memory that
// messages use, so that what is written again is less than what is new.
const (
	journalSegment = 64 << 20
	journalBudget  = 512 << 20
)

// While little is in memory the journal's segments are small: the few that are then
// written again and again stay in the processor's cache. On row 4 of the targets that
// is 0.05 us less for a message than with 64 MB; 2 MB is dearer again. They grow with
// what is in memory and with the topics, whose groups every segment defines anew, so
// that a start has few of them to read and a definition is a small part of one. In
// disk mode they are large, because each begins with a sync of its own.
const (
	journalSmaller   = 8        // times: the least size against the largest
	journalLeast     = 16 << 10 // and never less than this
	journalSegments  = 8        // that what is in memory should take
	journalTopicSize = 8 << 10  // bytes of a segment for each topic
)

// writersMax bounds the operating-system threads that writing can hold.
const writersMax = 16

// New makes a broker without topics. idMark is where its message ids start; ids
// below it have been used by earlier runs.
func New(o Options, idMark uint64) *Broker {
	o.Journal.SegmentBytes = cmp.Or(o.Journal.SegmentBytes, journalSegment)
	if o.MemQueueSize == 0 {
		o.Durability = max(o.Durability, DurabilityProcess)
	}
	o.Log.PowerSafe = o.Durability == DurabilityDisk
	b := &Broker{opts: o, pool: block.NewPool(o.MemoryLimit), blocks: ring.NewPool[block.Ref](4096)}
	b.ids.next.Store(idMark)
	b.idMark = idMark + idMarkAhead
	b.writeSlots = make(chan struct{}, writersMax)
	b.closed = make(chan struct{})
	b.topics.init()
	for i := range o.Shards {
		b.shards = append(b.shards, newShard(b, i))
	}
	b.foreign = newForeign(b)
	return b
}

// Shard returns the part of the broker that belongs to event loop i.
func (b *Broker) Shard(i int) *Shard { return b.shards[i] }

// Find returns the topic of that name, nil when there is none. It takes no lock.
func (b *Broker) Find(name []byte) *Topic { return b.topics.find(name) }

// Topic returns the topic of that name, which it creates if there is none. One that
// is being deleted is returned too, until it is gone: what is asked of it fails with
// ErrExiting.
func (b *Broker) Topic(name string) (*Topic, error) {
	if t := b.topics.find([]byte(name)); t != nil {
		return t, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.topics.find([]byte(name)); t != nil {
		return t, nil
	}
	if b.closing.Load() {
		return nil, ErrExiting
	}
	if most := b.opts.MaxTopics; most > 0 && b.count >= most && b.limited.Load() {
		return nil, ErrTooManyTopics
	}
	t := b.newTopic(name, b.directory(name, b.ids.take(1)))
	t.mu.Lock() // whoever makes its channels, beside, comes behind its birth
	t.waiting = b.opts.Created != nil && b.opts.Created(t)
	b.tell(t, mmapqueue.News{Kind: mmapqueue.Birth, Value: t.incarnation}, &t.unborn, func() { b.topics.set(name, t) })
	t.mu.Unlock()
	b.count++
	b.info("TOPIC(%s): created", name)
	b.changed(name, t.ephemeral)
	return t, nil
}

// directory names a topic's files per incarnation, so that a topic that is
// created anew never meets what its ancestor left.
func (b *Broker) directory(name string, incarnation uint64) string {
	return filepath.Join(b.opts.DataPath, backlogsDir, string(wire.AppendMessageID([]byte(name+"@"), incarnation)))
}

// incarnationDigits is the length of that number in a directory's name.
const incarnationDigits = 16

// incarnationOf returns the number in a directory's name, 0 if there is none.
func incarnationOf(dir string) uint64 {
	digits := dir[strings.LastIndexByte(dir, '@')+1:]
	n, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return 0
	}
	return n
}

func (b *Broker) newTopic(name, dir string) *Topic {
	t := &Topic{b: b, name: name, incarnation: incarnationOf(dir), ephemeral: isEphemeral(name)}
	if b.journal != nil && !t.ephemeral {
		d, own := b.inherited(name)
		if !own {
			d = b.opts.Durability
		}
		if b.opts.MemQueueSize == 0 {
			d = max(d, DurabilityProcess)
		}
		t.own.Store(own)
		t.mode.Store(int32(d))
		b.durable(d)
	}
	t.writer.init(t, dir)
	t.locals = make([]topicLocal, len(b.shards))
	t.setView(&view{hold: t.newQueue("")})
	return t
}

// Topics returns all topics, sorted by name.
func (b *Broker) Topics() []*Topic {
	all := b.topics.all()
	slices.SortFunc(all, func(x, y *Topic) int { return strings.Compare(x.name, y.name) })
	return all
}

// Channels returns the topic's channels, sorted by name.
func (t *Topic) Channels() []*Channel { return t.view.Load().channels }

// DeleteTopic deletes a topic with all its channels and their messages. It must
// not be called on a loop.
func (b *Broker) DeleteTopic(name string) error {
	t := b.Find([]byte(name))
	if t == nil || t.exiting.Swap(true) {
		return ErrTopicNotFound
	}
	b.endTopic(t)
	return nil
}

// endTopic deletes a topic that was marked as exiting by the caller.
func (b *Broker) endTopic(t *Topic) {
	b.info("TOPIC(%s): deleting", t.name)
	t.mu.Lock()
	v := *t.view.Load()
	if v.hold == nil {
		v.hold = t.newQueue("")
	}
	channels := v.channels
	v.channels = nil
	b.tell(t, mmapqueue.News{Kind: mmapqueue.Death}, nil, func() { t.setView(&v) })
	t.mu.Unlock()
	for _, c := range channels {
		b.info("CHANNEL(%s): deleting", c.name)
		c.delete()
	}
	if !b.onAll(func(*Shard) {}) {
		return // the next start ends it: the journal has its death
	}
	b.foreign.grace()
	t.writer.inOrder(func(log *mmapqueue.Backlog) {
		v.hold.end(b)
		if log == nil {
			return
		}
		b.gone.places.Add(log.Damaged())
		b.gone.records.Add(log.Lost())
		t.writer.opened.Store(nil)
		if err := log.Remove(); err != nil {
			b.diskFailed(err)
		}
	})
	b.mu.Lock()
	b.topics.set(t.name, nil)
	b.count--
	b.mu.Unlock()
	b.changed(t.name, t.ephemeral)
}

// DeleteChannel deletes a channel and its messages and closes its subscribers'
// connections. It must not be called on a loop.
func (b *Broker) DeleteChannel(topic, channel string) error {
	t := b.Find([]byte(topic))
	if t == nil {
		return ErrTopicNotFound
	}
	c := t.Find(channel)
	if c == nil {
		return ErrChannelNotFound
	}
	b.deleteChannel(t, c)
	return nil
}

func (b *Broker) deleteChannel(t *Topic, c *Channel) {
	if c.exiting.Swap(true) {
		return
	}
	t.mu.Lock()
	v := *t.view.Load()
	v.channels = slices.DeleteFunc(slices.Clone(v.channels), func(x *Channel) bool { return x == c })
	if len(v.channels) == 0 && v.hold == nil {
		v.hold = t.newQueue("")
	}
	b.tell(t, mmapqueue.News{Kind: mmapqueue.Death, Channel: c.name}, nil, func() { t.setView(&v) })
	t.part(c.q)
	// Under mu, so that no channel comes into a topic that goes.
	last := t.ephemeral && len(v.channels) == 0 && !t.exiting.Swap(true)
	t.mu.Unlock()
	b.info("TOPIC(%s): deleting channel %s", t.name, c.name)
	b.info("CHANNEL(%s): deleting", c.name)
	c.delete()
	b.changed(t.name, t.ephemeral || c.ephemeral)
	if last {
		b.endTopic(t)
	}
}

// onAll runs f on every loop and returns when all have: true. It returns false when
// the broker is closed meanwhile, for a loop that has ended drops what it is asked;
// the caller, unless Close waits for it, leaves everything as it is.
func (b *Broker) onAll(f func(s *Shard)) bool {
	done := make(chan struct{}, len(b.shards))
	for _, s := range b.shards {
		b.opts.Waker.Do(s.index, func() {
			f(s)
			done <- struct{}{}
		})
	}
	for range b.shards {
		select {
		case <-done:
		case <-b.closed:
			return false
		}
	}
	return true
}

// wakeAll makes every shard that has subscribers look at the channel.
func (b *Broker) wakeAll(c *Channel) {
	for _, s := range b.shards {
		if c.locals[s.index].Load() != nil {
			s.post(mail{channel: c})
		}
	}
}

// wake tells the loops other than self that starve for c.
func (b *Broker) wake(c *Channel, self *Shard) {
	hungry := c.hungry.Load()
	if self != nil {
		hungry &^= 1 << self.index
	}
	if b.opts.Topology {
		hungry = c.nearest(hungry)
	}
	for hungry != 0 {
		i := trailingZeros(hungry)
		hungry &^= 1 << i
		if l := c.locals[i].Load(); l != nil && !l.woken.Load() && l.woken.CompareAndSwap(false, true) {
			b.shards[i].post(mail{channel: c})
		}
	}
}

func (b *Broker) kickRefill(q *queue) {
	if q.parked.Load() && !q.unpark() {
		return
	}
	if q.wantsRefill(b.memory()) && !b.closing.Load() && q.refilling.CompareAndSwap(false, true) {
		b.helpers.Go(func() { q.refill(b) })
	}
}

func (b *Broker) changed(topic string, ephemeral bool) {
	if b.opts.Changed != nil {
		b.opts.Changed(topic, ephemeral)
	}
}

// info logs what became of a topic or channel.
func (b *Broker) info(format string, args ...any) {
	if b.opts.Logf != nil {
		b.opts.Logf("INFO", format, args...)
	}
}

// Memory returns the bytes of message memory in use.
func (b *Broker) Memory() int64 { return b.pool.Used() }
