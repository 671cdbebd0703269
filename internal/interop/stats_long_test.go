//go:build long

package interop

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestLongBigStats asks for /stats with 10,000 channels and 15,000 consumers,
// and reports what it costs and what a client notices that is served meanwhile.
func TestLongBigStats(t *testing.T) {
	const topics, channels, clients = 100, 100, 15_000
	b := startBroker(t, "--log-level=warn")
	for i := range topics {
		b.create(t, fmt.Sprint("topic", i))
		for j := range channels {
			b.post(t, "/channel/create", on(fmt.Sprint("topic", i), fmt.Sprint("channel", j)), "")
		}
	}
	var wg sync.WaitGroup
	for part := range 10 {
		wg.Go(func() {
			for i := part; i < clients; i += 10 {
				// Several addresses, for one has too few ports.
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+part))}}
				c, err := d.Dial("tcp", b.tcp)
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
	url := "http://" + b.http + "/stats?format=json"
	stats := func() (size int64) {
		resp, err := http.Get(url)
		must(t, err)
		defer resp.Body.Close()
		size, err = io.Copy(io.Discard, resp.Body)
		must(t, err)
		return size
	}
	eventually(t, "every client has subscribed", func() bool {
		resp, err := http.Get("http://" + b.http + "/stats?topic=topic99")
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		return strings.Count(string(text), "[V2 ") == clients/topics
	})

	pinger := send(t, b.tcp, "  V2")
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
	go measure()
	time.Sleep(2 * time.Second) // without /stats, to compare
	stop <- true
	show("alone", <-pings)

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
	t.Logf("one /stats of %d MB: %v, and with the round trips %v of processor time", size>>20, took/times, used/times)
}
