//go:build long

package interop

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestLongManyTopics makes 10,000 topics by publishing, and reports what that, a
// stop and a start take.
func TestLongManyTopics(t *testing.T) {
	const topics = 10_000
	b := startBroker(t, "--log-level=warn")
	resident := func() string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
		must(t, err)
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		size, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(size)
	}
	c := send(t, b.tcp, "  V2")
	begun := time.Now()
	go func() {
		for i := range topics {
			fmt.Fprintf(c, "PUB topic%d\n\x00\x00\x00\x01x", i)
		}
	}()
	must(t, c.(*net.TCPConn).SetReadDeadline(time.Now().Add(patience)))
	if _, err := io.ReadFull(c, make([]byte, 10*topics)); err != nil {
		t.Fatal(err)
	}
	t.Logf("made %d topics in %v, %v of processor time, %s resident", topics, time.Since(begun), b.cpu(t), resident())
	for range 2 {
		begun = time.Now()
		b.stop(t)
		state := b.cmd.ProcessState
		t.Logf("stopped in %v; the process took %v and %v in the kernel", time.Since(begun), state.UserTime(), state.SystemTime())
		begun = time.Now()
		b.start(t)
		t.Logf("started in %v, %v of processor time, %s resident", time.Since(begun), b.cpu(t), resident())
	}
	for _, i := range []int{0, topics / 2, topics - 1} {
		name := fmt.Sprint("topic", i)
		if s, ok := b.topic(t, name); !ok || s.Depth != 1 {
			t.Errorf("%s after two restarts: %t, %+v", name, ok, s)
		}
	}
}
