package mmapqueue

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/zsqio/zsq/internal/diskqueue"
)

// A log can take over the queues that upstream's nsqd left: each of its files
// becomes a segment, as it lies there. Nothing is copied. A cursor reads it like
// any other, and the file is removed when everything in it is finished.
//
// What upstream had for one channel, or had not handed on from its topic, is read
// by one cursor only, so that such a segment holds puts. Its sequences are those
// of a range that is wide enough for a file of that size. How many records there
// are in a file is known when its cursor comes there; until then the queue's last
// file stands for what its meta file promised.
//
// The file "adopted" says which files are whose: a line with the xxhash64 of the
// rest, and JSON. It is written before anything of them is read. Should it be lost
// they are adopted again, and read from where upstream stopped reading.
const (
	adoptedFile = "adopted"

	// recordMin is the least that a record takes there.
	recordMin = 30
)

// foreign is what a segment has more when it is one of upstream's files.
type foreign struct {
	cursor  uint32
	name    string // of the cursor, when the file was adopted
	start   int64  // offset of the first record to read
	meta    string // path of the queue's meta file; may be empty
	counted bool   // the segment's count of puts is exact
}

// adoptedEntry is one file of the list. Paths are relative to the log.
type adoptedEntry struct {
	Path     string `json:"path"`
	Meta     string `json:"meta"`
	Cursor   uint32 `json:"cursor"`
	Name     string `json:"name"`
	Number   uint64 `json:"number"`
	Sequence uint64 `json:"sequence"`
	Next     uint64 `json:"next"`
	Start    int64  `json:"start"`
	Records  int64  `json:"records"`
	Counted  bool   `json:"counted"`
}

// Adopt takes over what upstream's nsqd left for this topic, behind what the log
// holds already. The files stay where they are, belong to the log from now on,
// and must not be written by anybody. Files that the log has adopted before are
// passed over, so that it may be called at each start with all that is found.
func (b *Backlog) Adopt(queues []diskqueue.Queue) error {
	b.appending.Lock()
	defer b.appending.Unlock()
	b.mu.Lock()
	closed, open := b.closed, b.open != nil
	b.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if open {
		b.sealOpen()
	}
	any := false
	for _, q := range queues {
		files := slices.DeleteFunc(slices.Clone(q.Files), func(f diskqueue.File) bool { return b.adopted(f.Path) })
		if len(files) == 0 {
			continue
		}
		if err := b.makeDir(); err != nil {
			return err
		}
		if len(files) == len(q.Files) { // or some have been removed since, by us
			for _, f := range q.Missing {
				b.report(&segment{path: f.Path}, 0, errFileMissing)
			}
		}
		if err := b.adopt(q, files); err != nil {
			return fmt.Errorf("mmapqueue: adopt: %w", err)
		}
		any = true
	}
	if !any {
		return nil
	}
	return firstErr(b.saveCursors(true), b.o.FS.SyncDir(b.dir))
}

// adopted reports whether the log has a file already.
func (b *Backlog) adopted(path string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.segments, func(s *segment) bool { return s.path == path })
}

// adopt makes segments of files, those of q that are not adopted. The caller holds
// appending, and no segment is open.
func (b *Backlog) adopt(q diskqueue.Queue, files []diskqueue.File) error {
	var made []*segment
	for _, f := range files {
		size, err := b.sizeOf(f.Path)
		if exhausted(err) {
			return err
		}
		if err != nil { // a start that can read it adopts it
			b.report(&segment{path: f.Path}, 0, err)
			continue
		}
		made = append(made, &segment{
			path: f.Path, size: size, end: size, sealed: true,
			foreign: &foreign{name: q.Channel, start: f.Start, meta: q.Meta},
		})
	}
	if len(made) == 0 {
		return nil
	}
	c, err := b.cursor(q.Channel)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.depth.Load() == 0 {
		c.skip()
	}
	for _, s := range made {
		s.number, s.firstSequence = b.number, b.sequence
		s.next = b.sequence + uint64(s.size/recordMin) + 1
		s.foreign.cursor = c.id
		b.number, b.sequence = b.number+1, s.next
		b.segments = append(b.segments, s)
		b.grow(s.size)
		b.adoptedFrom = filepath.Dir(s.path)
	}
	last := made[len(made)-1]
	promised := max(q.Depth, 1)
	if q.Depth < 0 { // nobody knows: as many as there would be of a kilobyte
		promised = 1 + last.size>>10
	}
	last.addPuts(c.id, promised)
	c.depth.Add(promised)
	b.moved, b.adoptedMoved = true, true
	return nil
}

