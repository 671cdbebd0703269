package mmapqueue

import (
	"fmt"
	"io"
	"strings"
)

// kindNames are the kinds of a journal's records in words.
var kindNames = map[Kind]string{
	KindPublish: "publish", KindPut: "put", kindGroup: "group", kindFinish: "finish", kindFinished: "finished",
	kindUpdate: "update", kindMove: "move", kindEnd: "end", kindStart: "start", kindSuspect: "suspect",
	kindNews: "news", kindEmpty: "empty",
}

// newsNames are the kinds of news in words.
var newsNames = map[NewsKind]string{
	Birth: "born", Death: "died", Paused: "paused", Unpaused: "unpaused", Durability: "durability",
}

// dumpJournal shows one file of a journal.
func dumpJournal(w io.Writer, path string, o DumpOptions) error {
	s := &journalSegment{path: path}
	fresh, foreign, err := s.load(OS)
	switch {
	case err != nil:
		return err
	case foreign:
		fmt.Fprintln(w, "  damaged: no header of a journal's segment")
		return nil
	case fresh:
		fmt.Fprintln(w, "  never written")
		return nil
	}
	fmt.Fprintf(w, "  journal segment %d: from sequence %d; when it was begun nothing before segment %d was needed\n", s.number, s.first, s.tail)
	if s.damaged {
		fmt.Fprintln(w, "  damaged: one copy of the header")
	}
	counts := map[string]int{}
	damage, err := s.scan(OS, func(r *Record) {
		counts[kindNames[r.Kind]]++
		if o.BodyMax >= 0 {
			fmt.Fprintf(w, "  %s\n", r.journalLine(o.BodyMax))
		}
	})
	for _, at := range damage {
		fmt.Fprintf(w, "  %10d  damaged: no record here\n", at)
		counts["damaged"]++
	}
	if err != nil {
		fmt.Fprintf(w, "  cannot be read on: %v\n", err)
	}
	for _, what := range sortedNames(counts) {
		fmt.Fprintf(w, "  %d × %s\n", counts[what], what)
	}
	return s.unmap()
}

// journalLine describes a record of a journal.
func (r *Record) journalLine(bodyMax int) string {
	switch r.Kind {
	case KindPublish, KindPut:
		line := r.line(kindNames[r.Kind], bodyMax)
		return strings.Replace(line, " for cursor ", " for group ", 1)
	case kindGroup:
		g, ok := parseGroup(r.Body)
		if !ok {
			break
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%10d group    %d is topic %q:", r.Sequence, r.Cursor, g.topic)
		for _, q := range g.queues {
			fmt.Fprintf(&b, " queue %d of channel %q", q.number, q.channel)
		}
		return b.String()
	case kindNews:
		n, ok := parseNews(r)
		if !ok {
			break
		}
		what := fmt.Sprintf("topic %q", n.Topic)
		if n.Channel != "" {
			what += fmt.Sprintf(", channel %q,", n.Channel)
		}
		return fmt.Sprintf("%10d news     %s %s, value %d", r.Sequence, what, newsNames[n.Kind], n.Value)
	}
	return fmt.Sprintf("%10d %-8s of queue %d, %d bytes", r.Sequence, kindNames[r.Kind], r.Cursor, len(r.Body))
}
