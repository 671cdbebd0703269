//go:build linux

package main

import (
	"errors"
	"runtime"
	"slices"
	"time"
)

// A figure is what one run of one cell on one broker gave.
type figure struct {
	Messages  uint64  `json:"messages,omitempty"`
	Seconds   float64 `json:"seconds"`
	Rate      float64 `json:"msgs_per_second,omitempty"`
	BrokerCPU float64 `json:"broker_cpu_us_per_msg,omitempty"`
	OwnCPU    float64 `json:"generator_cpu_us_per_msg,omitempty"`
	P50       float64 `json:"p50_ms,omitempty"`
	P99       float64 `json:"p99_ms,omitempty"`
	P999      float64 `json:"p99_9_ms,omitempty"`
	Max       float64 `json:"max_ms,omitempty"`
	Before    float64 `json:"p99_before_ms,omitempty"` // of the same topic, before another was flooded
	Samples   int     `json:"latencies,omitempty"`
	Drained   float64 `json:"drain_seconds,omitempty"` // not part of the measurement

	// Stolen is the share of all CPUs that the hypervisor gave to others
	// meanwhile, in percent. A stall of tens of milliseconds is usually its.
	Stolen float64 `json:"stolen_percent"`

	RSSPerConn   float64 `json:"rss_bytes_per_conn,omitempty"`
	CPUPerConn   float64 `json:"cpu_us_per_second_per_conn,omitempty"`
	ConnectCPU   float64 `json:"connect_cpu_us,omitempty"`
	ConnectsRate float64 `json:"connects_per_second,omitempty"`

	RSS       int64   `json:"rss_bytes,omitempty"`
	Anonymous int64   `json:"anonymous_bytes,omitempty"`
	Creating  float64 `json:"creating_seconds,omitempty"`
	Stop      float64 `json:"stop_ms,omitempty"`          // from SIGTERM to the end of the process
	Start     float64 `json:"start_ms,omitempty"`         // from the start to an answer on /ping
	First     float64 `json:"first_message_ms,omitempty"` // from the start to a message

	Error string `json:"error,omitempty"`
}

// A meter holds what the clocks showed when a measurement began.
type meter struct {
	g        *generator
	b        *broker
	at       time.Time
	messages uint64
	broker   time.Duration
	own      time.Duration
	stolen   time.Duration
}

func startMeter(g *generator, b *broker) (*meter, error) {
	cpu, err := b.cpu()
	return &meter{g: g, b: b, at: time.Now(), messages: g.finished(), broker: cpu, own: ownCPU(), stolen: stolen()}, err
}

func (m *meter) stop(f *figure) error {
	cpu, err := m.b.cpu()
	if err != nil {
		return err
	}
	f.Messages = m.g.finished() - m.messages
	f.Seconds = time.Since(m.at).Seconds()
	if f.Messages == 0 {
		return errors.New("nothing came through while it was measured")
	}
	f.Stolen = 100 * (stolen() - m.stolen).Seconds() / f.Seconds / float64(runtime.NumCPU())
	n := float64(f.Messages)
	f.Rate = n / f.Seconds
	f.BrokerCPU = float64((cpu - m.broker).Nanoseconds()) / 1e3 / n
	f.OwnCPU = float64((ownCPU() - m.own).Nanoseconds()) / 1e3 / n
	return nil
}

func (f *figure) quantiles(ns []int64) {
	if len(ns) == 0 {
		return
	}
	slices.Sort(ns)
	f.Samples = len(ns)
	f.P50 = float64(quantile(ns, 0.5)) / 1e6
	f.P99 = float64(quantile(ns, 0.99)) / 1e6
	f.P999 = float64(quantile(ns, 0.999)) / 1e6
	f.Max = float64(ns[len(ns)-1]) / 1e6
}
