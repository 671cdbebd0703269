//go:build linux

// Command lookup measures this project's nsqlookupd against upstream's, side by
// side.
//
//	go run ./bench/lookup -reps 3 -seconds 3
//
// A cluster is registered: so many producers, each with every topic and all its
// channels. Then clients ask without pause, first /lookup, then /nodes, while
// producers take topics and channels away and give them back, so many times a
// second in all. Each repetition does this on a fresh zsq and a fresh upstream
// v1.3.0, or the other way round, in turn.
//
// What counts is requests per second of the daemon's own CPU time, all of it:
// the changes are part of the work. The generator shares the machine's cores,
// so that requests per second say as much of it. Memory is the most that the
// process had resident.
//
//	cluster.go   producers: registering, changing
//	daemon.go    a process, its CPU clock and its memory
//	ask.go       HTTP clients
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"
)

type options struct {
	reps      int
	seconds   float64
	producers int
	topics    int
	channels  int
	changes   int
	clients   int
	logLevel  string
	jsonPath  string
	zsqPath   string
	upPath    string
}

// The sides of the comparison.
const (
	zsq      = "zsq"
	upstream = "upstream"
)

// The aims: requests per CPU second of ours over upstream's, and memory.
const (
	ratioAim  = 5.0
	memoryAim = 1.0
)

func main() {
	var o options
	flag.IntVar(&o.reps, "reps", 3, "repetitions")
	flag.Float64Var(&o.seconds, "seconds", 3, "seconds that each kind of request is measured")
	flag.IntVar(&o.producers, "producers", 1000, "producers, one connection each")
	flag.IntVar(&o.topics, "topics", 100, "topics of each producer")
	flag.IntVar(&o.channels, "channels", 3, "channels of each topic")
	flag.IntVar(&o.changes, "changes", 1000, "registration changes per second")
	flag.IntVar(&o.clients, "clients", 4, "HTTP connections that ask without pause")
	flag.StringVar(&o.logLevel, "log-level", "fatal", "the daemons' log level; the log goes nowhere")
	flag.StringVar(&o.jsonPath, "json", "", "write the raw figures to this file")
	flag.StringVar(&o.zsqPath, "zsq", "", "nsqlookupd binary to measure (default: build ./cmd/nsqlookupd)")
	flag.StringVar(&o.upPath, "upstream", "", "nsqlookupd binary to compare with (default: build upstream v1.3.0)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := measure(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lookup:", err)
		stop()
		os.Exit(2)
	}
	if !ok {
		stop()
		os.Exit(1)
	}
}

// A figure is what one run of one side says.
type figure struct {
	Lookup asked `json:"lookup"`
	Nodes  asked `json:"nodes"`
	// Resident bytes: when all was registered, and the most there ever were.
	Registered int64 `json:"registered_bytes"`
	Peak       int64 `json:"peak_bytes"`
}

// asked is what one kind of request cost.
type asked struct {
	Requests  int     `json:"requests"`
	CPUPer    float64 `json:"cpu_us"`         // CPU time of the daemon per request, microseconds
	Rate      float64 `json:"per_second"`     // requests by the clock on the wall
	Changes   float64 `json:"changes_second"` // changes that got through meanwhile
	BodyBytes int     `json:"body_bytes"`     // of the last answer
}

// file is what -json writes.
type file struct {
	Time    time.Time           `json:"time"`
	Go      string              `json:"go"`
	Arch    string              `json:"arch"`
	CPUs    int                 `json:"cpus"`
	Args    []string            `json:"args"`
	Figures map[string][]figure `json:"figures"`
	Ratios  map[string]float64  `json:"ratios"` // medians of pairs
}

