package house

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers is the import picture, highest first: a package imports packages on
// lower lines only. It is a statement of policy; move a name with care, and say
// why in the commit.
var layers = [][]string{
	{
		"cmd/nsqd", "cmd/nsqlookupd", "cmd/mmapdump", "bench", "bench/lookup", "internal/faultfs",
		"cmd/nsq_tail", "cmd/to_nsq", "cmd/nsq_to_nsq", "cmd/nsq_to_file", "cmd/nsq_to_http", "cmd/nsq_stat",
		"internal/tool/tooltest",
	},
	{"internal/tool"},
	{"engine", "lookupd", "client"},
	{"engine/httpapi", "engine/netloop", "engine/upgrade", "engine/discover", "engine/auth", "engine/statsd", "engine/metrics"},
	{"engine/broker"},
	{"mmapqueue"},
	{"ring", "internal/wire", "internal/block", "internal/diskqueue", "internal/peerhttp", "internal/latency", "internal/logbuf"},
	{"internal/invariant", "internal/config", "internal/version", "internal/route", "internal/loglevel", "internal/house"},
}

// layer returns the line a package stands on, or -1.
func layer(pkg string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, pkg) })
}

// TestImportsPointDown holds every package to the picture, and the picture to the
// packages there are. Tests may import what they like.
func TestImportsPointDown(t *testing.T) {
	_, files := tree(t)
	for _, pkg := range slices.Concat(layers...) {
		if !slices.ContainsFunc(files, func(f file) bool { return f.pkg == pkg }) {
			t.Errorf("layers has %s, which is not there", pkg)
		}
	}
	for _, f := range files {
		if f.test {
			continue
		}
		if layer(f.pkg) < 0 {
			t.Errorf("%s: package %s has no place in layers", f.name, f.pkg)
			continue
		}
		for _, spec := range f.ast.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if dep, ours := strings.CutPrefix(name, module+"/"); ours && layer(dep) <= layer(f.pkg) {
				t.Errorf("%s imports %s, which is not below it", f.name, dep)
			}
		}
	}
}
