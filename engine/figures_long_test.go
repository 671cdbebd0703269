//go:build long

package engine_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
)

// TestLongScrape reads the statistics of 10,000 channels and 15,000 connections,
// or as many as descriptors allow, and says what each reading costs. The costs
// have the reader in them, and limits far above what is to be expected.
func TestLongScrape(t *testing.T) {
	const channels, spare = 10_000, 1000
	conns := 15_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if most := (int(min(limit.Cur, 1<<20)) - spare) / 2; conns > most {
		conns = most
	}
	o := options(t)
	o.E2EProcessingLatencyPercentiles = []float64{0.99, 0.5}
	e := start(t, o)
	const perTopic = 100
	for i := range channels {
		topic := fmt.Sprint("topic", i/perTopic)
		if i%perTopic == 0 {
			post(t, e, "/topic/create?topic="+topic, "")
		}
		post(t, e, fmt.Sprintf("/channel/create?topic=%s&channel=channel%d", topic, i%perTopic), "")
	}
	for i := range conns {
		n := i % channels
		c := greet(t, e, sub(fmt.Sprint("topic", n/perTopic), fmt.Sprint("channel", n%perTopic)), "RDY 1\n")
		if err := c.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		c.want("OK")
	}
	for i := range channels / perTopic {
		post(t, e, fmt.Sprintf("/pub?topic=topic%d", i), "x")
	}
	for _, target := range []string{"/metrics", "/stats?format=json", "/stats?format=json&include_clients=false", "/stats"} {
		best, size := time.Hour, int64(0)
		for range 3 {
			before := cpu(t)
			size = read(t, e, target)
			best = min(best, cpu(t)-before)
		}
		t.Logf("%s: %v of CPU, %d bytes, %d channels, %d connections", target, best, size, channels, conns)
		if best > time.Second {
			t.Errorf("%s costs %v of CPU", target, best)
		}
	}
	testPieces(t, e, conns)
}

// testPieces shows how long a reading of /stats keeps a loop from its clients,
// while others read /stats too: no piece of the work takes a millisecond of the
// loop's processor time.
func testPieces(t *testing.T, e *engine.Engine, conns int) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			read(t, e, "/stats?format=json")
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	var all []time.Duration
	for range 10 {
		costs, n := e.PieceCosts()
		if n != conns {
			t.Errorf("%d connections are described, want %d", n, conns)
		}
		all = append(all, costs...)
	}
	close(stop)
	wg.Wait()
	slices.Sort(all)
	t.Logf("%d pieces of /stats on the loops: median %v, 99 %% %v, most %v", len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
	if most := all[len(all)-1]; most > time.Millisecond {
		t.Errorf("a piece took %v of its loop", most)
	}
}

func read(t *testing.T, e *engine.Engine, target string) int64 {
	t.Helper()
	r, err := http.Get("http://" + e.HTTPAddr().String() + target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cpu is the time that this process has had on processors.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
