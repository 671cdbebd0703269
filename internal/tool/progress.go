package tool

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// progressEvery is how often a progress line changes.
const progressEvery = 200 * time.Millisecond

// A Progress keeps one line of progress at the bottom of a terminal. Log lines
// written through it go above that line. It is safe for concurrent use.
type Progress struct {
	mu    sync.Mutex
	w     io.Writer
	line  string // what is on the screen now
	width int

	stop chan struct{}
	done chan struct{}
}

// StartProgress shows what describe returns, a few times a second, until Stop.
// It returns nil when w is no terminal; a nil *Progress does nothing.
func StartProgress(w io.Writer, describe func() string) *Progress {
	width, _, ok := TerminalSize(w)
	if !ok {
		return nil
	}
	return startProgress(w, width, describe)
}

// startProgress is StartProgress once w is known to be a terminal. Its
// goroutine ends with Stop.
func startProgress(w io.Writer, width int, describe func() string) *Progress {
	p := &Progress{w: w, width: width, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			p.show(describe())
			select {
			case <-tick.C:
			case <-p.stop:
				p.show(describe())
				return
			}
		}
	}()
	return p
}

// Stop leaves the last line on the screen and ends it.
func (p *Progress) Stop() {
	if p == nil {
		return
	}
	close(p.stop)
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.w)
	p.line = ""
}

// Write puts whole log lines above the progress line.
func (p *Progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	n, err := p.w.Write(b)
	io.WriteString(p.w, p.line)
	return n, err
}

func (p *Progress) show(line string) {
	if len(line) >= p.width { // the last column would wrap
		line = line[:p.width-1]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.line = line
	io.WriteString(p.w, line)
}

func (p *Progress) erase() {
	if p.line != "" {
		io.WriteString(p.w, "\r"+strings.Repeat(" ", len(p.line))+"\r")
	}
}

// A Rate counts things and says how many there were, and how many a second.
type Rate struct {
	start time.Time
}

// NewRate starts to count now.
func NewRate() Rate { return Rate{time.Now()} }

// Describe words a count of records and bytes.
func (r Rate) Describe(records, bytes int64) string {
	seconds := max(time.Since(r.start).Seconds(), 0.001)
	return fmt.Sprintf("%d records, %s, %.0f records/s", records, sizeText(bytes), float64(records)/seconds)
}

// sizeText words a number of bytes.
func sizeText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
