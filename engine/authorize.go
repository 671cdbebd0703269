package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/zsqio/zsq/engine/auth"
	"github.com/zsqio/zsq/internal/peerhttp"
	"github.com/zsqio/zsq/internal/wire"
)

// authority is the auth servers and how to stop asking them.
type authority struct {
	*auth.Authority
	http   *peerhttp.Client
	ctx    context.Context
	cancel context.CancelFunc
}

// answerMax bounds an auth server's answer in bytes.
const answerMax = 1 << 20

// newAuthority returns nil when the options name no auth server.
func newAuthority(o *Options) (*authority, error) {
	if len(o.AuthHTTPAddresses) == 0 {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: uint16(o.TLSMinVersion)}
	if o.TLSRootCAFile != "" {
		pem, err := os.ReadFile(o.TLSRootCAFile)
		if err != nil {
			return nil, fmt.Errorf("failed to build client TLS config - %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("failed to build client TLS config - no certificate in %s", o.TLSRootCAFile)
		}
	}
	a := new(authority)
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.http = peerhttp.New(peerhttp.Options{
		ConnectTimeout: o.HTTPClientConnectTimeout, RequestTimeout: o.HTTPClientRequestTimeout, BodyMax: answerMax, TLS: conf,
	})
	a.Authority = auth.New(auth.Options{
		Addresses: o.AuthHTTPAddresses, Post: o.AuthHTTPRequestMethod == "post", HTTP: a.http,
		Timeout: o.HTTPClientRequestTimeout * time.Duration(len(o.AuthHTTPAddresses)),
	})
	return a, nil
}

func (a *authority) stop() {
	if a != nil {
		a.cancel()
		a.http.Close()
	}
}

// clientAuth is what a client may do and until when. It belongs to the
// connection's loop.
//
// An answer is good for its time to live. A command that comes in the last fifth
// of it has a new one fetched beside, so that a busy client never waits; one that
// comes later waits, with everything behind it on its own connection.
type clientAuth struct {
	secret     string
	perms      *auth.Permissions // nil until the first answer
	untilNs    int64             // monotonic, when perms end
	refreshNs  int64             // monotonic, from when on new ones are fetched
	refreshing bool
	err        error           // of the question that a waiting command caused
	topics     map[string]bool // what was decided on publishes, since perms came
}

// topicsMax bounds the decisions a connection remembers.
const topicsMax = 64

// cmdAuth asks for permissions; reading goes on when the answer is there.
func (c *conn) cmdAuth(cmd *wire.Command) *wire.Error {
	switch {
	case c.auth != nil:
		return wire.ErrAuthAlreadySet
	case c.h.e.auth == nil:
		return wire.ErrAuthDisabled
	}
	c.auth = &clientAuth{secret: string(cmd.Body)}
	c.askAndWait(func(p *auth.Permissions, err error) {
		switch {
		case err != nil:
			c.fail(wire.ErrAuthFailed.WithCause(err))
		case p.Count == 0:
			c.fail(wire.ErrAuthNone)
		default:
			c.auth.take(p, c.h.loop.Now())
			c.answer(wire.AppendAuthResponse(nil, wire.AuthResponse{
				Identity: p.Identity, IdentityURL: p.IdentityURL, PermissionCount: p.Count,
			})...)
		}
	})
	return nil
}

// take begins the time of new permissions.
func (a *clientAuth) take(p *auth.Permissions, now int64) {
	a.perms, a.topics = p, nil
	a.untilNs = now + int64(p.TTL)
	a.refreshNs = now + int64(p.TTL)/5*4
}

// allowed reports whether a command may be carried out now. If not, it has been
// refused, or its bytes are to be kept until an answer is there. It is called
// where there are auth servers.
func (c *conn) allowed(cmd *wire.Command) bool {
	switch cmd.Op {
	case wire.OpPub, wire.OpMpub, wire.OpDpub, wire.OpSub:
	default:
		return true
	}
	a := c.auth
	if a == nil {
		c.fail(wire.AuthFirst(cmd.Op))
		return false
	}
	now := c.h.loop.Now()
	if now >= a.untilNs {
		switch {
		case a.refreshing:
			c.waitForAnswer()
		case a.err != nil:
			c.fail(wire.ErrAuthFailed.WithCause(a.err))
		default:
			c.askAndWait(func(p *auth.Permissions, err error) {
				if a.err = err; err == nil {
					a.take(p, c.h.loop.Now())
				}
			})
		}
		return false
	}
	if now >= a.refreshNs && !a.refreshing {
		c.refresh()
	}
	if !a.allows(cmd) {
		channel := "" // of a publish; what stands in the command is an earlier one's
		if cmd.Op == wire.OpSub {
			channel = string(cmd.Channel)
		}
		c.fail(wire.Unauthorized(cmd.Op, string(cmd.Topic), channel))
		return false
	}
	return true
}

func (a *clientAuth) allows(cmd *wire.Command) bool {
	if cmd.Op == wire.OpSub {
		return a.perms.MaySubscribe(cmd.Topic, cmd.Channel)
	}
	ok, known := a.topics[string(cmd.Topic)]
	if !known {
		ok = a.perms.MayPublish(cmd.Topic)
		if a.topics == nil || len(a.topics) >= topicsMax {
			a.topics = map[string]bool{}
		}
		a.topics[string(cmd.Topic)] = ok
	}
	return ok
}

// refresh fetches new permissions while the old ones are good. If that fails,
// a later command tries again; the pause between is a twentieth of their time.
func (c *conn) refresh() {
	a := c.auth
	a.refreshing = true
	c.ask(func(p *auth.Permissions, err error) {
		a.refreshing = false
		now := c.h.loop.Now()
		if err != nil {
			a.refreshNs = now + int64(a.perms.TTL)/20
		} else {
			a.take(p, now)
		}
		c.hearAgain()
	})
}

// askAndWait asks with the connection's reading paused.
func (c *conn) askAndWait(then func(p *auth.Permissions, err error)) {
	c.waitForAnswer()
	c.ask(func(p *auth.Permissions, err error) {
		then(p, err)
		c.hearAgain()
	})
}

func (c *conn) waitForAnswer() {
	c.asking = true
	c.nc.PauseRead()
}

// hearAgain ends the wait for an answer.
func (c *conn) hearAgain() {
	if !c.asking {
		return
	}
	c.asking = false
	c.listen()
}

// ask asks the auth servers beside the loop and calls then on it, unless the
// connection has gone, or has been told its last, by then. Why a question failed stands in the log only.
func (c *conn) ask(then func(p *auth.Permissions, err error)) {
	h := c.h
	e := h.e
	q := auth.Query{RemoteIP: remoteIP(c.peerAddr()), Secret: c.auth.secret}
	q.TLS, q.CommonName = c.tr.identity()
	started := e.help(func() {
		p, err := e.auth.Ask(e.auth.ctx, q)
		if err != nil {
			e.log.printf(LogError, "[%s] AUTH failed - %v", c.peer, err)
		}
		h.loop.Do(func() {
			if h.ended || c.nc.Fd < 0 || c.closing {
				return
			}
			h.begin(h.loop)
			then(p, err)
		})
	})
	if !started {
		then(nil, errStopping)
	}
}

var errStopping = errors.New("the daemon stops")

// remoteIP is a peer's address without its port; a unix socket has none.
func remoteIP(peer string) string {
	host, _, err := net.SplitHostPort(peer)
	if err != nil {
		return ""
	}
	return host
}
