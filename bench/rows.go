//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// A cell is one workload of a row of the targets.
type cell struct {
	row   string // "8"
	name  string // "8/1KB": what -rows takes too
	title string
	load  load
	flags []string // for the broker
	mode  mode
	disk  bool // what it says holds only on a real disk
	aims  []aim

	// variants are ways to run our own broker, the second compared with the
	// first, where upstream has nothing to compare with. Nil: ours and upstream.
	variants []variant
}

// A variant of our own broker, under the name of a side.
type variant struct {
	name     string
	flags    []string
	stalled  int // subscribers that never read, added to the load
	channels int // of each topic, if not the load's
}

// alone is for rows that upstream cannot run.
func alone() []variant { return []variant{{name: zsq}} }

// modes compares process mode with memory mode.
func modes() []variant {
	return []variant{
		{name: "memory", flags: []string{"--durability=memory"}},
		{name: "process", flags: []string{"--durability=process"}},
	}
}

// A mode is the course that a cell's run takes.
type mode int

const (
	through mode = iota // publish, deliver, finish; everything is measured
	stored              // publishing is measured, then all is drained to verify it
	drained             // a backlog is laid down, then draining it is measured
	timed               // so many messages are published, and come when they are due
	idle                // connections that do nothing
	kept                // a backlog is laid down, and the memory for it is measured
	restart             // a backlog is laid down, stopping and starting with it is measured
	created             // topics are created by publishing to each, then as restart
	slowed              // one topic overflows to a slow disk, another one's latency is measured
)

// memory is a queue size that no row's messages reach.
const memory = "--mem-queue-size=2000000"

// Limits of the cells that let messages pile up: what the broker keeps of them
// should fit beside everything else on a small machine.
const (
	storedMax = 8 << 20
	fanMax    = 400_000 // in each of a hundred channels
)

// An aim is a figure of the targets: a metric, what the spine must reach and
// where the project must end.
type aim struct {
	metric      string
	floor, goal float64 // zero: none
	atMost      bool
	ofNull      float64 // or this share of what the null sink reached
}

// Metrics that an aim can name. A ratio is upstream's CPU divided by ours, or
// our throughput divided by upstream's, so that more is better.
const (
	cpuRatio     = "CPU ratio"
	rateRatio    = "throughput ratio"
	rateHere     = "msgs/s"
	cpuHere      = "CPU us/msg"
	p50          = "p50 ms"
	p99          = "p99 ms"
	p999         = "p99.9 ms"
	latest       = "max ms"
	rssConn      = "RSS bytes/conn"
	cpuConn      = "CPU us/s/conn"
	connectRatio = "connect CPU ratio"
	cpuAdded     = "CPU us/msg added"
	p50Added     = "p50 ms added"
	p99Times     = "p99 ratio"
	rateTimes    = "msgs/s ratio"
	p99Grown     = "p99 beside the flood, ratio"
	anonHere     = "anonymous MB"
	rssHere      = "RSS MB"
	createHere   = "creating s"
	stopHere     = "stop ms"
	startHere    = "start ms"
	restartHere  = "stop and first message ms"
	restartRatio = "restart ratio"
)

func least(metric string, floor, goal float64) aim {
	return aim{metric: metric, floor: floor, goal: goal}
}

func most(metric string, floor, goal float64) aim {
	return aim{metric: metric, floor: floor, goal: goal, atMost: true}
}

// sizes of the rows that have one of their own.
type sizes struct {
	idleConns int // of row 21
	backlog   int // messages of rows 14 and 23
	queued    int // messages of row 22
	topics    int // of row 24
}

// disk acknowledgements: at 500,000 a second, no more than this can be
// unanswered if each is to wait less than 10 ms.
const diskOutstanding = 4096

// slowCell is row 28 in one mode of durability.
func slowCell(durability string) cell {
	return cell{
		name: "28/" + durability, title: fmt.Sprintf("a disk of %d MB/s, 10 KB from 4 producers as fast as they may, %s mode", slowRate>>20, durability),
		mode: slowed, disk: true,
		load:     load{name: "flood", producers: 4, made: true, body: 10 << 10, window: 200},
		flags:    []string{"--durability=" + durability, "--mem-queue-size=1000", fmt.Sprintf("--memory-limit=%d", slowMemory)},
		variants: alone(), aims: []aim{most(p99Grown, 0, 2), most(rssHere, 0, float64(slowMemory+slowBeside)/1e6)},
	}
}

