package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
)

const (
	// bufferSize is how many bytes of lines are collected for one write.
	bufferSize = 64 << 10
	// memberSizeMax is how many compressed bytes of an unfinished gzip member
	// are held back from the file.
	memberSizeMax = 1 << 20
)

// An output is an open file. Lines are collected in memory; only whole lines
// reach a plain file, and only whole members a gzip file, which is a chain of
// them. Not safe for concurrent use.
//
//	plain:  line ──► lines ─────────────────────────────► file
//	gzip:   line ──► lines ──► compressor ──► member ───► file
type output struct {
	file  *os.File
	size  int64 // for rotation: bytes at open, and all lines since
	lines []byte

	compressor *gzip.Writer // nil: a plain file
	member     []byte       // compressed and not yet in the file
	inMember   bool         // the compressor has had lines since the last member
	started    bool         // the file has a member
}

// append adds one line.
func (o *output) append(line []byte) error {
	o.lines = append(append(o.lines, line...), '\n')
	o.size += int64(len(line)) + 1
	if len(o.lines) >= bufferSize {
		return o.flush()
	}
	return nil
}

// flush hands the lines to the file, or to the compressor.
func (o *output) flush() error {
	if len(o.lines) == 0 {
		return nil
	}
	var err error
	if o.compressor == nil {
		_, err = o.file.Write(o.lines)
	} else {
		o.inMember = true
		_, err = o.compressor.Write(o.lines)
	}
	o.lines = o.lines[:0]
	if cap(o.lines) > 4*bufferSize {
		o.lines = nil // one huge message is no reason to keep its memory
	}
	return err
}

// Write is where the compressor puts a member.
func (o *output) Write(p []byte) (int, error) {
	o.member = append(o.member, p...)
	if len(o.member) >= memberSizeMax {
		if err := o.writeMember(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (o *output) writeMember() error {
	_, err := o.file.Write(o.member)
	o.member = o.member[:0]
	return err
}

// sync returns when all lines are on disk. A gzip file has whole members then,
// and an empty one if there was nothing to write.
func (o *output) sync() error {
	if err := o.flush(); err != nil {
		return err
	}
	if o.compressor != nil && (o.inMember || !o.started) {
		if err := o.compressor.Close(); err != nil {
			return err
		}
		if err := o.writeMember(); err != nil {
			return err
		}
		o.compressor.Reset(o)
		o.inMember, o.started = false, true
	}
	return o.file.Sync()
}

// openOutput opens the file at path: a new one if exclusive, else one to append
// to. compressor is nil for a plain file. The directory entry is on disk when it
// returns.
func openOutput(path string, exclusive bool, compressor *gzip.Writer) (*output, error) {
	flags := os.O_RDWR | os.O_CREATE // read: the end of a file that we append to
	if exclusive {
		flags |= os.O_EXCL
	} else {
		flags |= os.O_APPEND
	}
	file, err := os.OpenFile(path, flags, 0o666)
	if errors.Is(err, fs.ErrPermission) && !exclusive {
		file, err = os.OpenFile(path, flags&^os.O_RDWR|os.O_WRONLY, 0o666)
	}
	if err != nil {
		return nil, err
	}
	o := &output{file: file, compressor: compressor}
	if compressor != nil {
		compressor.Reset(o)
	}
	if err := o.begin(path); err != nil {
		file.Close()
		return nil, err
	}
	return o, nil
}

// begin looks at what the file has, and ends a line that was torn.
func (o *output) begin(path string) error {
	info, err := o.file.Stat()
	if err != nil {
		return err
	}
	o.size = info.Size()
	if o.size == 0 {
		return syncDir(filepath.Dir(path))
	}
	var last [1]byte
	// A file that we may not read, or a pipe, is taken as it is.
	if n, err := o.file.ReadAt(last[:], o.size-1); n == 1 && err == nil && last[0] != '\n' {
		o.size++
		_, err := io.WriteString(o.file, "\n")
		return err
	}
	return nil
}

// moveExclusive renames a file, and fails with fs.ErrExist instead of replacing
// another. The new name is on disk when it returns.
func moveExclusive(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o770); err != nil {
		return err
	}
	if err := os.Link(from, to); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if err := os.Remove(from); err != nil {
		return fmt.Errorf("%s has moved to %s, but: %w", from, to, err)
	}
	return nil
}
