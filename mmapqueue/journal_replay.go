package mmapqueue

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// Replay reads what an earlier run left:
//
//  1. hand the records of all segments, oldest first, to a replay, which keeps
//     what lives: the messages of each queue, their attempts and due times;
//  2. if a message named a group whose definition came later (the first ones
//     were damaged), do it again with all groups known;
//  3. sort each queue's messages by id: each producer's ids ascend, and a message
//     that was copied out of an old segment keeps its place that way.
//
// A damaged record costs that record: a message, or a finish, whose messages
// then come again. Replay comes before Start, and the bodies alias mappings that
// Start gives up.
func (j *Journal) Replay() (*Recovered, error) {
	r := &replay{groups: map[uint32]groupDefinition{}}
	if err := j.replay(r, j.damage); err != nil {
		return nil, err
	}
	if r.orphans > 0 {
		if err := j.replay(r, func(string, *CorruptError) {}); err != nil {
			return nil, err
		}
	}
	if r.orphans > 0 {
		j.o.Logf("mmapqueue: journal in %s: %d messages name a group of queues that no record tells of", j.dir, r.orphans)
	}
	j.numbers.Store(max(j.numbers.Load(), r.number))
	return r.recovered(j), nil
}

func (j *Journal) replay(r *replay, tell func(path string, err *CorruptError)) error {
	r.begin()
	at := uint64(0) // number of the segment that comes next
	var last *journalSegment
	if n := len(j.segments); n > 0 {
		at = j.segments[n-1].tail
	}
	for _, s := range j.segments {
		if s.number > at {
			r.gaps = append(r.gaps, numberRange{at, s.number})
		}
		at = s.number + 1
		if last != nil && last.number+1 == s.number && last.end < s.before {
			last.damaged = true
			r.damaged++
			tell(last.path, &CorruptError{Segment: last.path, Offset: last.end, Bytes: s.before - last.end, Cause: errEndMissing})
		}
		last = s
		r.segment = s.number
		damage, err := s.scan(j.o.FS, func(rec *Record) {
			r.apply(rec)
			j.batches = max(j.batches, rec.Sequence/batchRecords)
		})
		if s.mapping == nil && err != nil {
			return fmt.Errorf("mmapqueue: map %s: %w", s.path, err)
		}
		for _, l := range damage {
			tell(s.path, &CorruptError{Segment: s.path, Offset: l.offset, Bytes: l.bytes, Records: l.records})
		}
		if err != nil {
			tell(s.path, &CorruptError{Segment: s.path, Offset: s.end, Cause: err})
			r.damaged++
		}
		s.damaged = s.damaged || len(damage) > 0 || err != nil
		r.damaged += len(damage)
	}
	for _, g := range r.gaps {
		if g.from = max(g.from, r.released); g.from < g.to {
			r.damaged++
			tell(j.dir, &CorruptError{Segment: j.dir, Cause: fmt.Errorf("segments %d to %d of the journal are missing", g.from, g.to-1)})
		}
	}
	return nil
}

// Recovered is what lives in a journal.
type Recovered struct {
	Queues  []*RecoveredQueue          // by number
	Topics  map[string]*RecoveredTopic // of which there is news, by name
	Damaged int                        // places where records should have been
}

// RecoveredTopic is the last news of a topic and its channels. The journal may begin
// in the middle of their lives: then only what has changed since is known.
type RecoveredTopic struct {
	Whole      bool // it was born, or has died, under the journal's eyes: there is no more to it than stands here
	Dead       bool
	Value      uint64 // of its birth
	Paused     *bool
	Durability *uint64
	Channels   map[string]*RecoveredChannel
}

// RecoveredChannel is the last news of a channel.
type RecoveredChannel struct {
	Dead   bool
	Paused *bool // nil: not known
}

// RecoveredQueue is one queue as the run that ended knew it.
type RecoveredQueue struct {
	Queue    *JournalQueue
	Topic    string
	Channel  string // "" for what the topic held back
	Messages []RecoveredMessage
	Finished []uint64 // sequences of the topic's backlog that the queue has finished
	Suspects []Suspect
}