// cells is the list of the project's targets as far as this program measures it.
func cells(n sizes) []cell {
	latency := []aim{most(p99, 1, 0.5), most(p999, 0, 2), least(cpuRatio, 0, 1.5)}
	list := []cell{
		{
			name: "1", title: "PUB, P4, stored, no consumer", mode: stored,
			load:  load{producers: 4, messagesMax: storedMax},
			flags: []string{"--mem-queue-size=10000000"},
			aims:  []aim{least(cpuRatio, 15, 35), least(rateHere, 0, 5e6)},
		},
		{
			name: "2", title: "MPUB of 100, P4, stored", mode: stored,
			load:  load{producers: 4, batch: 100, messagesMax: storedMax},
			flags: []string{"--mem-queue-size=10000000"},
			aims:  []aim{least(cpuRatio, 5, 8), least(rateHere, 0, 6e6)},
		},
		{
			name: "3", title: "PUB, deliver, FIN, P4 C1", load: load{producers: 4, consumers: 1},
			aims: []aim{least(cpuRatio, 15, 30), {metric: rateHere, goal: 3e6, ofNull: 0.85}},
		},
		{
			name: "4", title: "same, P4 C4", load: load{producers: 4, consumers: 4},
			aims: []aim{least(cpuRatio, 12, 25), least(rateRatio, 0, 10), most(cpuHere, 2.98, 0.83)},
		},
		{
			name: "tls", title: "row 4 with TLS 1.3 (compare its CPU with row 4's)", load: load{producers: 4, consumers: 4, tls: true},
			aims: []aim{least(cpuRatio, 0, 8)},
		},
		{
			name: "snappy", title: "row 4 with snappy", load: load{producers: 4, consumers: 4, snappy: true},
			aims: []aim{least(cpuRatio, 0, 5)},
		},
		{
			name: "deflate", title: "row 4 with deflate at level 6", load: load{producers: 4, consumers: 4, deflate: true},
		},
		{
			name: "5", title: "same, P16 C16", load: load{producers: 16, consumers: 16},
			aims: []aim{least(cpuRatio, 10, 15)},
		},
		{
			name: "6", title: "MPUB of 100, P4 C4", load: load{producers: 4, consumers: 4, batch: 100},
			aims: []aim{least(cpuRatio, 7, 10)},
		},
		{
			name: "7", title: "fan-out to 4 channels, P4 C4 (per published message)",
			load: load{producers: 4, consumers: 4, channels: 4},
			aims: []aim{least(cpuRatio, 8, 15)},
		},
		{
			name: "7/100", title: "PUB, P4, no consumer, overflow: a topic of 1 channel and one of 100", mode: stored,
			load:     load{producers: 4, made: true, messagesMax: fanMax},
			flags:    []string{"--mem-queue-size=1000"},
			variants: []variant{{name: "1", channels: 1}, {name: "100", channels: 100}},
			aims:     []aim{least(rateTimes, 0, 0.7)},
		},
		{
			name: "7/100/memory", title: "the same, in memory (each place in a queue is written for the first time)", mode: stored,
			load:     load{producers: 4, made: true, messagesMax: fanMax},
			variants: []variant{{name: "1", channels: 1}, {name: "100", channels: 100}},
			aims:     []aim{least(rateTimes, 0, 0.7)},
		},
		{
			name: "8/1KB", title: "1 KB bodies, P4 C4", load: load{producers: 4, consumers: 4, body: 1 << 10},
			aims: []aim{least(cpuRatio, 8, 15)},
		},
		{
			name: "8/10KB", title: "10 KB bodies, P4 C4",
			load: load{producers: 4, consumers: 4, body: 10 << 10},
			aims: []aim{least(cpuRatio, 2.5, 3.5)},
		},
		{
			name: "9/P64", title: "64 producers, one PUB at a time each, C4",
			load: load{producers: 64, consumers: 4, window: 1},
			aims: []aim{least(cpuRatio, 1.3, 1.7), least(rateRatio, 0, 1.5)},
		},
		{
			name: "9/P128", title: "128 producers, one PUB at a time each, C4",
			load: load{producers: 128, consumers: 4, window: 1},
			aims: []aim{least(cpuRatio, 1.3, 1.7), least(rateRatio, 0, 1.5)},
		},
		{
			name: "10", title: "ping-pong: the next PUB after the OK, P1 C1",
			load: load{producers: 1, consumers: 1, window: 1, stamp: true},
			aims: []aim{most(p50, 0, 0.04), most(p99, 0.5, 0.15)},
		},
		{
			name: "11/5k", title: "open loop, 5 k/s, P8 C4",
			load: load{producers: 8, consumers: 4, rate: 5000, stamp: true}, aims: latency,
		},
		{
			name: "11/20k", title: "open loop, 20 k/s, P8 C4",
			load: load{producers: 8, consumers: 4, rate: 20000, stamp: true}, aims: latency,
		},
		{
			name: "11/100k", title: "open loop, 100 k/s, P8 C4",
			load: load{producers: 8, consumers: 4, rate: 100000, stamp: true}, aims: latency,
		},
		{
			name: "12", title: "overflow publish, P4, no consumer", mode: stored,
			load:  load{producers: 4, messagesMax: storedMax},
			flags: []string{"--mem-queue-size=1000"},
			aims:  []aim{least(cpuRatio, 15, 35)},
		},
		{
			name: "13", title: "all through the disk, P4 C4", load: load{producers: 4, consumers: 4},
			flags: []string{"--mem-queue-size=0"},
			aims:  []aim{least(cpuRatio, 15, 25), least(rateHere, 0, 1e6), most(cpuHere, 5.84, 0.86)},
		},
		{
			name: "14", title: fmt.Sprintf("drain of %d from disk, C1", n.backlog), mode: drained,
			load:  load{producers: 4, made: true, messagesMax: uint64(n.backlog)}, // without its channel it would be written twice
			flags: []string{"--mem-queue-size=1000"},
			aims:  []aim{least(cpuRatio, 6, 12)},
		},
		{
			name: "15/3", title: "row 3, process mode and memory mode", load: load{producers: 4, consumers: 1},
			variants: modes(), aims: []aim{most(cpuAdded, 0.15, 0.10)},
		},
		{
			name: "15/4", title: "row 4, process mode and memory mode", load: load{producers: 4, consumers: 4},
			variants: modes(), aims: []aim{most(cpuAdded, 0.15, 0.10)},
		},
		{
			name: "15/10", title: "row 10, process mode and memory mode",
			load:     load{producers: 1, consumers: 1, window: 1, stamp: true},
			variants: modes(), aims: []aim{most(p50Added, 0, 0.025)},
		},
		{
			name: "15/20", title: "row 20, process mode and memory mode",
			load:     load{producers: 8, consumers: 100, topics: 100},
			variants: modes(), aims: []aim{most(cpuAdded, 0.3, 0.15)},
		},
		{
			name: "16/1", title: "disk mode, PUB, P16 on 1 topic (latency is from PUB to OK)", mode: stored, disk: true,
			load:     load{producers: 16, window: diskOutstanding / 16, stampOK: true, messagesMax: storedMax},
			flags:    []string{"--durability=disk", "--mem-queue-size=10000000"},
			variants: alone(), aims: []aim{least(rateHere, 100e3, 500e3), most(p99, 0, 10)},
		},
		{
			name: "16/64", title: "disk mode, PUB, P64 on 64 topics (latency is from PUB to OK)", mode: stored, disk: true,
			load:     load{producers: 64, topics: 64, own: true, window: diskOutstanding / 64, stampOK: true, messagesMax: storedMax},
			flags:    []string{"--durability=disk", "--mem-queue-size=10000000"},
			variants: alone(), aims: []aim{least(rateHere, 100e3, 500e3), most(p99, 0, 10)},
		},
		{
			name: "17", title: "REQ 0, then FIN of each, P4 C4", load: load{producers: 4, consumers: 4, requeue: true},
			aims: []aim{least(cpuRatio, 8, 15)},
		},
		{
			name: "18/200k", title: "200,000 deferred for 1-10 s (lateness)", mode: timed,
			load: load{producers: 4, consumers: 4, stamp: true, deferred: true, messagesMax: 200_000},
			aims: []aim{most(p99, 20, 10), least(cpuRatio, 5, 12)},
		},
		{
			name: "18/1M", title: "1,000,000 deferred for 1-10 s (lateness)", mode: timed,
			load: load{producers: 4, consumers: 4, stamp: true, deferred: true, messagesMax: 1_000_000},
			aims: []aim{most(p99, 20, 10), least(cpuRatio, 5, 12)},
		},
		{
			name: "19/1", title: "50,000 time out over 2 s, 1 channel (lateness)", mode: timed,
			load: load{producers: 4, consumers: 20, stamp: true, timeoutMs: 4000, rate: 25_000, messagesMax: 50_000},
			aims: []aim{most(p99, 30, 10), most(latest, 0, 50)},
		},
		{
			name: "19/1000", title: "50,000 time out over 2 s, 1,000 channels (lateness)", mode: timed,
			load: load{producers: 4, consumers: 1000, topics: 1000, stamp: true, timeoutMs: 4000, rate: 25_000, messagesMax: 50_000},
			aims: []aim{most(p99, 30, 10), most(latest, 0, 50)},
		},
		{
			name: "19/burst", title: "50,000 time out at about one instant, 1 channel (lateness)", mode: timed,
			load: load{producers: 4, consumers: 20, stamp: true, timeoutMs: 4000, messagesMax: 50_000},
			aims: []aim{most(latest, 0, 150)},
		},
		{
			name: "20", title: "100 topics, 100 consumers, P8 round robin",
			load: load{producers: 8, consumers: 100, topics: 100},
			aims: []aim{least(cpuRatio, 8, 15)},
		},
		{
			name: "21", title: fmt.Sprintf("%d idle subscribed connections", n.idleConns), mode: idle,
			load: load{consumers: n.idleConns},
			aims: []aim{most(rssConn, 3<<10, 1.5*(1<<10)), most(cpuConn, 0, 5), least(connectRatio, 0, 3)},
		},
		{
			name: "22", title: fmt.Sprintf("%d queued on disk", n.queued), mode: kept, disk: true,
			load:     load{producers: 4, batch: 100, messagesMax: uint64(n.queued)},
			flags:    []string{"--mem-queue-size=1000"},
			variants: alone(), aims: []aim{most(anonHere, 300, 128)},
		},
		{
			name: "23/disk", title: fmt.Sprintf("restart with %d on disk", n.backlog), mode: restart, disk: true,
			load:  load{producers: 4, batch: 100, messagesMax: uint64(n.backlog)},
			flags: []string{"--mem-queue-size=1000"},
			aims:  []aim{most(restartHere, 500, 500), least(restartRatio, 0, 1)},
		},
		{
			name: "23/memory", title: "restart with 1,000,000 in memory", mode: restart, disk: true,
			load: load{producers: 4, batch: 100, messagesMax: 1_000_000},
			aims: []aim{most(stopHere, 500, 300)},
		},
		{
			name: "24", title: fmt.Sprintf("%d topics created by PUB, then a restart", n.topics), mode: created, disk: true,
			load:  load{producers: 1, topics: n.topics, window: n.topics, messagesMax: uint64(n.topics)},
			flags: []string{"--mem-queue-size=10000"},
			aims:  []aim{most(createHere, 5, 2), most(rssHere, 400, 150), most(stopHere, 0, 1000), most(startHere, 0, 1000)},
		},
		{
			name: "25", title: "1 KB, 20 k/s, P8, 100 readers, and with one more that never reads",
			load:     load{producers: 8, consumers: 100, body: 1 << 10, rate: 20000, stamp: true},
			variants: []variant{{name: "healthy"}, {name: "stalled", stalled: 1}},
			aims:     []aim{most(p99Times, 1.5, 1.2)},
		},
		slowCell("memory"), slowCell("process"), slowCell("disk"),
	}
	for i := range list {
		c := &list[i]
		c.row, _, _ = strings.Cut(c.name, "/")
		c.load = c.load.withDefaults()
		if c.flags == nil {
			c.flags = []string{memory}
		}
	}
	return list
}

// pick chooses cells by row or name; an empty list is all of them but those that
// mount a file system.
func pick(all []cell, names []string) ([]cell, error) {
	if len(names) == 0 {
		return slices.DeleteFunc(slices.Clone(all), func(c cell) bool { return c.mode == slowed }), nil
	}
	var some []cell
	for _, name := range names {
		n := len(some)
		for _, c := range all {
			if (c.row == name || c.name == name) && !slices.ContainsFunc(some, func(d cell) bool { return d.name == c.name }) {
				some = append(some, c)
			}
		}
		if len(some) == n {
			return nil, fmt.Errorf("no row %q, or it was named twice", name)
		}
	}
	return some, nil
}

// sides are the names under which a report shows the cell's runs.
func (c cell) sides() []string {
	if c.variants == nil {
		return []string{zsq, upstream, null}
	}
	var names []string
	for _, v := range c.variants {
		names = append(names, v.name)
	}
	return names
}

// suitsSink tells whether the null sink can play the broker's part.
func (c cell) suitsSink() bool {
	return (c.mode == through || c.mode == stored) && !c.load.deferred && c.load.topics == 1 && c.load.channels == 1 && !c.load.requeue && !c.load.tls && !c.load.snappy && !c.load.deflate
}
