package lookupd

// Connections counts the connections on the TCP port.
func (s *Server) Connections() int { return s.connections() }