// Suspect is a message that may stand in the backlog as well, below a sequence.
type Suspect struct{ ID, End uint64 }

// RecoveredMessage is a message that was not finished.
type RecoveredMessage struct {
	ID        uint64
	Timestamp int64
	Due       int64 // ns, wall clock; 0 = at once
	Attempts  uint16
	Body      []byte // aliases the mapping of its segment
	Segment   uint64 // where it stands: Release must not pass it while it lives
}

// replay keeps what lives while records go by.
type replay struct {
	groups  map[uint32]groupDefinition
	orphans int    // messages whose group is unknown
	number  uint32 // the highest that was mentioned
	damaged int

	queues  map[uint32]*replayQueue
	byTopic map[string][]*replayQueue // those whose name is known
	topics  map[string]*RecoveredTopic
	segment uint64

	released uint64 // segments below it may be gone
	gaps     []numberRange
}

type replayQueue struct {
	topic, channel string
	named, dead    bool
	messages       map[uint64]*RecoveredMessage
	finished       []uint64
	suspects       []Suspect
}

func (r *replay) begin() {
	r.queues = map[uint32]*replayQueue{}
	r.byTopic = map[string][]*replayQueue{}
	r.topics = map[string]*RecoveredTopic{}
	r.orphans, r.damaged, r.released, r.gaps = 0, 0, 0, nil
}

func (r *replay) queue(number uint32) *replayQueue {
	q := r.queues[number]
	if q == nil {
		q = &replayQueue{messages: map[uint64]*RecoveredMessage{}}
		r.queues[number] = q
	}
	return q
}

func (r *replay) apply(rec *Record) {
	r.number = max(r.number, rec.Cursor)
	switch rec.Kind {
	case KindPublish, KindPut:
		r.publish(rec)
	case kindGroup:
		r.define(rec)
	case kindFinish:
		q := r.queue(rec.Cursor)
		for id := range words(rec.Body) {
			delete(q.messages, id)
		}
	case kindFinished:
		q := r.queue(rec.Cursor)
		for sequence := range words(rec.Body) {
			q.finished = append(q.finished, sequence)
		}
	case kindUpdate:
		q := r.queue(rec.Cursor)
		for b := rec.Body; len(b) >= updateSize; b = b[updateSize:] {
			if m := q.messages[binary.LittleEndian.Uint64(b)]; m != nil {
				m.Due = int64(binary.LittleEndian.Uint64(b[8:]))
				m.Attempts = uint16(binary.LittleEndian.Uint64(b[16:]))
			}
		}
	case kindMove:
		r.move(rec)
	case kindEnd:
		r.queue(rec.Cursor).end()
	case kindReleased:
		r.released = max(r.released, rec.ID)
	case kindEmpty:
		clear(r.queue(rec.Cursor).messages)
	case kindNews:
		if n, ok := parseNews(rec); ok {
			r.news(&n)
		}
	case kindStart:
		for _, q := range r.queues {
			q.finished, q.suspects = nil, nil
		}
	case kindSuspect:
		if q := r.queue(rec.Cursor); len(rec.Body) >= 8 {
			end := binary.LittleEndian.Uint64(rec.Body)
			for id := range words(rec.Body[8:]) {
				q.suspects = append(q.suspects, Suspect{id, end})
			}
		}
	}
}

// end forgets all that a queue has, for good.
func (q *replayQueue) end() {
	*q = replayQueue{dead: true, named: q.named, topic: q.topic, channel: q.channel}
}

