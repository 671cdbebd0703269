package diskqueue

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Writer writes one queue for upstream to read. Nothing of it counts before Close
// returns without an error.
type Writer struct {
	dir, base string
	fileBytes int64
	buf       []byte
	out       *bufio.Writer
	f         *os.File
	number    int64
	end       int64
	depth     int64
}

// NewWriter returns a writer of the queue of a topic, or of a channel, in dir. A
// file takes up to fileBytes; a record that is larger gets one
// of its own. No file is made before the first message. A queue that lies in dir
// already is not touched; Put then fails with fs.ErrExist.
func NewWriter(dir, topic, channel string, fileBytes int64) *Writer {
	base := topic
	if channel != "" {
		base += ":" + channel
	}
	return &Writer{dir: dir, base: base, fileBytes: fileBytes}
}

func (w *Writer) path(number int64) string {
	return filepath.Join(w.dir, fmt.Sprintf("%s%s%06d%s", w.base, dataInfix, number, dataSuffix))
}

// Put appends a message. It copies the body.
func (w *Writer) Put(m Message) error {
	w.buf = m.append(w.buf[:0])
	size := int64(len(w.buf))
	if w.f != nil && w.end > 0 && w.end+size > w.fileBytes {
		if err := w.finish(); err != nil {
			return err
		}
		w.number++
		w.end = 0
	}
	if w.f == nil {
		if err := w.create(); err != nil {
			return err
		}
	}
	if _, err := w.out.Write(w.buf); err != nil {
		return fmt.Errorf("diskqueue: write: %w", err)
	}
	w.end += size
	w.depth++
	return nil
}

func (w *Writer) create() error {
	if w.number == 0 {
		if _, err := os.Lstat(filepath.Join(w.dir, w.base+metaSuffix)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("diskqueue: queue %s: %w", w.base, errors.Join(fs.ErrExist, err))
		}
	}
	f, err := os.OpenFile(w.path(w.number), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("diskqueue: %w", err)
	}
	w.f = f
	w.out = bufio.NewWriterSize(f, 256<<10)
	return nil
}

// finish makes the file durable and closes it.
func (w *Writer) finish() error {
	err := errors.Join(w.out.Flush(), w.f.Sync(), w.f.Close())
	w.f = nil
	if err != nil {
		return fmt.Errorf("diskqueue: %w", err)
	}
	return nil
}

// Close makes the queue durable, and writes the meta file last. A queue without
// messages leaves no file.
func (w *Writer) Close() error {
	if w.f == nil {
		return nil
	}
	if err := w.finish(); err != nil {
		return err
	}
	path := filepath.Join(w.dir, w.base+metaSuffix)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("diskqueue: %w", err)
	}
	_, err = fmt.Fprintf(f, "%d\n%d,%d\n%d,%d\n", w.depth, 0, 0, w.number, w.end)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("diskqueue: %w", err)
	}
	return nil
}

// Depth returns how many messages were put.
func (w *Writer) Depth() int64 { return w.depth }
