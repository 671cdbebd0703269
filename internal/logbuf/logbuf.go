// Package logbuf is the daemons' log: lines in upstream's form or as JSON, and a
// buffer that takes them without waiting for whoever reads them.
package logbuf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/zsqio/zsq/internal/loglevel"
)

// Format is the form of a log's lines. It is a flag.Getter and a flag.Value.
type Format string

// The forms: upstream's text, or one JSON object a line.
const (
	Text Format = "text"
	JSON Format = "json"
)

// String returns the flag's word.
func (f *Format) String() string { return string(*f) }

// Set takes text or json.
func (f *Format) Set(s string) error {
	if v := Format(s); v == Text || v == JSON {
		*f = v
		return nil
	}
	return fmt.Errorf("invalid log format '%s' (text, json)", s)
}

// Get makes Format a flag.Getter.
func (f *Format) Get() any { return *f }

const (
	// bound is how many bytes of lines wait for the reader, at most.
	bound = 1 << 20
	// kept is how large an empty buffer is kept for the next lines, in bytes.
	kept = 64 << 10
	// pieceMax bounds the lines of one Write, in bytes: what a pipe takes in one
	// piece, whoever else writes to it.
	pieceMax = 4 << 10
	// pause comes between two bursts of writing. The first line of a burst
	// leaves at once; a busy daemon's share one Write and one wake-up.
	pause = 5 * time.Millisecond
	// patience is how long Flush waits for a reader that takes nothing.
	patience = time.Second
)

// A Buffer takes lines from any goroutine without waiting for what they are
// written to: event loops log, and standard error may be a pipe that nobody
// reads. A goroutine writes them, in their order, while there are any. Up to 1 MB
// waits; lines beyond that are dropped, but FATAL ones, and a line says how many
// were. Lines may leave 5 ms late, so Flush comes before the process ends.
type Buffer struct {
	out    io.Writer // the writing goroutine's
	prefix string
	format Format

	mu      sync.Mutex
	lines   []byte        // whole ones, to be written
	spare   []byte        // the next lines, empty
	dropped int           // since the last of lines
	done    chan struct{} // closed when the writing goroutine ends; nil when there is none
}

// New returns a buffer before w, whose own lines have prefix. When w is a
// Buffer, that one is returned. A write that fails is nowhere to be told.
func New(w io.Writer, prefix string, format Format) *Buffer {
	if b, ok := w.(*Buffer); ok {
		return b
	}
	return &Buffer{out: w, prefix: prefix, format: format}
}

// Line adds a line in upstream's form: prefix, local time with microseconds, level
// and text, or the same as a JSON object, without the prefix.
func (b *Buffer) Line(prefix string, level loglevel.Level, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case level == loglevel.Fatal:
		b.confess()
	case b.dropped > 0: // nothing overtakes, however short it is
		b.dropped++
		return
	}
	n := len(b.lines)
	b.lines = appendLine(b.lines, prefix, b.format, level, text)
	if len(b.lines) > bound && level != loglevel.Fatal {
		b.lines = b.lines[:n]
		b.dropped = 1
	}
	b.start()
}

// Write adds p, which is one line, or drops it. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped > 0 || len(b.lines)+len(p) > bound {
		b.dropped++
	} else {
		b.lines = append(b.lines, p...)
	}
	b.start()
	return len(p), nil
}

// start has somebody write.
func (b *Buffer) start() {
	if b.done == nil {
		b.done = make(chan struct{})
		go b.run(b.done)
	}
}

// run writes until nothing is left.
func (b *Buffer) run(done chan struct{}) {
	defer close(done)
	for {
		lines := b.take()
		if lines == nil {
			return
		}
		for rest := lines; len(rest) > 0; {
			n := pieceOf(rest)
			_, _ = b.out.Write(rest[:n])
			rest = rest[n:]
		}
		b.giveBack(lines)
		time.Sleep(pause)
	}
}

// take returns the lines to be written, nil at the end. It makes room, so it is
// where dropping ends.
func (b *Buffer) take() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.confess()
	if len(b.lines) == 0 {
		b.done = nil
		return nil
	}
	lines := b.lines
	b.lines, b.spare = b.spare, nil
	return lines
}

// giveBack keeps the memory of written lines.
func (b *Buffer) giveBack(lines []byte) {
	if cap(lines) > kept {
		return
	}
	b.mu.Lock()
	b.spare = lines[:0]
	b.mu.Unlock()
}

// confess adds a line, whatever the level, on the lines dropped before it.
func (b *Buffer) confess() {
	if b.dropped > 0 {
		text := fmt.Sprintf("%d lines of the log were dropped: whoever reads it is too slow", b.dropped)
		b.lines = appendLine(b.lines, b.prefix, b.format, loglevel.Warn, text)
		b.dropped = 0
	}
}

// pieceOf returns how much of lines the next Write gets: as many lines as fit, and
// one at least.
func pieceOf(lines []byte) int {
	if len(lines) <= pieceMax {
		return len(lines)
	}
	if n := bytes.LastIndexByte(lines[:pieceMax], '\n') + 1; n > 0 {
		return n
	}
	if n := bytes.IndexByte(lines, '\n') + 1; n > 0 {
		return n
	}
	return len(lines)
}

// Flush waits until all lines are written. It gives up after a second, so that a
// reader that is stuck does not hold a stop for ever, and returns false.
func (b *Buffer) Flush() bool {
	b.mu.Lock()
	done := b.done
	b.mu.Unlock()
	if done == nil {
		return true
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// Line writes one line of the log to w, as Buffer's Line does.
func Line(w io.Writer, prefix string, format Format, level loglevel.Level, text string) {
	if b, ok := w.(*Buffer); ok {
		b.Line(prefix, level, text)
		return
	}
	_, _ = w.Write(appendLine(nil, prefix, format, level, text))
}

func appendLine(b []byte, prefix string, format Format, level loglevel.Level, text string) []byte {
	now := time.Now()
	text = strings.TrimSuffix(text, "\n")
	if format != JSON {
		b = now.AppendFormat(append(b, prefix...), "2006/01/02 15:04:05.000000 ")
		b = append(append(b, level.Word()...), ": "...)
		return append(append(b, text...), '\n')
	}
	line, err := json.Marshal(struct {
		Time  time.Time `json:"time"`
		Level string    `json:"level"`
		Text  string    `json:"msg"`
	}{now, level.Word(), text})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return append(append(b, line...), '\n')
}
