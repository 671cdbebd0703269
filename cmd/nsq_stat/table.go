package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/zsqio/zsq/internal/tool"
)

const header = "" +
	"------rate------+----------------depth----------------+--------------metadata---------------\n" +
	"ingress  egress |   total     mem    disk inflt   def |     req     t-o         msgs clients\n"

// headEvery is after how many samples a table of lines repeats its header.
const headEvery = 25

// newRow describes a sample, and the rates since the one before it.
func newRow(last, now tool.ChannelStats, interval time.Duration) string {
	in := now.MessageCount - last.MessageCount
	out := in - (now.Depth - last.Depth)
	perSecond := func(n int64) int64 { return int64(float64(n) / interval.Seconds()) }
	return fmt.Sprintf("%7d %7d | %7d %7d %7d %5d %5d | %7d %7d %12d %7d\n",
		perSecond(in), perSecond(out),
		now.Depth, now.Depth-now.BackendDepth, now.BackendDepth, now.InFlightCount, now.DeferredCount,
		now.RequeueCount, now.TimeoutCount, now.MessageCount, now.ClientCount)
}

// A table is told of every sample, by its number, and then of its row.
type table interface {
	head(sample int) error
	row(text string) error
}

// A lineTable prints one line after the other.
type lineTable struct{ w io.Writer }

func (t *lineTable) head(sample int) error {
	if sample%headEvery != 0 {
		return nil
	}
	_, err := io.WriteString(t.w, header)
	return err
}

func (t *lineTable) row(text string) error {
	_, err := io.WriteString(t.w, text)
	return err
}

// Escape sequences of terminals.
const (
	cursorUp   = "\x1b[%dA"
	eraseRight = "\x1b[K"
)

// A screenTable keeps the header and as many rows as fit below it in place.
type screenTable struct {
	w     io.Writer
	max   int      // rows that fit
	rows  []string // the latest, len(rows) <= max
	drawn int      // lines on the screen that the next drawing replaces
}

// newScreenTable draws for a terminal of so many lines.
func newScreenTable(w io.Writer, height int) *screenTable {
	// The header takes two lines, and the cursor stands on one below the rows.
	return &screenTable{w: w, max: max(1, height-3)}
}

func (t *screenTable) head(sample int) error {
	if sample > 0 {
		return nil
	}
	return t.draw()
}

func (t *screenTable) row(text string) error {
	if len(t.rows) == t.max {
		t.rows = t.rows[1:]
	}
	t.rows = append(t.rows, text)
	return t.draw()
}

// draw replaces what it drew before, in one write, so that nothing flickers.
func (t *screenTable) draw() error {
	var b strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&b, cursorUp, t.drawn)
	}
	t.drawn = 0
	for line := range strings.Lines(header + strings.Join(t.rows, "")) {
		b.WriteString(strings.TrimSuffix(line, "\n") + eraseRight + "\n")
		t.drawn++
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}
