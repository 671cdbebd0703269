package differential

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// TestDifferential plays the scripts that wait for no clock.
func TestDifferential(t *testing.T) { playAll(t, "testdata/*.txt") }

// playAll plays the scripts side by side, each on brokers of its own.
func playAll(t *testing.T, pattern string) {
	diffs, err := readDifferences("testdata/differences")
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		s, err := readScript(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t, diffs)
		})
	}
}

// run plays the script's cases, one after the other, on both brokers at once.
func (s *script) run(t *testing.T, diffs []*difference) {
	us, upstream := newBroker(t, ours, s.flags), newBroker(t, theirs, s.flags)
	seen := map[*difference]bool{}
	for i := range s.cases {
		c := &s.cases[i]
		var mine, want []string
		var wg sync.WaitGroup
		wg.Go(func() { mine = (&player{t: t, b: us, c: c, mask: &masks{us}}).play() })
		wg.Go(func() { want = (&player{t: t, b: upstream, c: c, mask: &masks{upstream}}).play() })
		wg.Wait()
		steps := append(c.steps, impliedSteps(c.steps)...)
		if len(mine) != len(want) || len(mine) != len(steps) {
			t.Fatalf("%s: %d answers and %d, for %d steps", c.name, len(mine), len(want), len(steps))
		}
		for j, step := range steps {
			expected := want[j]
			for _, d := range diffs {
				if d.script != s.name || mine[j] == expected {
					continue
				}
				if from, to := d.theirs.FindStringIndex(expected), d.ours.FindString(mine[j]); from != nil && to != "" {
					expected = expected[:from[0]] + to + expected[from[1]:]
					seen[d] = true
				}
			}
			switch {
			case strings.Contains(mine[j]+want[j], broken):
				t.Errorf("== %s\n%s\nupstream:\n%szsq:\n%s", c.name, short(step), indented(want[j]), indented(mine[j]))
			case mine[j] != expected:
				t.Errorf("== %s\n%s\nupstream:\n%szsq:\n%s%s", c.name, short(step), indented(expected), indented(mine[j]), where(expected, mine[j]))
			case testing.Verbose():
				t.Logf("== %s\n%s\n%s", c.name, short(step), indented(expected))
			}
		}
	}
	for _, d := range diffs {
		if d.script == s.name && !seen[d] {
			t.Errorf("the difference %q is listed and was not seen: take it out", d.reason)
		}
	}
}

// short keeps a step readable.
func short(s string) string {
	if len(s) > 300 {
		return s[:300] + "..."
	}
	return s
}

func indented(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		fmt.Fprintf(&b, "    %s\n", short(strings.TrimSuffix(line, "\n")))
	}
	return b.String()
}

// where shows the place at which two long answers part.
func where(a, b string) string {
	at := 0
	for at < min(len(a), len(b)) && a[at] == b[at] {
		at++
	}
	near := func(s string) string { return s[max(0, at-40):min(len(s), at+80)] }
	return fmt.Sprintf("they part at byte %d:\n    %q\n    %q", at, near(a), near(b))
}

// A difference is one that we want: in the answers of a script, ours matches
// where upstream's matches theirs.
type difference struct {
	reason, script string
	theirs, ours   *regexp.Regexp
}

// readDifferences reads paragraphs of a reason, and for each place where it is
// seen the script's name, "theirs: RE" and "ours: text" (with \n for a new line).
func readDifferences(path string) (all []*difference, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var reason, script string
	var re *regexp.Regexp
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		name, isScript := strings.CutPrefix(line, "in: ")
		text, isTheirs := strings.CutPrefix(line, "theirs: ")
		mine, isOurs := strings.CutPrefix(line, "ours: ")
		switch {
		case line == "":
			reason = ""
		case isScript:
			script = name
		case isTheirs:
			if re, err = regexp.Compile(text); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, n, err)
			}
		case isOurs:
			to, err := regexp.Compile(mine)
			if err != nil || re == nil || script == "" || reason == "" {
				return nil, fmt.Errorf("%s:%d: an incomplete difference: %v", path, n, err)
			}
			all = append(all, &difference{reason, script, re, to})
			re = nil
		default:
			reason = strings.TrimSpace(reason + " " + line)
		}
	}
	return all, lines.Err()
}
