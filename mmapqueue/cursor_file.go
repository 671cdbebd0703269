package mmapqueue

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// The cursor file holds what every cursor is done with. It is replaced whole, by
// rename, at each sync and whenever a cursor is created, renamed, emptied or
// deleted:
//
//	0       8         12      16    24      32
//	├───────┼─────────┼───────┼─────┼───────┼──────────┬──────────┐
//	│ magic │ last id │ count │ end │ exact │ cursors… │ checksum │
//	└───────┴─────────┴───────┴─────┴───────┴──────────┴──────────┘
//
// end is the next sequence of the log's last segment, 0 without any: no less was
// written. exact is 1 when no segment was removed that the cursors below need.
// An earlier file has another magic and neither of the two.
//
// and for each cursor:
//
//	0    4      8         16       24         32        36       40
//	├────┼──────┼─────────┼────────┼──────────┼─────────┼────────┼──────┬──────────┬────────┐
//	│ id │ name │ segment │ offset │ sequence │ tallies │ window │ name │ tallies… │ window │
//	└────┴──────┴─────────┴────────┴──────────┴─────────┴────────┴──────┴──────────┴────────┘
//
// segment, offset and sequence are the base. The numbers called name and window
// are lengths in bytes, tallies a count; a tally is a segment and how many of the
// cursor's records in it are finished, 8 bytes each. window.go draws the window.
// checksum is the xxhash64 of everything before it. A file that is older than
// the records beside it makes cursors read some of them again, and never miss one.
const (
	cursorFile   = "cursors"
	cursorMagic  = 0x0133525543515a00 // "\0ZQCUR3\1" in the file
	cursorMagic2 = 0x0132525543515a00
	cursorStart  = 32
	cursorStart2 = 16
	cursorFixed  = 40
	tallySize    = 16
	nameMax      = 1024
)

// savedEnd is what a cursor file says of the log.
type savedEnd struct {
	end   uint64
	exact bool
}

// savedEnd returns what the cursor file is to say now. The caller holds mu.
func (b *Backlog) savedEnd() savedEnd {
	if b.o.PowerSafe {
		return savedEnd{b.syncedEnd, b.closed}
	}
	return savedEnd{b.lastNext(), true}
}

// lastNext returns the next sequence of the last segment of our own, 0 without any.
// The caller holds mu.
func (b *Backlog) lastNext() uint64 {
	for _, s := range slices.Backward(b.segments) {
		if s.foreign == nil {
			return s.next
		}
	}
	return 0
}

func (e savedEnd) append(buf []byte) []byte {
	buf = binary.LittleEndian.AppendUint64(buf, e.end)
	exact := uint64(0)
	if e.exact {
		exact = 1
	}
	return binary.LittleEndian.AppendUint64(buf, exact)
}

// saveCursors writes the cursor file if a cursor has moved and there is a
// directory to hold it.
func (b *Backlog) saveCursors(durably bool) error {
	return b.writeCursors(durably || b.o.PowerSafe)
}

func (b *Backlog) writeCursors(durably bool) error {
	b.saving.Lock()
	defer b.saving.Unlock()
	return b.writeCursorsLocked(durably)
}

// writeCursorsLocked is writeCursors for a caller that holds saving.
func (b *Backlog) writeCursorsLocked(durably bool) error {
	if err := b.saveAdopted(); err != nil {
		return err
	}
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
	if err := replaceFile(b.o.FS, filepath.Join(b.dir, cursorFile), buf, durably); err != nil {
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
	buf = b.savedEnd().append(buf)
	for _, c := range b.cursors {
		if c.idle() {
			c.settle()
		}
		fixed := len(buf)
		buf = binary.LittleEndian.AppendUint32(buf, c.id)
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(c.name)))
		buf = binary.LittleEndian.AppendUint64(buf, c.base.segment)
		buf = binary.LittleEndian.AppendUint64(buf, uint64(c.base.offset))
		buf = binary.LittleEndian.AppendUint64(buf, c.base.sequence)
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(c.tallies)))
		buf = binary.LittleEndian.AppendUint32(buf, 0)
		buf = append(buf, c.name...)
		for _, t := range c.tallies {
			buf = binary.LittleEndian.AppendUint64(buf, t.segment)
			buf = binary.LittleEndian.AppendUint64(buf, uint64(t.finished))
		}
		before := len(buf)
		buf = c.window.encode(buf)
		binary.LittleEndian.PutUint32(buf[fixed+36:], uint32(len(buf)-before))
	}
	return binary.LittleEndian.AppendUint64(buf, xxhash.Sum64(buf))
}

// decodeCursors fills the cursors from buf and reports whether buf is whole.
func (b *Backlog) decodeCursors(buf []byte) bool {
	if len(buf) < cursorStart2+8 {
		return false
	}
	start := cursorStart
	switch binary.LittleEndian.Uint64(buf) {
	case cursorMagic:
	case cursorMagic2:
		start = cursorStart2
	default:
		return false
	}
	if len(buf) < start+8 {
		return false
	}
	body := buf[:len(buf)-8]
	if xxhash.Sum64(body) != binary.LittleEndian.Uint64(buf[len(body):]) {
		return false
	}
	b.lastID = binary.LittleEndian.Uint32(body[8:])
	count := binary.LittleEndian.Uint32(body[12:])
	if start == cursorStart {
		b.saved = savedEnd{binary.LittleEndian.Uint64(body[16:]), body[24] == 1}
	}
	body = body[start:]
	for range count {
		if len(body) < cursorFixed {
			return false
		}
		n := int64(binary.LittleEndian.Uint32(body[4:]))
		tallies := int64(binary.LittleEndian.Uint32(body[32:]))
		window := int64(binary.LittleEndian.Uint32(body[36:]))
		if n > nameMax || int64(len(body)) < cursorFixed+n+tallies*tallySize+window {
			return false
		}
		c := &Cursor{b: b, id: binary.LittleEndian.Uint32(body)}
		c.base = position{
			segment:  binary.LittleEndian.Uint64(body[8:]),
			offset:   int64(binary.LittleEndian.Uint64(body[16:])),
			sequence: binary.LittleEndian.Uint64(body[24:]),
		}
		c.at, c.mark = c.base, c.base
		body = body[cursorFixed:]
		c.name, body = string(body[:n]), body[n:]
		for range tallies {
			t := c.tally(binary.LittleEndian.Uint64(body))
			t.finished = int64(binary.LittleEndian.Uint64(body[8:]))
			body = body[tallySize:]
		}
		if !c.window.decode(body[:window]) || c.base.offset < 0 {
			return false
		}
		body = body[window:]
		b.cursors = append(b.cursors, c)
	}
	return len(body) == 0
}
