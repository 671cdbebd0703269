package mmapqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/edsrzf/mmap-go"
)

// Cursor is one reader's place in a log: a channel's, or the topic's own. One
// goroutine at a time may Read; the other methods may be called beside it.
//
// Invariant: 0 <= depth, and depth is the number of publish records behind the
// position plus the number of put records for this cursor behind it. A cursor
// with depth 0 stands at the end by definition, whatever at says; Append puts it
// in front of the next batch.
type Cursor struct {
	b     *Backlog
	id    uint32       // never changes
	depth atomic.Int64 // changed under b.mu, read anywhere
	r     Record       // what Read hands out; belongs to the Read under way

	// Under b.mu:
	name  string
	at    position
	epoch uint64 // raised by Empty and Delete: a Read under way moves at no more
	gone  bool   // deleted
}

// position is a place in a log, with what lies before it in its segment. The
// counts make a depth from footers alone, without reading records.
type position struct {
	segment   uint64
	offset    int64
	publishes int64 // publish records of the segment before offset
	puts      int64 // put records for this cursor before offset
}

// Cursor returns the cursor of that name. When there is none it is created at
// the end of the log: it reads what is appended from now on. The name "" is the
// topic's own cursor, for messages that no channel has taken yet.
func (b *Backlog) Cursor(name string) (*Cursor, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, ErrClosed
	}
	if c := b.named(name); c != nil {
		b.mu.Unlock()
		return c, nil
	}
	if len(name) > nameMax {
		b.mu.Unlock()
		return nil, fmt.Errorf("mmapqueue: cursor name of %d bytes, the limit is %d", len(name), nameMax)
	}
	b.lastID++
	c := &Cursor{b: b, id: b.lastID, name: name}
	b.cursors = append(b.cursors, c)
	b.moved = true
	b.mu.Unlock()
	return c, b.saveCursors(false)
}

// named returns the cursor of that name or nil. The caller holds mu.
func (b *Backlog) named(name string) *Cursor {
	if i := slices.IndexFunc(b.cursors, func(c *Cursor) bool { return c.name == name }); i >= 0 {
		return b.cursors[i]
	}
	return nil
}

// Names returns the names of all cursors, in no particular order.
func (b *Backlog) Names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := make([]string, len(b.cursors))
	for i, c := range b.cursors {
		names[i] = c.name
	}
	return names
}

// ID returns the number by which put records name this cursor. It is not used
// again while the log has records.
func (c *Cursor) ID() uint32 { return c.id }

// Depth returns how many records the cursor still has to read. Records that a
// Read hands out count until that Read returns.
func (c *Cursor) Depth() int64 { return c.depth.Load() }

// place puts c at the end of s.
func (c *Cursor) place(s *segment) {
	c.at = position{segment: s.number, offset: s.end, publishes: s.publishes, puts: s.puts[c.id]}
}

// end returns the position of a cursor that has read everything. The caller
// holds b.mu.
func (c *Cursor) end() position {
	if s := c.b.open; s != nil {
		return position{segment: s.number, offset: s.end, publishes: s.publishes, puts: s.puts[c.id]}
	}
	return position{segment: c.b.number, offset: segmentStart}
}

// Read hands the next records, at most max, to f in order, moves the cursor
// behind them and returns their number. Fewer than max means that the cursor has
// reached the end. The record and its body are valid only inside f; f must not
// call the backlog or its cursors, Depth excepted.
//
// A damaged record is passed over, counted and logged, without an error. When a
// segment cannot be read on, because its file is gone, was cut or sits on a
// failing disk, Read returns a CorruptError beside the records read before; the
// rest of that segment is lost to the cursor, the file is kept, and the next
// Read goes on behind it.
func (c *Cursor) Read(max int, f func(r *Record)) (n int, err error) {
	for n < max {
		got, more, err := c.readSegment(max-n, f)
		n += got
		if err != nil || !more {
			return n, err
		}
	}
	return n, nil
}

// readSegment is Read within one segment. more says that another call may find
// more records.
func (c *Cursor) readSegment(max int, f func(r *Record)) (n int, more bool, err error) {
	b := c.b
	b.mu.Lock()
	if b.closed || c.gone {
		b.mu.Unlock()
		return 0, false, ErrClosed
	}
	s := c.segment()
	if s == nil {
		b.mu.Unlock()
		return 0, false, nil
	}
	w := walk{s: s, id: c.id, max: max, at: c.at, limit: s.end, record: &c.r}
	atLimit := position{segment: s.number, offset: s.end, publishes: s.publishes, puts: s.puts[c.id]}
	if s.mapping == nil {
		if s.mapping, err = mapFile(s.path, s.size); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.mu.Unlock() // out of descriptors or address space: worth another try
			return 0, false, fmt.Errorf("mmapqueue: map %s: %w", s.path, err)
		}
	}
	mapping, epoch := s.mapping, c.epoch
	s.readers++
	b.reading.Add(1)
	b.mu.Unlock()
	defer b.reading.Done()

	if err == nil {
		err = guard(mapping, func() { w.run(mapping, f) })
	}
	c.r = Record{}
	for _, offset := range w.damage {
		b.report(s, offset, nil)
	}
	if err != nil {
		err = b.report(s, w.at.offset, err)
		w.at.offset = w.limit
	}

	b.mu.Lock()
	if len(w.damage) > 0 || err != nil {
		s.damaged = true
		s.failed = s.failed || err != nil
	}
	s.readers--
	if c.epoch == epoch {
		c.advance(s, &w, atLimit)
	}
	if s.dead && s.readers == 0 {
		b.unmap(s)
	}
	gone := b.reap()
	b.touch(w.n)
	b.check()
	more = c.depth.Load() > 0
	b.mu.Unlock()
	b.discard(gone)
	return w.n, more, err
}

