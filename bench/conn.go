//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A conn is one socket. It is blocking during the handshake and non-blocking
// from watch on.
type conn struct {
	g       *generator
	fd      int
	number  int32
	wantOut bool // epoll reports writability too
	asked   bool // the handler wants to know when it can write
	codec   *codec
}

// watch hands the connection to the event loop.
func (c *conn) watch(h handler) error {
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return fmt.Errorf("set non-blocking: %w", err)
	}
	c.number = int32(len(c.g.handlers))
	c.g.handlers = append(c.g.handlers, h)
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.number}
	if err := unix.EpollCtl(c.g.ep, unix.EPOLL_CTL_ADD, c.fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// want asks for writability events, or not.
func (c *conn) want(out bool) error {
	c.asked = out
	return c.watchOut()
}

// watchOut tells epoll whether anybody wants writability.
func (c *conn) watchOut() error {
	out := c.asked || c.codec.pending()
	if c.wantOut == out {
		return nil
	}
	c.wantOut = out
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.number}
	if out {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(c.g.ep, unix.EPOLL_CTL_MOD, c.fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// read reads once; 0 means that nothing was there.
func (c *conn) read(b []byte) (int, error) {
	if c.codec != nil {
		return c.codec.read(b)
	}
	n, err := rawIO(unix.SYS_READ, c.fd, b)
	if n == 0 && err == nil {
		return 0, fmt.Errorf("read: %w", net.ErrClosed)
	}
	return max(n, 0), err
}

// write writes once and returns how much the socket took.
func (c *conn) write(b []byte) (int, error) {
	if c.codec != nil {
		return c.codec.write(b)
	}
	n, err := rawIO(unix.SYS_WRITE, c.fd, b)
	return max(n, 0), err
}

// rawIO reads or writes a non-blocking socket without telling the scheduler: it
// never sleeps. It returns -1 when the socket is not ready.
func rawIO(trap uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EAGAIN:
			return -1, nil
		case unix.EINTR:
			continue
		}
		return -1, os.NewSyscallError("socket", errno)
	}
}
