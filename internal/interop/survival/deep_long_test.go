//go:build long

package survival

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// TestLongDeepBacklog queues twenty million messages of 200 bytes and drains them
// beside live traffic on another topic.
//
// On a machine of few processors a live message waits for one of them in any case:
// the drain's consumer wants one, and so does the daemon. The same traffic is
// therefore sent in turn through the daemon that is drained and through another one
// that has nothing else to do, while the same drain goes on. The difference between the
// two is the broker's own; what both have over the traffic alone is the machine's.
//
// ZSQ_DEEP sets how many messages; they need 256 bytes of disk each. ZSQ_DEEP_READY
// is the drain's --max-in-flight (200), ZSQ_DEEP_NICE its niceness (19): with 0 its
// consumer takes what processor it can get. ZSQ_NSQD names another nsqd, upstream's too.
func TestLongDeepBacklog(t *testing.T) {
	count := number(t, "ZSQ_DEEP", 20_000_000)
	const most, turn = 300, 500 * time.Millisecond
	d, idle := run(t, dataPath(t)), run(t, dataPath(t))
	began := time.Now()
	fillDeep(t, d, "deep", count)
	anonymous := d.memory(t, "Anonymous")
	t.Logf("%d messages queued in %v; anonymous memory %d MB", count, time.Since(began).Round(time.Millisecond), anonymous)
	if anonymous > most {
		t.Errorf("anonymous memory is %d MB, the goal is %d", anonymous, most)
	}

	here, there := dialLive(t, d, "live"), dialLive(t, idle, "live")
	for range 4 {
		here.run(t, turn)
		there.run(t, turn)
	}
	alone := here.result(t, "no drain, the daemon to be drained")
	there.result(t, "no drain, another daemon")

	tail := drainDeep(t, d, "deep", count)
	began = time.Now()
	drained := make(chan error, 1)
	go func() { drained <- tail.Wait() }() // ends with the process
	for over := false; !over; {
		here.run(t, turn)
		there.run(t, turn)
		select {
		case err := <-drained:
			must(t, err)
			over = true
		default:
		}
	}
	t.Logf("%d messages drained in %v; anonymous memory %d MB", count, time.Since(began).Round(time.Millisecond), d.memory(t, "Anonymous"))
	beside := here.result(t, "beside the drain, the daemon that is drained")
	control := there.result(t, "beside the drain, another daemon")
	t.Logf("p99 on the drained daemon is %.1f times that on another one beside the same drain, and %.1f times that without a drain",
		float64(beside.at(0.99))/float64(control.at(0.99)), float64(beside.at(0.99))/float64(alone.at(0.99)))
}

// drainDeep begins to consume all of a topic's channel and finish it, in a process
// that leaves the processors to others: on a machine of few, a consumer that takes one
// for itself would be what is measured beside it.
func drainDeep(t *testing.T, d nsqd, topic string, count int) *exec.Cmd {
	t.Helper()
	tail := exec.Command("nice", "-n", strconv.Itoa(number(t, "ZSQ_DEEP_NICE", 19)), nsqTail.Path(t), "--nsqd-tcp-address="+d.TCP,
		"--topic="+topic, "--channel=c", fmt.Sprint("--max-in-flight=", number(t, "ZSQ_DEEP_READY", 200)), "-n="+strconv.Itoa(count))
	must(t, tail.Start()) // what it prints goes to nobody
	t.Cleanup(func() { _ = tail.Process.Kill() })
	return tail
}

// livePerSecond is the rate of live traffic.
const livePerSecond = 2000

// liveTraffic is a publisher and a consumer of a topic of their own.
type liveTraffic struct {
	in, out *peer
	body    []byte
	sent    int64
	come    atomic.Int64
	took    lateness // from publish to receipt; the test's once come is sent
}

func dialLive(t *testing.T, d nsqd, topic string) *liveTraffic {
	t.Helper()
	d.Create(t, topic, "c")
	l := &liveTraffic{in: dial(t, d), out: dial(t, d)}
	l.body = binary.BigEndian.AppendUint32([]byte("PUB "+topic+"\n"), 200)
	l.in.ok(t, "SUB "+topic+" c\n")
	_, err := io.WriteString(l.in, "RDY 1000\n")
	must(t, err)
	go func() { // reads the answers until the connection is closed
		for err := error(nil); err == nil; {
			_, _, err = l.out.next()
		}
	}()
	go func() { // consumes, likewise
		for {
			kind, m, err := l.in.next()
			if err != nil {
				return
			}
			if kind != message {
				continue
			}
			l.took = append(l.took, time.Duration(time.Now().UnixNano()-int64(binary.BigEndian.Uint64(m[26:]))))
			if _, err := io.WriteString(l.in, fin(m)); err != nil {
				return
			}
			l.come.Add(1)
		}
	}()
	return l
}

// run publishes at a steady rate for a while, and returns when all has come.
func (l *liveTraffic) run(t *testing.T, long time.Duration) {
	t.Helper()
	tick := time.NewTicker(time.Second / livePerSecond)
	defer tick.Stop()
	for end := time.Now().Add(long); time.Now().Before(end); {
		<-tick.C
		b := binary.BigEndian.AppendUint64(slices.Clone(l.body), uint64(time.Now().UnixNano()))
		l.sent++
		_, err := l.out.Write(append(b, bytes.Repeat([]byte{'x'}, 192)...))
		must(t, err)
	}
	eventually(t, "all live messages came", func() bool { return l.come.Load() == l.sent })
}

// result logs what was measured since the last result, and returns it sorted.
func (l *liveTraffic) result(t *testing.T, name string) lateness {
	t.Helper()
	took := l.took
	l.took = nil
	slices.Sort(took)
	t.Logf("%s: %d messages, p50 %v, p99 %v, most %v", name, len(took), took.at(0.5).Round(time.Microsecond),
		took.at(0.99).Round(time.Microsecond), took.at(1).Round(time.Microsecond))
	return took
}
