package main

import (
	"io"
	"log"
	"strings"
)

// A level is a log line's gravity.
type level int

const (
	levelDebug level = iota
	levelInfo
	levelWarn
	levelError
	levelFatal
)

// levelNames are the words of the flag, levelWords those of the log.
var (
	levelNames = []string{"debug", "info", "warn", "error", "fatal"}
	levelWords = []string{"DEBUG", "INFO", "WARNING", "ERROR", "FATAL"}
)

// parseLevel understands the flag's words in any case.
func parseLevel(s string) (level, bool) {
	for i, name := range levelNames {
		if strings.EqualFold(s, name) {
			return level(i), true
		}
	}
	return 0, false
}

// A logger writes lines of at least a level.
type logger struct {
	min level
	out *log.Logger
}

func newLogger(w io.Writer, prefix string, least level) *logger {
	return &logger{min: least, out: log.New(w, prefix, log.Ldate|log.Ltime|log.Lmicroseconds)}
}

func (l *logger) printf(lvl level, format string, args ...any) {
	if lvl >= l.min {
		l.out.Printf(levelWords[lvl]+": "+format, args...)
	}
}
