package tool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// answerSizeMax bounds what an HTTP answer may have, in bytes: enough for the
// statistics of a hundred thousand channels.
const answerSizeMax = 256 << 20

// A Cluster asks nsqlookupd and nsqd over HTTP.
type Cluster struct {
	client *http.Client
}

// NewCluster returns a Cluster whose questions take at most connect to get a
// connection and request altogether.
func NewCluster(connect, request time.Duration) *Cluster {
	return &Cluster{client: &http.Client{
		Timeout: request,
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: connect, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   connect,
			ResponseHeaderTimeout: request,
			MaxIdleConnsPerHost:   1,
			IdleConnTimeout:       90 * time.Second,
		},
	}}
}

// Topics returns the topics that any of the nsqlookupd knows, sorted. It fails
// if one of them does.
func (c *Cluster) Topics(lookupds []string) ([]string, error) {
	answers, err := ask[struct{ Topics []string }](c, lookupds, "/topics")
	if err != nil {
		return nil, fmt.Errorf("failed to query nsqlookupd: %w", err)
	}
	var all []string
	for _, a := range answers {
		all = append(all, a.Topics...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// LookupProducers returns the HTTP addresses of the nsqd that have the topic,
// sorted, as the nsqlookupd say. It fails if one of them does.
func (c *Cluster) LookupProducers(topic string, lookupds []string) ([]string, error) {
	type producer struct {
		BroadcastAddress string `json:"broadcast_address"`
		HTTPPort         int    `json:"http_port"`
	}
	answers, err := ask[struct{ Producers []producer }](c, lookupds, "/lookup?topic="+url.QueryEscape(topic))
	if err != nil {
		return nil, fmt.Errorf("failed to query nsqlookupd: %w", err)
	}
	var all []string
	for _, a := range answers {
		for _, p := range a.Producers {
			all = append(all, net.JoinHostPort(p.BroadcastAddress, strconv.Itoa(p.HTTPPort)))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// ChannelStats are the numbers of a channel in nsqd's statistics.
type ChannelStats struct {
	Name          string `json:"channel_name"`
	Depth         int64  `json:"depth"`
	BackendDepth  int64  `json:"backend_depth"`
	InFlightCount int64  `json:"in_flight_count"`
	DeferredCount int64  `json:"deferred_count"`
	RequeueCount  int64  `json:"requeue_count"`
	TimeoutCount  int64  `json:"timeout_count"`
	MessageCount  int64  `json:"message_count"`
	ClientCount   int64  `json:"client_count"`
}

// ErrNoChannel says that none of the nsqd has the channel.
var ErrNoChannel = errors.New("no such channel")

// Channel returns the sums of the channel's numbers over the nsqd with those
// HTTP addresses. It fails if one of them does, and with ErrNoChannel if none
// has the channel.
func (c *Cluster) Channel(topic, channel string, nsqds []string) (sum ChannelStats, err error) {
	query := url.Values{"format": {"json"}, "topic": {topic}, "channel": {channel}, "include_clients": {"false"}}
	type topicStats struct {
		Name     string         `json:"topic_name"`
		Channels []ChannelStats `json:"channels"`
	}
	answers, err := ask[struct{ Topics []topicStats }](c, nsqds, "/stats?"+query.Encode())
	if err != nil {
		return sum, fmt.Errorf("failed to query nsqd: %w", err)
	}
	found := false
	for _, a := range answers {
		for _, t := range a.Topics {
			if t.Name != topic {
				continue
			}
			for _, ch := range t.Channels {
				if ch.Name == channel {
					found = true
					sum.add(ch)
				}
			}
		}
	}
	if !found {
		return sum, ErrNoChannel
	}
	return sum, nil
}

func (s *ChannelStats) add(o ChannelStats) {
	s.Name = o.Name
	s.Depth += o.Depth
	s.BackendDepth += o.BackendDepth
	s.InFlightCount += o.InFlightCount
	s.DeferredCount += o.DeferredCount
	s.RequeueCount += o.RequeueCount
	s.TimeoutCount += o.TimeoutCount
	s.MessageCount += o.MessageCount
	s.ClientCount += o.ClientCount
}

// ask gets path from all servers at once. Its error joins those of the servers
// that failed, in one line.
func ask[T any](c *Cluster, servers []string, path string) ([]T, error) {
	answers := make([]T, len(servers))
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() { errs[i] = c.get("http://"+server+path, &answers[i]) })
	}
	wg.Wait()
	var texts []string
	for _, err := range errs {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	if texts != nil {
		return nil, errors.New(strings.Join(texts, ", "))
	}
	return answers, nil
}

// get reads one JSON answer. An nsqd that wants TLS says so with status 403 and
// the port to use; it is asked once more there.
func (c *Cluster) get(rawURL string, v any) error {
	status, code, body, err := c.fetch(rawURL)
	if err == nil && code == http.StatusForbidden {
		if secure, ok := httpsURL(rawURL, body); ok {
			status, code, body, err = c.fetch(secure)
		}
	}
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("got response %s %q", status, body)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%s: %w", rawURL, err)
	}
	return nil
}

func (c *Cluster) fetch(rawURL string) (status string, code int, body []byte, err error) {
	req, err := http.NewRequest(http.MethodGet, rawURL, nil)
	if err != nil {
		return "", 0, nil, err
	}
	req.Header.Set("Accept", "application/vnd.nsq; version=1.0")
	resp, err := c.client.Do(req)
	if err != nil {
		return "", 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, answerSizeMax))
	return resp.Status, resp.StatusCode, body, err
}

// httpsURL returns the address at which a daemon that answered 403 wants to be
// asked; ok is false if it did not say.
func httpsURL(rawURL string, body []byte) (secure string, ok bool) {
	var answer struct {
		HTTPSPort int `json:"https_port"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.HTTPSPort == 0 {
		return "", false
	}
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "http" {
		return "", false
	}
	u.Scheme = "https"
	u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(answer.HTTPSPort))
	return u.String(), true
}
