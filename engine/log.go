package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// logger writes lines of a level and above. It never waits for whoever reads them.
type logger struct {
	out    *LogBuffer
	prefix string
	level  atomic.Int64
}

func newLogger(w io.Writer, prefix string, format LogFormat, level LogLevel) *logger {
	l := &logger{out: NewLogBuffer(w, prefix, format), prefix: prefix}
	l.level.Store(int64(level))
	return l
}

func (l *logger) enabled(level LogLevel) bool { return int64(level) >= l.level.Load() }

func (l *logger) printf(level LogLevel, format string, args ...any) {
	if l.enabled(level) {
		l.out.Line(l.prefix, level, fmt.Sprintf(format, args...))
	}
}

const (
	// logBound is how many bytes of lines wait for the reader, at most.
	logBound = 1 << 20
	// logKept is how large an empty buffer is kept for the next lines, in bytes.
	logKept = 64 << 10
	// logPiece bounds the lines of one Write, in bytes: what a pipe takes in one
	// piece, whoever else writes to it.
	logPiece = 4 << 10
	// logPause comes between two bursts of writing. The first line of a burst
	// leaves at once; a busy daemon's share one Write and one wake-up.
	logPause = 5 * time.Millisecond
	// logFlush is how long Flush waits for a reader that takes nothing.
	logFlush = time.Second
)

// A LogBuffer takes lines from any goroutine without waiting for what they are
// written to: event loops log, and standard error may be a pipe that nobody
// reads. A goroutine writes them, in their order, while there are any. Up to 1 MB
// waits; lines beyond that are dropped, but FATAL ones, and a line says how many
// were. Lines may leave 5 ms late, so Flush comes before the process ends.
type LogBuffer struct {
	out    io.Writer // the writing goroutine's
	prefix string
	format LogFormat

	mu      sync.Mutex
	lines   []byte        // whole ones, to be written
	spare   []byte        // the next lines, empty
	dropped int           // since the last of lines
	done    chan struct{} // closed when the writing goroutine ends; nil when there is none
}

// NewLogBuffer returns a buffer before w, whose own lines have prefix. When w is a
// LogBuffer, that one is returned. A write that fails is nowhere to be told.
func NewLogBuffer(w io.Writer, prefix string, format LogFormat) *LogBuffer {
	if b, ok := w.(*LogBuffer); ok {
		return b
	}
	return &LogBuffer{out: w, prefix: prefix, format: format}
}

// Line adds a line in upstream's form: prefix, local time with microseconds, level
// and text, or the same as a JSON object, without the prefix.
func (b *LogBuffer) Line(prefix string, level LogLevel, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case level == LogFatal:
		b.confess()
	case b.dropped > 0: // nothing overtakes, however short it is
		b.dropped++
		return
	}
	n := len(b.lines)
	b.lines = appendLine(b.lines, prefix, b.format, level, text)
	if len(b.lines) > logBound && level != LogFatal {
		b.lines = b.lines[:n]
		b.dropped = 1
	}
	b.start()
}

// Write adds p, which is one line, or drops it. It never fails.
func (b *LogBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped > 0 || len(b.lines)+len(p) > logBound {
		b.dropped++
	} else {
		b.lines = append(b.lines, p...)
	}
	b.start()
	return len(p), nil
}

// start has somebody write.
func (b *LogBuffer) start() {
	if b.done == nil {
		b.done = make(chan struct{})
		go b.run(b.done)
	}
}

// run writes until nothing is left.
func (b *LogBuffer) run(done chan struct{}) {
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
		time.Sleep(logPause)
	}
}

// take returns the lines to be written, nil at the end. It makes room, so it is
// where dropping ends.
func (b *LogBuffer) take() []byte {
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
func (b *LogBuffer) giveBack(lines []byte) {
	if cap(lines) > logKept {
		return
	}
	b.mu.Lock()
	b.spare = lines[:0]
	b.mu.Unlock()
}

// confess adds a line, whatever the level, on the lines dropped before it.
func (b *LogBuffer) confess() {
	if b.dropped > 0 {
		text := fmt.Sprintf("%d lines of the log were dropped: whoever reads it is too slow", b.dropped)
		b.lines = appendLine(b.lines, b.prefix, b.format, LogWarn, text)
		b.dropped = 0
	}
}

// pieceOf returns how much of lines the next Write gets: as many lines as fit, and
// one at least.
func pieceOf(lines []byte) int {
	if len(lines) <= logPiece {
		return len(lines)
	}
	if n := bytes.LastIndexByte(lines[:logPiece], '\n') + 1; n > 0 {
		return n
	}
	if n := bytes.IndexByte(lines, '\n') + 1; n > 0 {
		return n
	}
	return len(lines)
}

// Flush waits until all lines are written. It gives up after a second, so that a
// reader that is stuck does not hold a stop for ever, and returns false.
func (b *LogBuffer) Flush() bool {
	b.mu.Lock()
	done := b.done
	b.mu.Unlock()
	if done == nil {
		return true
	}
	late := time.NewTimer(logFlush)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// LogLine writes one line of the log to w, as LogBuffer's Line does.
func LogLine(w io.Writer, prefix string, format LogFormat, level LogLevel, text string) {
	if b, ok := w.(*LogBuffer); ok {
		b.Line(prefix, level, text)
		return
	}
	_, _ = w.Write(appendLine(nil, prefix, format, level, text))
}

func appendLine(b []byte, prefix string, format LogFormat, level LogLevel, text string) []byte {
	now := time.Now()
	text = strings.TrimSuffix(text, "\n")
	if format != LogJSON {
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
