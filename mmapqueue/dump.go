package mmapqueue

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DumpOptions say what Dump shows.
type DumpOptions struct {
	// BodyMax is how many bytes of a body are shown; a negative number shows no
	// records, only what a file says of itself and a count of what is in it.
	BodyMax int
}

// Dump writes for a person what a file of a log holds, or the files of a log's
// directory, or of a journal's: segments, whatever they are called by now, and
// cursors. It changes
// nothing and takes no lock, so that a log in use may be looked at; what is being
// written at that moment may seem torn. Damage is shown and is no error.
func Dump(w io.Writer, path string, o DumpOptions) error {
	out := bufio.NewWriter(w)
	stat, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("mmapqueue: dump: %w", err)
	}
	paths := []string{path}
	if stat.IsDir() {
		if paths, err = filepath.Glob(filepath.Join(path, "*")); err != nil {
			return fmt.Errorf("mmapqueue: dump: %w", err)
		}
	}
	for _, path := range paths {
		if err := dumpFile(out, path, o); err != nil {
			return fmt.Errorf("mmapqueue: dump: %w", err)
		}
	}
	return out.Flush()
}

func dumpFile(w io.Writer, path string, o DumpOptions) error {
	fmt.Fprintf(w, "%s\n", path)
	f, err := OS.Open(path, false)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil || size == 0 {
		return err
	}
	if strings.HasPrefix(filepath.Base(path), cursorFile) {
		return dumpCursors(w, path)
	}
	if strings.Contains(filepath.Base(path), journalSuffix) {
		return dumpJournal(w, path, f, size, o)
	}
	return dumpSegment(w, path, f, size, o)
}

func dumpCursors(w io.Writer, path string) error {
	buf, err := readFile(OS, path)
	if err != nil {
		return err
	}
	b := &Backlog{}
	if !b.decodeCursors(buf) {
		fmt.Fprintln(w, "  damaged: no cursor file of ours, or not whole")
		return nil
	}
	for _, c := range b.cursors {
		fmt.Fprintf(w, "  cursor %d %q: all below sequence %d is done with; reads on in segment %d from offset %d\n",
			c.id, c.name, c.window.floor, c.base.segment, c.base.offset)
		for _, t := range c.tallies {
			fmt.Fprintf(w, "    segment %d: %d of its records are finished\n", t.segment, t.finished)
		}
	}
	return nil
}

func dumpSegment(w io.Writer, path string, f File, size int64, o DumpOptions) error {
	s := &segment{path: path, size: size, end: size}
	digits, _, _ := strings.Cut(filepath.Base(path), ".")
	s.number, _ = segmentNumber(digits + segmentSuffix)
	header := make([]byte, segmentStart)
	n, _ := f.ReadAt(header, 0)
	headed, sound := s.parseHeader(header[:n])
	sealed := s.readFooter(f)
	switch {
	case !headed && !sealed:
		fmt.Fprintln(w, "  damaged: neither header nor footer of a segment with this number")
		return nil
	case sealed:
		fmt.Fprintf(w, "  segment %d, sealed: %d publishes, next sequence %d, records end at %d\n", s.number, s.publishes, s.next, s.end)
	default:
		fmt.Fprintf(w, "  segment %d, not sealed: from sequence %d, %d bytes\n", s.number, s.firstSequence, size)
	}
	if !sound {
		fmt.Fprintln(w, "  damaged: the header")
	}
	m, err := OS.Map(path, size)
	if err != nil {
		return err
	}
	defer m.Unmap()
	counts := map[string]int{}
	fault := guard(m, func() { s.dump(w, m[:min(s.end, size)], o, counts) })
	if fault != nil {
		fmt.Fprintf(w, "  cannot be read on: %v\n", fault)
	}
	for _, what := range sortedNames(counts) {
		fmt.Fprintf(w, "  %d × %s\n", counts[what], what)
	}
	return nil
}

// dump writes a line for each record of data, and counts them by kind.
func (s *segment) dump(w io.Writer, data []byte, o DumpOptions, counts map[string]int) {
	var r Record
	for offset := int64(segmentStart); offset < int64(len(data)); {
		size, v := decode(data[offset:], &r, offset, s.salt)
		if v == nothing {
			next := resync(data, offset, s.salt)
			if next == int64(len(data)) && s.next == 0 {
				return // space behind the last record
			}
			fmt.Fprintf(w, "  %10d  damaged: no record until %d\n", offset, next)
			counts["damaged"]++
			offset = next
			continue
		}
		what := r.kindName()
		if v == damaged {
			what = "damaged"
		}
		counts[what]++
		switch {
		case v == damaged:
			fmt.Fprintf(w, "  %10d  damaged: a record of %d bytes\n", offset, size)
		case o.BodyMax >= 0:
			fmt.Fprintf(w, "  %10d  %s\n", offset, r.line(what, o.BodyMax))
		}
		offset += size
	}
}

func (r *Record) kindName() string {
	switch {
	case r.Kind == KindPublish:
		return "publish"
	case r.Kind == KindPut && r.Cursor == nameOf && r.Due != 0:
		return "deleted"
	case r.Kind == KindPut && r.Cursor == nameOf:
		return "name"
	case r.Kind == KindPut:
		return "put"
	case r.Kind == KindSome:
		return "some"
	}
	return fmt.Sprintf("kind %d", r.Kind)
}

func (r *Record) line(what string, bodyMax int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%10d %-8s", r.Sequence, what)
	if r.Cursor == nameOf {
		fmt.Fprintf(&b, " cursor %d is %q", r.ID, r.Body)
		return b.String()
	}
	if r.Kind == KindPut {
		fmt.Fprintf(&b, " for cursor %d", r.Cursor)
	}
	for to, sep := r.to, " for cursors "; len(to) >= 4; to, sep = to[4:], ", " {
		fmt.Fprintf(&b, "%s%d", sep, binary.LittleEndian.Uint32(to))
	}
	fmt.Fprintf(&b, " id %016x, %s, attempts %d", r.ID, clock(r.Timestamp), r.Attempts)
	if r.Due != 0 {
		fmt.Fprintf(&b, ", due %s", clock(r.Due))
	}
	fmt.Fprintf(&b, ", %d bytes", len(r.Body))
	if shown := r.Body[:min(len(r.Body), bodyMax)]; len(shown) > 0 {
		fmt.Fprintf(&b, " %q", shown)
	}
	return b.String()
}

func sortedNames(counts map[string]int) []string {
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
