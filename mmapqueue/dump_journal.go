package mmapqueue

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"
)

// dumpJournal writes what a segment of a journal holds. What earlier uses of the file
// have left behind its records is not shown.
func dumpJournal(w io.Writer, path string, f File, size int64, o DumpOptions) error {
	s := &journalSegment{path: path, size: size}
	block := make([]byte, journalStart)
	n, _ := f.ReadAt(block, 0)
	sound, both := s.parseHeader(block[:n])
	if !sound {
		fmt.Fprintln(w, "  damaged: no header of a journal's segment, or never used")
		return nil
	}
	fmt.Fprintf(w, "  segment %d of a journal, from record %d, %d bytes; segments below %d were not needed then\n", s.number, s.first, size, s.tail)
	if !both {
		fmt.Fprintln(w, "  damaged: one copy of the header")
	}
	m, err := OS.Map(path, size)
	if err != nil {
		return err
	}
	defer m.Unmap()
	d := journalDump{w: w, o: o, groups: map[uint32]groupDefinition{}, queues: map[uint32]string{}, counts: map[string]int{}}
	if fault := guard(m, func() { d.run(m, s.salt) }); fault != nil {
		fmt.Fprintf(w, "  cannot be read on: %v\n", fault)
	}
	for _, what := range sortedNames(d.counts) {
		fmt.Fprintf(w, "  %d × %s\n", d.counts[what], what)
	}
	return nil
}

type journalDump struct {
	w      io.Writer
	o      DumpOptions
	groups map[uint32]groupDefinition // of this segment
	queues map[uint32]string
	counts map[string]int
}

func (d *journalDump) run(data []byte, salt uint64) {
	var r Record
	for offset := int64(journalStart); offset < int64(len(data)); {
		size, v := decode(data[offset:], &r, journalPlace, salt)
		switch v {
		case nothing:
			next := resyncJournal(data, offset, salt)
			if next == int64(len(data)) {
				return
			}
			d.damaged("  %10d  damaged: no record until %d\n", offset, next)
			offset = next
			continue
		case damaged:
			d.damaged("  %10d  damaged: a record of %d bytes\n", offset, size)
		default:
			what := kindNames[r.Kind]
			d.counts[what]++
			if g, ok := parseGroup(r.Body); ok && r.Kind == kindGroup {
				d.groups[r.Cursor] = g
				for _, q := range g.queues {
					d.queues[q.number] = fmt.Sprintf("%d (%s: %s)", q.number, g.topic, q.label())
				}
			}
			if d.o.BodyMax >= 0 {
				fmt.Fprintf(d.w, "  %10d  %10d %-8s %s\n", offset, r.Sequence, what, d.about(&r))
			}
		}
		offset += size
	}
}

func (d *journalDump) damaged(format string, args ...any) {
	d.counts["damaged"]++
	fmt.Fprintf(d.w, format, args...)
}

// kindNames are the kinds of a journal's records in words.
var kindNames = map[Kind]string{
	KindPublish: "message", KindPut: "put", kindGroup: "group", kindFinish: "finish", kindFinished: "finished",
	kindUpdate: "update", kindMove: "move", kindEnd: "end", kindStart: "start", kindSuspect: "suspect",
	kindNews: "news", kindEmpty: "empty", kindReleased: "released",
}

// newsNames are the kinds of news in words.
var newsNames = map[NewsKind]string{
	Birth: "born", Death: "died", Paused: "paused", Unpaused: "unpaused", Durability: "durability",
}

func (q *queueDefinition) label() string {
	if q.channel == "" {
		return "held by the topic"
	}
	return q.channel
}

// group returns what is known of a group.
func (d *journalDump) group(number uint32) string {
	g, ok := d.groups[number]
	if !ok {
		return fmt.Sprintf("group %d, defined elsewhere", number)
	}
	var names []string
	for _, q := range g.queues {
		names = append(names, q.label())
	}
	return fmt.Sprintf("group %d (%s: %s)", number, g.topic, strings.Join(names, ", "))
}

// queue returns what is known of a queue.
func (d *journalDump) queue(number uint32) string {
	if name, ok := d.queues[number]; ok {
		return "queue " + name
	}
	return fmt.Sprintf("queue %d, named elsewhere", number)
}

// about returns what a record says.
func (d *journalDump) about(r *Record) string {
	switch r.Kind {
	case KindPublish, KindPut:
		line := fmt.Sprintf("for %s, id %016x, %s, attempts %d", d.group(r.Cursor), r.ID, clock(r.Timestamp), r.Attempts)
		if r.Due != 0 {
			line += ", due " + clock(r.Due)
		}
		line += fmt.Sprintf(", %d bytes", len(r.Body))
		if shown := r.Body[:min(len(r.Body), d.o.BodyMax)]; len(shown) > 0 {
			line += fmt.Sprintf(" %q", shown)
		}
		return line
	case kindGroup:
		return d.group(r.Cursor)
	case kindFinish:
		return fmt.Sprintf("in %s: %s", d.queue(r.Cursor), list(r.Body, "ids", "%016x"))
	case kindFinished:
		return fmt.Sprintf("in the backlog of %s: %s", d.queue(r.Cursor), list(r.Body, "sequences", "%d"))
	case kindUpdate:
		return fmt.Sprintf("in %s: attempts of %d messages", d.queue(r.Cursor), len(r.Body)/updateSize)
	case kindMove:
		to := r.Body[:min(len(r.Body), 8)]
		if len(to) < 8 {
			return "to nobody"
		}
		return fmt.Sprintf("from %s to %s: %s", d.queue(r.Cursor), d.group(uint32(binary.LittleEndian.Uint64(to))), list(r.Body[8:], "ids", "%016x"))
	case kindEmpty:
		return d.queue(r.Cursor) + " holds none of the messages before this"
	case kindNews:
		n, ok := parseNews(r)
		if !ok {
			return "of nobody"
		}
		what := fmt.Sprintf("topic %q", n.Topic)
		if n.Channel != "" {
			what += fmt.Sprintf(", channel %q,", n.Channel)
		}
		what += " " + newsNames[n.Kind]
		if n.Kind == Durability {
			what += fmt.Sprintf(" %d", n.Value)
		}
		return what
	case kindEnd:
		return d.queue(r.Cursor) + " is gone"
	case kindSuspect:
		if len(r.Body) < 8 {
			return "nobody"
		}
		return fmt.Sprintf("in the backlog of %s, below sequence %d: %s", d.queue(r.Cursor), binary.LittleEndian.Uint64(r.Body), list(r.Body[8:], "ids", "%016x"))
	}
	return ""
}

// list shows the first of some numbers.
func list(b []byte, what, format string) string {
	const most = 4
	out := fmt.Sprintf("%d %s", len(b)/8, what)
	n := 0
	for number := range words(b) {
		if n++; n > most {
			return out + " …"
		}
		out += " " + fmt.Sprintf(format, number)
	}
	return out
}

func clock(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }
