package lookupd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"
)

// A Server is one running daemon.
type Server struct {
	opts     Options
	log      *logger
	registry *registry
	metrics  *metrics
	greeting []byte // the answer to IDENTIFY
	now      func() time.Time

	tcp, http net.Listener
	web       *http.Server
	failed    chan error

	mu      sync.Mutex
	conns   map[*conn]struct{} // from accept to close
	closing bool
	running sync.WaitGroup // the accept loop, connections and the HTTP server
}

// New checks the options and opens both ports; nothing is served before Start.
// The log goes to w, through a logbuf.Buffer. An error says what failed, and nothing is left open then.
func New(o *Options, w io.Writer) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		opts:     *o,
		log:      newLogger(w, o.LogPrefix, o.LogLevel),
		registry: newRegistry(o),
		now:      steadyClock(),
		failed:   make(chan error, 2), // one a listener
		conns:    map[*conn]struct{}{},
	}
	s.metrics = newMetrics(s)
	s.log.printf(LogInfo, "nsqlookupd v%s (built w/%s)", Version, runtime.Version())
	var err error
	if s.tcp, err = net.Listen("tcp", o.TCPAddress); err != nil {
		return nil, fmt.Errorf("listen (%s) failed - %w", o.TCPAddress, err)
	}
	if s.http, err = net.Listen("tcp", o.HTTPAddress); err != nil {
		s.tcp.Close()
		return nil, fmt.Errorf("listen (%s) failed - %w", o.HTTPAddress, err)
	}
	host, err := os.Hostname()
	if err != nil {
		s.tcp.Close()
		s.http.Close()
		return nil, fmt.Errorf("hostname: %w", err)
	}
	s.greeting = marshal(greeting{
		BroadcastAddress: o.BroadcastAddress, Hostname: host,
		HTTPPort: port(s.http.Addr()), TCPPort: port(s.tcp.Addr()), Version: Version,
	})
	s.web = &http.Server{
		Handler:           newAPI(s),
		ReadHeaderTimeout: o.ReapTimeout,
		ReadTimeout:       o.ReapTimeout,
		IdleTimeout:       o.IdleTimeout,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          newWarnLog(s.log),
	}
	return s, nil
}

// steadyClock starts at the wall's time and then follows the monotonic clock.
func steadyClock() func() time.Time {
	start := time.Now()
	return func() time.Time { return start.Add(time.Since(start)) }
}

func port(a net.Addr) int {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.Port
	}
	return 0
}

// TCPAddr is the address on which producers are served.
func (s *Server) TCPAddr() net.Addr { return s.tcp.Addr() }

// HTTPAddr is the address on which HTTP is served.
func (s *Server) HTTPAddr() net.Addr { return s.http.Addr() }

// Start serves both ports until Shutdown.
func (s *Server) Start() {
	s.running.Add(2)
	go func() { // ends with its listener
		defer s.running.Done()
		s.log.printf(LogInfo, "TCP: listening on %s", s.tcp.Addr())
		s.end("TCP", s.accept(), s.tcp)
	}()
	go func() { // ends with its listener
		defer s.running.Done()
		s.log.printf(LogInfo, "HTTP: listening on %s", s.http.Addr())
		s.end("HTTP", s.web.Serve(s.http), s.http)
	}()
}

// end notes the end of a listener, which is a failure unless it was closed.
func (s *Server) end(name string, err error, l net.Listener) {
	s.log.printf(LogInfo, "%s: closing %s", name, l.Addr())
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		s.failed <- fmt.Errorf("%s: %w", name, err)
	}
}

// Failed yields an error when a port is served no more although nobody has
// called Shutdown.
func (s *Server) Failed() <-chan error { return s.failed }

// accept starts a goroutine for each connection until the listener is closed.
func (s *Server) accept() error {
	const pauseMax = time.Second
	pause := 5 * time.Millisecond
	for {
		c, err := s.tcp.Accept()
		var hitch net.Error
		if errors.As(err, &hitch) && !errors.Is(err, net.ErrClosed) {
			// Out of file descriptors, most likely: it passes when clients go.
			s.log.printf(LogWarn, "TCP: accept - %s", err)
			time.Sleep(pause)
			pause = min(2*pause, pauseMax)
			continue
		}
		if err != nil {
			return err
		}
		pause = 5 * time.Millisecond
		s.welcome(c)
	}
}

// welcome serves a connection unless the server is closing.
func (s *Server) welcome(nc net.Conn) {
	c := &conn{s: s, c: nc, addr: nc.RemoteAddr().String(), r: bufio.NewReaderSize(nc, lineMax)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	go func() { // ends with the connection
		defer s.running.Done()
		c.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
}

// connections counts the connections on the TCP port.
func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// lastAnswers is how long requests that are under way at Shutdown may take.
const lastAnswers = time.Second / 2

// Shutdown closes both ports and every connection, those that have not spoken
// yet too, and waits until all goroutines have
// ended and, a second at most, until the log is written.
func (s *Server) Shutdown() {
	s.tcp.Close()
	s.mu.Lock()
	s.closing = true
	for c := range s.conns {
		c.c.Close()
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), lastAnswers)
	defer cancel()
	if s.web.Shutdown(ctx) != nil {
		s.web.Close()
	}
	s.http.Close() // the server does not know it before it has been started
	s.running.Wait()
	s.log.out.Flush()
}
