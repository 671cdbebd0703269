//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/engine/upgrade"
)

// handshakeTimeout bounds connecting and each answer of the handshake.
const handshakeTimeout = 5 * time.Second

// dial connects, sends the magic and IDENTIFY and reads the answer.
func (g *generator) dial(heartbeatMs int) (*conn, error) {
	return g.dialAs(g.load, heartbeatMs)
}

// dialAs is dial with what another load asks for in IDENTIFY.
func (g *generator) dialAs(l load, heartbeatMs int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &conn{g: g, fd: fd}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, ptr(unix.NsecToTimeval(int64(handshakeTimeout)))),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, ptr(unix.NsecToTimeval(int64(handshakeTimeout)))),
	)
	// On Linux a second connect waits on for the first, once a signal cut it short.
	for err == nil {
		if err = unix.Connect(fd, &g.addr); !errors.Is(err, unix.EINTR) {
			break
		}
		err = nil
	}
	if err == nil {
		err = c.ask(append([]byte(magic), identify(heartbeatMs, l)...))
	}
	if err == nil {
		err = c.upgrade(l)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// upgrade takes the upgrades that IDENTIFY has asked for; each ends in an OK.
func (c *conn) upgrade(l load) error {
	if l.tls {
		if err := errors.Join(c.startTLS(), c.hear()); err != nil {
			return err
		}
	}
	switch {
	case l.snappy:
		c.compress(new(upgrade.Snappy))
	case l.deflate:
		c.compress(upgrade.NewDeflate(deflateLevel))
	default:
		return nil
	}
	return c.hear()
}

func ptr[T any](v T) *T { return &v }

// ask writes one command on a blocking socket and reads one response.
func (c *conn) ask(command []byte) error {
	if err := c.tell(command); err != nil {
		return err
	}
	return c.hear()
}

// hear reads one response on a blocking socket.
func (c *conn) hear() error {
	// One byte too many would belong to whatever comes next, so the frame is
	// read piece by piece.
	var head [frameHeader]byte
	if err := c.readFull(head[:]); err != nil {
		return err
	}
	size := int(head[2])<<8 | int(head[3])
	if size < 4 {
		return errOutOfStep
	}
	text := make([]byte, size-4)
	if err := c.readFull(text); err != nil {
		return err
	}
	if head[7] != typeResponse {
		return fmt.Errorf("broker answered: %s", text)
	}
	return nil
}

func (c *conn) tell(command []byte) error {
	for len(command) > 0 {
		n, err := c.blockingWrite(command)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		command = command[n:]
	}
	return nil
}

func (c *conn) blockingWrite(b []byte) (int, error) {
	if c.codec != nil {
		return c.codec.write(b)
	}
	return unix.Write(c.fd, b)
}

func (c *conn) blockingRead(b []byte) (int, error) {
	if c.codec != nil {
		return c.codec.read(b)
	}
	return unix.Read(c.fd, b)
}

func (c *conn) readFull(b []byte) error {
	for len(b) > 0 {
		n, err := c.blockingRead(b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 && c.codec == nil {
			return errors.New("read: broker closed the connection")
		}
		b = b[n:]
	}
	return nil
}
