package mmapqueue

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
)

// A journal's records name queues and groups of queues by number. The layout is
// that of every record; Cursor and the body say more:
//
//	kind      Cursor    body
//	publish   group     the message's, for every queue of the group
//	put       group     the same; the message was accepted long ago
//	group     group     topic, and its queues: what the numbers mean
//	finish    queue     ids of messages that are gone, or in the backlog now
//	finished  queue     sequences in the topic's backlog that are finished
//	update    queue     ids with new attempts and due times
//	move      queue     a group, and ids that the queue gave to it
//	end       queue     none: the queue is gone with all it had
//	start     0         none: finished and suspect records before this one are done with
//	suspect   queue     a sequence, and ids that may stand in the backlog before it as well
//	empty     queue     none: all messages of the queue before this record are gone
//	released  0         none: segments with numbers below the record's id are not needed, and may be gone
//	news      what      topic, and channel if it is of one: what became of it; see [News]
//
// The body of a group is, with its lengths in 2 bytes and its numbers in 4:
//
//	├────────┼───────┼─ for each queue ──────────┤
//	│ length │ topic │ number │ length │ channel │
//	└────────┴───────┴────────┴────────┴─────────┘
//
// An update takes 24 bytes (id, due, attempts, each in 8); a move has 8 bytes for
// the group in front of its ids, a suspect for the sequence. Each group stands in
// every segment that mentions it, twice, so that one damaged record does not cost
// more than itself. In news the topic's and the channel's name stand behind their
// lengths in 2 bytes each, and the value is the record's id.

// A JournalQueue is what a journal knows of a channel's queue, or of what a topic
// holds back. Its number is not used for another.
type JournalQueue struct {
	number  uint32
	topic   string
	channel atomic.Pointer[string]
	alone   JournalGroup // the queue by itself
}

// Alone returns the group of this queue only.
func (q *JournalQueue) Alone() *JournalGroup { return &q.alone }

// A JournalGroup is the queues that take a publish.
type JournalGroup struct {
	number uint32
	queues []*JournalQueue

	definedIn uint64 // the segment that says what it is; the writer's
}

func (g *JournalGroup) define(b []byte) []byte {
	topic := g.queues[0].topic
	b = binary.LittleEndian.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	for _, q := range g.queues {
		channel := *q.channel.Load()
		b = binary.LittleEndian.AppendUint32(b, q.number)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(channel)))
		b = append(b, channel...)
	}
	return b
}

// size returns the most bytes that define appends; a rename may come meanwhile.
func (g *JournalGroup) size() int {
	n := 2 + len(g.queues[0].topic)
	for _, q := range g.queues {
		n += 6 + nameRoom
		if channel := *q.channel.Load(); len(channel) > nameRoom {
			n += len(channel) - nameRoom
		}
	}
	return n
}

// nameRoom is what a channel's name may take, whatever it is now.
const nameRoom = 128

// groupDefinition is a group as it is read back.
type groupDefinition struct {
	topic  string
	queues []queueDefinition
}

type queueDefinition struct {
	number  uint32
	channel string
}

// parseGroup reads what define wrote.
func parseGroup(b []byte) (g groupDefinition, ok bool) {
	if g.topic, b, ok = cutName(b); !ok {
		return g, false
	}
	for len(b) > 0 {
		if len(b) < 4 {
			return g, false
		}
		q := queueDefinition{number: binary.LittleEndian.Uint32(b)}
		if q.channel, b, ok = cutName(b[4:]); !ok {
			return g, false
		}
		g.queues = append(g.queues, q)
	}
	return g, len(g.queues) > 0
}

// A JournalBatch gathers records for one Submit. It belongs to one goroutine
// until then, and to the journal afterwards.
type JournalBatch struct {
	buf    []byte          // records
	starts []uint32        // of the records in buf
	groups []*JournalGroup // that the records mention
	forced []*JournalGroup // to be written in any case
	named  []journalName   // from this batch on
	anew   bool            // to begin a segment
	sync   bool            // see Sync
	flush  bool            // see Journal.Flush
	later  bool            // see Journal.Later; more may join it
	done   func(err error)
	err    error
	ids    []byte // scratch

	sequence uint64 // of the first record
	salt     uint64 // that the records are sealed with
}

// journalName is the channel that a queue is given to.
type journalName struct {
	q       *JournalQueue
	channel string
}

// Rename gives a queue to another channel: a topic's first one inherits what was
// held back. From this batch on the journal says so; [JournalBatch.Define] writes it
// down. What was submitted before stands under the old name, though it may be written
// later: under the new one the death of an earlier channel would take it along.
func (b *JournalBatch) Rename(q *JournalQueue, channel string) {
	b.named = append(b.named, journalName{q, channel})
}

