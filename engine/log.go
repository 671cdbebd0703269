package engine

import (
	"fmt"
	"io"
	"log"
	"sync/atomic"
)

// logger writes lines in upstream's form: prefix, local time with microseconds,
// level, text.
type logger struct {
	out   *log.Logger
	level atomic.Int64
}

func newLogger(w io.Writer, prefix string, level LogLevel) *logger {
	l := &logger{out: log.New(w, prefix, log.Ldate|log.Ltime|log.Lmicroseconds)}
	l.level.Store(int64(level))
	return l
}

var logWords = [...]string{LogDebug: "DEBUG", LogInfo: "INFO", LogWarn: "WARNING", LogError: "ERROR", LogFatal: "FATAL"}

func (l *logger) printf(level LogLevel, format string, args ...any) {
	if int64(level) >= l.level.Load() {
		l.out.Print(logWords[level] + ": " + fmt.Sprintf(format, args...))
	}
}