func (b *Backlog) sizeOf(path string) (int64, error) {
	f, err := b.o.FS.Open(path, false)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Size()
}

// countForeign finds out how many records s has for its cursor c, which has come
// there. The caller holds mu, which is let go meanwhile: only this cursor reads s.
func (b *Backlog) countForeign(c *Cursor, s *segment) error {
	b.mu.Unlock()
	n := int64(0)
	m, err := b.o.FS.Map(s.path, s.size)
	if err == nil {
		fault := guard(m, func() {
			for offset := s.foreign.start; offset < int64(len(m)); n++ {
				_, size, ok := diskqueue.Parse(m[offset:])
				if !ok {
					break
				}
				offset += int64(size)
			}
		})
		if fault != nil {
			b.o.Logf("mmapqueue: count records of %s: %v", s.path, fault)
		}
		err = m.Unmap()
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil // reading it will say so
	}
	b.mu.Lock()
	if err != nil {
		return err
	}
	s.foreign.counted = true
	more := n - s.puts[c.id]
	s.puts = map[uint32]int64{c.id: n}
	// The last file of the queue stood for this one too. It keeps one record, so
	// that the cursor comes there whatever was promised.
	for _, other := range slices.Backward(b.segments) {
		if f := other.foreign; f != nil && f.cursor == c.id && !f.counted {
			given := min(n, max(other.puts[c.id]-1, 0))
			other.addPuts(c.id, -given)
			more -= given
			if other.puts[c.id] == 0 {
				other.addPuts(c.id, 1)
				more++
			}
			break
		}
	}
	c.amend(c.depth.Load(), c.depth.Load()+more)
	b.adoptedMoved = true
	return nil
}

// runForeign is run for one of upstream's files. From a place where no record is,
// the rest of the file is given up: nothing there says where the next one starts.
func (w *walk) runForeign(m []byte, f func(r *Record)) {
	data := m[:min(w.limit, int64(len(m)))]
	for len(w.out) < w.max && w.at.offset < w.limit && w.at.sequence < w.stop {
		message, size, ok := diskqueue.Parse(data[min(w.at.offset, int64(len(data))):])
		if !ok {
			w.damage = append(w.damage, lostRecords{offset: w.at.offset}) // nobody knows how many
			w.at.offset = w.limit
			return
		}
		if !w.done(w.at.sequence) {
			*w.record = Record{
				Kind: KindPut, Cursor: w.id, Sequence: w.at.sequence, ID: foreignID(message.ID),
				Timestamp: message.Timestamp, Attempts: message.Attempts, Body: message.Body,
			}
			f(w.record)
			w.out = append(w.out, w.at.sequence)
		}
		w.at.offset += int64(size)
		w.at.sequence++
	}
}

// foreignID returns the number that upstream's id is in hexadecimal. Another's,
// which is no number, gets one of its own.
func foreignID(id [diskqueue.IDSize]byte) uint64 {
	if n, err := strconv.ParseUint(string(id[:]), 16, 64); err == nil {
		return n
	}
	return xxhash.Sum64(id[:]) >> 1
}

