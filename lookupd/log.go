package lookupd

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"strings"
)

// A Logger writes lines in upstream's form: prefix, local time with
// microseconds, level, text. It is for any goroutine.
type Logger struct {
	out   *log.Logger
	level LogLevel
}

// NewLogger returns a logger that writes lines of level and above to w.
func NewLogger(w io.Writer, prefix string, level LogLevel) *Logger {
	return &Logger{out: log.New(w, prefix, log.Ldate|log.Ltime|log.Lmicroseconds), level: level}
}

// Printf writes a line unless its level is below the logger's. It stays one line:
// clients choose some of the text and must not write lines of their own.
func (l *Logger) Printf(level LogLevel, format string, args ...any) {
	if l.enabled(level) {
		l.out.Print(level.Word() + ": " + lineBreaks.Replace(fmt.Sprintf(format, args...)))
	}
}

var lineBreaks = strings.NewReplacer("\n", `\n`, "\r", `\r`)

func (l *Logger) enabled(level LogLevel) bool { return level >= l.level }

// warnings are what net/http has to say of a connection.
type warnings struct{ l *Logger }

// Write logs one line.
func (w warnings) Write(p []byte) (int, error) {
	w.l.Printf(LogWarn, "%s", bytes.TrimSpace(p))
	return len(p), nil
}
