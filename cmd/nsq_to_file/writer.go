package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"

	nsq "github.com/zsqio/zsq/client"
)

const (
	// flushAfter is how long a line of a quiet topic may stay out of a plain
	// file that somebody watches.
	flushAfter = 100 * time.Millisecond
	// drainEvery is the sync interval while the consumer is being stopped: it
	// ends when everything in flight is finished.
	drainEvery = 20 * time.Millisecond
)

// counters are what the progress line shows, over all topics.
type counters struct{ lines, bytes atomic.Int64 }

// A fileWriter is one topic's consumer and its file. Its methods may be called
// from any goroutine.
//
// Invariant: pending holds exactly the messages whose lines were given to the
// open output since its last sync; without an open output it is empty.
type fileWriter struct {
	o       *options
	log     *logger
	label   string // [topic/channel], in front of log lines
	total   *counters
	starved func() bool      // does nsqd wait for us? the consumer's IsStarved
	now     func() time.Time // time.Now, or a test's
	failC   chan<- error     // gets the first error; nobody need listen
	stopC   chan struct{}    // closed when the consumer begins to stop
	doneC   chan struct{}    // closed when the consumer has stopped
	loopC   chan struct{}    // closed when loop has ended

	mu         sync.Mutex
	names      *names
	out        *output // nil: none is open
	name       string  // of the last file that was opened, with <REV>
	rev        int     // its number
	openTime   time.Time
	pending    []*nsq.Message
	flushTimer *time.Timer
	armed      bool // flushTimer is running
	compressor *gzip.Writer
	failed     bool // nothing is written any more
}

// newFileWriter returns a writer that needs its consumer's starved before the
// first message, and start.
func newFileWriter(o *options, l *logger, topic string, total *counters, failC chan<- error) (*fileWriter, error) {
	n, err := newNames(o, topic)
	if err != nil {
		return nil, err
	}
	w := &fileWriter{
		o: o, log: l, label: fmt.Sprintf("[%s/%s]", topic, o.channel), total: total, names: n, failC: failC,
		starved: func() bool { return false }, now: time.Now,
		stopC: make(chan struct{}), doneC: make(chan struct{}), loopC: make(chan struct{}),
	}
	if o.gzip {
		if w.compressor, err = gzip.NewWriterLevel(nil, o.gzipLevel); err != nil {
			return nil, err
		}
	}
	w.flushTimer = time.AfterFunc(time.Hour, w.flushQuiet)
	w.flushTimer.Stop()
	return w, nil
}

// HandleMessage writes one message. It is answered later, by sync.
func (w *fileWriter) HandleMessage(m *nsq.Message) error {
	m.DisableAutoResponse()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed {
		m.RequeueWithoutBackoff(0)
		return nil
	}
	now := w.now()
	var err error
	if w.rotationDue(now) {
		err = w.rotate(now)
	}
	w.pending = append(w.pending, m) // also after an error: fail gives it back
	if err == nil {
		err = w.write(m)
	}
	if err != nil {
		w.fail(err)
	}
	return nil
}

// write adds the line of a message that is pending.
func (w *fileWriter) write(m *nsq.Message) error {
	if err := w.out.append(m.Body); err != nil {
		return err
	}
	w.total.lines.Add(1)
	w.total.bytes.Add(int64(len(m.Body)) + 1)
	if len(w.pending) >= w.o.maxInFlight || w.starved() {
		return w.sync()
	}
	if !w.armed && !w.o.gzip {
		w.armed = true
		w.flushTimer.Reset(flushAfter)
	}
	return nil
}

// fail gives back what is not on disk and writes nothing from now on.
func (w *fileWriter) fail(err error) {
	w.failed = true
	w.flushTimer.Stop()
	for _, m := range w.pending {
		m.RequeueWithoutBackoff(0)
	}
	w.pending = nil
	select {
	case w.failC <- err:
	default: // another error is already on its way
	}
}

// sync makes all lines durable and then finishes their messages.
func (w *fileWriter) sync() error {
	if w.out == nil {
		return nil
	}
	w.flushTimer.Stop()
	w.armed = false
	if n := len(w.pending); n > 0 {
		w.log.printf(levelInfo, "%s syncing %d records to disk", w.label, n)
	}
	if err := w.out.sync(); err != nil {
		return err
	}
	for i, m := range w.pending {
		m.Finish()
		w.pending[i] = nil
	}
	w.pending = w.pending[:0]
	return nil
}

// flushQuiet shows the lines of a quiet topic to whoever watches the file.
func (w *fileWriter) flushQuiet() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	if w.out == nil || w.failed {
		return
	}
	if err := w.out.flush(); err != nil {
		w.fail(err)
	}
}

