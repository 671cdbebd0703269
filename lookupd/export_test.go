package lookupd

import (
	"errors"
	"net"
	"time"
)

// Connections counts the connections on the TCP port.
func (s *Server) Connections() int { return s.connections() }

// Closed reports whether both ports are closed. Dialling would not tell: a port
// that is closed may be somebody else's the next moment.
func (s *Server) Closed() bool {
	for _, l := range []net.Listener{s.tcp, s.http} {
		if !errors.Is(l.(*net.TCPListener).SetDeadline(time.Time{}), net.ErrClosed) {
			return false
		}
	}
	return true
}
