package engine

import (
	"crypto/tls"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/zsqio/zsq/engine/httpapi"
	"github.com/zsqio/zsq/engine/upgrade"
	"github.com/zsqio/zsq/internal/wire"
)

// A transport is what IDENTIFY has granted to a connection besides plain bytes.
//
// An upgrade takes these steps; while they last no command is read, and nothing
// else is written:
//
//	cmdIdentify    the answer is queued, reading pauses
//	beginUpgrade   the answer is in the output, in clear; the handshake begins
//	Traffic        feeds it what the client sends, from the byte after IDENTIFY on
//	shaken         the handshake is over: TLS between socket and handler
//	finishUpgrade  OK, then compression inside, and OK again
type transport struct {
	tls, snappy, deflate bool
	deflateLevel         int

	hs    *upgrade.Handshake // under way
	state tls.ConnectionState
}

// handshakeTimeout bounds a TLS handshake, if the reap timeout is not shorter
// still. It is upstream's.
const handshakeTimeout = 5 * time.Second

// plan notes what IDENTIFY has granted, to be started behind its answer.
func (c *conn) plan(id *wire.Identify) {
	if !id.TLS && !id.Snappy && !id.Deflate {
		return
	}
	c.tr = &transport{tls: id.TLS, snappy: id.Snappy, deflate: id.Deflate, deflateLevel: id.DeflateLevel}
	c.upgrading = true
	c.nc.PauseRead()
}

// listen reads on unless there is a reason not to.
func (c *conn) listen() {
	if !c.deaf() && !c.closing {
		c.nc.ResumeRead()
	}
}

// beginUpgrade starts what plan has noted. The answer to IDENTIFY is in the
// output.
func (c *conn) beginUpgrade() {
	if !c.tr.tls {
		c.finishUpgrade(nil)
		return
	}
	h, l := c.h, c.nc.Loop()
	onLoop := func(f func()) {
		l.Do(func() {
			h.begin(l)
			if c.nc.Fd >= 0 && !h.ended {
				f()
			}
		})
	}
	h.e.handshakes.Add(1)
	c.tr.hs = upgrade.StartHandshake(h.e.certs.config(),
		func(b []byte) { onLoop(func() { c.nc.Write(b) }) },
		func() { onLoop(c.listen) },
		func(f *upgrade.TLS, err error) {
			onLoop(func() { c.shaken(f, err) })
			h.e.handshakes.Done()
		})
	if c.timer != 0 {
		h.shard.StopTimer(c.timer)
	}
	c.timer = h.shard.AddTimer(l.Now()+int64(min(handshakeTimeout, h.e.opts.ReapTimeout)), c.seq)
}

// shaken takes the result of the handshake. A client whose handshake failed is
// told in clear, as upstream does it.
func (c *conn) shaken(f *upgrade.TLS, err error) {
	c.tr.hs = nil
	if err != nil {
		c.tr.tls = false
		c.fail(wire.IdentifyFailed(err))
		return
	}
	c.tr.state = f.State()
	c.gated = false
	c.finishUpgrade(f)
}

// finishUpgrade puts the filters in and says OK inside each.
func (c *conn) finishUpgrade(outer *upgrade.TLS) {
	if outer != nil {
		c.nc.SetFilter(outer)
		c.nc.Write([]byte(wire.OKFrame))
	}
	var inner upgrade.Filter
	switch {
	case c.tr.snappy:
		inner = new(upgrade.Snappy)
	case c.tr.deflate:
		inner = upgrade.NewDeflate(c.tr.deflateLevel)
	}
	if inner != nil {
		if outer != nil {
			inner = upgrade.NewChain(outer, inner)
		}
		c.nc.SetFilter(inner)
		c.nc.Write([]byte(wire.OKFrame))
	}
	c.upgrading = false
	c.startTimer(c.nc.Loop().Now())
	c.listen()
}

// upgradeTimer serves the timer of a connection whose upgrade is under way. It
// returns false when the timer means what it always means.
func (c *conn) upgradeTimer(now int64) bool {
	switch {
	case !c.upgrading:
		return false
	case c.closing:
		c.nc.Close(errStuck)
	case c.tr.hs != nil:
		c.tr.hs.Abort(os.ErrDeadlineExceeded)
		c.timer = c.h.shard.AddTimer(now+int64(c.h.e.opts.ReapTimeout), c.seq)
	default:
		return false
	}
	return true
}

// abortUpgrade ends a handshake whose client has gone, or sends no more.
func (c *conn) abortUpgrade(err error) bool {
	if c.tr == nil || c.tr.hs == nil {
		return false
	}
	c.tr.hs.Abort(err)
	return true
}

// errNoMore is what a handshake hears of a client that has closed its side.
var errNoMore = io.EOF

// identity tells whether the client's commands come encrypted, and the name in
// its certificate, empty without one. A plain connection has a nil transport.
func (t *transport) identity() (secure bool, commonName string) {
	if t == nil || !t.tls || t.hs != nil {
		return false, ""
	}
	if list := t.state.PeerCertificates; len(list) > 0 {
		commonName = list[0].Subject.CommonName
	}
	return true, commonName
}

// describe adds the transport to a client's statistics.
func (t *transport) describe(cs *httpapi.ClientStats) {
	if t == nil {
		return
	}
	cs.Snappy, cs.Deflate = t.snappy, t.deflate
	if secure, _ := t.identity(); !secure {
		return
	}
	cs.TLS, cs.TLSProtocolIsOur = true, true
	cs.TLSProtocol = t.state.NegotiatedProtocol
	cs.TLSVersion = tlsVersionName(t.state.Version)
	cs.TLSCipherSuite = tls.CipherSuiteName(t.state.CipherSuite)
}

// tlsVersionName is upstream's spelling.
func tlsVersionName(v uint16) string {
	if v < tls.VersionTLS10 || v > tls.VersionTLS13 {
		return "Unknown " + strconv.Itoa(int(v))
	}
	return "TLS1." + strconv.Itoa(int(v-tls.VersionTLS10))
}
