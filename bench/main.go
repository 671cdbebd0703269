//go:build linux

// Command bench measures this project's nsqd against upstream's, side by side.
//
//	go run ./bench -rows 3,4,10 -reps 5 -seconds 2 -json out.json
//
// Each row is a workload of the project's targets. A repetition runs a row on a
// fresh zsq and, right after, on a fresh upstream nsqd v1.3.0 (or the other way
// round, in turn), on loopback ports, with data in a directory that is removed.
// What counts is the median over repetitions of the paired ratio, for whatever
// else the machine does then touches both; CPU per message is steadier than
// messages per second. A run counts only if every message came exactly once on
// every channel: bodies are numbered, and a bitmap is kept.
//
// Some rows compare our broker with itself, because upstream has nothing of the
// kind: process mode with memory mode, by paired differences; disk mode runs alone.
//
// Upstream is built from the nested module bench/upstream, which pins the
// version and its dependencies, so that none of them are ours.
//
// A message's road through the program:
//
//	rows.go       what a row is, and the list of them
//	load.go       what a row has the generator do
//	run.go        the course of a run
//	figure.go     what a run gave, and the clocks around it
//	broker.go     starting a broker, its CPU clock, its end
//	gen.go        one thread, one epoll: all connections of a run, a round at a time
//	once.go       the bitmaps: has every message come, and once?
//	handshake.go  connecting, IDENTIFY and its answers, while a socket still blocks
//	conn.go       a socket in the event loop
//	gen_pub.go    prebuilt frames, numbered and written a window at a time
//	gen_sub.go    frames parsed where they were read, FINs in one write
//	wire.go       the protocol's bytes, as far as they are needed here
//	codec.go      TLS and compression, where a row asks for them
//	idle.go       connections that do nothing
//	restart.go    what is kept: its memory, stopping and starting with it
//	slow.go       a disk held back, and a topic beside the one that floods it
//	sink.go       the null sink: how fast the generator itself is
//	report.go     medians, paired ratios, aims
//
// The generator must cost far less than what it measures. Its own CPU per
// message is printed beside the broker's, and -null adds a third side that does
// next to nothing: what is reached there is the generator's ceiling. Where a
// broker comes near it, the row's throughput says more about the generator.
//
// Latency is from publish time to the consumer's read. In the open loop it
// starts when the message was due, so that a stall cannot hide the messages it
// held up.
//
// On a virtual machine the hypervisor may stop us for tens of milliseconds; the
// share of CPU it took is recorded with each run. Quote latency rows from runs
// in which it is small and the null sink's own quantiles are good: those are the
// floor of what can be seen.
//
// Measured here is one machine with broker and generator sharing its cores. No
// row says anything about a real network or about many cores.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	rows     string
	reps     int
	seconds  float64
	jsonPath string
	zsqPath  string
	upPath   string
	withNull bool
	only     string
	flags    string
	zsqFlags string
	dir      string
	sizes    sizes
	nice     int
}

// runMax bounds one run of one cell, whatever the broker does.
const runMax = 3 * time.Minute

func main() {
	if len(os.Args) == 2 && os.Args[1] == sinkCommand {
		fmt.Fprintln(os.Stderr, runSink())
		os.Exit(1)
	}
	var o options
	flag.StringVar(&o.rows, "rows", "", "rows to run, such as 3,4,8/1KB (default: all but 28, which takes root and mounts a file system)")
	flag.IntVar(&o.reps, "reps", 3, "repetitions of each row")
	flag.Float64Var(&o.seconds, "seconds", 2, "seconds that each run is measured")
	flag.StringVar(&o.jsonPath, "json", "", "write the raw figures to this file")
	flag.StringVar(&o.zsqPath, "zsq", "", "nsqd binary to measure (default: build ./cmd/nsqd)")
	flag.StringVar(&o.upPath, "upstream", "", "nsqd binary to compare with (default: build upstream v1.3.0)")
	flag.BoolVar(&o.withNull, "null", false, "measure the generator against the null sink too")
	flag.StringVar(&o.only, "only", "", "run this side only: zsq, upstream or null")
	flag.StringVar(&o.flags, "flags", "", "more flags for both brokers, separated by spaces")
	flag.StringVar(&o.zsqFlags, "zsq-flags", "", "more flags for zsq, separated by spaces")
	flag.StringVar(&o.dir, "dir", "", "where data directories are made (default: the system's directory for temporary files)")
	flag.IntVar(&o.sizes.idleConns, "conns", 2000, "connections of row 21")
	flag.IntVar(&o.sizes.backlog, "backlog", 1_000_000, "messages of rows 14 and 23 (the targets name 5,000,000)")
	flag.IntVar(&o.sizes.queued, "queued", 2_000_000, "messages of row 22 (the targets name 20,000,000)")
	flag.IntVar(&o.sizes.topics, "topics", 10_000, "topics of row 24; upstream takes a minute for as many")
	flag.IntVar(&o.nice, "nice", 0, "priority of generator and brokers; below zero shields latencies from other jobs")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := bench(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(2)
	}
	if !ok {
		stop()
		os.Exit(1)
	}
}

