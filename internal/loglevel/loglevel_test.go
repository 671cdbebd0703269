package loglevel_test

import (
	"testing"

	"github.com/zsqio/zsq/internal/loglevel"
)

func TestWords(t *testing.T) {
	f := func(word string, want loglevel.Level, flag, log string) {
		t.Helper()
		var l loglevel.Level
		if err := l.Set(word); err != nil || l != want || l.String() != flag || l.Word() != log || l.Get() != want {
			t.Errorf("%s: %v, %d %s %s", word, err, l, l, l.Word())
		}
	}
	f("debug", 1, "DEBUG", "DEBUG")
	f("Info", 2, "INFO", "INFO")
	f("WARN", 3, "WARN", "WARNING")
	f("error", 4, "ERROR", "ERROR")
	f("fatal", 5, "FATAL", "FATAL")
	l := loglevel.Info
	for _, word := range []string{"", "warning", "1", " info", "info\n"} {
		if err := l.Set(word); err == nil || l != loglevel.Info {
			t.Errorf("%q: %v, %s", word, err, l)
		}
	}
	if got := loglevel.Level(9).String(); got != "9" {
		t.Error(got)
	}
}
