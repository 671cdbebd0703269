package lookupd

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zsqio/zsq/internal/wire"
)

// errFull is what a change is refused with that would make one connection, or
// all of them together, hold more than the options allow.
var errFull = errors.New("too many registrations")

// A registry knows which producer has which topics and channels, from both
// ends:
//
//	topics ──► topic ──► records, one a producer ◄── producer ◄── producers
//	             └────► channels ◄──────┘
//
// A record is one producer's standing in one topic: which of the topic's
// channels it has, and its tombstone. A producer that has a channel has the
// topic, so there is no record without its topic.
//
// Topics and channels outlive their producers, until they are deleted over
// HTTP; those with "#ephemeral" in their name go with the last producer.
//
// Everything is guarded by mu, but for the views: readers who hold the read
// lock build and share them, and a change (write lock) drops those it touches.
type registry struct {
	inactiveAfter int64 // nanoseconds
	tombstoneFor  int64 // nanoseconds
	clientLimit   int
	limit         int

	mu        sync.RWMutex
	topics    map[string]*topic
	producers []*producer // sorted, see compareProducers
	keys      int         // topics plus channels

	names atomic.Pointer[[]byte] // view: the JSON array of topic names
}

type topic struct {
	name     string
	records  []*record // in the order of their producers
	channels map[string]*channel

	view atomic.Pointer[topicView]
}

type channel struct {
	name      string
	producers int // records that have it
}

type record struct {
	topic        *topic
	producer     *producer
	channels     []*channel // sorted by name
	tombstonedAt int64      // nanoseconds since 1970; 0: never
}

// A producer is one connection that has identified itself: the same nsqd
// connected twice is two producers.
type producer struct {
	peer
	id   string       // remote address
	json []byte       // the object in /lookup; never written again
	seen atomic.Int64 // time of the last IDENTIFY or PING, nanoseconds since 1970
	gone atomic.Bool  // a view may have hidden it for its silence since it was last heard of

	records map[*topic]*record
	keys    int // topics plus channels registered

	view atomic.Pointer[nodeView]
}

// A registration names one row as upstream's log and /debug do: a topic (no
// channel), or a channel of a topic.
type registration struct{ topic, channel string }

func newRegistry(o *Options) *registry {
	return &registry{
		inactiveAfter: int64(o.InactiveProducerTimeout),
		tombstoneFor:  int64(o.TombstoneLifetime),
		clientLimit:   o.ClientLimit,
		limit:         o.RegistrationLimit,
		topics:        map[string]*topic{},
	}
}

// newProducer makes the producer of a connection that is not in the registry yet.
func newProducer(p peer, id string, now time.Time) *producer {
	p.RemoteAddress = id
	n := &producer{peer: p, id: id, json: marshal(p), records: map[*topic]*record{}}
	n.seen.Store(now.UnixNano())
	return n
}

// compareProducers orders producers for people: by host, port and, when one
// node has two connections, by connection.
func compareProducers(a, b *producer) int {
	return cmp.Or(
		cmp.Compare(a.BroadcastAddress, b.BroadcastAddress),
		cmp.Compare(a.TCPPort, b.TCPPort),
		cmp.Compare(a.id, b.id),
	)
}

func compareRecords(r *record, p *producer) int   { return compareProducers(r.producer, p) }
func compareChannels(c *channel, name string) int { return cmp.Compare(c.name, name) }
func (r *record) find(channel string) (i int, ok bool) {
	return slices.BinarySearchFunc(r.channels, channel, compareChannels)
}

// add makes p one of the producers.
func (r *registry) add(p *producer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.producers, p, compareProducers)
	r.producers = slices.Insert(r.producers, i, p)
}

