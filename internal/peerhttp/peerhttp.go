// Package peerhttp asks other services over HTTP: nsqlookupd for channels, auth
// servers for permissions. Whoever answers may be slow, broken or hostile: an
// answer takes bounded time and bounded memory, or it is an error.
//
// It speaks nsqd's dialect, which is an Accept header and one detour: a server
// that wants TLS says 403 and the port where it has it.
package peerhttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Options are plain values.
type Options struct {
	ConnectTimeout time.Duration // for a connection to stand
	RequestTimeout time.Duration // for all of an answer, redirects included
	BodyMax        int64         // bytes of an answer
	TLS            *tls.Config   // nil: the system's roots
}

// idleMax is how many connections to a server are kept for the next questions:
// as many as the callers have under way at a time.
const idleMax = 64

// headersMax bounds the headers of an answer in bytes.
const headersMax = 64 << 10

// A Client may be used from any goroutine.
type Client struct {
	http    *http.Client
	bodyMax int64
}

// New makes a client. It keeps the TLS configuration.
func New(o Options) *Client {
	return &Client{bodyMax: o.BodyMax, http: &http.Client{
		Timeout: o.RequestTimeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: o.ConnectTimeout}).DialContext,
			TLSHandshakeTimeout:    o.RequestTimeout,
			TLSClientConfig:        o.TLS,
			MaxResponseHeaderBytes: headersMax,
			MaxIdleConnsPerHost:    idleMax,
			// Short, so that a name that has moved is looked up again.
			IdleConnTimeout: 15 * time.Second,
		},
	}}
}

// Close gives idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A StatusError is an answer with another status than 200.
type StatusError struct {
	Code int
	Body []byte // the first bytes of it
}

// Error says the status and what came with it.
func (e *StatusError) Error() string {
	return fmt.Sprintf("got response %d %s %q", e.Code, http.StatusText(e.Code), e.Body)
}

// ErrTooLong is an answer of more than Options.BodyMax bytes.
var ErrTooLong = errors.New("the answer is too long")

// Get decodes the JSON of a GET into v.
func (c *Client) Get(ctx context.Context, target string, v any) error {
	return c.ask(ctx, http.MethodGet, target, nil, v)
}

// Post sends body as JSON and decodes the JSON of the answer into v.
func (c *Client) Post(ctx context.Context, target string, body, v any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.ask(ctx, http.MethodPost, target, b, v)
}

func (c *Client) ask(ctx context.Context, method, target string, body []byte, v any) error {
	answer, err := c.once(ctx, method, target, body)
	var status *StatusError
	if errors.As(err, &status) && status.Code == http.StatusForbidden {
		if secure := secureTarget(target, answer); secure != "" {
			answer, err = c.once(ctx, method, secure, body)
		}
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, v)
}

// once makes one request. With a StatusError it returns the body too.
func (c *Client) once(ctx context.Context, method, target string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/vnd.nsq; version=1.0")
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, withoutQuery(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, c.bodyMax+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(answer)) > c.bodyMax:
		return nil, ErrTooLong
	case resp.StatusCode != http.StatusOK:
		return answer, &StatusError{Code: resp.StatusCode, Body: answer[:min(len(answer), 256)]}
	}
	return answer, nil
}

// withoutQuery takes the parameters out of an error's URL: a client's secret is
// among them, and errors are logged.
func withoutQuery(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		if u, perr := url.Parse(ue.URL); perr == nil {
			u.RawQuery, u.User = "", nil
			ue.URL = u.String()
		} else {
			ue.URL = ""
		}
	}
	return err
}

// secureTarget is where a 403 points to, "" if to nowhere.
func secureTarget(target string, answer []byte) string {
	var hint struct {
		Port int `json:"https_port"`
	}
	u, err := url.Parse(target)
	if err != nil || u.Scheme == "https" || json.Unmarshal(answer, &hint) != nil || hint.Port < 1 || hint.Port > 65535 {
		return ""
	}
	u.Scheme = "https"
	u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(hint.Port))
	return u.String()
}
