// Package loglevel is the gravity of a daemon's log lines: a number in /config, a
// word on the command line, another word in the log.
package loglevel

import (
	"fmt"
	"strconv"
	"strings"
)

// Level says how grave a line is, or from which gravity on lines are logged. It is
// a flag.Getter and a flag.Value.
type Level int

// The levels, from the most to the least talkative, as upstream numbers them.
const (
	Debug Level = iota + 1
	Info
	Warn
	Error
	Fatal
)

var levels = [...]struct{ flag, log string }{
	Debug: {"debug", "DEBUG"}, Info: {"info", "INFO"}, Warn: {"warn", "WARNING"}, Error: {"error", "ERROR"}, Fatal: {"fatal", "FATAL"},
}

// String returns the flag's word, in capitals as upstream's help shows it.
func (l Level) String() string {
	if l < Debug || l > Fatal {
		return strconv.Itoa(int(l))
	}
	return strings.ToUpper(levels[l].flag)
}

// Word returns what stands in a line of the log.
func (l Level) Word() string { return levels[l].log }

// Set parses a flag's word in any case. The word "warning" is not one, as in
// upstream, though the log itself prints it.
func (l *Level) Set(s string) error {
	for level := Debug; level <= Fatal; level++ {
		if strings.EqualFold(s, levels[level].flag) {
			*l = level
			return nil
		}
	}
	return fmt.Errorf("invalid log level '%s' (debug, info, warn, error, fatal)", s)
}

// Get makes Level a flag.Getter.
func (l *Level) Get() any { return *l }