// Sync asks for the batch to be on the disk before it is answered. Batches that
// do not ask never wait for the disk.
func (b *JournalBatch) Sync() { b.sync = true }

// Empty reports whether nothing was added yet.
func (b *JournalBatch) Empty() bool { return len(b.buf) == 0 && len(b.forced) == 0 }

// Size returns the bytes gathered so far.
func (b *JournalBatch) Size() int { return len(b.buf) }

// listMax bounds the entries of one record, so that damage costs few of them.
const listMax = 4096

func (b *JournalBatch) add(r *Record) {
	size := int(recordSize(len(r.Body)))
	at := len(b.buf)
	b.starts = append(b.starts, uint32(at))
	b.buf = slices.Grow(b.buf, size)[:at+size]
	encode(b.buf[at:], r, b.sequence+uint64(len(b.starts)-1), journalPlace, b.salt)
}

// Use says that messages for g follow.
func (b *JournalBatch) Use(g *JournalGroup) {
	if n := len(b.groups); n == 0 || b.groups[n-1] != g {
		b.groups = append(b.groups, g)
	}
}

// Message adds a message for all queues of g, for which Use was called. It
// copies the body.
func (b *JournalBatch) Message(g *JournalGroup, id uint64, timestamp, due int64, attempts uint16, body []byte) {
	b.add(&Record{Kind: KindPublish, Cursor: g.number, ID: id, Timestamp: timestamp, Due: due, Attempts: attempts, Body: body})
}

// Put adds a message for q that was accepted long ago and stood elsewhere. It
// copies the body. When it cannot be written it is tried again.
func (b *JournalBatch) Put(q *JournalQueue, id uint64, timestamp, due int64, attempts uint16, body []byte) {
	b.Use(q.Alone())
	b.add(&Record{Kind: KindPut, Cursor: q.alone.number, ID: id, Timestamp: timestamp, Due: due, Attempts: attempts, Body: body})
}

// Finish says that messages of q are gone, or stand in the backlog.
func (b *JournalBatch) Finish(q *JournalQueue, ids []uint64) { b.list(kindFinish, q, nil, ids) }

// FinishBacklog says that records of the topic's backlog, by sequence, are
// finished for q.
func (b *JournalBatch) FinishBacklog(q *JournalQueue, sequences []uint64) {
	b.Use(q.Alone()) // or nobody would know whose sequences these are
	b.list(kindFinished, q, nil, sequences)
}

// Move says that q gave messages to the queues of g.
func (b *JournalBatch) Move(q *JournalQueue, g *JournalGroup, ids []uint64) {
	b.Use(g)
	b.list(kindMove, q, binary.LittleEndian.AppendUint64(nil, uint64(g.number)), ids)
}

func (b *JournalBatch) list(kind Kind, q *JournalQueue, prefix []byte, ids []uint64) {
	for part := range slices.Chunk(ids, listMax) {
		b.ids = append(b.ids[:0], prefix...)
		for _, id := range part {
			b.ids = binary.LittleEndian.AppendUint64(b.ids, id)
		}
		b.add(&Record{Kind: kind, Cursor: q.number, Body: b.ids})
	}
}

// JournalUpdate is what changes of a message that was given back.
type JournalUpdate struct {
	ID       uint64
	Due      int64 // ns, wall clock; 0 = at once
	Attempts uint16
}

const updateSize = 24

// Update says how messages of q stand now.
func (b *JournalBatch) Update(q *JournalQueue, updates []JournalUpdate) {
	for part := range slices.Chunk(updates, listMax) {
		b.ids = b.ids[:0]
		for _, u := range part {
			b.ids = binary.LittleEndian.AppendUint64(b.ids, u.ID)
			b.ids = binary.LittleEndian.AppendUint64(b.ids, uint64(u.Due))
			b.ids = binary.LittleEndian.AppendUint64(b.ids, uint64(u.Attempts))
		}
		b.add(&Record{Kind: kindUpdate, Cursor: q.number, Body: b.ids})
	}
}

// Suspect says that messages of q may stand in the topic's backlog too, with a
// sequence below end: the process died in between. The note stays until the next
// start, whatever becomes of the messages.
func (b *JournalBatch) Suspect(q *JournalQueue, end uint64, ids []uint64) {
	b.Use(q.Alone())
	b.list(kindSuspect, q, binary.LittleEndian.AppendUint64(nil, end), ids)
}

