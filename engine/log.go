package engine

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// logger writes lines, each with one Write.
type logger struct {
	mu     sync.Mutex // one line at a time
	out    io.Writer
	prefix string
	format LogFormat
	level  atomic.Int64
}

func newLogger(w io.Writer, prefix string, format LogFormat, level LogLevel) *logger {
	l := &logger{out: w, prefix: prefix, format: format}
	l.level.Store(int64(level))
	return l
}

func (l *logger) enabled(level LogLevel) bool { return int64(level) >= l.level.Load() }

func (l *logger) printf(level LogLevel, format string, args ...any) {
	if l.enabled(level) {
		text := fmt.Sprintf(format, args...)
		l.mu.Lock()
		defer l.mu.Unlock()
		LogLine(l.out, l.prefix, l.format, level, text)
	}
}

// LogLine writes one line of the log: upstream's prefix, local time with
// microseconds, level and text, or the same as a JSON object, without the prefix.
// A log that cannot be written is nowhere to be told.
func LogLine(w io.Writer, prefix string, format LogFormat, level LogLevel, text string) {
	now := time.Now()
	text = strings.TrimSuffix(text, "\n")
	if format != LogJSON {
		_, _ = fmt.Fprintf(w, "%s%s %s: %s\n", prefix, now.Format("2006/01/02 15:04:05.000000"), level.Word(), text)
		return
	}
	line, err := json.Marshal(struct {
		Time  time.Time `json:"time"`
		Level string    `json:"level"`
		Text  string    `json:"msg"`
	}{now, level.Word(), text})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	_, _ = w.Write(append(line, '\n'))
}