// ping notes that p has been heard of and returns for how long it had not. A
// producer that was hidden for its silence shows again.
func (r *registry) ping(p *producer, now time.Time) (silence time.Duration) {
	n := now.UnixNano()
	old := p.seen.Swap(n)
	// Silence between the two PINGs is no measure: a reader's now may be later than
	// ours. See silent.
	if p.gone.Load() {
		// The lock comes after the swap: whoever built a view from the old time
		// held the read lock, and is done.
		r.mu.Lock()
		defer r.mu.Unlock()
		p.gone.Store(false)
		for t := range p.records {
			t.view.Store(nil)
		}
	}
	return time.Duration(n - old)
}

// register gives p the topic and, unless its name is empty, the channel. It
// returns what p did not have before, the channel first; errFull means that
// nothing has changed.
func (r *registry) register(p *producer, topicName, channelName string) (added []registration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.topics[topicName]
	var rec *record
	var ch *channel
	if t != nil {
		rec, ch = p.records[t], t.channels[channelName]
	}
	needTopic := rec == nil
	needChannel := channelName != ""
	if needChannel && rec != nil {
		_, has := rec.find(channelName)
		needChannel = !has
	}
	if !r.roomFor(p, needTopic, needChannel, t == nil, needChannel && ch == nil) {
		return nil, errFull
	}

	if t == nil {
		t = r.makeTopic(topicName)
	}
	if needTopic {
		rec = &record{topic: t, producer: p}
		i, _ := slices.BinarySearchFunc(t.records, p, compareRecords)
		t.records = slices.Insert(t.records, i, rec)
		p.records[t] = rec
		p.keys++
		t.view.Store(nil)
	}
	if needChannel {
		ch = r.makeChannel(t, channelName)
		ch.producers++
		i, _ := rec.find(channelName)
		rec.channels = slices.Insert(rec.channels, i, ch)
		p.keys++
		added = append(added, registration{t.name, ch.name})
	}
	if needTopic {
		p.view.Store(nil)
		added = append(added, registration{t.name, ""})
	}
	return added, nil
}

// roomFor reports whether the limits allow what the arguments say is needed: of
// p, and of the registry as a whole.
func (r *registry) roomFor(p *producer, hasTopic, hasChannel, newTopic, newChannel bool) bool {
	count := func(a, b bool) (n int) {
		if a {
			n++
		}
		if b {
			n++
		}
		return n
	}
	mine, all := count(hasTopic, hasChannel), count(newTopic, newChannel)
	return (mine == 0 || p.keys+mine <= r.clientLimit) && (all == 0 || r.keys+all <= r.limit)
}

// makeTopic returns the topic, which it makes where it is missing.
func (r *registry) makeTopic(name string) *topic {
	if t := r.topics[name]; t != nil {
		return t
	}
	t := &topic{name: name, channels: map[string]*channel{}}
	r.topics[name] = t
	r.keys++
	r.names.Store(nil)
	return t
}

// makeChannel returns the channel, which it makes where it is missing.
func (r *registry) makeChannel(t *topic, name string) *channel {
	if ch := t.channels[name]; ch != nil {
		return ch
	}
	ch := &channel{name: name}
	t.channels[name] = ch
	r.keys++
	t.view.Store(nil)
	return ch
}

// unregisterChannel takes the channel from p and reports whether p had it.
func (r *registry) unregisterChannel(p *producer, topicName, channelName string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := p.records[r.topics[topicName]]
	if rec == nil {
		return false
	}
	i, ok := rec.find(channelName)
	if !ok {
		return false
	}
	ch := rec.channels[i]
	rec.channels = slices.Delete(rec.channels, i, i+1)
	r.leave(rec, ch)
	return true
}

// leave counts a record out of a channel, which goes if it was ephemeral and
// that was its last one.
func (r *registry) leave(rec *record, ch *channel) {
	rec.producer.keys--
	ch.producers--
	if ch.producers == 0 && wire.IsEphemeral(ch.name) {
		r.forgetChannel(rec.topic, ch)
	}
}

func (r *registry) forgetChannel(t *topic, ch *channel) {
	delete(t.channels, ch.name)
	r.keys--
	t.view.Store(nil)
}

