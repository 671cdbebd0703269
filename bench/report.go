//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Sides of a comparison.
const (
	zsq      = "zsq"
	upstream = "upstream"
	null     = "null"
)

// A result is all that was measured of one cell: for each side the figure of
// each repetition, in order, failed ones included.
type result struct {
	Row   string              `json:"row"`
	Title string              `json:"title"`
	Sides map[string][]figure `json:"sides"`
	Aims  []verdict           `json:"aims,omitempty"`

	cell cell
}

// A verdict holds one aim against what was measured.
type verdict struct {
	Metric  string  `json:"metric"`
	Value   float64 `json:"value"`
	Floor   float64 `json:"floor,omitempty"`
	Goal    float64 `json:"goal,omitempty"`
	AtMost  bool    `json:"at_most,omitempty"`
	Verdict string  `json:"verdict"`
	Least   float64 `json:"least"` // of the repetitions
	Most    float64 `json:"most"`
}

// quantile is the value at q of sorted, which must not be empty: the smallest
// one that at least a share of q does not exceed.
func quantile(sorted []int64, q float64) int64 {
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// median is the middle of v, or the mean of the two in the middle; NaN of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// of returns what pick says of each figure of a side that did not fail.
func (r *result) of(side string, pick func(figure) float64) []float64 {
	var v []float64
	for _, f := range r.Sides[side] {
		if f.Error == "" {
			v = append(v, pick(f))
		}
	}
	return v
}

// paired returns num of one side over den of the other for each repetition in
// which both sides were measured.
func (r *result) paired(num, den string, pick func(figure) float64) []float64 {
	var v []float64
	a, b := r.Sides[num], r.Sides[den]
	for i := range min(len(a), len(b)) {
		if a[i].Error == "" && b[i].Error == "" && pick(b[i]) > 0 {
			v = append(v, pick(a[i])/pick(b[i]))
		}
	}
	return v
}

// added returns a metric of the cell's second variant minus the first's, for each
// repetition in which both were measured.
func (r *result) added(pick func(figure) float64) []float64 {
	if len(r.cell.variants) < 2 {
		return nil
	}
	var v []float64
	a, b := r.Sides[r.cell.variants[1].name], r.Sides[r.cell.variants[0].name]
	for i := range min(len(a), len(b)) {
		if a[i].Error == "" && b[i].Error == "" {
			v = append(v, pick(a[i])-pick(b[i]))
		}
	}
	return v
}

// times returns a metric of the cell's second variant over the first's.
func (r *result) times(pick func(figure) float64) []float64 {
	if len(r.cell.variants) < 2 {
		return nil
	}
	return r.paired(r.cell.variants[1].name, r.cell.variants[0].name, pick)
}

func (f figure) cpuPerMsg() float64     { return f.BrokerCPU }
func (f figure) throughput() float64    { return f.Rate }
func (f figure) perConnection() float64 { return f.ConnectCPU }
func (f figure) middle() float64        { return f.P50 }
func (f figure) slow() float64          { return f.P99 }
func (f figure) restart() float64       { return f.Stop + f.First }
func (f figure) creating() float64      { return f.Creating }
func (f figure) rssMB() float64         { return float64(f.RSS) / 1e6 }
func (f figure) anonymousMB() float64   { return float64(f.Anonymous) / 1e6 }

// values are the repetitions of a metric that an aim names.
func (r *result) values(metric string) []float64 {
	switch metric {
	case cpuRatio:
		return r.paired(upstream, zsq, figure.cpuPerMsg)
	case connectRatio:
		return r.paired(upstream, zsq, figure.perConnection)
	case rateRatio:
		return r.paired(zsq, upstream, figure.throughput)
	case restartRatio:
		return r.paired(upstream, zsq, figure.restart)
	case cpuAdded:
		return r.added(figure.cpuPerMsg)
	case p50Added:
		return r.added(figure.middle)
	case p99Times:
		return r.times(figure.slow)
	case rateTimes:
		return r.times(figure.throughput)
	case p99Grown:
		return r.of(zsq, func(f figure) float64 { return f.P99 / f.Before })
	}
	return r.of(zsq, map[string]func(figure) float64{
		rateHere: figure.throughput,
		cpuHere:  figure.cpuPerMsg,
		p50:      figure.middle,
		p99:      figure.slow,
		p999:     func(f figure) float64 { return f.P999 },
		latest:   func(f figure) float64 { return f.Max },
		rssConn:  func(f figure) float64 { return f.RSSPerConn },
		cpuConn:  func(f figure) float64 { return f.CPUPerConn },

		anonHere:    figure.anonymousMB,
		rssHere:     figure.rssMB,
		createHere:  figure.creating,
		stopHere:    func(f figure) float64 { return f.Stop },
		startHere:   func(f figure) float64 { return f.Start },
		restartHere: figure.restart,
	}[metric])
}

// judge says what v reaches: the goal, the floor, or neither.
func (a aim) judge(v float64) string {
	reached := func(mark float64) bool {
		if a.atMost {
			return v <= mark
		}
		return v >= mark
	}
	switch {
	case math.IsNaN(v):
		return "not measured"
	case reached(a.goal):
		return "goal"
	case a.floor == 0:
		return "below goal"
	case reached(a.floor):
		return "floor"
	}
	return "MISS"
}

// conclude fills in the verdicts.
func (r *result) conclude() {
	for _, a := range r.cell.aims {
		v := r.values(a.metric)
		if len(v) == 0 {
			continue
		}
		if top := r.of(null, figure.throughput); a.ofNull > 0 && len(top) > 0 {
			a.goal = min(a.goal, a.ofNull*median(top))
		}
		r.Aims = append(r.Aims, verdict{
			Metric: a.metric, Value: median(v), Floor: a.floor, Goal: a.goal, AtMost: a.atMost,
			Verdict: a.judge(median(v)), Least: slices.Min(v), Most: slices.Max(v),
		})
	}
}

// missed tells whether a run failed or a floor was not reached.
func (r *result) missed() (failed, short bool) {
	for _, figures := range r.Sides {
		failed = failed || slices.ContainsFunc(figures, func(f figure) bool { return f.Error != "" })
	}
	return failed, slices.ContainsFunc(r.Aims, func(v verdict) bool { return v.Verdict == "MISS" })
}

// num prints a figure with three digits that matter.
func num(v float64) string {
	switch abs := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case abs >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case abs >= 1e4:
		return fmt.Sprintf("%.0fk", v/1e3)
	case abs >= 100:
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	case abs >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// print writes one cell for people: the medians of each side, then the paired
// ratios, then each aim.
func (r *result) print(w io.Writer) {
	fmt.Fprintf(w, "\nrow %s: %s\n", r.cell.name, r.Title)
	for _, side := range r.cell.sides() {
		figures := r.Sides[side]
		if len(figures) == 0 {
			continue
		}
		var failed []string
		for i, f := range figures {
			if f.Error != "" {
				failed = append(failed, fmt.Sprintf("  %-9s repetition %d FAILED: %s\n", side, i+1, f.Error))
			}
		}
		if len(failed) < len(figures) {
			fmt.Fprintf(w, "  %-9s %s\n", side, r.line(side))
		}
		fmt.Fprint(w, strings.Join(failed, ""))
	}
	for _, p := range []struct {
		name string
		v    []float64
	}{
		{"CPU, upstream/zsq", r.paired(upstream, zsq, figure.cpuPerMsg)},
		{"msgs/s, zsq/upstream", r.paired(zsq, upstream, figure.throughput)},
		{"msgs/s, zsq/null sink", r.paired(zsq, null, figure.throughput)},
		{"CPU per connect, upstream/zsq", r.paired(upstream, zsq, figure.perConnection)},
		{"RSS per connection, upstream/zsq", r.paired(upstream, zsq, func(f figure) float64 { return f.RSSPerConn })},
		{"stop and first message, upstream/zsq", r.restarts(restart, figure.restart)},
		{"creating, upstream/zsq", r.restarts(created, figure.creating)},
		{"RSS, upstream/zsq", r.restarts(created, figure.rssMB)},
	} {
		if len(p.v) > 0 {
			fmt.Fprintf(w, "  ratio     x%s (%s-%s, %d pairs)  %s\n", num(median(p.v)), num(slices.Min(p.v)), num(slices.Max(p.v)), len(p.v), p.name)
		}
	}
	if len(r.cell.variants) == 2 {
		v, name := r.added(figure.cpuPerMsg), r.cell.variants[1].name+" less "+r.cell.variants[0].name
		if len(v) > 0 {
			fmt.Fprintf(w, "  added     %s (%s to %s, %d pairs)  CPU us/msg, %s\n", num(median(v)), num(slices.Min(v)), num(slices.Max(v)), len(v), name)
		}
	}
	for _, v := range r.Aims {
		sign := ">="
		if v.AtMost {
			sign = "<="
		}
		marks := ""
		if v.Floor > 0 {
			marks = fmt.Sprintf("floor %s %s, ", sign, num(v.Floor))
		}
		fmt.Fprintf(w, "  %-9s %s %s (%sgoal %s %s)\n", v.Verdict, v.Metric, num(v.Value), marks, sign, num(v.Goal))
	}
}

// restarts is paired for cells of one mode.
func (r *result) restarts(m mode, pick func(figure) float64) []float64 {
	if r.cell.mode != m {
		return nil
	}
	return r.paired(upstream, zsq, pick)
}

// line is the medians of one side.
func (r *result) line(side string) string {
	med := func(pick func(figure) float64) string { return num(median(r.of(side, pick))) }
	if r.cell.mode == idle {
		return fmt.Sprintf("%s B/conn  %s us/s/conn  connect: %s us CPU, %s/s",
			med(func(f figure) float64 { return f.RSSPerConn }), med(func(f figure) float64 { return f.CPUPerConn }),
			med(figure.perConnection), med(func(f figure) float64 { return f.ConnectsRate }))
	}
	switch r.cell.mode {
	case kept:
		return fmt.Sprintf("%s MB anonymous, %s MB resident, laid down in %s s", med(figure.anonymousMB), med(figure.rssMB),
			med(func(f figure) float64 { return f.Seconds }))
	case restart:
		return fmt.Sprintf("stop %s ms, from start to /ping %s ms, to a message %s ms  (%s MB anonymous before)",
			med(func(f figure) float64 { return f.Stop }), med(func(f figure) float64 { return f.Start }),
			med(func(f figure) float64 { return f.First }), med(figure.anonymousMB))
	case slowed:
		return fmt.Sprintf("%s msgs/s accepted, at most %s MB resident; the other topic's p99 %s ms before, %s ms beside it, max %s ms",
			med(figure.throughput), med(figure.rssMB), med(func(f figure) float64 { return f.Before }), med(figure.slow),
			med(func(f figure) float64 { return f.Max }))
	case created:
		return fmt.Sprintf("created in %s s, %s MB resident, stop %s ms, from start to /ping %s ms", med(figure.creating), med(figure.rssMB),
			med(func(f figure) float64 { return f.Stop }), med(func(f figure) float64 { return f.Start }))
	}
	s := fmt.Sprintf("%s msgs/s  %s us/msg  (generator %s us/msg)", med(figure.throughput), med(figure.cpuPerMsg),
		med(func(f figure) float64 { return f.OwnCPU }))
	if r.cell.load.stamp || r.cell.load.stampOK {
		s += fmt.Sprintf("  p50 %s  p99 %s  p99.9 %s ms", med(func(f figure) float64 { return f.P50 }),
			med(func(f figure) float64 { return f.P99 }), med(func(f figure) float64 { return f.P999 }))
	}
	if r.cell.mode == timed {
		s += fmt.Sprintf("  max %s ms", med(func(f figure) float64 { return f.Max }))
	}
	if stolen := slices.Max(r.of(side, func(f figure) float64 { return f.Stolen })); stolen >= 1 {
		s += fmt.Sprintf("  (hypervisor took up to %.0f%%)", stolen)
	}
	return s
}