// measure runs both sides as often as asked. It answers false when an aim was
// missed.
func measure(ctx context.Context, o options) (ok bool, err error) {
	if o.reps < 1 || o.seconds <= 0 || o.producers < 1 || o.topics < 1 || o.channels < 1 || o.changes < 1 || o.clients < 1 || flag.NArg() > 0 {
		return false, errors.New("all numbers are positive, and there are no arguments")
	}
	// Children are told to die with the thread that started them.
	runtime.LockOSThread()
	dir, err := os.MkdirTemp("", "zsq-lookup-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := o.build(ctx, dir); err != nil {
		return false, err
	}
	fmt.Printf("%s %s, %d CPUs: %d producers x %d topics x %d channels, %d changes/s, %d clients, %d x %g s\n",
		runtime.Version(), runtime.GOARCH, runtime.NumCPU(), o.producers, o.topics, o.channels, o.changes, o.clients, o.reps, o.seconds)
	f := file{Time: time.Now().UTC(), Go: runtime.Version(), Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Args: os.Args[1:], Figures: map[string][]figure{}}
	for rep := range o.reps {
		sides := []string{zsq, upstream}
		if rep%2 == 1 {
			slices.Reverse(sides)
		}
		for _, side := range sides {
			fig, err := o.run(ctx, side)
			if err != nil {
				return false, fmt.Errorf("%s: %w", side, err)
			}
			f.Figures[side] = append(f.Figures[side], fig)
			fmt.Printf("%-9s /lookup %8.1f us CPU %7.0f/s   /nodes %9.1f us CPU %6.1f/s   %4.0f MB registered, %4.0f MB at most   changes/s %.0f, %.0f\n",
				side, fig.Lookup.CPUPer, fig.Lookup.Rate, fig.Nodes.CPUPer, fig.Nodes.Rate,
				float64(fig.Registered)/1e6, float64(fig.Peak)/1e6, fig.Lookup.Changes, fig.Nodes.Changes)
		}
	}
	f.conclude()
	ok = f.print()
	if o.jsonPath == "" {
		return ok, nil
	}
	text, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return false, err
	}
	return ok, os.WriteFile(o.jsonPath, append(text, '\n'), 0o644)
}

// run measures one side once, on a fresh daemon.
func (o *options) run(ctx context.Context, side string) (f figure, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	path := o.zsqPath
	if side == upstream {
		path = o.upPath
	}
	d, err := startDaemon(ctx, path, "--log-level="+o.logLevel)
	if err != nil {
		return f, err
	}
	defer d.stop()
	c, err := register(ctx, d.tcp, o)
	if err != nil {
		return f, err
	}
	defer c.close()
	if f.Registered, err = d.memory("VmRSS:"); err != nil {
		return f, err
	}
	topic := 0
	lookup := func() string { topic++; return "/lookup?topic=" + topicName(topic%o.topics) }
	if f.Lookup, err = o.ask(ctx, d, c, lookup); err != nil {
		return f, err
	}
	if f.Nodes, err = o.ask(ctx, d, c, func() string { return "/nodes" }); err != nil {
		return f, err
	}
	f.Peak, err = d.memory("VmHWM:")
	return f, err
}

// ratios says how the paired ratios are made: above one is better for ours,
// save for memory.
var ratios = []struct {
	name string
	of   func(ours, theirs figure) float64
}{
	{"lookups per CPU second", func(a, b figure) float64 { return b.Lookup.CPUPer / a.Lookup.CPUPer }},
	{"nodes per CPU second", func(a, b figure) float64 { return b.Nodes.CPUPer / a.Nodes.CPUPer }},
	{"memory registered", func(a, b figure) float64 { return float64(a.Registered) / float64(b.Registered) }},
	{"memory at most", func(a, b figure) float64 { return float64(a.Peak) / float64(b.Peak) }},
}

func (f *file) conclude() {
	f.Ratios = map[string]float64{}
	for _, r := range ratios {
		var v []float64
		for i, ours := range f.Figures[zsq] {
			v = append(v, r.of(ours, f.Figures[upstream][i]))
		}
		f.Ratios[r.name] = median(v)
	}
}

// print shows the ratios and reports whether the aims are reached.
func (f *file) print() (ok bool) {
	ok = true
	for i, r := range ratios {
		v := f.Ratios[r.name]
		aim, good := fmt.Sprintf("at least %g", ratioAim), v >= ratioAim
		if i >= 2 {
			aim, good = fmt.Sprintf("at most %g", memoryAim), v <= memoryAim
		}
		word := "reached"
		if !good {
			word, ok = "MISSED", false
		}
		fmt.Printf("%-24s %6.2f of upstream's (%s: %s)\n", r.name, v, aim, word)
	}
	return ok
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
