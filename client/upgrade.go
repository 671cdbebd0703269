package nsq

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/s2"
)

// upgrades are the layers over a connection's socket:
//
//	commands ──► deflate or snappy ──► TLS ──► socket
type upgrades struct {
	socket net.Conn
	tls    *tls.Conn // nil without TLS
}

// upgrade adds the layers that the server agreed to. After each one the server
// answers OK through it.
func (c *Conn) upgrade(resp *IdentifyResponse) error {
	if resp.TLSv1 {
		c.logf(LogLevelInfo, "upgrading to TLS")
		if err := c.upgradeTLS(); err != nil {
			return err
		}
	}
	if resp.Deflate {
		c.logf(LogLevelInfo, "upgrading to Deflate")
		if err := c.upgradeDeflate(); err != nil {
			return err
		}
	}
	if resp.Snappy {
		c.logf(LogLevelInfo, "upgrading to Snappy")
		return c.upgradeSnappy()
	}
	return nil
}

// transport is what compression stands on.
func (u *upgrades) transport() net.Conn {
	if u.tls != nil {
		return u.tls
	}
	return u.socket
}

func (c *Conn) upgradeTLS() error {
	host, _, err := net.SplitHostPort(c.addr)
	if err != nil {
		return err
	}
	conf := &tls.Config{}
	if c.config.TlsConfig != nil {
		conf = c.config.TlsConfig.Clone()
	}
	conf.ServerName = host
	c.up.tls = tls.Client(c.up.socket, conf)
	if !c.armRead() {
		return net.ErrClosed
	}
	c.up.socket.SetWriteDeadline(time.Now().Add(c.config.ReadTimeout))
	if err := c.up.tls.Handshake(); err != nil {
		return err
	}
	c.r = c.up.tls
	c.out.layer(c.up.tls)
	return c.expectOK("TLS")
}

func (c *Conn) upgradeDeflate() error {
	gathered := &gatherer{w: c.up.transport()}
	w, err := flate.NewWriter(&gathered.made, c.config.DeflateLevel)
	if err != nil {
		return err
	}
	gathered.layer = w
	c.r = flate.NewReader(bufio.NewReaderSize(c.up.transport(), readBufferSize))
	c.out.layer(gathered)
	return c.expectOK("Deflate")
}

func (c *Conn) upgradeSnappy() error {
	gathered := &gatherer{w: c.up.transport()}
	gathered.layer = s2.NewWriter(&gathered.made,
		s2.WriterSnappyCompat(), s2.WriterConcurrency(1), s2.WriterBlockSize(64<<10))
	c.r = s2.NewReader(bufio.NewReaderSize(c.up.transport(), readBufferSize), s2.ReaderMaxBlockSize(64<<10))
	c.out.layer(gathered)
	return c.expectOK("Snappy")
}

func (c *Conn) expectOK(layer string) error {
	frameType, data, err := ReadUnpackedResponse(c, c.config.MaxMsgSize)
	if err != nil {
		return err
	}
	if frameType != FrameTypeResponse || !bytes.Equal(data, okText) {
		return errors.New("invalid response from " + layer + " upgrade")
	}
	return nil
}

// A gatherer is a layer of compression that writes what a flush makes of a batch
// at once: compressors write in small pieces.
type gatherer struct {
	layer interface {
		io.Writer
		Flush() error
	}
	w    io.Writer
	made bytes.Buffer
}

// Write compresses p.
func (g *gatherer) Write(p []byte) (int, error) {
	return g.layer.Write(p)
}

// Flush writes all that has been compressed.
func (g *gatherer) Flush() error {
	if err := g.layer.Flush(); err != nil {
		return err
	}
	_, err := g.w.Write(g.made.Bytes())
	if g.made.Cap() > outboxKept {
		g.made = bytes.Buffer{}
	}
	g.made.Reset()
	return err
}
