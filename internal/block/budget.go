package block

import (
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// assumedMemory stands in for a machine that does not say how much it has.
const assumedMemory = 1 << 30

// DefaultBudget returns a quarter of the memory this process may use, in bytes:
// the least of the machine's memory and the limits (memory.max, cgroup v2) of
// the process's control group and those around it, or where the groups are of v1
// the limit that a container sees as its own. Go's own memory limit does not see
// mappings, so that this one has to.
func DefaultBudget() int64 { return defaultBudget(os.DirFS("/")) }

func defaultBudget(root fs.FS) int64 {
	limit := int64(assumedMemory)
	if total, ok := memTotal(root); ok {
		limit = total
	}
	limit = min(limit, groupLimit(root, "memory/memory.limit_in_bytes"))
	for dir := cgroup(root); ; dir = path.Dir(dir) {
		limit = min(limit, groupLimit(root, path.Join(dir, "memory.max")))
		if dir == "/" {
			return limit / 4
		}
	}
}

// groupLimit returns the limit in a control group's file. The word "max", and v1's
// huge number, are none.
func groupLimit(root fs.FS, name string) int64 {
	b, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", name))
	if err != nil {
		return math.MaxInt64
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n <= 0 {
		return math.MaxInt64
	}
	return n
}

// memTotal returns the machine's memory in bytes.
func memTotal(root fs.FS) (int64, bool) {
	b, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

// cgroup returns the path of the process's control group below the mount point,
// "/" if there is none.
func cgroup(root fs.FS) string {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return "/"
	}
	for line := range strings.Lines(string(b)) {
		if dir, ok := strings.CutPrefix(line, "0::"); ok {
			return path.Clean("/" + strings.TrimSpace(dir))
		}
	}
	return "/"
}