// segment returns the segment that c reads next, or nil when it has read
// everything; it moves c there. The caller holds b.mu.
func (c *Cursor) segment() *segment {
	if c.depth.Load() == 0 {
		return nil
	}
	i := slices.IndexFunc(c.b.segments, func(s *segment) bool { return s.number >= c.at.segment })
	if i < 0 {
		c.depth.Store(0)
		return nil
	}
	s := c.b.segments[i]
	if s.number > c.at.segment {
		c.at = position{segment: s.number, offset: segmentStart}
	}
	return s
}

// advance moves c to where w has come. At w's limit everything that s counted has
// been read or is damaged, so that the depth is exact again from there on. The
// caller holds b.mu.
func (c *Cursor) advance(s *segment, w *walk, atLimit position) {
	b := c.b
	read := int64(w.n)
	if w.at.offset >= w.limit {
		read += atLimit.publishes - w.at.publishes + atLimit.puts - w.at.puts
		w.at = atLimit
		if s.sealed && s.end == w.limit {
			w.at = position{segment: s.number + 1, offset: segmentStart}
		}
	}
	c.at, b.moved = w.at, true
	c.depth.Store(max(0, c.depth.Load()-read))
	if c.at.segment != s.number && s.readers == 0 {
		for _, other := range b.cursors {
			if other.depth.Load() > 0 && other.at.segment == s.number {
				return
			}
		}
		b.unmap(s)
	}
}

// walk is one pass over the records of a segment.
type walk struct {
	s     *segment
	id    uint32 // of the cursor that reads
	max   int
	limit int64 // where the records end

	record *Record
	at     position // behind the last record seen
	n      int      // records handed out
	damage []int64  // where a record should have been
}

// run hands records to f until there were max or the limit is reached. Its
// fields are right at every step, because a fault may end it anywhere.
func (w *walk) run(m mmap.MMap, f func(r *Record)) {
	data := m[:min(w.limit, int64(len(m)))]
	for w.n < w.max && w.at.offset < w.limit {
		size, v := decode(data[w.at.offset:], w.record, w.at.offset, w.s.salt)
		switch {
		case v == nothing:
			w.damage = append(w.damage, w.at.offset)
			w.at.offset = resync(data, w.at.offset, w.s.salt)
			continue
		case v == damaged:
			w.damage = append(w.damage, w.at.offset)
		case w.record.Kind == KindPublish:
			f(w.record)
			w.n++
			w.at.publishes++
		case w.record.Cursor == w.id:
			f(w.record)
			w.n++
			w.at.puts++
		}
		w.at.offset += size
	}
}

// Empty forgets everything the cursor had to read.
func (c *Cursor) Empty() {
	b := c.b
	b.mu.Lock()
	if b.closed || c.gone {
		b.mu.Unlock()
		return
	}
	c.depth.Store(0)
	c.epoch++
	b.moved = true
	gone := b.reap()
	b.check()
	b.mu.Unlock()
	if err := b.saveCursors(false); err != nil {
		b.o.Logf("%v", err)
	}
	b.discard(gone)
}

// Rename gives the cursor another name; its id and its place stay. It fails when
// the name is taken.
func (c *Cursor) Rename(name string) error {
	b := c.b
	b.mu.Lock()
	switch other := b.named(name); {
	case b.closed || c.gone:
		b.mu.Unlock()
		return ErrClosed
	case other == c:
		b.mu.Unlock()
		return nil
	case other != nil || len(name) > nameMax:
		b.mu.Unlock()
		return fmt.Errorf("mmapqueue: rename cursor %q: the name %.80q is taken or too long", c.name, name)
	}
	c.name = name
	b.moved = true
	b.mu.Unlock()
	return b.saveCursors(false)
}

