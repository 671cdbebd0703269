package engine

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/zsqio/zsq/internal/logbuf"
)

// logger writes lines of a level and above. It never waits for whoever reads them.
type logger struct {
	out    *logbuf.Buffer
	prefix string
	level  atomic.Int64
}

func newLogger(w io.Writer, prefix string, format LogFormat, level LogLevel) *logger {
	l := &logger{out: logbuf.New(w, prefix, format), prefix: prefix}
	l.level.Store(int64(level))
	return l
}

func (l *logger) enabled(level LogLevel) bool { return int64(level) >= l.level.Load() }

func (l *logger) printf(level LogLevel, format string, args ...any) {
	if l.enabled(level) {
		l.out.Line(l.prefix, level, fmt.Sprintf(format, args...))
	}
}
