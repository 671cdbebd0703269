package engine

import (
	"runtime"
	"slices"
	"time"

	"github.com/zsqio/zsq/internal/block"
)

// What options say together with each other or with the machine.

// RequireTLS is what clients must do about TLS: the flag's word, except that
// any client certificate policy makes TLS required where the flag says no.
func (o *Options) RequireTLS() TLSRequired {
	if o.TLSClientAuthPolicy != "" && o.TLSRequired == TLSNotRequired {
		return TLSAlways
	}
	return o.TLSRequired
}

// topologyAware reports whether clients that are near are to be served first.
func (o *Options) topologyAware() bool {
	return slices.Contains(o.Experiments, "topology-aware-consumption")
}

// timeoutMost keeps what is so far ahead within the nanoseconds of a wall clock's
// 64 bits: 9.2e18, of which this century takes up to 4.1e18.
const timeoutMost = 150 * 365 * 24 * time.Hour

// within returns a time-out as it is used: as it was set, or timeoutMost.
func within(timeout time.Duration) time.Duration { return min(timeout, timeoutMost) }

// LoopCount is the number of event loops: Loops, or when that is zero one less
// than the cores, at least one. The spare core is for disk, HTTP and GC.
func (o *Options) LoopCount() int {
	if o.Loops > 0 {
		return o.Loops
	}
	return max(1, runtime.GOMAXPROCS(0)-1)
}

// MemoryBudget is the number of bytes for messages in memory: MemoryLimit, or
// when that is zero a quarter of what the machine or the cgroup allows.
func (o *Options) MemoryBudget() int64 {
	if o.MemoryLimit > 0 {
		return o.MemoryLimit
	}
	return block.DefaultBudget()
}
