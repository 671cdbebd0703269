// Package daemon is the harness that the tests of this module share. It builds
// programs once per process, ours from the repository and upstream's from the
// modules that go.mod names, and runs daemons on loopback ports that the system
// chooses: Start, then Stop, Kill and Restart.
//
// A package that uses it calls Main from its TestMain.
package daemon

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a process. It is generous because the machine
// may stand still for a minute; a test that passes does not wait for it.
const patience = 2 * time.Minute

// A Config says what Start runs, and how.
type Config struct {
	// Program is an nsqd or an nsqlookupd.
	Program Program
	// Flags follow --tcp-address and --http-address on the command line. An nsqd
	// needs a --data-path among them.
	Flags []string
	// Ready reports whether the daemon serves; nil is Pings and Stoppable. It is
	// asked again and again.
	Ready func(*Daemon) bool
	// Command makes the command that becomes the daemon's process; nil is
	// exec.Command.
	Command func(path string, args ...string) *exec.Cmd
}

// A Daemon is a process, or what is left of one. What starts and ends it belongs
// to one goroutine.
type Daemon struct {
	Config           // for the next Restart
	TCP, HTTP string // addresses
	Log       *Log   // of every process that this daemon has been
	Cmd       *exec.Cmd

	done chan struct{} // closed when the process has ended
	err  error         // how it ended; set before done is closed
}

// Start runs a daemon on addresses of its own and waits until it is ready. It is
// killed when the test ends, and its log is shown when the test has failed.
func Start(t testing.TB, c Config) *Daemon {
	t.Helper()
	d := &Daemon{Config: c, Log: new(Log)}
	t.Cleanup(func() {
		d.Kill()
		if t.Failed() {
			t.Logf("the log of %s, last part:\n%s", d.Program.Package, d.Log.Tail(8<<10))
		}
	})
	d.RestartElsewhere(t)
	return d
}

// RestartElsewhere runs the daemon again on new addresses, after its process has
// ended. Another process may take such an address first; a start that ends early
// is therefore tried again.
func (d *Daemon) RestartElsewhere(t testing.TB) {
	t.Helper()
	for range 5 {
		d.TCP, d.HTTP = FreeAddr(t), FreeAddr(t)
		if d.run(t) {
			return
		}
	}
	t.Fatalf("%s does not start: %v", d.Program.Package, d.err)
}

// Restart runs the daemon again on the addresses that it had, after its process
// has ended.
func (d *Daemon) Restart(t testing.TB) {
	t.Helper()
	if !d.run(t) {
		t.Fatalf("%s does not start: %v", d.Program.Package, d.err)
	}
}

// run starts the process and reports whether it got ready before it ended.
func (d *Daemon) run(t testing.TB) bool {
	t.Helper()
	command, ready := d.Command, d.Ready
	if command == nil {
		command = exec.Command
	}
	if ready == nil {
		ready = func(d *Daemon) bool { return Pings(d) && Stoppable(d) }
	}
	args := append([]string{"--tcp-address=" + d.TCP, "--http-address=" + d.HTTP}, d.Flags...)
	cmd := command(d.Program.Path(t), args...)
	cmd.Stdout, cmd.Stderr = d.Log, d.Log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	d.Cmd, d.done = cmd, done
	go func() { // ends with the process
		d.err = cmd.Wait()
		close(done)
	}()
	up := false
	Eventually(t, patience, d.Program.Package+" is ready", func() bool {
		select {
		case <-done:
			return true
		default:
			up = ready(d)
			return up
		}
	})
	return up
}

// Pings reports whether the daemon answers /ping with status 200.
func Pings(d *Daemon) bool {
	resp, err := http.Get("http://" + d.HTTP + "/ping")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Stoppable reports whether the daemon answers and would stop cleanly: upstream's
// serve before they listen to signals.
func Stoppable(d *Daemon) bool {
	resp, err := http.Get("http://" + d.HTTP + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return false
	}
	stacks, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	// The loop runs from the first signal on; Notify may still be at the others.
	return err == nil && bytes.Contains(stacks, []byte("os/signal.loop+")) && !notifying.Match(stacks)
}

var notifying = regexp.MustCompile(`os/signal\.Notify(\.\S+)?\+`)

// Done is closed when the process has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Wait waits for the end of the process, which something else has to bring
// about, and returns what exec.Cmd.Wait says of it.
func (d *Daemon) Wait() error {
	<-d.done
	return d.err
}

// Signal sends a signal that ends the process and returns what exec.Cmd.Wait
// says of the end. The test fails if it does not come.
func (d *Daemon) Signal(t testing.TB, sig syscall.Signal) error {
	t.Helper()
	if err := d.Cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.done:
		return d.err
	case <-time.After(patience):
		t.Fatalf("%s ignores %v", d.Program.Package, sig)
		return nil
	}
}

// Stop ends the process as an operator does, and wants a clean exit.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	if err := d.Signal(t, syscall.SIGTERM); err != nil {
		t.Fatalf("%s after SIGTERM: %v, want exit status 0", d.Program.Package, err)
	}
}

// Kill ends the process as a crash does. It may have ended before.
func (d *Daemon) Kill() {
	if d.Cmd == nil {
		return
	}
	d.Cmd.Process.Kill()
	<-d.done
}

// Post makes an HTTP POST that must be answered with status 200.
func (d *Daemon) Post(t testing.TB, path string, query url.Values, body string) {
	t.Helper()
	resp, err := http.Post("http://"+d.HTTP+path+"?"+query.Encode(), "application/octet-stream", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("POST %s?%s: %s %s", path, query.Encode(), resp.Status, text)
	}
}

// FreeAddr returns a loopback address that was free a moment ago and that no other
// test on the machine gets from FreeAddr before this one has ended. Its port is one
// that the system gives nobody of itself: of those that it gives, outgoing
// connections take one after the other, also while a daemon restarts that wants its
// own again. And it is no number that an answer may have for another reason, such as
// a limit: tests hide ports where they compare.
func FreeAddr(t testing.TB) string {
	t.Helper()
	const from, to = 20_000, 30_000 // Linux gives 32768 and above
	for range 1000 {
		port := from + rand.IntN(to-from)
		if port%100 == 0 {
			continue
		}
		// A name without a file; who has it open has the port.
		mine, err := net.Listen("unix", fmt.Sprint("@zsq-interop-port-", port))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			mine.Close()
			continue
		}
		t.Cleanup(func() { mine.Close() })
		l.Close()
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// Receive takes the next value from c; the test fails after the time given.
func Receive[T any](t testing.TB, within time.Duration, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(within):
		t.Fatalf("%s: nothing after %v", what, within)
		panic("unreachable")
	}
}

// Eventually asks until cond holds; the test fails after the time given. Another
// process has no go-chan on which we could wait for it.
func Eventually(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not so after %v", what, within)
		}
	}
}
