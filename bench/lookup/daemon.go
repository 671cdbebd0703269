//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// build compiles what the flags do not name.
func (o *options) build(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w", err)
	}
	root := filepath.Dir(string(bytes.TrimSpace(out)))
	for _, b := range []struct {
		path          *string
		name, in, pkg string
	}{
		{&o.zsqPath, zsq, root, "./cmd/nsqlookupd"},
		{&o.upPath, upstream, filepath.Join(root, "bench", "upstream"), "github.com/nsqio/nsq/apps/nsqlookupd"},
	} {
		if *b.path != "" {
			continue
		}
		*b.path = filepath.Join(dir, b.name)
		cmd := exec.CommandContext(ctx, "go", "build", "-o", *b.path, b.pkg)
		cmd.Dir = b.in
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", b.pkg, err, out)
		}
	}
	return nil
}

// A daemon is an nsqlookupd under test.
type daemon struct {
	cmd       *exec.Cmd
	tcp, http string        // addresses
	gone      chan struct{} // closed when the process has ended
}

// startDaemon starts a binary on free loopback ports and waits until it answers.
// It must be called on a locked thread: the kernel kills the process with it.
func startDaemon(ctx context.Context, path string, flags ...string) (*daemon, error) {
	d := &daemon{gone: make(chan struct{})}
	for _, addr := range []*string{&d.tcp, &d.http} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		*addr = l.Addr().String()
		l.Close()
	}
	d.cmd = exec.Command(path, append([]string{"--tcp-address=" + d.tcp, "--http-address=" + d.http, "--broadcast-address=127.0.0.1"}, flags...)...)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process
		_ = d.cmd.Wait()
		close(d.gone)
	}()
	for {
		resp, err := http.Get("http://" + d.http + "/ping")
		if err == nil {
			resp.Body.Close()
			return d, nil
		}
		select {
		case <-d.gone:
			return nil, errors.New("the daemon ended at once")
		case <-ctx.Done():
			d.stop()
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.gone
}

// cpu is the user and system time that the process has used, in nanoseconds'
// resolution from the kernel's clock of that process.
func (d *daemon) cpu() (time.Duration, error) {
	// The kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
	clock := int32(^d.cmd.Process.Pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of the daemon: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// memory is a line of /proc/PID/status in bytes.
func (d *daemon) memory(key string) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == key {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in status", key)
}
