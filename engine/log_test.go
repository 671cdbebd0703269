package engine_test

import (
	"bytes"
	"regexp"
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
}

func newGate() *gate { return &gate{entered: make(chan struct{}), opened: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.entered) })
	<-g.opened
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.Write(p)
}

// until returns when what was written ends with last.
func (g *gate) until(t *testing.T, last string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		g.mu.Lock()
		ended := bytes.HasSuffix(g.got.Bytes(), []byte(last))
		g.mu.Unlock()
		if ended {
			return
		}
	}
	t.Errorf("the log does not end with %q", last)
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

var logLine = regexp.MustCompile(`^p \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} ([A-Z]+: .*)\n$`)

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
	// A stop gives the log a second, which a busy machine may let pass.
	g.until(t, "INFO: NSQ: bye\n")
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