// saveAdopted writes the list if it has changed. The caller holds saving.
func (b *Backlog) saveAdopted() error {
	b.mu.Lock()
	if !b.adoptedMoved {
		b.mu.Unlock()
		return nil
	}
	b.adoptedMoved = false
	dir := b.adoptedFrom
	var list []adoptedEntry
	for _, s := range b.segments {
		f := s.foreign
		if f == nil {
			continue
		}
		list = append(list, adoptedEntry{
			Path: b.relative(s.path), Meta: b.relative(f.meta), Cursor: f.cursor, Name: f.name, Number: s.number,
			Sequence: s.firstSequence, Next: s.next, Start: f.start, Records: s.puts[f.cursor], Counted: f.counted,
		})
	}
	b.mu.Unlock()
	// A file that is off the list must not come back with the power.
	err := b.o.FS.SyncDir(dir)
	var text []byte
	if err == nil {
		text, err = json.MarshalIndent(list, "", " ")
	}
	if err == nil {
		text = append(fmt.Appendf(nil, "%016x\n", xxhash.Sum64(text)), text...)
		err = replaceFile(b.o.FS, filepath.Join(b.dir, adoptedFile), text, true)
	}
	if err != nil {
		b.mu.Lock()
		b.adoptedMoved = true
		b.mu.Unlock()
		return fmt.Errorf("mmapqueue: save the list of adopted files: %w", err)
	}
	return nil
}

func (b *Backlog) relative(path string) string {
	if rel, err := filepath.Rel(b.dir, path); err == nil && path != "" {
		return rel
	}
	return path
}

// loadAdopted makes segments of the files that the log has adopted and that are
// still there.
func (b *Backlog) loadAdopted() error {
	path := filepath.Join(b.dir, adoptedFile)
	text, err := readFile(b.o.FS, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if exhausted(err) {
		return err
	}
	var list []adoptedEntry
	const sum = 17 // 16 digits and a newline
	if err == nil && (len(text) < sum || string(text[:sum]) != fmt.Sprintf("%016x\n", xxhash.Sum64(text[sum:]))) {
		err = errors.New("the checksum is wrong")
	}
	if err == nil {
		err = json.Unmarshal(text[sum:], &list)
	}
	if err != nil {
		b.report(&segment{path: path}, 0, err)
		b.putAside(path)
		return nil
	}
	for _, e := range list {
		b.number, b.sequence = max(b.number, e.Number+1), max(b.sequence, e.Next)
		at := filepath.Join(b.dir, e.Path)
		b.adoptedFrom = filepath.Dir(at)
		size, err := b.sizeOf(at)
		if exhausted(err) {
			return err
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				b.report(&segment{path: at}, 0, err)
			}
			continue
		}
		f := &foreign{cursor: e.Cursor, name: e.Name, start: e.Start, counted: e.Counted}
		if e.Meta != "" {
			f.meta = filepath.Join(b.dir, e.Meta)
		}
		s := &segment{
			number: e.Number, firstSequence: e.Sequence, next: e.Next, path: at,
			size: size, end: size, sealed: true, foreign: f,
		}
		s.addPuts(e.Cursor, e.Records)
		b.segments = append(b.segments, s)
		b.grow(size)
	}
	return nil
}

// adoptedCursors makes sure that each adopted file has a cursor: a crash may have
// come between the list and the cursor file.
func (b *Backlog) adoptedCursors() {
	for _, s := range b.segments {
		f := s.foreign
		if f == nil || slices.ContainsFunc(b.cursors, func(c *Cursor) bool { return c.id == f.cursor }) {
			continue
		}
		if c := b.named(f.name); c != nil {
			s.puts = map[uint32]int64{c.id: s.puts[f.cursor]}
			f.cursor = c.id
			continue
		}
		c := &Cursor{b: b, id: f.cursor, name: f.name, base: position{segment: s.number}}
		b.lastID = max(b.lastID, c.id)
		b.cursors = append(b.cursors, c)
	}
}

// forgetMeta removes the meta file of a queue whose last file is gone.
func (b *Backlog) forgetMeta(s *segment) {
	meta := s.foreign.meta
	if meta == "" {
		return
	}
	b.mu.Lock()
	needed := slices.ContainsFunc(b.segments, func(o *segment) bool { return o.foreign != nil && o.foreign.meta == meta })
	b.mu.Unlock()
	if needed {
		return
	}
	if err := b.o.FS.Remove(meta); err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.o.Logf("mmapqueue: remove meta file: %v", err)
	}
}
