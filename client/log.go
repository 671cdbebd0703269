package nsq

import (
	"fmt"
	"log"
	"os"
	"sync/atomic"
)

// VERSION is the version of go-nsq whose surface this package has. It is part
// of the default user agent.
const VERSION = "1.1.0"

// States of a connection. They are part of the surface; this package counts on
// other things.
const (
	StateInit = iota
	StateDisconnected
	StateConnected
)

// logger is what log output goes to. *log.Logger is one.
type logger interface {
	Output(calldepth int, s string) error
}

// LogLevel says how much a log line matters.
type LogLevel int

// The levels, least important first.
const (
	LogLevelDebug LogLevel = iota
	LogLevelInfo
	LogLevelWarning
	LogLevelError
	LogLevelMax = iota - 1 // the highest level
)

// String returns the level's three letters: DBG, INF, WRN or ERR.
func (lvl LogLevel) String() string {
	switch lvl {
	case LogLevelInfo:
		return "INF"
	case LogLevelWarning:
		return "WRN"
	case LogLevelError:
		return "ERR"
	}
	return "DBG"
}

// logState is one immutable setting of loggers; a change stores a new one.
type logState struct {
	out   [LogLevelMax + 1]logger
	fmt   [LogLevelMax + 1]string // how a connection shows its address
	level LogLevel
}

// logging is a logState that may be changed while lines are written.
// The zero value is silent.
type logging struct {
	state atomic.Pointer[logState]
}

// update replaces the state by a changed copy.
func (l *logging) update(change func(*logState)) {
	for {
		old := l.state.Load()
		next := new(logState)
		if old != nil {
			*next = *old
		}
		change(next)
		if l.state.CompareAndSwap(old, next) {
			return
		}
	}
}

func (l *logging) set(out logger, lvl LogLevel, format string) {
	l.update(func(s *logState) {
		for i := range s.out {
			s.out[i], s.fmt[i] = out, format
		}
		s.level = lvl
	})
}

func (l *logging) setForLevel(out logger, lvl LogLevel, format string) {
	l.update(func(s *logState) { s.out[lvl], s.fmt[lvl] = out, format })
}

func (l *logging) setLevel(lvl LogLevel) {
	l.update(func(s *logState) { s.level = lvl })
}

// enabled reports whether a line of that level goes anywhere. Callers on the
// hot path ask before they make the line's arguments.
func (l *logging) enabled(lvl LogLevel) bool {
	s := l.state.Load()
	return s != nil && lvl >= s.level && s.out[lvl] != nil
}

// standard is the logger of new producers and consumers.
func standard(l *logging) {
	l.set(log.New(os.Stderr, "", log.Flags()), LogLevelInfo, "")
}

// line writes one line after the level's name and where.
func (l *logging) line(lvl LogLevel, where, format string, args ...any) {
	if s := l.state.Load(); l.enabled(lvl) {
		s.out[lvl].Output(2, fmt.Sprintf("%-4s %s %s", lvl, where, fmt.Sprintf(format, args...)))
	}
}
