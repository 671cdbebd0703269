//go:build long

package interop

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestLongBigStats asks for /stats with 10,000 channels and 15,000 consumers,
// and reports what it costs and what a client notices that is served meanwhile.
// What the client waits for is the processors as well; TestLongScrape of the engine
// shows what a loop itself does for /stats.
func TestLongBigStats(t *testing.T) {
	const topics, channels, clients = 100, 100, 15_000
	b := startBroker(t, "--log-level=warn")
	for i := range topics {
		b.Create(t, fmt.Sprint("topic", i))
		for j := range channels {
			b.Post(t, "/channel/create", on(fmt.Sprint("topic", i), fmt.Sprint("channel", j)), "")
		}
	}
	var wg sync.WaitGroup
	for part := range 10 {
		wg.Go(func() {
			for i := part; i < clients; i += 10 {
				// Several addresses, for one has too few ports.
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+part))}}
				c, err := d.Dial("tcp", b.TCP)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { c.Close() })
				body := `{"client_id":"a-client-of-many","hostname":"a-client-of-many.example.com","user_agent":"go-nsq/1.1.0","heartbeat_interval":60000}`
				fmt.Fprintf(c, "  V2IDENTIFY\n\x00\x00\x00%s%sSUB topic%d channel%d\nRDY 1\n", string([]byte{byte(len(body))}), body, i%topics, i/topics%channels)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	url := "http://" + b.HTTP + "/stats?format=json"
	stats := func() (size int64) {
		resp, err := http.Get(url)
		must(t, err)
		defer resp.Body.Close()
		size, err = io.Copy(io.Discard, resp.Body)
		must(t, err)
		return size
	}
	eventually(t, "every client has subscribed", func() bool {
		resp, err := http.Get("http://" + b.HTTP + "/stats?topic=topic99")
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		return strings.Count(string(text), "[V2 ") == clients/topics
	})

	pinger := send(t, b.TCP, "  V2")
	stop, pings := make(chan bool), make(chan []time.Duration)
	measure := func() {
		var all []time.Duration
		for {
			select {
			case <-stop:
				pings <- all
				return
			default:
			}
			at := time.Now()
			_, _ = io.WriteString(pinger, onePub)
			if _, err := io.ReadFull(pinger, make([]byte, 10)); err != nil {
				t.Error(err)
			}
			all = append(all, time.Since(at))
		}
	}
	show := func(what string, all []time.Duration) {
		slices.Sort(all)
		t.Logf("%s: %d round trips, median %v, 99 %% %v, 99.9 %% %v, worst %v", what, len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)*999/1000], all[len(all)-1])
	}
	rounds := longRounds(t, b)
	showRounds := func() {
		now := longRounds(t, b)
		for bound, n := range now {
			if n -= rounds[bound]; n > 0 {
				t.Logf("%d rounds of a loop took more than %s s", n, bound)
			}
		}
		rounds = now
	}
	go measure()
	time.Sleep(2 * time.Second) // without /stats, to compare
	stop <- true
	show("alone", <-pings)
	showRounds()

	go measure()
	const times = 10
	begun, before := time.Now(), b.cpu(t)
	var size int64
	for range times {
		size = stats()
	}
	took, used := time.Since(begun), b.cpu(t)-before
	stop <- true
	show("beside /stats", <-pings)
	showRounds()
	t.Logf("one /stats of %d MB: %v, and with the round trips %v of processor time", size>>20, took/times, used/times)

	for what, page := range map[string]func(){
		"/stats":   func() { stats() },
		"/metrics": func() { longRounds(t, b) },
	} {
		before := b.cpu(t)
		for range times {
			page()
		}
		one := (b.cpu(t) - before) / times
		t.Logf("one %s alone: %v of processor time", what, one)
		if one > 250*time.Millisecond {
			t.Errorf("%s takes %v of processor time", what, one)
		}
	}
}

// longRounds returns how many rounds of the event loops have taken longer than
// each bound of /metrics from about a millisecond on.
func longRounds(t *testing.T, b *broker) map[string]int {
	t.Helper()
	resp, err := http.Get("http://" + b.HTTP + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	over, total := map[string]int{}, 0
	var upto []string
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "nsqd_loop_round_seconds_bucket{"); ok {
			upto = append(upto, rest)
		} else if strings.HasPrefix(line, "nsqd_loop_round_seconds_count{") {
			n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
			must(t, err)
			total += n
		}
	}
	for _, line := range upto {
		_, rest, _ := strings.Cut(line, `le="`)
		bound, rest, _ := strings.Cut(rest, `"`)
		if seconds, err := strconv.ParseFloat(bound, 64); err != nil || seconds < 1e-3 || bound == "+Inf" {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(rest, "}")))
		must(t, err)
		over[bound] -= n
	}
	for bound := range over {
		over[bound] += total
	}
	return over
}