// news applies what became of a topic or a channel. A death takes the queues of that
// name along: the process may have died before it could end them one by one.
func (r *replay) news(n *News) {
	t := r.topics[n.Topic]
	if t == nil {
		t = &RecoveredTopic{Channels: map[string]*RecoveredChannel{}}
		r.topics[n.Topic] = t
	}
	if n.Channel != "" {
		r.newsOfChannel(t, n)
		return
	}
	switch n.Kind {
	case Birth, Death:
		*t = RecoveredTopic{Whole: true, Dead: n.Kind == Death, Value: n.Value, Channels: map[string]*RecoveredChannel{}}
		if n.Kind == Birth {
			t.Paused = new(bool)
		}
		for _, q := range r.byTopic[n.Topic] {
			if n.Kind == Death {
				q.end()
			}
		}
	case Paused, Unpaused:
		paused := n.Kind == Paused
		t.Paused = &paused
	case Durability:
		t.Durability = &n.Value
	}
}

func (r *replay) newsOfChannel(t *RecoveredTopic, n *News) {
	c := t.Channels[n.Channel]
	if c == nil {
		c = &RecoveredChannel{}
		t.Channels[n.Channel] = c
	}
	switch n.Kind {
	case Birth:
		*c = RecoveredChannel{Paused: new(bool)}
	case Death:
		*c = RecoveredChannel{Dead: true}
		for _, q := range r.byTopic[n.Topic] {
			if q.channel == n.Channel {
				q.end()
			}
		}
	case Paused, Unpaused:
		paused := n.Kind == Paused
		c.Paused = &paused
	}
}

// words yields the numbers in b.
func words(b []byte) func(yield func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for ; len(b) >= 8; b = b[8:] {
			if !yield(binary.LittleEndian.Uint64(b)) {
				return
			}
		}
	}
}

func (r *replay) define(rec *Record) {
	g, ok := parseGroup(rec.Body)
	if !ok {
		return
	}
	r.groups[rec.Cursor] = g
	for _, d := range g.queues {
		r.number = max(r.number, d.number)
		q := r.queue(d.number)
		if !q.named {
			r.byTopic[g.topic] = append(r.byTopic[g.topic], q)
		}
		q.topic, q.channel, q.named = g.topic, d.channel, true
	}
}

func (r *replay) publish(rec *Record) {
	g, ok := r.groups[rec.Cursor]
	if !ok {
		r.orphans++
		return
	}
	for _, d := range g.queues {
		m := &RecoveredMessage{
			ID: rec.ID, Timestamp: rec.Timestamp, Due: rec.Due, Attempts: rec.Attempts,
			Body: rec.Body, Segment: r.segment,
		}
		r.give(d.number, m)
	}
}

// give makes m one of the queue's messages. One that was there already was
// copied to stand in a younger segment.
func (r *replay) give(number uint32, m *RecoveredMessage) {
	if q := r.queue(number); !q.dead {
		q.messages[m.ID] = m
	}
}

func (r *replay) move(rec *Record) {
	if len(rec.Body) < 8 {
		return
	}
	from := r.queue(rec.Cursor)
	g, ok := r.groups[uint32(binary.LittleEndian.Uint64(rec.Body))]
	if !ok {
		r.orphans++
		return
	}
	for id := range words(rec.Body[8:]) {
		m := from.messages[id]
		if m == nil {
			continue
		}
		delete(from.messages, id)
		for _, d := range g.queues {
			moved := *m
			r.give(d.number, &moved)
		}
	}
}

func (r *replay) recovered(j *Journal) *Recovered {
	out := &Recovered{Damaged: r.damaged, Topics: r.topics}
	for number, q := range r.queues {
		if q.dead || !q.named {
			continue
		}
		rq := &RecoveredQueue{Queue: j.adopt(number, q.topic, q.channel), Topic: q.topic, Channel: q.channel, Finished: q.finished, Suspects: q.suspects}
		for _, m := range q.messages {
			rq.Messages = append(rq.Messages, *m)
		}
		slices.SortFunc(rq.Messages, func(a, b RecoveredMessage) int { return cmp.Compare(a.ID, b.ID) })
		out.Queues = append(out.Queues, rq)
	}
	slices.SortFunc(out.Queues, func(a, b *RecoveredQueue) int { return cmp.Compare(a.Queue.number, b.Queue.number) })
	return out
}
