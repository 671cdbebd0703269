package tools

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// logLines are bodies such as logs have: they compress, but not to nothing.
func logLines(count int) []string {
	lines := make([]string, count)
	state := uint64(1)
	for i := range lines {
		state = state*6364136223846793005 + 1442695040888963407
		lines[i] = fmt.Sprintf(`{"time":%d,"level":"info","user":%d,"path":"/api/v1/items/%d","status":200,"took_us":%d,"agent":"%s"}`,
			1_700_000_000_000+i, state>>40, state>>50, state>>48&0xffff, strings.Repeat("Mozilla/5.0 ", 6))
	}
	return lines
}

// BenchmarkToFile drains a topic into files and reports messages per second of
// the tool's CPU time, user and system.
func BenchmarkToFile(b *testing.B) {
	const count = 100_000
	lines := logLines(count)
	for _, mode := range []string{"plain", "gzip"} {
		for _, side := range sides {
			b.Run(mode+"/"+side, func(b *testing.B) {
				var cpu time.Duration
				var size int64
				for range b.N {
					b.StopTimer()
					nsqd := startBroker(b, "--mem-queue-size=300000")
					nsqd.create(b, "t", "nsq_to_file")
					nsqd.publish(b, "t", lines)
					dir := b.TempDir()
					b.StartTimer()
					tool := start(b, side, "nsq_to_file", "--topic=t", "--nsqd-tcp-address="+nsqd.tcp,
						"--output-dir="+dir, fmt.Sprintf("--gzip=%v", mode == "gzip"), "--sync-interval=200ms")
					nsqd.settles(b, "t", "nsq_to_file", "drained", finished(count))
					stop(b, tool)
					b.StopTimer()
					files, err := os.ReadDir(dir)
					must(b, err)
					for _, f := range files {
						info, err := f.Info()
						must(b, err)
						size += info.Size()
					}
					b.StartTimer()
					cpu += tool.ProcessState.UserTime() + tool.ProcessState.SystemTime()
				}
				b.ReportMetric(float64(count*b.N)/cpu.Seconds(), "msgs/cpu-s")
				b.ReportMetric(float64(size)/float64(count*b.N), "file-B/msg")
			})
		}
	}
}
