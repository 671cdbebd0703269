// Package diskqueue knows the files in which upstream's nsqd keeps messages that
// overflowed or that a stop left: it finds them, reads their records, and writes
// such files for upstream to read. It knows neither our log nor our broker.
//
// A topic has a queue of its own, and each of its channels has one:
//
//	<topic>.diskqueue.meta.dat               depth, where reading and writing stand
//	<topic>.diskqueue.000000.dat             records
//	<topic>:<channel>.diskqueue.meta.dat
//	<topic>:<channel>.diskqueue.000007.dat
//
// The meta file is text: the depth, then file number and offset of the next read,
// then those of the next write, each on a line. A record is, all big-endian:
//
//	0        4           12         14   30
//	├────────┼───────────┼──────────┼────┼──────┤
//	│ length │ timestamp │ attempts │ id │ body │   length is of what follows it
//	└────────┴───────────┴──────────┴────┴──────┘
//
// Both generations of upstream's package write this; in the older one a file may
// be longer than its limit by a record, which a reader that goes by a file's real
// size does not notice.
package diskqueue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	metaSuffix = ".diskqueue.meta.dat"
	dataInfix  = ".diskqueue."
	dataSuffix = ".dat"
	badSuffix  = ".bad"

	// IDSize is the length of a message id, 16 hexadecimal digits.
	IDSize = 16

	lengthSize = 4
	fixed      = 8 + 2 + IDSize

	// bodyMax is the largest body that we take for one. Upstream's limit is an
	// option that may have been lowered since; its own files become unreadable to
	// it then, and are not to us.
	bodyMax = 1 << 30
)

// Message is one record. Body aliases the bytes it was parsed from.
type Message struct {
	Timestamp int64 // ns, wall clock
	Attempts  uint16
	ID        [IDSize]byte
	Body      []byte
}

// Parse reads the record at the front of b. size is what it takes; ok is false
// when there is no whole record: the file ends there, as far as it can be used.
func Parse(b []byte) (m Message, size int, ok bool) {
	if len(b) < lengthSize+fixed {
		return m, 0, false
	}
	n := int64(int32(binary.BigEndian.Uint32(b)))
	if n < fixed || n > fixed+bodyMax || n > int64(len(b)-lengthSize) {
		return m, 0, false
	}
	b = b[lengthSize : lengthSize+n]
	m.Timestamp = int64(binary.BigEndian.Uint64(b))
	m.Attempts = binary.BigEndian.Uint16(b[8:])
	copy(m.ID[:], b[10:])
	m.Body = b[fixed:n:n]
	return m, lengthSize + int(n), true
}

// append writes m behind b as a record.
func (m *Message) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(fixed+len(m.Body)))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Timestamp))
	b = binary.BigEndian.AppendUint16(b, m.Attempts)
	b = append(b, m.ID[:]...)
	return append(b, m.Body...)
}

// Queue is one queue's files, oldest first.
type Queue struct {
	Topic, Channel string // Channel is empty for the topic's own queue
	Files          []File
	Meta           string // path of the meta file, or empty when there is none that can be used
	Depth          int64  // as the meta file says, or -1
	Missing        []File // that should lie between the others and are not there, are no files or empty
}

// missingMax is how many missing files are named.
const missingMax = 100

// File is a file of records.
type File struct {
	Path  string
	Start int64 // offset of the first record that was not read
}

// Find returns the queues whose files lie in dir, by topic, a topic's own queue
// last: what a channel has was published before what its topic has. Queues with
// nothing to read are left out, and so is what is quarantined (.bad) or was left by
// an interrupted write. What a meta file says is checked against the files that
// there are; without a usable one, reading starts at the first file.
func Find(dir string) ([]Queue, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("diskqueue: %w", err)
	}
	type numbered struct {
		number int64
		path   string
	}
	files := map[string][]numbered{} // by base name
	aside := map[string]bool{}       // names of quarantined files, without the suffix
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), badSuffix); ok {
			aside[name] = true
		}
		base, number, ok := dataName(e.Name())
		if ok && e.Type().IsRegular() {
			files[base] = append(files[base], numbered{number, filepath.Join(dir, e.Name())})
		}
	}
	var queues []Queue
	for base, found := range files {
		slices.SortFunc(found, func(a, b numbered) int { return int(a.number - b.number) })
		topic, channel, _ := strings.Cut(base, ":")
		q := Queue{Topic: topic, Channel: channel, Depth: -1}
		meta := filepath.Join(dir, base+metaSuffix)
		at, ok := readMeta(meta)
		if ok {
			q.Meta, q.Depth = meta, at.depth
		}
		next := found[0].number
		if ok {
			next = at.readFile
		}
		for _, f := range found {
			for ; next < f.number && len(q.Missing) < missingMax; next++ {
				if name := base + fmt.Sprintf("%s%06d%s", dataInfix, next, dataSuffix); !aside[name] {
					q.Missing = append(q.Missing, File{Path: filepath.Join(dir, name)})
				}
			}
			next = max(next, f.number+1)
			stat, err := os.Stat(f.path)
			if err != nil {
				return nil, fmt.Errorf("diskqueue: %w", err)
			}
			file := File{Path: f.path}
			switch {
			case ok && f.number < at.readFile:
				continue // read, and not yet removed
			case ok && f.number == at.readFile:
				file.Start = at.readOffset
			}
			switch {
			case file.Start < stat.Size():
				q.Files = append(q.Files, file)
			case ok && f.number < at.writeFile && stat.Size() < max(file.Start, 1):
				q.Missing = append(q.Missing, file) // all that was to be read of it has been cut off
			}
		}
		if len(q.Files) > 0 {
			queues = append(queues, q)
		}
	}
	slices.SortFunc(queues, func(a, b Queue) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		if (a.Channel == "") != (b.Channel == "") {
			return strings.Compare(b.Channel, a.Channel)
		}
		return strings.Compare(a.Channel, b.Channel)
	})
	return queues, nil
}

// dataName takes a data file's name apart.
func dataName(name string) (base string, number int64, ok bool) {
	rest, ok := strings.CutSuffix(name, dataSuffix)
	if !ok {
		return "", 0, false
	}
	at := strings.LastIndex(rest, dataInfix)
	if at <= 0 {
		return "", 0, false
	}
	digits := rest[at+len(dataInfix):]
	if len(digits) < 6 {
		return "", 0, false // "meta", for one
	}
	number, err := strconv.ParseInt(digits, 10, 63)
	return rest[:at], number, err == nil && number >= 0
}

// standing is what a meta file says.
type standing struct {
	depth      int64
	readFile   int64
	readOffset int64
	writeFile  int64
	writeEnd   int64
}

func readMeta(path string) (at standing, ok bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return at, false
	}
	n, err := fmt.Fscanf(bytes.NewReader(b), "%d\n%d,%d\n%d,%d\n",
		&at.depth, &at.readFile, &at.readOffset, &at.writeFile, &at.writeEnd)
	if err != nil || n != 5 || at.depth < 0 || at.readFile < 0 || at.readOffset < 0 || at.readFile > at.writeFile {
		return standing{}, false
	}
	return at, true
}
