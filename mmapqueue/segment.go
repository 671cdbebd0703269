package mmapqueue

import (
	"encoding/binary"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/edsrzf/mmap-go"
)

// A segment is one file of a log. It starts with a header:
//
//	0       8        16     24               32       40      56         64      128
//	├───────┼────────┼──────┼────────────────┼────────┼───────┼──────────┼───────┼────────
//	│ magic │ number │ salt │ first sequence │ before │ zeros │ checksum │ again │ records
//	└───────┴────────┴──────┴────────────────┴────────┴───────┴──────────┴───────┴────────
//
// which stands there twice, because no record can be told without the salt. before
// is the next sequence of the segment in front of it, 0 when there was none: what
// an append that failed has used up lies between it and the first. And,
// once it is sealed, ends with a footer that says what a start needs to
// know, so that a start reads two small blocks of a sealed segment and no more:
//
//	0     8                16          24      32
//	├─────┼────────────────┼───────────┼───────┼──────────────────────┐
//	│ end │ next sequence  │ publishes │ salt  │ puts: (cursor,count)…│
//	└─────┴────────────────┴───────────┴───────┴──────────────────────┘
//	├───────────────┼──────────┼───────┤
//	│ footer length │ checksum │ magic │  the last 24 bytes of the file
//	└───────────────┴──────────┴───────┘
//
// end is where the records end and the footer begins. The salt is here again,
// for a damaged header would otherwise take every record with it. The number of
// the segment is mixed into the footer's checksum: a file under a wrong name is
// found out. Puts are pairs of 64-bit numbers, by cursor.
const (
	segmentMagic  = 0x0131474553515a00 // "\0ZQSEG1\1" in the file
	footerMagic   = 0x014c414553515a00
	headerSize    = 64
	segmentStart  = 2 * headerSize // offset of the first record
	footerFixed   = 32
	footerTrailer = 24
	putSize       = 16

	segmentSuffix = ".seg"
	badSuffix     = ".bad"
	spareSuffix   = ".spare"
)

// segment is one file of a log. Its fields belong to Backlog.mu, but for those
// that never change.
type segment struct {
	number        uint64 // never changes
	salt          uint64 // never changes
	firstSequence uint64 // never changes
	before        uint64 // next of the segment in front, 0 for none; never changes
	path          string // never changes

	f         file             // open for writing and to be synced, or nil
	size      int64            // bytes of the file
	end       int64            // offset behind the last record; written by the appender only
	next      uint64           // sequence of the record that will come next
	publishes int64            // publish records before end
	puts      map[uint32]int64 // put records before end, by cursor; nil without any
	synced    int64            // end at the last sync
	sealed    bool             // takes no more records
	failed    bool             // must take no more records: a write, sync or read failed
	damaged   bool             // renamed rather than deleted when it is done with
	footed    bool             // a start found its footer
	dead      bool             // gone from the list; the last reader unmaps it

	foreign *foreign // not nil: one of upstream's files, see adopt.go

	mapping mmap.MMap     // nil until somebody reads
	readers int           // Reads under way in mapping
	used    atomic.Uint64 // when it was last read, by Handles
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%012d%s", number, segmentSuffix))
}

// segmentNumber returns the number in a segment's file name.
func segmentNumber(name string) (number uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) < 12 {
		return 0, false
	}
	number, err := strconv.ParseUint(digits, 10, 63)
	return number, err == nil && number > 0
}

// header returns both copies of the header.
func (s *segment) header() []byte {
	b := make([]byte, segmentStart)
	binary.LittleEndian.PutUint64(b, segmentMagic)
	binary.LittleEndian.PutUint64(b[8:], s.number)
	binary.LittleEndian.PutUint64(b[16:], s.salt)
	binary.LittleEndian.PutUint64(b[24:], s.firstSequence)
	binary.LittleEndian.PutUint64(b[32:], s.before)
	binary.LittleEndian.PutUint64(b[56:], xxhash.Sum64(b[:56]))
	copy(b[headerSize:], b)
	return b
}

// parseHeader fills the salt and the first sequence from b, of which one copy of
// the header must be whole. sound says that both were.
func (s *segment) parseHeader(b []byte) (ok, sound bool) {
	copies := 0
	for ; len(b) >= headerSize; b = b[headerSize:] {
		if binary.LittleEndian.Uint64(b) != segmentMagic ||
			binary.LittleEndian.Uint64(b[8:]) != s.number ||
			binary.LittleEndian.Uint64(b[56:]) != xxhash.Sum64(b[:56]) {
			continue
		}
		s.salt = binary.LittleEndian.Uint64(b[16:])
		s.firstSequence = binary.LittleEndian.Uint64(b[24:])
		s.before = binary.LittleEndian.Uint64(b[32:])
		copies++
	}
	return copies > 0, copies == segmentStart/headerSize
}

