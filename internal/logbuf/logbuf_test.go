package logbuf_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/logbuf"
	"github.com/zsqio/zsq/internal/loglevel"
)

// A gate is a reader of the log that takes nothing until it is opened.
type gate struct {
	entered chan struct{} // closed at the first Write
	once    sync.Once
	opened  chan struct{}

	mu  sync.Mutex
	got bytes.Buffer
	max int // of the bytes of one Write
}

func newGate() *gate { return &gate{entered: make(chan struct{}), opened: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.entered) })
	<-g.opened
	g.mu.Lock()
	defer g.mu.Unlock()
	g.max = max(g.max, len(p))
	return g.got.Write(p)
}

// lines returns what was written, without prefix and time.
func (g *gate) lines(t *testing.T) []string {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []string
	for line := range strings.Lines(g.got.String()) {
		m := logLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("no line of a log: %.200q", line)
		}
		list = append(list, m[1])
	}
	return list
}

// flushed waits until all lines are written. Flush itself is impatient.
func flushed(t *testing.T, b *logbuf.Buffer) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !b.Flush(); {
		if time.Now().After(end) {
			t.Fatal("not written")
		}
	}
}

var (
	logLine = regexp.MustCompile(`^p \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} ([A-Z]+: .*)\n$`)
	lost    = regexp.MustCompile(`^WARNING: (\d+) lines of the log were dropped: whoever reads it is too slow$`)
)

// TestKeepsOrder writes from several goroutines: each one's lines come in order,
// none is missing, and no line is torn.
func TestKeepsOrder(t *testing.T) {
	const writers, count = 4, 500
	g := newGate()
	close(g.opened)
	b := logbuf.New(g, "p ", logbuf.Text)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range count {
				logbuf.Line(b, "p ", logbuf.Text, loglevel.Info, fmt.Sprintf("%d %d", w, n))
			}
		})
	}
	wg.Wait()
	flushed(t, b)
	var next [writers]int
	for _, line := range g.lines(t) {
		var w, n int
		if _, err := fmt.Sscanf(line, "INFO: %d %d", &w, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if n != next[w] {
			t.Fatalf("writer %d: line %d where %d belongs", w, n, next[w])
		}
		next[w]++
	}
	if next != [writers]int{count, count, count, count} {
		t.Errorf("lines of each: %v", next)
	}
	if g.max > 4<<10 {
		t.Errorf("a Write of %d bytes, which a pipe does not take whole", g.max)
	}
}

// TestDrops has nobody read: no line waits, and what did not fit is counted
// where it is missing. FATAL lines are kept.
func TestDrops(t *testing.T) {
	g := newGate()
	b := logbuf.New(g, "p ", logbuf.Text)
	say := func(level loglevel.Level, text string) { logbuf.Line(b, "p ", logbuf.Text, level, text) }
	say(loglevel.Info, "-1 ")
	<-g.entered
	const count = 5000
	tail := strings.Repeat("x", 1000)
	for n := range count {
		say(loglevel.Info, fmt.Sprintf("%d %s", n, tail))
	}
	say(loglevel.Info, "short") // dropped too: nothing overtakes
	say(loglevel.Fatal, "the end")
	if _, err := b.Write([]byte(tail + tail + "\n")); err != nil {
		t.Error(err)
	}
	if b.Flush() {
		t.Fatal("flushed to a reader that takes nothing")
	}
	close(g.opened)
	flushed(t, b)
	say(loglevel.Info, "after")
	flushed(t, b)
	lines := g.lines(t)
	for i, line := range lines[:len(lines)-4] {
		if want := fmt.Sprintf("INFO: %d ", i-1); !strings.HasPrefix(line, want) {
			t.Fatalf("line %d: %.40q, want %q", i, line, want)
		}
	}
	kept := len(lines) - 5 // of count
	if kept < 900 || kept > 1050 {
		t.Errorf("%d lines of 1 KB were kept", kept)
	}
	end := lines[len(lines)-4:]
	for i, want := range []int{count - kept + 1, 1} {
		m := lost.FindStringSubmatch(end[2*i])
		if m == nil {
			t.Fatalf("%q", end)
		}
		if n, _ := strconv.Atoi(m[1]); n != want {
			t.Errorf("%d lines are said to be dropped, want %d", n, want)
		}
	}
	if end[1] != "FATAL: the end" || end[3] != "INFO: after" {
		t.Errorf("%q", end)
	}
}

// TestJSON shows the other form, in the buffer's own line too.
func TestJSON(t *testing.T) {
	g := newGate()
	b := logbuf.New(g, "p ", logbuf.JSON)
	before := time.Now()
	b.Line("p ", loglevel.Error, "first\n")
	<-g.entered
	b.Line("p ", loglevel.Error, strings.Repeat("x", 1<<20))
	close(g.opened)
	flushed(t, b)
	want := []string{"ERROR first", "WARNING 1 lines of the log were dropped: whoever reads it is too slow"}
	d := json.NewDecoder(&g.got)
	for _, want := range want {
		var line struct {
			Time       time.Time
			Level, Msg string
		}
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if got := line.Level + " " + line.Msg; got != want || line.Time.Before(before.Round(0)) {
			t.Errorf("%v %q, want %q", line.Time, got, want)
		}
	}
}