// Delete removes the cursor and what it had to read. Later calls on it fail with
// ErrClosed.
func (c *Cursor) Delete() error {
	b := c.b
	b.mu.Lock()
	if b.closed || c.gone {
		b.mu.Unlock()
		return ErrClosed
	}
	c.gone = true
	c.epoch++
	c.depth.Store(0)
	b.cursors = slices.DeleteFunc(b.cursors, func(o *Cursor) bool { return o == c })
	b.moved = true
	gone := b.reap()
	b.mu.Unlock()
	err := b.saveCursors(false)
	b.discard(gone)
	return err
}

// The cursor file holds every cursor's place. It is replaced whole, by rename,
// at each sync and whenever a cursor is created, renamed, emptied or deleted:
//
//	0       8         12      16        per cursor, 40 bytes and its name        8
//	├───────┼─────────┼───────┼────┬────────┬─────────┬────────┬───────────┬──────┬──────┬──────────┐
//	│ magic │ last id │ count │ id │ length │ segment │ offset │ publishes │ puts │ name │ checksum │
//	└───────┴─────────┴───────┴────┴────────┴─────────┴────────┴───────────┴──────┴──────┴──────────┘
//
// id and length (of the name) have 4 bytes, the other numbers 8. checksum is the
// xxhash64 of everything before it. A file that is older than the records beside
// it makes cursors read some of them again, and never miss one.
const (
	cursorFile  = "cursors"
	cursorMagic = 0x0131525543515a00
	cursorFixed = 40
	nameMax     = 1024
)

// saveCursors writes the cursor file if a cursor has moved and there is a
// directory to hold it.
func (b *Backlog) saveCursors(durably bool) error {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	if !b.onDisk || !b.moved {
		b.mu.Unlock()
		return nil
	}
	b.moved = !durably // a sync that follows still has to make it durable
	buf := b.encodeCursors()
	sum := binary.LittleEndian.Uint64(buf[len(buf)-8:])
	same := sum == b.savedSum && !durably
	b.mu.Unlock()
	if same {
		return nil // a log that was filled and closed at once says so once
	}
	if err := replaceFile(filepath.Join(b.dir, cursorFile), buf, durably); err != nil {
		b.mu.Lock()
		b.moved = true
		b.mu.Unlock()
		return fmt.Errorf("mmapqueue: save cursors: %w", err)
	}
	b.savedSum = sum
	return nil
}

func (b *Backlog) encodeCursors() []byte {
	buf := make([]byte, 0, 1024)
	buf = binary.LittleEndian.AppendUint64(buf, cursorMagic)
	buf = binary.LittleEndian.AppendUint32(buf, b.lastID)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(b.cursors)))
	for _, c := range b.cursors {
		at := c.at
		if c.depth.Load() == 0 {
			at = c.end()
		}
		buf = binary.LittleEndian.AppendUint32(buf, c.id)
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(c.name)))
		buf = binary.LittleEndian.AppendUint64(buf, at.segment)
		buf = binary.LittleEndian.AppendUint64(buf, uint64(at.offset))
		buf = binary.LittleEndian.AppendUint64(buf, uint64(at.publishes))
		buf = binary.LittleEndian.AppendUint64(buf, uint64(at.puts))
		buf = append(buf, c.name...)
	}
	return binary.LittleEndian.AppendUint64(buf, xxhash.Sum64(buf))
}

// decodeCursors fills the cursors from buf and reports whether buf is whole.
func (b *Backlog) decodeCursors(buf []byte) bool {
	if len(buf) < 16+8 || binary.LittleEndian.Uint64(buf) != cursorMagic {
		return false
	}
	body := buf[:len(buf)-8]
	if xxhash.Sum64(body) != binary.LittleEndian.Uint64(buf[len(body):]) {
		return false
	}
	b.lastID = binary.LittleEndian.Uint32(body[8:])
	count := binary.LittleEndian.Uint32(body[12:])
	body = body[16:]
	for range count {
		if len(body) < cursorFixed {
			return false
		}
		n := int(binary.LittleEndian.Uint32(body[4:]))
		if n > nameMax || len(body) < cursorFixed+n {
			return false
		}
		b.cursors = append(b.cursors, &Cursor{
			b: b, id: binary.LittleEndian.Uint32(body),
			at: position{
				segment:   binary.LittleEndian.Uint64(body[8:]),
				offset:    int64(binary.LittleEndian.Uint64(body[16:])),
				publishes: int64(binary.LittleEndian.Uint64(body[24:])),
				puts:      int64(binary.LittleEndian.Uint64(body[32:])),
			},
			name: string(body[cursorFixed : cursorFixed+n]),
		})
		body = body[cursorFixed+n:]
	}
	return len(body) == 0
}

// replaceFile writes a file whole or not at all, as far as a crash of the
// process goes, and durably if asked to.
func replaceFile(path string, b []byte, durably bool) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && durably {
		err = f.Sync()
	}
	if err = firstErr(err, f.Close()); err != nil {
		os.Remove(path + ".tmp")
		return err
	}
	return os.Rename(path+".tmp", path)
}