// footerSize returns the bytes of a footer with this many put counts.
func footerSize(puts int) int64 { return footerFixed + putSize*int64(puts) + footerTrailer }

func (s *segment) footer() []byte {
	b := make([]byte, 0, footerSize(len(s.puts)))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.end))
	b = binary.LittleEndian.AppendUint64(b, s.next)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.publishes))
	b = binary.LittleEndian.AppendUint64(b, s.salt)
	for _, id := range slices.Sorted(maps.Keys(s.puts)) {
		b = binary.LittleEndian.AppendUint64(b, uint64(id))
		b = binary.LittleEndian.AppendUint64(b, uint64(s.puts[id]))
	}
	sum := xxhash.Sum64(b) ^ mix(s.number)
	b = binary.LittleEndian.AppendUint64(b, uint64(cap(b)))
	b = binary.LittleEndian.AppendUint64(b, sum)
	return binary.LittleEndian.AppendUint64(b, footerMagic)
}

// readFooter fills s from the footer of f and reports whether there is one.
func (s *segment) readFooter(f file) bool {
	var trailer [footerTrailer]byte
	if s.size < segmentStart+footerSize(0) {
		return false
	}
	if _, err := f.ReadAt(trailer[:], s.size-footerTrailer); err != nil {
		return false
	}
	length := binary.LittleEndian.Uint64(trailer[:])
	if binary.LittleEndian.Uint64(trailer[16:]) != footerMagic || length%8 != 0 ||
		length < uint64(footerSize(0)) || length > uint64(s.size-segmentStart) {
		return false
	}
	b := make([]byte, length-footerTrailer)
	start := s.size - int64(length)
	if _, err := f.ReadAt(b, start); err != nil {
		return false
	}
	if xxhash.Sum64(b)^mix(s.number) != binary.LittleEndian.Uint64(trailer[8:]) ||
		int64(binary.LittleEndian.Uint64(b)) != start {
		return false
	}
	s.end = start
	s.next = binary.LittleEndian.Uint64(b[8:])
	s.publishes = int64(binary.LittleEndian.Uint64(b[16:]))
	s.salt = binary.LittleEndian.Uint64(b[24:])
	s.puts = nil
	for p := b[footerFixed:]; len(p) >= putSize; p = p[putSize:] {
		s.addPuts(uint32(binary.LittleEndian.Uint64(p)), int64(binary.LittleEndian.Uint64(p[8:])))
	}
	return true
}

func (s *segment) addPuts(cursor uint32, n int64) {
	if s.puts == nil {
		s.puts = make(map[uint32]int64)
	}
	s.puts[cursor] += n
}

// encode writes recs to b, which will stand at offset of s, and returns the offset
// and the sequence behind them.
func (s *segment) encode(b []byte, recs []Record, offset int64, sequence uint64) (end int64, next uint64) {
	for i := range recs {
		n := encode(b, &recs[i], sequence, offset, s.salt)
		b = b[n:]
		offset += int64(n)
		sequence++
	}
	return offset, sequence
}

// seal writes the footer and gives back the space behind it. When that fails the
// segment has no footer and the next start scans it; it is cut behind its last
// record if the system lets us, so that nothing of a failed batch is found then.
func (s *segment) seal() (size int64, err error) {
	footer := s.footer()
	if _, err = s.f.WriteAt(footer, s.end); err == nil {
		size = s.end + int64(len(footer))
		if err = s.f.Truncate(size); err == nil {
			return size, nil
		}
	}
	if s.f.Truncate(s.end) == nil {
		return s.end, err
	}
	return s.size, err
}

// each hands the whole records of s from offset on to f, until that says no. They
// are valid inside f only. Damage is passed over.
func (b *Backlog) each(s *segment, offset int64, f func(r *Record) bool) error {
	m, err := b.o.FS.Map(s.path, s.size)
	if err != nil {
		return err
	}
	defer m.Unmap()
	fault := guard(m, func() {
		var r Record
		for data := m[:min(s.end, int64(len(m)))]; offset < int64(len(data)); {
			size, v := decode(data[offset:], &r, offset, s.salt)
			if v == nothing {
				offset = resync(data, offset, s.salt)
				continue
			}
			if offset += size; v == whole && !f(&r) {
				return
			}
		}
	})
	if fault != nil {
		b.report(s, offset, fault)
	}
	return nil
}

// start returns the offset of the first record.
func (s *segment) start() int64 {
	if s.foreign != nil {
		return s.foreign.start
	}
	return segmentStart
}

// unmap gives the mapping back. The caller holds Backlog.mu and has seen that
// nobody reads.
func (s *segment) unmap() error {
	if s.mapping == nil {
		return nil
	}
	return s.mapping.Unmap()
}
