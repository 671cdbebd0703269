//go:build long

package survival

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

var nsqTail = daemon.Program{Package: "./cmd/nsq_tail"}

// TestLongFillAndFree is TestFillAndFree a hundred times over.
func TestLongFillAndFree(t *testing.T) { fillAndFreeAll(t, 100) }

// number returns a size from the environment, or the one that is usual.
func number(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// dataPath returns a directory for much data: in ZSQ_TMP if that is set.
func dataPath(t *testing.T) string {
	t.Helper()
	parent := os.Getenv("ZSQ_TMP")
	if parent == "" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(parent, "survival-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// memory returns a line of the process's /proc/PID/smaps_rollup, in MB.
func (d nsqd) memory(t testing.TB, line string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", d.Cmd.Process.Pid))
	must(t, err)
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return kb >> 10
		}
	}
	t.Fatalf("no %s in smaps_rollup", line)
	return 0
}

// lateness is how late messages came, sorted.
type lateness []time.Duration

func (l lateness) at(q float64) time.Duration { return l[int(q*float64(len(l)-1))] }

// TestLongDeferred kills a daemon with a million deferred messages and starts it
// again: none comes early, none is lost, and hardly one is late by more than a few
// milliseconds once the daemon is up. ZSQ_DEFERRED sets how many, ZSQ_WITHIN in how
// many seconds they are due.
func TestLongDeferred(t *testing.T) {
	count := number(t, "ZSQ_DEFERRED", 1_000_000)
	within := time.Duration(number(t, "ZSQ_WITHIN", 90)) * time.Second
	dir := dataPath(t)
	d := run(t, dir, "--durability=process")
	d.Create(t, "t", "c")
	p := dial(t, d)
	delay := make([]time.Duration, count)
	began := time.Now()
	var acked sync.WaitGroup
	acked.Go(func() {
		for range count {
			for {
				kind, text, err := p.next()
				if err != nil || kind == failure {
					t.Errorf("publish: %s, %v", text, err)
					return
				}
				if string(text) == "OK" {
					break
				}
			}
		}
	})
	// All are due in the last two thirds, when the daemon is surely back.
	rng := random(1)
	w := bufio.NewWriterSize(p, 1<<16)
	for i := range count {
		at := began.Add(within/3 + time.Duration(rng.Int64N(int64(within-within/3))))
		ms := max(1, time.Until(at).Milliseconds())
		delay[i] = time.Duration(ms) * time.Millisecond
		fmt.Fprintf(w, "DPUB t %d\n", ms)
		var m [12]byte
		binary.BigEndian.PutUint32(m[:], 8)
		binary.BigEndian.PutUint64(m[4:], uint64(i))
		_, err := w.Write(m[:])
		must(t, err)
	}
	must(t, w.Flush())
	acked.Wait()
	t.Logf("%d deferred in %v; anonymous memory %d MB", count, time.Since(began).Round(time.Millisecond), d.memory(t, "Anonymous"))
	d.Kill()
	killed := time.Now()
	d.RestartElsewhere(t)
	up := time.Now()
	t.Logf("up again after %v, %v after the first was published; anonymous memory %d MB",
		up.Sub(killed).Round(time.Millisecond), up.Sub(began).Round(time.Millisecond), d.memory(t, "Anonymous"))

	p = dial(t, d)
	p.ok(t, "SUB t c\n")
	_, err := io.WriteString(p, "RDY 2500\n")
	must(t, err)
	late := make(lateness, 0, count)
	seen := make([]bool, count)
	early, again := 0, 0
	var out []byte
	for len(late) < count {
		must(t, p.SetReadDeadline(time.Now().Add(within)))
		kind, m, err := p.next()
		if err != nil {
			ch, _ := d.Channel(t, "t", "c")
			t.Fatalf("after %d of %d: %v; %+v", len(late), count, err, ch)
		}
		if kind == message {
			key := binary.BigEndian.Uint64(m[26:])
			due := int64(binary.BigEndian.Uint64(m)) + int64(delay[key]) // from when the daemon had it
			by := time.Duration(time.Now().UnixNano() - due)
			if by < 0 {
				early++
			}
			if seen[key] {
				again++
			} else if up.UnixNano() < due {
				late = append(late, by)
			} else {
				count--
			}
			seen[key] = true
			out = append(out, fin(m)...)
		}
		if p.r.Buffered() == 0 || len(out) > 1<<15 {
			_, err := p.Write(out)
			must(t, err)
			out = out[:0]
		}
	}
	slices.Sort(late)
	t.Logf("of %d due after the restart: %d early, %d twice; late by %v (median), %v (p99), %v (most)",
		len(late), early, again, late.at(0.5), late.at(0.99), late.at(1))
	if early > 0 || again > 0 {
		t.Error("messages came early or twice")
	}
}

// fillDeep queues count messages of 200 bytes on a topic with one channel.
func fillDeep(t *testing.T, d nsqd, topic string, count int) {
	t.Helper()
	d.Create(t, topic, "c")
	const batch = 2000
	one := body(7, 200)
	b := []byte("MPUB " + topic + "\n")
	b = binary.BigEndian.AppendUint32(b, uint32(4+batch*(4+len(one))))
	b = binary.BigEndian.AppendUint32(b, batch)
	for range batch {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(one))), one...)
	}
	p := dial(t, d)
	for n := 0; n < count; n += batch {
		_, err := p.Write(b)
		must(t, err)
		kind, text, err := p.next()
		for err == nil && kind == response && string(text) == heartbeat {
			kind, text, err = p.next()
		}
		must(t, err)
		if kind != response {
			t.Fatalf("publish: %s", text)
		}
	}
}

// TestLongRestart says how long a start takes over five million messages, from the
// process's begin to the first one delivered, and how long a stop with a million
// in memory. ZSQ_RESTART and ZSQ_STOP set how many.
func TestLongRestart(t *testing.T) {
	deep, held := number(t, "ZSQ_RESTART", 5_000_000), number(t, "ZSQ_STOP", 1_000_000)
	d := run(t, dataPath(t))
	fillDeep(t, d, "deep", deep)
	began := time.Now()
	d.Stop(t)
	stopped := time.Now()
	d.Ready = func(d *daemon.Daemon) bool { // asked more often than usual
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			if resp, err := http.Get("http://" + d.HTTP + "/ping"); err == nil {
				resp.Body.Close()
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	}
	d.RestartElsewhere(t)
	up := time.Now()
	p := dial(t, d)
	p.ok(t, "SUB deep c\n")
	_, err := io.WriteString(p, "RDY 1\n")
	must(t, err)
	kind, _, err := p.next()
	must(t, err)
	if kind != message {
		t.Fatalf("frame %d", kind)
	}
	t.Logf("%d messages waiting: stop %v, /ping %v, first message %v; in all %v", deep, stopped.Sub(began).Round(time.Millisecond),
		up.Sub(stopped).Round(time.Millisecond), time.Since(up).Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	p.Close()
	d.Stop(t)

	d = run(t, filepath.Join(dataPath(t)), fmt.Sprint("--mem-queue-size=", held), "--memory-limit=1073741824")
	fillDeep(t, d, "held", held)
	began = time.Now()
	d.Stop(t)
	t.Logf("%d messages in memory: stop %v", held, time.Since(began).Round(time.Millisecond))
}
