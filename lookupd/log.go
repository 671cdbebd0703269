package lookupd

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/zsqio/zsq/internal/logbuf"
)

// logger writes lines of a level and above, in upstream's form. It is for any
// goroutine and never waits for whoever reads them.
type logger struct {
	out    *logbuf.Buffer
	prefix string
	level  LogLevel
}

func newLogger(w io.Writer, prefix string, level LogLevel) *logger {
	return &logger{out: logbuf.New(w, prefix, logbuf.Text), prefix: prefix, level: level}
}

// printf writes a line unless its level is below the logger's. It stays one line:
// clients choose some of the text and must not write lines of their own.
func (l *logger) printf(level LogLevel, format string, args ...any) {
	if l.enabled(level) {
		l.out.Line(l.prefix, level, lineBreaks.Replace(fmt.Sprintf(format, args...)))
	}
}

var lineBreaks = strings.NewReplacer("\n", `\n`, "\r", `\r`)

func (l *logger) enabled(level LogLevel) bool { return level >= l.level }

// warnings are what net/http has to say of a connection.
type warnings struct{ l *logger }

// Write logs one line.
func (w warnings) Write(p []byte) (int, error) {
	w.l.printf(LogWarn, "%s", bytes.TrimSpace(p))
	return len(p), nil
}