// unregisterTopic takes the topic and all its channels from p. It returns what
// p had, the topic last.
func (r *registry) unregisterTopic(p *producer, topicName string) (removed []registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := p.records[r.topics[topicName]]
	if rec == nil {
		return nil
	}
	return r.drop(rec, nil)
}

// remove takes p out of the registry and returns all it had.
func (r *registry) remove(p *producer) (removed []registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range p.records {
		removed = r.drop(rec, removed)
	}
	if i, ok := slices.BinarySearchFunc(r.producers, p, compareProducers); ok {
		r.producers = slices.Delete(r.producers, i, i+1)
	}
	return removed
}

// drop removes a record from both ends and appends what it held to list.
func (r *registry) drop(rec *record, list []registration) []registration {
	t, p := rec.topic, rec.producer
	for _, ch := range rec.channels {
		r.leave(rec, ch)
		list = append(list, registration{t.name, ch.name})
	}
	if i, ok := slices.BinarySearchFunc(t.records, p, compareRecords); ok {
		t.records = slices.Delete(t.records, i, i+1)
	}
	delete(p.records, t)
	p.keys--
	p.view.Store(nil)
	t.view.Store(nil)
	if len(t.records) == 0 && wire.IsEphemeral(t.name) {
		r.forgetTopic(t)
	}
	return append(list, registration{t.name, ""})
}

func (r *registry) forgetTopic(t *topic) {
	delete(r.topics, t.name)
	r.keys -= 1 + len(t.channels)
	r.names.Store(nil)
}

// createTopic makes the topic without producers.
func (r *registry) createTopic(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.topics[name] == nil && r.keys >= r.limit {
		return errFull
	}
	r.makeTopic(name)
	return nil
}

// createChannel makes the channel, and its topic, without producers.
func (r *registry) createChannel(topicName, channelName string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	need := 2
	if t := r.topics[topicName]; t != nil {
		need--
		if t.channels[channelName] != nil {
			need--
		}
	}
	if need > 0 && r.keys+need > r.limit {
		return errFull
	}
	r.makeChannel(r.makeTopic(topicName), channelName)
	return nil
}

// deleteTopic forgets the topic and its channels, whoever has them. It returns
// what there was, the topic last. Producers are not told.
func (r *registry) deleteTopic(name string) (removed []registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.topics[name]
	if t == nil {
		return nil
	}
	for _, rec := range t.records {
		delete(rec.producer.records, t)
		rec.producer.keys -= 1 + len(rec.channels)
		rec.producer.view.Store(nil)
	}
	for ch := range t.channels {
		removed = append(removed, registration{name, ch})
	}
	r.forgetTopic(t)
	return append(removed, registration{name, ""})
}

// deleteChannel forgets the channel, whoever has it, and reports whether there
// was one.
func (r *registry) deleteChannel(topicName, channelName string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.topics[topicName]
	if t == nil || t.channels[channelName] == nil {
		return false
	}
	for _, rec := range t.records {
		if i, ok := rec.find(channelName); ok {
			rec.channels = slices.Delete(rec.channels, i, i+1)
			rec.producer.keys--
		}
	}
	r.forgetChannel(t, t.channels[channelName])
	return true
}

// tombstone hides the producers at node in the topic for a while. A node is
// <broadcast address>:<HTTP port>; an IPv6 address may stand in brackets.
func (r *registry) tombstone(topicName, node string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.topics[topicName]
	if t == nil {
		return
	}
	for _, rec := range t.records {
		if rec.producer.isNode(node) {
			rec.tombstonedAt = now.UnixNano()
			rec.producer.view.Store(nil)
			t.view.Store(nil)
		}
	}
}

func (p *producer) isNode(node string) bool {
	port := strconv.Itoa(p.HTTPPort)
	return node == p.BroadcastAddress+":"+port || node == net.JoinHostPort(p.BroadcastAddress, port)
}

// totals counts what is in the registry.
func (r *registry) totals() (producers, topics, channels int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.producers), len(r.topics), r.keys - len(r.topics)
}