// rotationDue says whether the next line belongs into another file.
func (w *fileWriter) rotationDue(now time.Time) bool {
	if w.out == nil {
		return true
	}
	if w.names.at(now) != w.name {
		w.log.printf(levelInfo, "%s new filename, rotating...", w.label)
		return true
	}
	if open := now.Sub(w.openTime); w.o.rotateInterval > 0 && open > w.o.rotateInterval {
		w.log.printf(levelInfo, "%s %s since last open, rotating...", w.label, open)
		return true
	}
	return w.tooLarge(w.out)
}

func (w *fileWriter) tooLarge(o *output) bool {
	if w.o.rotateSize <= 0 || o.size <= w.o.rotateSize {
		return false
	}
	w.log.printf(levelInfo, "%s %s currently %d bytes (> %d), rotating...", w.label, o.file.Name(), o.size, w.o.rotateSize)
	return true
}

// rotate closes the file and opens the next.
func (w *fileWriter) rotate(now time.Time) error {
	if err := w.close(); err != nil {
		return err
	}
	name := w.names.at(now)
	if name != w.name {
		w.name, w.rev = name, 0
	} else {
		w.rev++
	}
	w.openTime = now
	if err := os.MkdirAll(filepath.Dir(filepath.Join(w.o.workDir, name)), 0o770); err != nil {
		return err
	}
	for ; ; w.rev++ {
		out, err := w.open(withRev(name, w.rev))
		if err != nil {
			return err
		}
		if out != nil {
			w.out = out
			return nil
		}
	}
}

// open opens the file of that name; nil if the name cannot be had.
func (w *fileWriter) open(name string) (*output, error) {
	path := filepath.Join(w.o.workDir, name)
	if w.o.moves() {
		taken, err := w.taken(path, filepath.Join(w.o.outputDir, name))
		if taken || err != nil {
			return nil, err
		}
	}
	out, err := openOutput(path, w.o.exclusive(), w.compressor)
	if w.o.exclusive() && errors.Is(err, fs.ErrExist) {
		w.log.printf(levelWarn, "%s working file already exists: %s", w.label, path)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if w.tooLarge(out) {
		return nil, out.file.Close()
	}
	w.log.printf(levelInfo, "%s opened %s", w.label, path)
	return out, nil
}

// taken says whether a name is in the output directory. A working file that a
// killed process had already linked there has only its second name left to lose.
func (w *fileWriter) taken(path, target string) (bool, error) {
	there, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	w.log.printf(levelWarn, "%s output file already exists: %s", w.label, target)
	if here, err := os.Lstat(path); err == nil && os.SameFile(here, there) {
		return true, os.Remove(path)
	}
	return true, nil
}

// close syncs and closes the file, if one is open, and moves it where it belongs.
func (w *fileWriter) close() error {
	if w.out == nil {
		return nil
	}
	if err := w.sync(); err != nil {
		return err
	}
	out := w.out
	w.out = nil
	if err := out.file.Close(); err != nil {
		return err
	}
	if !w.o.moves() {
		return nil
	}
	path := filepath.Join(w.o.workDir, withRev(w.name, w.rev))
	for ; ; w.rev++ {
		target := filepath.Join(w.o.outputDir, withRev(w.name, w.rev))
		w.log.printf(levelInfo, "%s moving finished file %s to %s", w.label, path, target)
		err := moveExclusive(path, target)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		w.log.printf(levelWarn, "%s destination file already exists: %s", w.label, target)
	}
}

// do runs f under the lock, unless the writer has failed.
func (w *fileWriter) do(f func() error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed {
		return
	}
	if err := f(); err != nil {
		w.fail(err)
	}
}

// tick is the sync interval's work: rotate if due, also without a message, and sync.
func (w *fileWriter) tick() error {
	now := w.now()
	if w.rotationDue(now) {
		if w.o.skipEmptyFiles {
			return w.close()
		}
		if err := w.rotate(now); err != nil {
			return err
		}
	}
	return w.sync()
}

// drain finishes what is pending, without rotation.
func (w *fileWriter) drain() error {
	if len(w.pending) == 0 {
		return nil
	}
	return w.sync()
}

// reopen closes the file; the next line goes into a new one.
func (w *fileWriter) reopen() { w.do(w.close) }

// start begins to sync at intervals, until finish.
func (w *fileWriter) start() { go w.loop() }

// loop ends when the consumer has stopped.
func (w *fileWriter) loop() {
	defer close(w.loopC)
	tick := time.NewTicker(w.o.syncInterval)
	defer tick.Stop()
	work, stopC := w.tick, w.stopC
	for {
		select {
		case <-tick.C:
			w.do(work)
		case <-stopC:
			stopC = nil
			work = w.drain
			w.do(work)
			tick.Reset(drainEvery)
		case <-w.doneC:
			w.do(w.close)
			return
		}
	}
}

// stopping tells the writer that its consumer is about to stop, so that what is
// in flight is finished soon.
func (w *fileWriter) stopping() { close(w.stopC) }

// finish closes the file, after the consumer has stopped, and returns when that
// is done.
func (w *fileWriter) finish() {
	close(w.doneC)
	<-w.loopC
}
