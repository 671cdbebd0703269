package netloop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// acceptRetry bounds how long an acceptor that ran out of descriptors waits
// before it looks again, should no connection close meanwhile.
const acceptRetry = 50 * time.Millisecond

// A listener accepts connections on a goroutine of its own, which ends when
// close is called.
type listener struct {
	g    *Group
	ln   net.Listener // owns the address, and the path of a unix socket
	file *os.File     // the same socket, as something that can wait and accept4
	tcp  bool
	done chan struct{} // closed when the goroutine has ended
}

// Listen starts to accept connections and returns the address bound, with the
// port the kernel chose for port 0. The network is tcp, tcp4, tcp6 or unix; a
// unix path that exists already is "address already in use". It may be called
// several times, before or after Start, but not after Shutdown.
func (g *Group) Listen(network, addr string) (net.Addr, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // its sockets cost more per call and nothing here needs it
	ln, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, err // it says what failed, and people know its text
	}
	var file *os.File
	tcp := false
	switch ln := ln.(type) {
	case *net.TCPListener:
		tcp = true
		file, err = ln.File()
	case *net.UnixListener:
		file, err = ln.File()
	default:
		err = fmt.Errorf("cannot listen on %s", network)
	}
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("netloop: %w", err)
	}
	l := &listener{g: g, ln: ln, file: file, tcp: tcp, done: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping {
		l.closeFiles()
		return nil, fmt.Errorf("netloop: listen on %s: %w", addr, net.ErrClosed)
	}
	g.listeners = append(g.listeners, l)
	go l.run()
	return ln.Addr(), nil
}

func (l *listener) closeFiles() {
	_ = l.file.Close()
	_ = l.ln.Close()
}

// close stops accepting and waits for the goroutine.
func (l *listener) close() {
	l.closeFiles()
	<-l.done
}

// run accepts until the socket is closed. Whatever else goes wrong, it goes on.
func (l *listener) run() {
	defer close(l.done)
	raw, err := l.file.SyscallConn()
	if err != nil {
		l.g.opt.Logf("netloop: accept on %s: %v", l.ln.Addr(), err)
		return
	}
	starved := false
	for {
		for l.g.opt.ConnLimit > 0 && l.g.conns.Load() >= int64(l.g.opt.ConnLimit) {
			if !starved {
				starved = true
				l.g.opt.Logf("netloop: accept on %s: the limit of %d connections is reached; waiting for one to close", l.ln.Addr(), l.g.opt.ConnLimit)
			}
			if !l.g.waitFree() {
				return
			}
		}
		var (
			fd   int
			peer unix.Sockaddr
			errA error
		)
		err := raw.Read(func(sock uintptr) bool {
			fd, peer, errA = l.g.accept4(int(sock))
			return !errors.Is(errA, unix.EAGAIN)
		})
		switch {
		case err != nil: // closed
			return
		case errA == nil:
			starved = false
			l.g.place(fd, peer, l.tcp)
		case errors.Is(errA, unix.EINTR), errors.Is(errA, unix.ECONNABORTED):
		default:
			// Out of descriptors or memory, most likely: the peer waits in the
			// kernel's queue. Say so once, and look again when it may help.
			if !starved {
				starved = true
				l.g.opt.Logf("netloop: accept on %s: %v; waiting for a connection to close", l.ln.Addr(), errA)
			}
			if !l.g.waitFree() {
				return
			}
		}
	}
}

// waitFree waits until a connection closed or acceptRetry passed. It returns
// false when the group no longer accepts.
func (g *Group) waitFree() bool {
	g.starved.Store(true)
	t := time.NewTimer(acceptRetry)
	defer t.Stop()
	select {
	case <-g.freed:
	case <-t.C:
	case <-g.closing:
		return false
	}
	return true
}

// place sets a fresh connection's options and gives it to the next loop.
func (g *Group) place(fd int, peer unix.Sockaddr, tcp bool) {
	g.conns.Add(1)
	if tcp {
		// A failure here means that the peer is gone already; reading will tell.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if sec := int(g.opt.KeepAlive / time.Second); sec > 0 {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, sec)
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, sec)
		}
	}
	l := g.loops[int(g.next.Add(1)-1)%len(g.loops)]
	c := &Conn{Fd: fd, loop: l, unix: !tcp, peer: addrPort(peer)}
	if !l.adopt(c) {
		_ = unix.Close(fd)
		g.connClosed()
	}
}

// connClosed counts a connection out and tells a starved acceptor.
func (g *Group) connClosed() {
	g.conns.Add(-1)
	if g.starved.Load() && g.starved.CompareAndSwap(true, false) {
		select {
		case g.freed <- struct{}{}:
		default:
		}
	}
}

// addrPort is the peer's address in 32 bytes; the zero value for unix sockets.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			zone := strconv.Itoa(int(sa.ZoneId))
			if ifi, err := net.InterfaceByIndex(int(sa.ZoneId)); err == nil {
				zone = ifi.Name
			}
			a = a.WithZone(zone)
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// accept4 is the system call behind an acceptor.
func accept4(fd int) (int, unix.Sockaddr, error) {
	return unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
}