// EmptyQueue says that all messages of q of which a record was submitted before are gone.
// What its backlog holds is not meant.
func (b *JournalBatch) EmptyQueue(q *JournalQueue) { b.add(&Record{Kind: kindEmpty, Cursor: q.number}) }

// NewsKind says what became of a topic or channel.
type NewsKind uint32

// The kinds of news. A death is that of everything in it.
const (
	Birth      NewsKind = 1
	Death      NewsKind = 2
	Paused     NewsKind = 3
	Unpaused   NewsKind = 4
	Durability NewsKind = 5 // a topic's, as its user counts them
)

// News is what became of a topic, or of a channel.
type News struct {
	Kind    NewsKind
	Topic   string
	Channel string // "" if it is of the topic itself
	Value   uint64 // of a topic's birth or Durability, for the user
}

// News writes down what became of a topic or channel.
func (b *JournalBatch) News(n News) {
	b.ids = b.ids[:0]
	for _, name := range [...]string{n.Topic, n.Channel} {
		b.ids = binary.LittleEndian.AppendUint16(b.ids, uint16(len(name)))
		b.ids = append(b.ids, name...)
	}
	b.add(&Record{Kind: kindNews, Cursor: uint32(n.Kind), ID: n.Value, Body: b.ids})
}

// parseNews reads what News wrote.
func parseNews(r *Record) (n News, ok bool) {
	n.Kind, n.Value = NewsKind(r.Cursor), r.ID
	rest := r.Body
	if n.Topic, rest, ok = cutName(rest); !ok || n.Topic == "" {
		return n, false
	}
	n.Channel, _, ok = cutName(rest)
	return n, ok
}

// cutName reads a name behind its length.
func cutName(b []byte) (name string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := 2 + int(binary.LittleEndian.Uint16(b))
	if len(b) < n {
		return "", nil, false
	}
	return string(b[2:n]), b[n:], true
}

// Flush has the batch's done hear of what could not be written before it, too, as
// [Journal.Flush] does.
func (b *JournalBatch) Flush() { b.flush = true }

// Anew has the batch, and what is submitted behind it, written to a new segment:
// whoever has said in it all that counts may give up the older ones.
func (b *JournalBatch) Anew() { b.anew = true }

// End says that q is gone, with all it had.
func (b *JournalBatch) End(q *JournalQueue) { b.add(&Record{Kind: kindEnd, Cursor: q.number}) }

// Define writes g down even if nothing mentions it: a birth, or a new name.
func (b *JournalBatch) Define(g *JournalGroup) { b.forced = append(b.forced, g) }

// take adds what o has.
func (b *JournalBatch) take(o *JournalBatch) {
	for _, at := range o.starts {
		b.starts = append(b.starts, at+uint32(len(b.buf)))
	}
	b.buf = append(b.buf, o.buf...)
	b.groups = append(b.groups, o.groups...)
	b.forced = append(b.forced, o.forced...)
	b.named = append(b.named, o.named...)
	b.sync = b.sync || o.sync
}

// batchRecords is how many sequences a batch has for its records. One that is larger
// shares some with the next, which harms nobody: they tell records apart, for a reader
// of a dump.
const batchRecords = 1 << 20

// journalPlace is the offset that every record of a journal is sealed for: its place is
// not known yet when it is made, while its bytes are in the cache of the core that
// makes it. The salt alone says that it is this segment's, of this use of the file.
// That is enough: a segment is written once from front to back in each use, and
// takes no more after a write that failed, so nothing that bears its salt stands
// where it was not meant to be, and a body cannot bear it.
const journalPlace = 0

// reseal makes the records those of the segment with this salt. Nearly always they are,
// unless a segment was begun meanwhile.
func (b *JournalBatch) reseal(salt uint64) {
	if b.salt == salt {
		return
	}
	for _, at := range b.starts {
		reseal(b.buf[at:], b.salt, salt)
	}
	b.salt = salt
}

// essentials adds to kept the records of b that must not be lost when they could not be written: all but messages, whose
// publishers are told.
func (b *JournalBatch) essentials(kept *JournalBatch) {
	var r Record
	for _, at := range b.starts {
		if _, v := decode(b.buf[at:], &r, journalPlace, b.salt); v != whole {
			panic(fmt.Sprintf("BUG: mmapqueue: a batch reads as %d at %d of %d", v, at, len(b.buf)))
		}
		if r.Kind != KindPublish {
			kept.add(&r)
		}
	}
	kept.groups = append(kept.groups, b.groups...)
	kept.forced = append(kept.forced, b.forced...)
	kept.sync = kept.sync || b.sync
}
