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
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
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

// run plays the script's cases, step by step, on both brokers at once.
func (s *script) run(t *testing.T, diffs []*difference) {
	us, upstream := newBroker(t, daemon.Nsqd, s.flags), newBroker(t, daemon.UpstreamNsqd, s.flags)
	seen := map[*difference]bool{}
	for i := range s.cases {
		c := &s.cases[i]
		mine, theirs := newPlayer(t, us, c), newPlayer(t, upstream, c)
		steps := append(c.steps, impliedSteps(c.steps)...)
		both := func(step string) (got, want string) {
			var wg sync.WaitGroup
			wg.Go(func() { got = mine.answer(step) })
			wg.Go(func() { want = theirs.answer(step) })
			wg.Wait()
			return got, want
		}
		if s.clocks {
			both = apart(mine, theirs, steps)
		}
		for _, step := range steps {
			began := time.Now()
			got, expected := s.compare(both, step, diffs, seen)
			switch {
			case strings.Contains(got+expected, broken):
				t.Errorf("== %s\n%s\nupstream:\n%szsq:\n%s", c.name, short(step), indented(expected), indented(got))
			case got != expected:
				t.Errorf("== %s\n%s\nupstream:\n%szsq:\n%s%s", c.name, short(step), indented(expected), indented(got), where(expected, got))
			case testing.Verbose():
				t.Logf("== %s\n%s\n%s", c.name, short(step), indented(expected))
			}
			if t.Failed() && time.Since(began) > patience/2 { // or go test ends before it tells of this
				t.Fatal("the rest is not played: it may wait as long")
			}
		}
	}
	for _, d := range diffs {
		if d.script == s.name && !seen[d] {
			t.Errorf("the difference %q is listed and was not seen: take it out", d.reason)
		}
	}
}

// apart plays the steps on both brokers, each at its own pace, and returns what gives
// out the answers one by one.
func apart(mine, theirs *player, steps []string) func(string) (got, want string) {
	mine.beats, theirs.beats = true, true
	var all [2][]string
	var wg sync.WaitGroup
	for i, p := range []*player{mine, theirs} {
		wg.Go(func() {
			for _, step := range steps {
				all[i] = append(all[i], p.answer(step))
			}
		})
	}
	wg.Wait()
	next := 0
	return func(string) (got, want string) {
		got, want = all[0][next], all[1][next]
		next++
		return got, want
	}
}

// compare plays a step on both brokers and returns both answers, upstream's as ours
// should be. A step that waits is played again while they differ, or while a listed
// difference is still to show: what it waits for is one figure, and the others of the
// answer may follow it a little later.
func (s *script) compare(both func(step string) (got, want string), step string, diffs []*difference, seen map[*difference]bool) (got, expected string) {
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		got, expected = both(step)
		var applied []*difference
		settled := true
		for _, d := range diffs {
			from := d.theirs.FindStringIndex(expected)
			if d.script != s.name || from == nil {
				continue
			}
			to := d.ours.FindString(got)
			if settled = settled && to != ""; got != expected && to != "" {
				expected = expected[:from[0]] + to + expected[from[1]:]
				applied = append(applied, d)
			}
		}
		if waits(step) && !s.clocks && (got != expected || !settled) && !strings.Contains(got+expected, broken) && time.Now().Before(end) {
			continue
		}
		for _, d := range applied {
			seen[d] = true
		}
		return got, expected
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
