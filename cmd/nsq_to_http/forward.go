package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
)

// drainMax is how much of an answer is read so that its connection can be used
// again; more is not worth it. In bytes.
const drainMax = 64 << 10

// A forwarder makes one request, or one for each address, of every message. It
// is safe for concurrent use.
type forwarder struct {
	client    *http.Client
	header    http.Header // read only
	addresses []string
	post      bool
	sample    float64
	toAll     bool
	hosts     *tool.HostPool
	status    *tool.StatusBoard
}

func newForwarder(o *options, l *log.Logger) *forwarder {
	f := &forwarder{
		header: o.header, sample: o.sample, addresses: o.get,
		client: &http.Client{
			Timeout: o.requestTimeout,
			Transport: &http.Transport{
				DialContext:           (&net.Dialer{Timeout: o.connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
				ResponseHeaderTimeout: o.requestTimeout,
				// Each handler keeps its connection; the default of two has the
				// others connect anew for every message.
				MaxIdleConnsPerHost: o.handlers,
				IdleConnTimeout:     90 * time.Second,
			},
		},
	}
	if len(o.post) > 0 {
		f.post, f.addresses = true, o.post
	}
	switch o.mode {
	case tool.ModeRoundRobin, tool.ModeHostPool, tool.ModeEpsilonGreedy:
	default:
		f.toAll = true
	}
	f.hosts = tool.NewHostPool(o.mode, len(f.addresses))
	f.status = tool.NewStatusBoard(o.statusEvery, f.addresses, l)
	return f
}

// HandleMessage forwards m. An error has the client requeue it, with backoff.
func (f *forwarder) HandleMessage(m *nsq.Message) error {
	if f.sample < 1 && rand.Float64() >= f.sample {
		return nil
	}
	start := time.Now()
	if f.toAll {
		for i := range f.addresses {
			begin := time.Now()
			if err := f.request(i, m.Body); err != nil {
				return err
			}
			f.status.AddOne(i, time.Since(begin))
		}
		f.status.AddAll(time.Since(start))
		return nil
	}
	i := f.hosts.Pick()
	err := f.request(i, m.Body)
	took := time.Since(start)
	f.hosts.Mark(i, took, err)
	if err == nil {
		f.status.AddOne(i, took)
		f.status.AddAll(took)
	}
	return err
}

// request sends one message to the address with that index.
func (f *forwarder) request(i int, body []byte) error {
	req, err := f.newRequest(f.addresses[i], body)
	if err != nil {
		return err
	}
	req.Header = f.header.Clone()
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// What the answer says does not matter, nor whether it is complete.
	io.CopyN(io.Discard, resp.Body, drainMax)
	good := resp.StatusCode == http.StatusOK
	if f.post {
		good = resp.StatusCode >= 200 && resp.StatusCode < 300
	}
	if !good {
		return fmt.Errorf("got status code %d", resp.StatusCode)
	}
	return nil
}

func (f *forwarder) newRequest(address string, body []byte) (*http.Request, error) {
	if f.post {
		return http.NewRequest(http.MethodPost, address, bytes.NewReader(body))
	}
	return http.NewRequest(http.MethodGet, fill(address, body), nil)
}

// fill puts the query-escaped body in place of %s. A doubled percent sign stands
// for one, as with printf; others, such as those of escapes, stay.
func fill(address string, body []byte) string {
	return strings.NewReplacer("%%", "%", "%s", url.QueryEscape(string(body))).Replace(address)
}
