package httpapi

import (
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// statsText is /stats for people and for scripts that cut it into columns. The
// widths are upstream's.
func (a *api) statsText(s *statsBody) string {
	now := a.Now()
	var b strings.Builder
	fmt.Fprintf(&b, "nsqd v%s (built w/%s)\n", s.Version, runtime.Version())
	fmt.Fprintf(&b, "start_time %s\n", a.StartTime.Format(time.RFC3339))
	fmt.Fprintf(&b, "uptime %s\n", now.Sub(a.StartTime))
	fmt.Fprintf(&b, "\nHealth: %s\n", s.Health)
	if s.Damage != nil {
		fmt.Fprintf(&b, "Damage: %d places on disk, %d records lost as far as is known\n", s.Damage.Places, s.Damage.Records)
	}
	if s.Memory != nil {
		writeMemory(&b, s.Memory)
	}
	if len(s.Topics) == 0 {
		b.WriteString("\nTopics: None\n")
	} else {
		b.WriteString("\nTopics:")
		for i := range s.Topics {
			writeTopic(&b, &s.Topics[i], now)
		}
	}
	if len(s.Producers) == 0 {
		b.WriteString("\nProducers: None\n")
	} else {
		b.WriteString("\nProducers:\n")
		for i := range s.Producers {
			writeClient(&b, "   ", &s.Producers[i], now)
		}
	}
	return b.String()
}

func writeMemory(b *strings.Builder, m *MemStats) {
	b.WriteString("\nMemory:\n")
	for _, line := range []struct {
		name  string
		value uint64
	}{
		{"heap_objects", m.HeapObjects},
		{"heap_idle_bytes", m.HeapIdleBytes},
		{"heap_in_use_bytes", m.HeapInUseBytes},
		{"heap_released_bytes", m.HeapReleasedBytes},
		{"gc_pause_usec_100", m.GCPauseUsec100},
		{"gc_pause_usec_99", m.GCPauseUsec99},
		{"gc_pause_usec_95", m.GCPauseUsec95},
		{"next_gc_bytes", m.NextGCBytes},
		{"gc_total_runs", uint64(m.GCTotalRuns)},
	} {
		fmt.Fprintf(b, "   %-25s\t%d\n", line.name, line.value)
	}
}

// pausedMark stands in the first three columns of a name.
func pausedMark(paused bool) string {
	if paused {
		return "*P "
	}
	return "   "
}

func writeTopic(b *strings.Builder, t *TopicStats, now time.Time) {
	fmt.Fprintf(b, "\n%s[%-15s] depth: %-5d be-depth: %-5d msgs: %-8d e2e%%: %s\n",
		pausedMark(t.Paused), t.TopicName, t.Depth, t.BackendDepth, t.MessageCount, e2eText(t.E2E))
	for i := range t.Channels {
		c := &t.Channels[i]
		fmt.Fprintf(b, "   %s[%-25s] depth: %-5d be-depth: %-5d inflt: %-4d def: %-4d re-q: %-5d timeout: %-5d msgs: %-8d e2e%%: %s\n",
			pausedMark(c.Paused), c.ChannelName, c.Depth, c.BackendDepth, c.InFlightCount, c.DeferredCount,
			c.RequeueCount, c.TimeoutCount, c.MessageCount, e2eText(c.E2E))
		for j := range c.Clients {
			writeClient(b, "        ", &c.Clients[j], now)
		}
	}
}

// writeClient has two forms: a client that has published (to the topic asked
// for) is a producer wherever it stands.
func writeClient(b *strings.Builder, indent string, c *ClientStats, now time.Time) {
	_, port, _ := net.SplitHostPort(c.RemoteAddress) // a unix socket's has none
	fmt.Fprintf(b, "%s[%s %-21s] ", indent, c.Version, c.Hostname+":"+port+" "+c.UserAgent)
	if len(c.PubCounts) > 0 {
		var total uint64
		topics := make([]string, len(c.PubCounts))
		for i, p := range c.PubCounts {
			total += p.Count
			topics[i] = p.Topic + "=" + strconv.FormatUint(p.Count, 10)
		}
		fmt.Fprintf(b, "msgs: %-8d topics: %s", total, strings.Join(topics, ","))
	} else {
		fmt.Fprintf(b, "state: %d inflt: %-4d rdy: %-4d fin: %-8d re-q: %-8d msgs: %-8d",
			c.State, c.InFlightCount, c.ReadyCount, c.FinishCount, c.RequeueCount, c.MessageCount)
	}
	connected := now.Sub(time.Unix(c.ConnectTime, 0)).Truncate(time.Second)
	fmt.Fprintf(b, " connected: %s\n", connected)
}

// e2eText lists the percentiles, each in the largest unit that leaves a digit
// before the point.
func e2eText(e E2E) string {
	list := make([]string, len(e.Percentiles))
	for i, p := range e.Percentiles {
		v, unit := p.Value, "ns"
		for _, u := range []string{"us", "ms", "s"} {
			if v < 1000 {
				break
			}
			v, unit = v/1000, u
		}
		list[i] = fmt.Sprintf("%.1f%s", v, unit)
	}
	return strings.Join(list, ", ")
}
