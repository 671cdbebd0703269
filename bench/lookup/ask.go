//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// settle is how long requests run before they are measured, and until each
	// client has had one answer.
	settle = 300 * time.Millisecond
	// requestsMin is how many requests are measured, however long they take, up
	// to patience: upstream needs seconds for one.
	requestsMin = 5
	patience    = 3 * time.Minute
)

// A tally counts what the clients have got.
type tally struct {
	mu       sync.Mutex
	first    int // clients that have had an answer
	requests int // further ones
	last     int // bytes of the last
	failed   error
}

func (t *tally) answered(first bool, size int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if first {
		t.first++
		return
	}
	t.requests++
	t.last = size
}

func (t *tally) read() (first, requests int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.first, t.requests
}

// ask measures one kind of request, while the cluster changes.
func (o *options) ask(ctx context.Context, d *daemon, c *cluster, path func() string) (a asked, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var t tally
	fail := func(err error) {
		if err == nil {
			return
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.failed == nil {
			t.failed = err
		}
		cancel()
	}
	var wg sync.WaitGroup
	changes := 0
	began := time.Now()
	wg.Go(func() { // ends with ctx
		n, err := c.change(ctx, o.changes)
		fail(err)
		changes = n
	})
	next := func() string {
		t.mu.Lock()
		defer t.mu.Unlock()
		return path()
	}
	for range o.clients {
		wg.Go(func() { fail(client(ctx, d.http, next, t.answered)) }) // ends with ctx
	}
	until := func(done func() bool) {
		for ctx.Err() == nil && !done() {
			time.Sleep(time.Millisecond)
		}
	}
	until(func() bool { first, _ := t.read(); return time.Since(began) > settle && first == o.clients })
	start := time.Now()
	_, before := t.read()
	cpu0, err := d.cpu()
	fail(err)
	until(func() bool {
		_, n := t.read()
		return time.Since(start).Seconds() > o.seconds && n-before >= requestsMin
	})
	cpu1, err := d.cpu()
	fail(err)
	_, after := t.read()
	n, took := after-before, time.Since(start)
	cancel()
	wg.Wait()
	if t.failed == nil && n < requestsMin {
		t.failed = fmt.Errorf("%d of %s were answered in %v", n, path(), took)
	}
	return asked{
		Requests: n, Rate: float64(n) / took.Seconds(), BodyBytes: t.last,
		CPUPer:  float64((cpu1 - cpu0).Nanoseconds()) / 1e3 / float64(n),
		Changes: float64(changes) / time.Since(began).Seconds(),
	}, t.failed
}

// client asks over one connection until ctx ends, and calls done with the size
// of each body. The first answer is looked at closely.
func client(ctx context.Context, addr string, path func() string, done func(first bool, size int)) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 256<<10)
	for first := true; ctx.Err() == nil; first = false {
		p := path()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: application/vnd.nsq; version=1.0\r\n\r\n", p, addr); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", p, resp.Status)
		}
		if first {
			if err := look(resp.Body); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			done(true, 0)
			continue
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil {
			return err
		}
		done(false, int(n))
	}
	return nil
}

// look expects producers.
func look(body io.Reader) error {
	var reply struct {
		Producers []struct {
			Host string `json:"broadcast_address"`
		} `json:"producers"`
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &reply); err != nil {
		return err
	}
	if len(reply.Producers) == 0 || reply.Producers[0].Host == "" {
		return fmt.Errorf("no producers in %.100s", text)
	}
	return nil
}
