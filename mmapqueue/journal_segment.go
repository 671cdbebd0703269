package mmapqueue

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/edsrzf/mmap-go"
)

// A journal segment is a file of fixed size that is used again and again, under
// a new number and a new salt each time. It starts with two copies of its
// header, in blocks of their own so that no torn or damaged sector takes both:
//
//	0                                               2048     4096
//	├─ magic  number  salt  tail  sequence … checksum ─┬─ again ─┬─ records ──
//
//	0       8        16     24     32         40       48      56         64
//	├───────┼────────┼──────┼──────┼──────────┼────────┼───────┼──────────┤
//	│ magic │ number │ salt │ tail │ sequence │ before │ zeros │ checksum │
//	└───────┴────────┴──────┴──────┴──────────┴────────┴───────┴──────────┘
//
// sequence is not above that of any batch begun later. before is how far the segment
// of the number in front was written (in disk mode: synced), 0 if that is not known. tail is the lowest number that was
// needed when the segment was begun: what is older is waiting to be used again,
// whatever it may still hold. The name of the file means nothing.
//
// Records stand one behind the other. They end where no whole record follows:
// what is left there of earlier uses was written under other salts.
const (
	journalMagic  = 0x024c4e524a515a00 // "\0ZQJRNL\2" in the file
	journalMagic1 = 0x014c4e524a515a00 // the records of such a file are bound to their offsets
	journalCopy   = 2048
	journalStart  = 4096
	journalSuffix = ".journal"
	journalHeader = 64
)

// journalSegment is one file of a journal. Its fields belong to Journal.mu, but
// for those that only the writer uses.
type journalSegment struct {
	path   string // changes when somebody has removed the file: see Journal.restore
	number uint64 // changes with each use
	salt   uint64
	tail   uint64
	first  uint64 // sequence of its header
	before int64  // where the records of the segment in front ended at least
	size   int64

	f      File  // the writer's; nil when it is not written
	end    int64 // the writer's: where the next record goes
	synced int64 // the writer's: end at the last sync
	intact int64 // the writer's: end at the last write that worked

	followed bool // the writer's: the next segment's file is made, or being made
	unnamed  bool // made, and its name not synced

	mapping mmap.MMap // while the journal is replayed
	damaged bool      // kept under another name when it is done with
}

func journalPath(dir string, slot uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%06d%s", slot, journalSuffix))
}

// journalSlot returns the number in a file's name, which only keeps names apart.
func journalSlot(name string) (slot uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, journalSuffix)
	if !ok {
		return 0, false
	}
	slot, err := strconv.ParseUint(digits, 10, 63)
	return slot, err == nil
}

// renew gives s a new number and salt, and writes its header.
func (s *journalSegment) renew(number, tail, sequence uint64, before int64) error {
	var random [8]byte
	rand.Read(random[:])
	s.number, s.tail, s.first, s.before = number, tail, sequence, before
	s.salt = binary.LittleEndian.Uint64(random[:])
	s.end, s.synced, s.intact, s.damaged, s.followed = journalStart, 0, 0, false, false
	block := make([]byte, journalStart)
	h := block[:journalHeader]
	binary.LittleEndian.PutUint64(h, journalMagic)
	binary.LittleEndian.PutUint64(h[8:], s.number)
	binary.LittleEndian.PutUint64(h[16:], s.salt)
	binary.LittleEndian.PutUint64(h[24:], s.tail)
	binary.LittleEndian.PutUint64(h[32:], s.first)
	binary.LittleEndian.PutUint64(h[40:], uint64(s.before))
	binary.LittleEndian.PutUint64(h[56:], xxhash.Sum64(h[:56]))
	copy(block[journalCopy:], h)
	_, err := s.f.WriteAt(block, 0)
	return err
}

// parseJournalHeader fills s from the first sound copy in block, and reports
// whether there was one and whether both were.
func (s *journalSegment) parseHeader(block []byte) (sound, both bool) {
	both = true
	for _, at := range [...]int{0, journalCopy} {
		if len(block) < at+journalHeader {
			return sound, false
		}
		h := block[at : at+journalHeader]
		if binary.LittleEndian.Uint64(h) != journalMagic || binary.LittleEndian.Uint64(h[56:]) != xxhash.Sum64(h[:56]) {
			both = false
			continue
		}
		sound = true
		s.number = binary.LittleEndian.Uint64(h[8:])
		s.salt = binary.LittleEndian.Uint64(h[16:])
		s.tail = binary.LittleEndian.Uint64(h[24:])
		s.first = binary.LittleEndian.Uint64(h[32:])
		s.before = int64(binary.LittleEndian.Uint64(h[40:]))
	}
	return sound, sound && both
}

// fileState is what a file in a journal's directory is.
type fileState uint8

const (
	fileUsed    fileState = iota // a segment
	fileFresh                    // made, and never used
	fileForeign                  // nothing of ours
	fileEarlier                  // a segment of an earlier format
)

// load reads what a start has to know of the file. One that cannot be read is
// foreign, and the error says why.
func (s *journalSegment) load(disk FS) (fileState, error) {
	f, err := disk.Open(s.path, false)
	if err != nil {
		return fileForeign, err
	}
	defer f.Close()
	if s.size, err = f.Size(); err != nil {
		return fileForeign, err
	}
	block := make([]byte, journalStart)
	n, err := f.ReadAt(block, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fileForeign, err
	}
	block = block[:n]
	sound, both := s.parseHeader(block)
	s.damaged = sound && !both
	switch {
	case sound:
		return fileUsed, nil
	case len(bytes.TrimLeft(block, "\x00")) == 0:
		return fileFresh, nil
	case n >= 8 && binary.LittleEndian.Uint64(block) == journalMagic1:
		return fileEarlier, nil
	}
	return fileForeign, nil
}

// lostBytes is a place in a journal where records should have been, at least so many,
// and how long it is.
type lostBytes struct{ offset, bytes, records int64 }

// scan hands every whole record to f, in order, and finds the end. damage is
// where records should have been.
func (s *journalSegment) scan(disk FS, f func(r *Record)) (damage []lostBytes, err error) {
	if s.mapping == nil {
		if s.mapping, err = disk.Map(s.path, s.size); err != nil {
			return nil, err
		}
	}
	m := s.mapping
	s.end = journalStart
	err = guard(m, func() {
		var r Record
		lost := int64(0) // since the last whole record; it counts when another follows
		for offset := s.end; offset < int64(len(m)); {
			size, v := decode(m[offset:], &r, journalPlace, s.salt)
			switch v {
			case nothing:
				lost++
				offset = resyncJournal(m, offset, s.salt)
				continue
			case damaged:
				lost++
				offset += size
				continue
			}
			if lost > 0 {
				damage, lost = append(damage, lostBytes{s.end, offset - s.end, lost}), 0
			}
			f(&r)
			offset += size
			s.end = offset
		}
	})
	return damage, err
}

func (s *journalSegment) unmap() error {
	m := s.mapping
	s.mapping = nil
	if m == nil {
		return nil
	}
	return m.Unmap()
}
