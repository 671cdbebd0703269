package engine

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
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
	const unknown = 1 << 30
	total := int64(0)
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		total = memTotal(b)
	}
	// cgroup v2, then v1. Inside a container both show the container's own limit.
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		// The word "max" and v1's huge number both mean no limit.
		n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
		if err == nil && n > 0 && (total == 0 || n < total) {
			total = n
		}
	}
	if total == 0 {
		total = unknown
	}
	return total / 4
}

// memTotal finds the machine's memory in bytes in the text of /proc/meminfo, 0
// if it is not there.
func memTotal(meminfo []byte) int64 {
	for line := range strings.Lines(string(meminfo)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemTotal:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}
