package peers

import (
	"os/exec"
	"regexp"
	"testing"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// usageLine is a flag with its kind, and usageDefault what the text after it says
// of its default.
var (
	usageLine    = regexp.MustCompile(`(?m)^  -(\S+)(?: (\S+))?(?:\t|$)`)
	usageDefault = regexp.MustCompile(`\(default "?([^")]*)"?\)`)
)

// reworded are flags whose default is told in other words, or is this machine's.
var reworded = map[string]bool{
	"node-id": true, "broadcast-address": true, "broadcast-tcp-port": true, "broadcast-http-port": true,
	"data-path": true, "max-channel-consumers": true,
}

// TestFlags holds the flags, their kinds and their defaults against upstream's
// own help text.
func TestFlags(t *testing.T) {
	type option struct{ kind, def string }
	read := func(program daemon.Program) map[string]option {
		text, err := exec.Command(program.Path(t), "-h").CombinedOutput()
		if err != nil {
			t.Fatalf("-h: %v", err)
		}
		found := map[string]option{}
		at := usageLine.FindAllSubmatchIndex(text, -1)
		for i, m := range at {
			end := len(text)
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			o := option{}
			if m[4] >= 0 {
				o.kind = string(text[m[4]:m[5]])
			}
			if d := usageDefault.FindSubmatch(text[m[1]:end]); d != nil {
				o.def = string(d[1])
			}
			found[string(text[m[2]:m[3]])] = o
		}
		return found
	}
	theirs, ours := read(daemon.UpstreamNsqd), read(daemon.Nsqd)
	if len(theirs) < 50 {
		t.Fatalf("upstream's help shows %d flags only", len(theirs))
	}
	for name, want := range theirs {
		got, ok := ours[name]
		if !ok {
			t.Errorf("there is no --%s", name)
			continue
		}
		if reworded[name] {
			got.def = want.def
		}
		if got != want {
			t.Errorf("--%s: %+v, upstream %+v", name, got, want)
		}
	}
}
