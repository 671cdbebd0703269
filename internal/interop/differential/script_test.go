package differential

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// A script is a file of cases for one pair of brokers.
type script struct {
	name  string // file name without .txt
	flags []string
	// clocks says that what the brokers do of themselves counts: heartbeats are frames,
	// and each broker is played at its own pace.
	clocks bool
	cases  []testCase
}

type testCase struct {
	name  string
	topic string
	steps []string
}

func readScript(path string) (*script, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &script{name: strings.TrimSuffix(filepath.Base(path), ".txt")}
	for i, line := range strings.Split(string(raw), "\n") {
		flags, isFlags := strings.CutPrefix(line, "flags ")
		title, isTitle := strings.CutPrefix(line, "== ")
		switch {
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#"):
		case line == "clocks" && len(s.cases) == 0:
			s.clocks = true
		case isFlags && len(s.cases) == 0:
			s.flags = append(s.flags, strings.Fields(flags)...)
		case isTitle:
			s.cases = append(s.cases, testCase{name: title, topic: fmt.Sprintf("topic%d", len(s.cases)+1)})
		case len(s.cases) == 0:
			return nil, fmt.Errorf("%s:%d: a step outside a case", path, i+1)
		default:
			c := &s.cases[len(s.cases)-1]
			c.steps = append(c.steps, line)
		}
	}
	return s, nil
}

// special is what bytes of a script stand for something else.
var special = regexp.MustCompile(`\\n|\\r|\\\\|\\x[0-9a-f]{2}|\[-?\d+\]|\{[^{}]*\}`)

// expand makes bytes of a script's text.
func (c *testCase) expand(text string, ids []string) (string, error) {
	var bad error
	out := special.ReplaceAllStringFunc(text, func(s string) string {
		switch {
		case s == `\n`:
			return "\n"
		case s == `\r`:
			return "\r"
		case s == `\\`:
			return `\`
		case s[0] == '\\':
			n, _ := strconv.ParseUint(s[2:], 16, 8)
			return string([]byte{byte(n)})
		case s[0] == '[':
			n, err := strconv.ParseInt(s[1:len(s)-1], 10, 64)
			if err != nil {
				bad = err
			}
			return string(binary.BigEndian.AppendUint32(nil, uint32(n)))
		case s == "{t}":
			return c.topic
		case s[1] == 'm':
			n, err := strconv.Atoi(s[2 : len(s)-1])
			if err != nil || n < 1 || n > len(ids) {
				bad = fmt.Errorf("%s: there are %d messages", s, len(ids))
				return s
			}
			return ids[n-1]
		}
		if what, times, ok := strings.Cut(s[1:len(s)-1], "*"); ok {
			if n, err := strconv.Atoi(times); err == nil {
				return strings.Repeat(what, n)
			}
		}
		return s // JSON has braces too
	})
	return out, bad
}