// bench runs everything asked for. It answers false when a run failed or a
// floor was missed.
func bench(ctx context.Context, o options) (ok bool, err error) {
	// One thread generates; the other may wait for children. The collector has
	// nothing to do during a run, so it waits until a run is over.
	runtime.LockOSThread()
	runtime.GOMAXPROCS(2)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(2 << 30)

	// Brokers inherit it from this thread.
	if o.nice != 0 {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, o.nice); err != nil {
			return false, fmt.Errorf("-nice: %w", err)
		}
	}
	if o.reps < 1 || o.seconds <= 0 || min(o.sizes.idleConns, o.sizes.backlog, o.sizes.queued, o.sizes.topics) < 1 || flag.NArg() > 0 {
		return false, errors.New("-reps, -seconds and the sizes are positive, and there are no arguments")
	}
	var names []string
	if o.rows != "" {
		names = strings.Split(o.rows, ",")
	}
	chosen, err := pick(cells(o.sizes), names)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp(o.dir, "zsq-bench-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := session{options: o, ctx: ctx, dir: dir}
	if s.fs, err = fileSystem(dir); err != nil {
		return false, err
	}
	if err := s.choose(); err != nil {
		return false, err
	}

	report := file{Time: time.Now().UTC(), Go: runtime.Version(), Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Data: s.fs, Args: os.Args[1:]}
	fmt.Printf("%s %s, %d CPUs, %d repetitions of %g s, data on %s\n", report.Go, report.Arch, report.CPUs, o.reps, o.seconds, report.Data)
	ok = true
	for _, c := range chosen {
		r := s.measure(c)
		r.conclude()
		r.print(os.Stdout)
		failed, short := r.missed()
		ok = ok && !failed && !short
		report.Results = append(report.Results, r)
		if ctx.Err() != nil {
			break
		}
	}
	if o.jsonPath == "" {
		return ok, ctx.Err()
	}
	text, err := json.MarshalIndent(report, "", "\t")
	if err != nil {
		return false, err
	}
	return ok, errors.Join(ctx.Err(), os.WriteFile(o.jsonPath, append(text, '\n'), 0o644))
}

// A file is what -json writes.
type file struct {
	Time    time.Time `json:"time"`
	Go      string    `json:"go"`
	Arch    string    `json:"arch"`
	CPUs    int       `json:"cpus"`
	Data    string    `json:"data_file_system"`
	Args    []string  `json:"args"`
	Results []*result `json:"results"`
}

// A session is one invocation: which sides there are and where they lie.
type session struct {
	options
	ctx   context.Context
	dir   string
	fs    string // what dir lies on
	sides []string
}

// choose settles on the sides and builds what has to be built.
func (s *session) choose() error {
	s.sides = []string{zsq, upstream}
	if s.withNull {
		s.sides = append(s.sides, null)
	}
	switch s.only {
	case "":
	case zsq, upstream, null:
		s.sides = []string{s.only}
	default:
		return fmt.Errorf("-only: no side %q", s.only)
	}
	root, err := moduleRoot(s.ctx)
	for _, side := range s.sides {
		if err != nil {
			return err
		}
		switch {
		case side == zsq && s.zsqPath == "":
			s.zsqPath, err = s.build(root, zsq, "./cmd/nsqd")
		case side == upstream && s.upPath == "":
			s.upPath, err = s.build(filepath.Join(root, "bench", "upstream"), upstream, "github.com/nsqio/nsq/apps/nsqd")
		}
	}
	return err
}

// moduleRoot is the directory of this module's go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(string(bytes.TrimSpace(out))), nil
}

// build compiles a package in dir and returns the binary's path.
func (s *session) build(dir, name, pkg string) (string, error) {
	path := filepath.Join(s.dir, name)
	cmd := exec.CommandContext(s.ctx, "go", "build", "-o", path, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// sidesOf is what of a cell is asked for: of our own variants all, or none where
// another side alone was to run.
func (s *session) sidesOf(c cell) []string {
	switch {
	case c.variants == nil:
		return s.sides
	case s.only == "" || s.only == zsq:
		return c.sides()
	}
	return nil
}

// measure runs one cell on all sides, as often as asked, in alternating order.
func (s *session) measure(c cell) *result {
	r := &result{Row: c.name, Title: c.title, Sides: map[string][]figure{}, cell: c}
	sides := s.sidesOf(c)
	for rep := range s.reps {
		for i := range sides {
			if rep%2 == 1 {
				i = len(sides) - 1 - i
			}
			side := sides[i]
			if side == null && !c.suitsSink() {
				continue
			}
			f, err := s.runOnce(c, side)
			if err != nil {
				f.Error = err.Error()
			}
			r.Sides[side] = append(r.Sides[side], f)
			runtime.GC()
			if s.ctx.Err() != nil {
				return r
			}
		}
	}
	return r
}

// runOnce starts a broker, runs the cell on it and stops it.
func (s *session) runOnce(c cell, side string) (f figure, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, runMax)
	defer cancel()
	if c.disk && s.fs == tmpfs {
		return f, errors.New("the data would lie on a tmpfs: name a directory on a disk with -dir")
	}
	flags := append([]string(nil), c.flags...)
	for _, v := range c.variants {
		if v.name == side {
			flags = append(flags, v.flags...)
			c.load.stalled = v.stalled
			c.load.channels = max(c.load.channels, v.channels)
		}
	}
	flags = append(flags, strings.Fields(s.flags)...)
	if c.load.tls {
		files, err := certificate(s.dir)
		if err != nil {
			return f, err
		}
		flags = append(flags, files...)
	}
	dir := s.dir
	var disk *slowDisk
	if c.mode == slowed {
		if disk, err = newSlowDisk(ctx, s.dir, slowRate); err != nil {
			return f, err
		}
		defer func() { err = errors.Join(err, disk.close()) }()
		dir = disk.dir
	}
	var b *broker
	switch side {
	case null:
		b, err = startSink(ctx)
	case upstream:
		b, err = startBroker(ctx, s.upPath, dir, flags...)
	default:
		b, err = startBroker(ctx, s.zsqPath, dir, append(flags, strings.Fields(s.zsqFlags)...)...)
	}
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	if disk != nil {
		if err := disk.slow(b.cmd.Process.Pid); err != nil {
			return f, err
		}
	}
	return c.run(ctx, b, time.Duration(s.seconds*float64(time.Second)))
}
