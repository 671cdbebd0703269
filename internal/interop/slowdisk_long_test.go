//go:build long && linux

package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
)

// slowDisk mounts a file system that takes rate bytes a second from the
// processes that join its control group, and returns its directory and a
// function that makes a process join. It needs root, and a kernel with loop
// devices and the throttling of cgroup v1's blkio; without them the test is
// skipped.
func slowDisk(t *testing.T, rate int) (dir string, join func(pid int)) {
	t.Helper()
	const controller = "/sys/fs/cgroup/blkio"
	if _, err := os.Stat(controller + "/blkio.throttle.write_bps_device"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and cgroup v1's blkio to hold a disk back")
	}
	base := t.TempDir()
	image, group := filepath.Join(base, "image"), filepath.Join(controller, "zsq-"+strconv.Itoa(os.Getpid()))
	run := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Skipf("%s: %v: %s", name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("truncate", "-s", "3G", image)
	run("mkfs.ext4", "-q", "-F", image)
	device := run("losetup", "-f", "--show", image)
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
	dir = filepath.Join(base, "data")
	must(t, os.Mkdir(dir, 0o755))
	// Synchronous: the throttle sees who writes, and nothing hides in the cache.
	run("mount", "-o", "sync", device, dir)
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	must(t, os.Mkdir(group, 0o755))
	t.Cleanup(func() { _ = os.Remove(group) })
	number := run("stat", "-c", "%Hr:%Lr", device)
	must(t, os.WriteFile(group+"/blkio.throttle.write_bps_device", fmt.Appendf(nil, "%s %d", number, rate), 0o644))
	return dir, func(pid int) {
		must(t, os.WriteFile(group+"/cgroup.procs", strconv.AppendInt(nil, int64(pid), 10), 0o644))
	}
}

// latency publishes stamped messages at a steady rate for a while and returns
// how long they took, sorted.
func latency(t *testing.T, p *nsq.Producer, got <-chan time.Duration, length time.Duration) []time.Duration {
	t.Helper()
	const every = 5 * time.Millisecond
	var all []time.Duration
	n := int(length / every)
	start := time.Now()
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * every)))
		// From when it was due, so that a stall cannot hide what it held up.
		body := binary.BigEndian.AppendUint64(nil, uint64(start.Add(time.Duration(i)*every).UnixNano()))
		must(t, p.PublishAsync("quick", body, nil))
	}
	for range n {
		all = append(all, receive(t, got, "a stamped message"))
	}
	slices.Sort(all)
	return all
}

func quantile(all []time.Duration, q float64) time.Duration {
	return all[min(len(all)-1, int(q*float64(len(all))))]
}

// rss returns the most memory a process has had resident, in bytes.
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	kb, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
	must(t, err)
	return kb << 10
}

// TestLongSlowDisk sends 512 MB to a topic whose disk takes 5 MB/s, and 100 KB
// messages to a consumer that never reads: memory stays within its limit, nobody
// is refused, and another topic's latency is reported beside what it was before.
func TestLongSlowDisk(t *testing.T) {
	const (
		limit = 64 << 20 // of message memory
		// What a process needs beside its messages: the Go runtime, buffers of the
		// producers' connections, batches on their way to the writer.
		beside = 96 << 20
		total  = 512 << 20
		size   = 10 << 10
	)
	dir, join := slowDisk(t, 5<<20)
	b := startBroker(t, "--data-path="+dir, "--mem-queue-size=1000", "--memory-limit="+strconv.Itoa(limit))
	join(b.cmd.Process.Pid)
	b.create(t, "quick", "c")
	b.create(t, "stuck", "c")
	b.create(t, "flood", "c")

	got := make(chan time.Duration, 1<<16)
	consume(t, b, "quick", "c", config(100), func(m *nsq.Message) error {
		got <- time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(m.Body))))
		return nil
	})
	quick := newProducer(t, b)
	latency(t, quick, got, time.Second)
	before := latency(t, quick, got, 20*time.Second)

	stuck, err := net.Dial("tcp", b.tcp)
	must(t, err)
	defer stuck.Close()
	_, err = stuck.Write([]byte("  V2SUB stuck c\nRDY 2500\n"))
	must(t, err)

	start := time.Now()
	var refused atomic.Int64
	var wg sync.WaitGroup
	publish := func(topic string, size, count int) {
		wg.Go(func() {
			cfg := nsq.NewConfig()
			// A broker that holds a producer back does not read it for long.
			cfg.WriteTimeout = 5 * time.Minute
			cfg.ReadTimeout = 5 * time.Minute
			p, err := nsq.NewProducer(b.tcp, cfg)
			if err != nil {
				refused.Add(1)
				return
			}
			p.SetLoggerLevel(nsq.LogLevelMax)
			defer p.Stop()
			done := make(chan *nsq.ProducerTransaction, 200)
			body := make([]byte, size)
			owed := 0
			take := func() {
				owed--
				if tx := <-done; tx.Error != nil {
					refused.Add(1)
				}
			}
			for range count {
				for owed == cap(done) {
					take()
				}
				if err := p.PublishAsync(topic, body, done); err != nil {
					refused.Add(1)
					return
				}
				owed++
			}
			for owed > 0 {
				take()
			}
		})
	}
	for range 4 {
		publish("flood", size, total/size/4)
	}
	publish("stuck", 100<<10, 1000)
	during := latency(t, quick, got, 40*time.Second)
	wg.Wait()
	took := time.Since(start)
	if n := refused.Load(); n > 0 {
		t.Errorf("%d publishes were refused", n)
	}
	high := rss(t, b.cmd.Process.Pid)
	t.Logf("took %v; most memory resident %d MB; p99 before %v, during %v; p50 %v, %v", took.Round(time.Second), high>>20,
		quantile(before, 0.99), quantile(during, 0.99), quantile(before, 0.5), quantile(during, 0.5))
	if high > limit+beside {
		t.Errorf("%d MB were resident, the limit is %d of messages", high>>20, limit>>20)
	}
	ch, _ := b.channel(t, "flood", "c")
	if ch.Depth != total/size {
		t.Errorf("the flooded channel holds %d messages, want %d", ch.Depth, total/size)
	}
}
