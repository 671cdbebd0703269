//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	slowRate   = 5 << 20  // bytes a second that the disk takes
	slowMemory = 64 << 20 // the broker's --memory-limit
	slowBeside = 96 << 20 // what it may need beside messages: the runtime, connections, batches on their way
	quickRate  = 200      // messages a second of the topic beside the flood
)

// A slowDisk is a file system of its own in a file, which takes so many bytes a
// second from processes that were slowed. That takes root, loop devices and version 1
// of the kernel's blkio controller.
type slowDisk struct {
	dir   string
	group string
	undo  []func() error
}

func newSlowDisk(ctx context.Context, base string, rate int) (d *slowDisk, err error) {
	const controller = "/sys/fs/cgroup/blkio"
	if _, err := os.Stat(controller + "/blkio.throttle.write_bps_device"); err != nil || os.Getuid() != 0 {
		return nil, errors.New("to hold a disk back takes root and version 1 of the blkio control group")
	}
	if base, err = os.MkdirTemp(base, "slow-"); err != nil {
		return nil, err
	}
	d = &slowDisk{dir: filepath.Join(base, "data"), group: fmt.Sprintf("%s/zsq-bench-%d", controller, os.Getpid())}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	image := filepath.Join(base, "image")
	d.undo = append(d.undo, func() error { return os.RemoveAll(base) })
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := command(ctx, "truncate", "-s", "2G", image); err != nil {
		return nil, err
	}
	if _, err := command(ctx, "mkfs.ext4", "-q", "-F", image); err != nil {
		return nil, err
	}
	device, err := command(ctx, "losetup", "-f", "--show", image)
	if err != nil {
		return nil, err
	}
	d.undone("losetup", "-d", device)
	// Synchronous: the controller sees who writes, and nothing hides in the cache.
	if _, err := command(ctx, "mount", "-o", "sync", device, d.dir); err != nil {
		return nil, err
	}
	d.undone("umount", d.dir)
	if err := os.Mkdir(d.group, 0o755); err != nil {
		return nil, err
	}
	d.undo = append(d.undo, func() error { return os.Remove(d.group) })
	number, err := command(ctx, "stat", "-c", "%Hr:%Lr", device)
	if err != nil {
		return nil, err
	}
	return d, os.WriteFile(d.group+"/blkio.throttle.write_bps_device", fmt.Appendf(nil, "%s %d", number, rate), 0o644)
}

// command runs a program and returns what it printed.
func command(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// undone has close run a command, whatever has ended the run.
func (d *slowDisk) undone(name string, args ...string) {
	d.undo = append(d.undo, func() error {
		_, err := command(context.Background(), name, args...)
		return err
	})
}

// slow holds back what a process writes from now on.
func (d *slowDisk) slow(pid int) error {
	return os.WriteFile(d.group+"/cgroup.procs", strconv.AppendInt(nil, int64(pid), 10), 0o644)
}

// close takes everything back, the last thing first.
func (d *slowDisk) close() error {
	var errs []error
	for _, undo := range slices.Backward(d.undo) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

// runSlowed measures a quiet topic's latencies, alone and then beside one that is
// flooded, and the most memory that took. Nobody may be refused, and all of both
// topics must come.
func (c cell) runSlowed(ctx context.Context, b *broker, measure time.Duration) (f figure, err error) {
	defer func() { err = errors.Join(err, b.exited()) }()
	quick, err := newGenerator(ctx, b.tcp, load{producers: 1, consumers: 1, rate: quickRate, stamp: true}.withDefaults())
	if err != nil {
		return f, err
	}
	defer quick.close()
	flood, err := newGenerator(ctx, b.tcp, c.load)
	if err != nil {
		return f, err
	}
	defer flood.close()
	if err := errors.Join(b.makeChannels(ctx, c.load), quick.addConsumer(0), quick.addProducer(0)); err != nil {
		return f, err
	}
	if err := takeTurns(quick, flood, warmUp); err != nil {
		return f, err
	}
	quick.keep = true
	if err := takeTurns(quick, flood, measure); err != nil {
		return f, err
	}
	f.quantiles(quick.latencies)
	f.Before = f.P99

	for i := range c.load.producers {
		if err := flood.addProducer(i); err != nil {
			return f, err
		}
	}
	quick.latencies = quick.latencies[:0]
	m, err := startMeter(flood, b)
	if err != nil {
		return f, err
	}
	if err := takeTurns(quick, flood, 2*measure); err != nil {
		return f, err
	}
	if err := m.stop(&f); err != nil {
		return f, err
	}
	quick.publishing, flood.publishing = false, false
	if err := errors.Join(quick.runUntil(quick.complete), flood.runUntil(flood.complete)); err != nil {
		return f, err
	}
	f.quantiles(quick.latencies)
	if f.RSS, err = b.rssMost(); err != nil {
		return f, err
	}
	if err := c.drain(flood, b, &f); err != nil {
		return f, err
	}
	return f, errors.Join(quick.verify(), flood.verify())
}

// turn is how long the quiet topic is waited for before the flood has its turn.
const turn = 100 * time.Microsecond

// takeTurns runs rounds of both for d.
func takeTurns(quick, flood *generator, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if err := errors.Join(quick.round(turn), flood.round(0), quick.ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}
