//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A broker is a child process under test.
type broker struct {
	cmd    *exec.Cmd
	path   string
	args   []string
	dir    string
	tcp    string
	http   string // empty for the sink
	stderr *tail
	gone   chan struct{} // closed when the process has ended
}

// startTimeout bounds the time from start to the first answer on /ping.
const startTimeout = 10 * time.Second

// startBroker starts an nsqd binary on free loopback ports with its data in a
// fresh directory under dir, and waits until it answers.
func startBroker(ctx context.Context, path, dir string, flags ...string) (*broker, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp(dir, "data-")
	if err != nil {
		return nil, err
	}
	b := &broker{path: path, dir: data, tcp: ports[0], http: ports[1]}
	b.args = append([]string{
		"--tcp-address=" + b.tcp, "--http-address=" + b.http, "--broadcast-address=127.0.0.1",
		"--data-path=" + data, "--log-level=fatal",
	}, flags...)
	if err := b.launch(ctx); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

// launch starts the process, for the first time or again on the same addresses
// and data, and waits until it answers on /ping.
func (b *broker) launch(ctx context.Context) error {
	if err := b.start(exec.Command(b.path, b.args...)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		_, err := b.get(ctx, "/ping")
		if err == nil {
			return nil
		}
		select {
		case <-b.gone:
			return fmt.Errorf("%s ended at once: %s", b.path, b.stderr)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w: %s", b.path, err, b.stderr)
		case <-time.After(time.Millisecond):
		}
	}
}

// haltTimeout bounds a clean stop.
const haltTimeout = time.Minute

// halt has the process stop as its operator would, and waits for its end. The
// data stays, for launch.
func (b *broker) halt(ctx context.Context) error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, haltTimeout)
	defer cancel()
	select {
	case <-b.gone:
	case <-ctx.Done():
		return fmt.Errorf("%s does not stop: %w", b.path, ctx.Err())
	}
	if !b.cmd.ProcessState.Success() {
		return fmt.Errorf("%s stopped with %v: %s", b.path, b.cmd.ProcessState, b.stderr)
	}
	return nil
}

// startSink starts this same program as the null sink of sink.go.
func startSink(ctx context.Context) (*broker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &broker{}
	cmd := exec.Command(self, sinkCommand)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.start(cmd); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sink: %w: %s", err, b.stderr), b.stop())
	}
	b.tcp = strings.TrimSpace(line)
	return b, ctx.Err()
}

// start starts the process so that it dies with us, whatever happens to us.
// It must be called on a locked thread: the kernel watches that thread.
func (b *broker) start(cmd *exec.Cmd) error {
	b.stderr = &tail{}
	cmd.Stderr = b.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd, b.gone = cmd, make(chan struct{})
	go func() { // ends with the process
		_ = cmd.Wait()
		close(b.gone)
	}()
	return nil
}

// stop kills the process and removes its data. What was stored is of no more
// use, so there is nothing to be gentle about.
func (b *broker) stop() error {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		<-b.gone
	}
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}

// exited says why the process ended, or nil while it runs.
func (b *broker) exited() error {
	select {
	case <-b.gone:
		return fmt.Errorf("broker ended: %v: %s", b.cmd.ProcessState, b.stderr)
	default:
		return nil
	}
}

// cpu is the user and system time that the process has used. It is what
// /proc/PID/stat shows, read from the kernel's clock of that process: in
// nanoseconds instead of ticks of 10 ms.
func (b *broker) cpu() (time.Duration, error) {
	// The kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
	clock := int32(^b.cmd.Process.Pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of the broker: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// rss is the resident memory of the process in bytes.
func (b *broker) rss() (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(b.cmd.Process.Pid), "statm"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm: %q", text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// anonymous is the resident memory of the process in bytes that no file stands
// behind: what mapped files take belongs to the kernel's cache.
func (b *broker) anonymous() (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(b.cmd.Process.Pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	return anonymousIn(text)
}

// anonymousIn finds the anonymous memory in what smaps_rollup says.
func anonymousIn(text []byte) (int64, error) { return kbIn(text, "Anonymous:") }

// kbIn finds the line of a number of kilobytes, and returns it in bytes.
func kbIn(text []byte, name string) (int64, error) {
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == name {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no line %s in %q", name, text)
}

// rssMost is the most memory that the process has had resident, in bytes.
func (b *broker) rssMost() (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(b.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, err
	}
	return kbIn(text, "VmHWM:")
}

// fileSystem names what a directory lies on.
func fileSystem(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "xfs", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs", nil
	case unix.TMPFS_MAGIC:
		return tmpfs, nil
	}
	return fmt.Sprintf("file system %#x", st.Type), nil
}

// tmpfs keeps files in memory: nothing there is ever on a disk.
const tmpfs = "tmpfs"

// ownCPU is the user and system time of this process.
func ownCPU() time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// stolen is how long the hypervisor has kept this machine's CPUs for others;
// zero where that is not told.
func stolen() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	const stealField, perSecond = 8, 100 // USER_HZ is 100 wherever Go runs
	fields := strings.Fields(line)
	if len(fields) <= stealField {
		return 0
	}
	ticks, err := strconv.ParseInt(fields[stealField], 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(ticks) * time.Second / perSecond
}

func (b *broker) get(ctx context.Context, path string) ([]byte, error) {
	return b.call(ctx, http.MethodGet, path)
}

func (b *broker) call(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+b.http+path, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

// makeChannel creates a topic and a channel of it.
func (b *broker) makeChannel(ctx context.Context, topic, channel string) error {
	_, err := b.call(ctx, http.MethodPost, "/topic/create?topic="+topic)
	if err == nil {
		_, err = b.call(ctx, http.MethodPost, "/channel/create?topic="+topic+"&channel="+channel)
	}
	return err
}

// makeChannels creates the channels that are to be there before the first message.
func (b *broker) makeChannels(ctx context.Context, l load) error {
	if !l.made {
		return nil
	}
	for i := range l.channels {
		if err := b.makeChannel(ctx, l.topic(0), l.channel(i)); err != nil {
			return err
		}
	}
	return nil
}

// depth is how many messages the broker says it keeps, over all topics.
func (b *broker) depth(ctx context.Context) (uint64, error) {
	body, err := b.get(ctx, "/stats?format=json")
	if err != nil {
		return 0, err
	}
	var stats struct {
		Topics []struct {
			Depth    uint64 `json:"depth"`
			Channels []struct {
				Depth uint64 `json:"depth"`
			} `json:"channels"`
		} `json:"topics"`
	}
	if err := json.Unmarshal(body, &stats); err != nil {
		return 0, fmt.Errorf("/stats: %w", err)
	}
	var n uint64
	for _, t := range stats.Topics {
		n += t.Depth
		for _, c := range t.Channels {
			n += c.Depth
		}
	}
	return n, nil
}

// freePorts returns n loopback addresses that were free a moment ago.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// A tail keeps the last lines that a process wrote.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// tailSize is enough for a panic's message and its first goroutine.
const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-tailSize):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}
