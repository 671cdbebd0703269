package engine_test

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

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
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
func flushed(t *testing.T, b *engine.LogBuffer) {
	t.Helper()
	for end := time.Now().Add(patience); !b.Flush(); {
		if time.Now().After(end) {
			t.Fatal("not written")
		}
	}
}

var (
	logLine = regexp.MustCompile(`^p \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} ([A-Z]+: .*)\n$`)
	lost    = regexp.MustCompile(`^WARNING: (\d+) lines of the log were dropped: whoever reads it is too slow$`)
)

// TestLogKeepsOrder writes from several goroutines: each one's lines come in order,
// none is missing, and no line is torn.
func TestLogKeepsOrder(t *testing.T) {
	const writers, count = 4, 500
	g := newGate()
	close(g.opened)
	b := engine.NewLogBuffer(g, "p ", engine.LogText)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range count {
				engine.LogLine(b, "p ", engine.LogText, engine.LogInfo, fmt.Sprintf("%d %d", w, n))
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

// TestLogDrops has nobody read: no line waits, and what did not fit is counted
// where it is missing. FATAL lines are kept.
func TestLogDrops(t *testing.T) {
	t.Parallel()
	g := newGate()
	b := engine.NewLogBuffer(g, "p ", engine.LogText)
	say := func(level engine.LogLevel, text string) { engine.LogLine(b, "p ", engine.LogText, level, text) }
	say(engine.LogInfo, "-1 ")
	<-g.entered
	const count = 5000
	tail := strings.Repeat("x", 1000)
	for n := range count {
		say(engine.LogInfo, fmt.Sprintf("%d %s", n, tail))
	}
	say(engine.LogInfo, "short") // dropped too: nothing overtakes
	say(engine.LogFatal, "the end")
	if _, err := b.Write([]byte(tail + tail + "\n")); err != nil {
		t.Error(err)
	}
	if b.Flush() {
		t.Fatal("flushed to a reader that takes nothing")
	}
	close(g.opened)
	flushed(t, b)
	say(engine.LogInfo, "after")
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

// TestLogJSON shows the other form, in the buffer's own line too.
func TestLogJSON(t *testing.T) {
	g := newGate()
	b := engine.NewLogBuffer(g, "p ", engine.LogJSON)
	before := time.Now()
	b.Line("p ", engine.LogError, "first\n")
	<-g.entered
	b.Line("p ", engine.LogError, strings.Repeat("x", 1<<20))
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

// TestLogNobodyReads runs a daemon whose log is stuck: it goes on serving, says
// later what it dropped, and its log ends with the last word.
func TestLogNobodyReads(t *testing.T) {
	o := options(t)
	o.LogPrefix = "p "
	g := newGate()
	e, err := engine.New(o, g)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	<-g.entered
	const clients = 20
	for range clients {
		p := greet(t, e, "PUB t\n\x00\x00\x00\x01m", "SUB t c\n", "RDY 1\n")
		p.want("OK", "OK")
		id := string(wire.AppendMessageID(nil, idOf(t, p.message())))
		p.send("FIN " + id + "\nNOPE\n")
		p.want("E_INVALID invalid command NOPE", ended)
	}
	close(g.opened)
	if err := e.Shutdown(); err != nil {
		t.Fatal(err)
	}
	lines := g.lines(t)
	if !strings.HasPrefix(lines[0], "INFO: nsqd v") || lines[len(lines)-1] != "INFO: NSQ: bye" {
		t.Errorf("first %q, last %q", lines[0], lines[len(lines)-1])
	}
	if len(lines) < 3*clients {
		t.Errorf("%d lines", len(lines))
	}
}

// TestLogStuckAtTheEnd stops a daemon whose log nobody ever reads.
func TestLogStuckAtTheEnd(t *testing.T) {
	t.Parallel()
	g := newGate()
	defer close(g.opened)
	e, err := engine.New(options(t), g)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	if err := e.Shutdown(); err != nil {
		t.Error(err)
	}
}
