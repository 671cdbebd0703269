//go:build long

package interop

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cpu returns the processor time that the broker has used.
func (b *broker) cpu(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(f)
		must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func (b *broker) descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.cmd.Process.Pid))
	must(t, err)
	return len(list)
}

// send connects and sends; the connection closes with the test.
func send(t *testing.T, addr, script string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, script)
	must(t, err)
	return c
}

const onePub = "PUB t\n\x00\x00\x00\x01x"

// okTo waits for the OK of a PUB.
func okTo(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	var frame [10]byte
	if _, err := io.ReadFull(c, frame[:]); err != nil || string(frame[8:]) != "OK" {
		t.Fatalf("got %q, %v; want OK", frame, err)
	}
}

// TestLongDescriptors holds a broker at its limit of open files, by its own
// limit of connections and then, with that out of the way, by the kernel's. It
// must not spin, and serve who waits as soon as others leave.
func TestLongDescriptors(t *testing.T) {
	for name, flags := range map[string][]string{"own limit": nil, "kernel's limit": {"--max-connections=100000"}} {
		t.Run(name, func(t *testing.T) {
			b := startLimited(t, "-n 256", flags...)
			const many = 300
			var conns []net.Conn
			for range many {
				conns = append(conns, send(t, b.tcp, "  V2"+onePub))
			}
			okTo(t, conns[0])
			served := 1
			for _, c := range conns[1:] { // accepted in order
				must(t, c.SetReadDeadline(time.Now().Add(time.Second)))
				if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
					break
				}
				served++
			}
			if served == many {
				t.Fatal("the limit was not reached")
			}
			const window = 3 * time.Second
			before := b.cpu(t)
			time.Sleep(window) // what is measured is what happens without us
			used := b.cpu(t) - before
			t.Logf("%d of %d served, %d descriptors; at the limit %.2f %% of a core", served, many, b.descriptors(t), 100*used.Seconds()/window.Seconds())
			if used > window/20 {
				t.Errorf("%v of processor time in %v at the limit", used, window)
			}
			if name == "own limit" {
				b.post(t, "/pub", on("t", ""), "x") // HTTP has descriptors of its own
			}
			var worst time.Duration
			for i := range many - served {
				conns[i].Close()
				left := time.Now()
				okTo(t, conns[served+i])
				worst = max(worst, time.Since(left))
			}
			t.Logf("who waits is served %v after another has left, at the worst", worst)
			asked := time.Now()
			b.stop(t)
			t.Logf("stopped in %v", time.Since(asked))
		})
	}
}

// TestLongStalled has 2,000 connections stall in every way there is, and waits
// until the broker has closed all of them.
func TestLongStalled(t *testing.T) {
	b := startBroker(t)
	send(t, b.tcp, "  V2"+onePub)
	base := b.descriptors(t)
	quiet := "  V2IDENTIFY\n\x00\x00\x00\x1b{\"heartbeat_interval\":-1  }"
	tcp := []string{
		"", " ", "  V", "  V2PU", "  V2PUB t\n", "  V2PUB t\n\x00\x00", "  V2PUB t\n\x00\x00\x00\x09half",
		"  V2MPUB t\n\x00\x00\x00\x20\x00\x00\x00\x02\x00\x00\x00\x01x", "  V2DPUB t 5\n\x00", "  V2IDENTIFY\n\x00\x00\x00\x20{",
		"  V2AUTH\n\x00", "  V2" + onePub + "PUB", quiet + "PUB", quiet + "PUB t\n\x00\x00\x01\x00half",
	}
	http := []string{
		"", "GET", "GET /ping HTTP/1.1\r\nHost: x\r\nA: ", "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
		"POST /mpub?topic=t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
		"POST /topic/create?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab",
	}
	const many = 2000
	begun := time.Now()
	ended := make(chan time.Duration, many)
	for i := range many {
		addr, script := b.tcp, tcp[i%len(tcp)]
		if i%4 == 3 {
			addr, script = b.http, http[i/4%len(http)]
		}
		c := send(t, addr, script)
		go func() {
			_, _ = io.Copy(io.Discard, bufio.NewReader(c))
			ended <- time.Since(begun)
		}()
	}
	opened := time.Since(begun)
	var last time.Duration
	for range many {
		last = receive(t, ended, "a stalled connection ends")
	}
	t.Logf("%d connections opened in %v, the last one gone %v after the first began", many, opened, last)
	eventually(t, "the descriptors are given back", func() bool { return b.descriptors(t) <= base+1 })
}
