// Package tooltest runs tools inside a test: a broker on loopback ports of its
// own, and a tool's run function with arguments, buffers and signals that the
// test holds. Only tests import it. The broker is there on Linux only, and so are
// the tests that need one.
package tooltest

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/tool"
)

// Patience bounds every wait. A test that passes does not wait for it, not even on a
// machine that stands still for a minute.
const Patience = 2 * time.Minute

// Eventually asks until cond holds. What happens behind a socket has no go-chan
// on which a test could wait.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not so after %v", what, Patience)
		}
	}
}

// A Run is a tool at work.
type Run struct {
	Stdout, Stderr *Buffer
	signals        chan os.Signal
	code           chan int
	done           chan struct{} // closed when the tool has ended
}

// Unhurried returns flags of the tool with that name which put its time-outs where
// no machine that stalls reaches them. Flags behind them win.
func Unhurried(name string) []string {
	consumer := []string{"--consumer-opt=dial_timeout,2m", "--consumer-opt=write_timeout,2m"}
	producer := []string{"--producer-opt=dial_timeout,2m", "--producer-opt=write_timeout,2m"}
	http := []string{"--http-client-connect-timeout=2m", "--http-client-request-timeout=2m"}
	switch name {
	case "nsq_stat":
		return http
	case "nsq_tail":
		return consumer
	case "nsq_to_file", "nsq_to_http":
		return append(consumer, http...)
	case "nsq_to_nsq":
		return append(consumer, producer...)
	case "to_nsq":
		return producer
	}
	return nil
}

// Start calls run in a goroutine, with the args behind those of Unhurried. A nil
// stdin is empty. A tool that the test has not waited for is sent an interrupt when
// the test ends, and waited for.
func Start(t testing.TB, name string, run func(*tool.Process) int, stdin io.Reader, args ...string) *Run {
	t.Helper()
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	r := &Run{
		Stdout: new(Buffer), Stderr: new(Buffer),
		signals: make(chan os.Signal, 4), code: make(chan int, 1), done: make(chan struct{}),
	}
	args = slices.Concat(Unhurried(name), args)
	go func() {
		defer close(r.done)
		r.code <- run(tool.NewProcess(name, args, stdin, r.Stdout, r.Stderr, r.signals))
	}()
	t.Cleanup(func() {
		select {
		case <-r.done:
		default:
			r.Signal(os.Interrupt)
			select {
			case <-r.done:
			case <-time.After(Patience):
				t.Errorf("%s does not end", name)
			}
		}
		if t.Failed() {
			t.Logf("%s %q\nstdout:\n%s\nstderr:\n%s", name, args, r.Stdout, r.Stderr)
		}
	})
	return r
}

// Signal sends the tool a signal, unless the tool has ended. While several wait for
// the tool it waits, too: none is lost.
func (r *Run) Signal(s os.Signal) {
	select {
	case r.signals <- s:
	case <-r.done:
	case <-time.After(Patience): // Wait, or the test's end, tells of it
	}
}

// Wait returns the exit code.
func (r *Run) Wait(t testing.TB) int {
	t.Helper()
	select {
	case code := <-r.code:
		return code
	case <-time.After(Patience):
		t.Fatalf("the tool has not ended after %v", Patience)
		return -1
	}
}

// Expect runs a tool to its end, checks the exit code and returns the output.
func Expect(t testing.TB, code int, name string, run func(*tool.Process) int, stdin string, args ...string) (stdout, stderr string) {
	t.Helper()
	r := Start(t, name, run, strings.NewReader(stdin), args...)
	if got := r.Wait(t); got != code {
		t.Errorf("%s %q ends with %d, want %d; %s", name, args, got, code, r.Stderr)
	}
	return r.Stdout.String(), r.Stderr.String()
}

// ExpectLine runs a tool that ends at once with the code after one log line,
// date and time in front, on standard error.
func ExpectLine(t testing.TB, code int, line, name string, run func(*tool.Process) int, args ...string) {
	t.Helper()
	_, stderr := Expect(t, code, name, run, "", args...)
	const stamp = len("2006/01/02 15:04:05 ")
	if len(stderr) < stamp || stderr[stamp:] != line+"\n" {
		t.Errorf("%s %q: standard error %q, want the line %q", name, args, stderr, line)
	}
}

// A Buffer collects what a tool writes while the test may read it.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends to the buffer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what has been written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
