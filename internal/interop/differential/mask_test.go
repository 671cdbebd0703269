package differential

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// masks is what cannot be equal between two brokers.
type masks struct{ b *broker }

var patterns = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`"(start_time|connect_ts|heap_\w+|gc_\w+|next_gc_bytes)":\d+`), `"$1":0`},
	{regexp.MustCompile(`(?m)^(   (?:heap|gc|next_gc)_\w+ +\t)\d+`), "${1}N"},
	{regexp.MustCompile(`(?m)^start_time \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$`), "start_time T"},
	{regexp.MustCompile(`(?m)^uptime [0-9.mµnsh]+$`), "uptime D"},
	{regexp.MustCompile(`connected: \d+s`), "connected: Ns"},
	{regexp.MustCompile(`"remote_address":"127\.0\.0\.1:\d+"`), `"remote_address":"ADDR"`},
	{regexp.MustCompile(`(\[V2 \S*):\d{5} `), "$1:PORTS "},
	// The last one races the end of a silent client.
	{regexp.MustCompile(`(response "_heartbeat_"\n)+`), "$1"},
	// Latencies; that there is one is what counts.
	{regexp.MustCompile(`("quantile":[0-9.]+,"value":)[1-9][0-9.e+]*`), "${1}1"},
	{regexp.MustCompile(`\d+\.\d(ns|us|ms|s)\b`), "E2E"},
}

func (m *masks) apply(s string) string {
	_, tcp, _ := strings.Cut(m.b.TCP, ":")
	_, http, _ := strings.Cut(m.b.HTTP, ":")
	s = strings.ReplaceAll(s, m.b.dir, "DIR")
	for _, p := range patterns {
		s = p.re.ReplaceAllString(s, p.to)
	}
	s = maskNumber(maskNumber(s, tcp, "TCPPORT"), http, "HTTPPORT") // last: others want digits
	if head, list, ok := strings.Cut(s, "\nProducers:\n"); ok {
		s = head + "\nProducers:\n" + strings.Join(slices.Sorted(strings.Lines(list)), "")
	}
	return sorted(sorted(s, `"clients":`), `"producers":`)
}

// maskNumber puts a mask for each number that is as given. The same digits may also
// stand in the midst of a time.
func maskNumber(s, number, mask string) string {
	return regexp.MustCompile(`\d+`).ReplaceAllStringFunc(s, func(digits string) string {
		if digits == number {
			return mask
		}
		return digits
	})
}

// sorted brings the lists behind a JSON key into an order: both brokers list
// connections as they come out of a map.
func sorted(s, key string) string {
	head, rest, ok := strings.Cut(s, key)
	if !ok {
		return s
	}
	var list []json.RawMessage
	dec := json.NewDecoder(strings.NewReader(rest))
	if dec.Decode(&list) != nil || list == nil {
		return head + key + sorted(rest, key)
	}
	slices.SortFunc(list, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
	var text []byte
	for i, one := range list {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, one...)
	}
	return head + key + "[" + string(text) + "]" + sorted(rest[dec.InputOffset():], key)
}
