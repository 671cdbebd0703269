package upgrade

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// notYet tells crypto/tls that its peer has sent no more so far. It must be a
// net.Error that is temporary: crypto/tls keeps every other error for good.
type notYet struct{}

func (notYet) Error() string   { return "upgrade: no more bytes yet" }
func (notYet) Timeout() bool   { return false }
func (notYet) Temporary() bool { return true }

// A memory is the connection that crypto/tls believes to have. During the
// handshake its reader waits; afterwards it is driven by one loop and nothing
// of it is shared.
type memory struct {
	mu     sync.Mutex // guards the handshake's part
	fed    sync.Cond
	in     []byte // fed and not read yet; the loop's alone once driven
	err    error  // ends the handshake
	asked  bool   // want was called and nothing was fed since
	send   func(b []byte)
	want   func()
	driven bool // the handshake is over; written before the loop takes over

	src []byte // what the running Decode may read
	out []byte // what was written
}

// Read serves crypto/tls: it waits during the handshake, and never afterwards.
func (m *memory) Read(p []byte) (int, error) {
	if m.driven {
		if len(m.src) == 0 {
			return 0, notYet{}
		}
		n := copy(p, m.src)
		m.src = m.src[n:]
		return n, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.in) == 0 && m.err == nil {
		if !m.asked {
			m.asked = true
			m.want()
		}
		m.fed.Wait()
	}
	if m.err != nil {
		return 0, m.err
	}
	n := copy(p, m.in)
	m.in = m.in[n:]
	return n, nil
}

// Write takes what crypto/tls sends. It copies b.
func (m *memory) Write(b []byte) (int, error) {
	if m.driven {
		m.out = append(m.out, b...)
	} else {
		m.send(append([]byte(nil), b...))
	}
	return len(b), nil
}

// Close, addresses and deadlines make a memory a net.Conn; nothing needs them.
func (m *memory) Close() error                     { return nil }
func (m *memory) LocalAddr() net.Addr              { return memoryAddr{} }
func (m *memory) RemoteAddr() net.Addr             { return memoryAddr{} }
func (m *memory) SetDeadline(time.Time) error      { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// A Handshake is a TLS handshake under way on a goroutine of its own. Feed and
// Abort may be called from any goroutine.
type Handshake struct {
	mem  *memory
	conn *tls.Conn
}

// StartHandshake begins the server's side. The goroutine ends by calling done,
// with the filter that carries the connection from then on or with an error;
// the client has had its TLS alert by then. It calls send with bytes for the
// client, which are the callee's to keep, and want when it needs Feed. It waits
// for nothing but Feed, so Abort ends it.
func StartHandshake(cfg *tls.Config, send func(b []byte), want func(), done func(*TLS, error)) *Handshake {
	m := &memory{send: send, want: want}
	m.fed.L = &m.mu
	h := &Handshake{mem: m, conn: tls.Server(m, cfg)}
	go func() { // ends with the handshake, or with Abort
		if err := h.conn.Handshake(); err != nil {
			m.mu.Lock()
			if m.err != nil {
				err = m.err
			}
			m.mu.Unlock()
			done(nil, err)
			return
		}
		m.mu.Lock()
		m.driven = true
		m.mu.Unlock()
		done(&TLS{conn: h.conn, mem: m}, nil)
	}()
	return h
}

// Feed gives the handshake bytes of the client. It copies b.
func (h *Handshake) Feed(b []byte) {
	h.mem.mu.Lock()
	h.mem.in = append(h.mem.in, b...)
	h.mem.asked = false
	h.mem.mu.Unlock()
	h.mem.fed.Signal()
}

// Abort makes the handshake fail with err, unless it is over.
func (h *Handshake) Abort(err error) {
	h.mem.mu.Lock()
	if h.mem.err == nil {
		h.mem.err = err
	}
	h.mem.mu.Unlock()
	h.mem.fed.Signal()
}

// TLS is the filter of a connection whose handshake is done. Feed must not be
// called any more.
type TLS struct {
	conn *tls.Conn
	mem  *memory // its in holds what was fed with the handshake's last bytes
}

// State describes the session: version, cipher suite, client certificates.
func (t *TLS) State() tls.ConnectionState { return t.conn.ConnectionState() }

// Decode decrypts. The error is io.EOF when the client has said that it sends
// no more.
func (t *TLS) Decode(dst, src []byte) (wrote, used int, err error) {
	if len(t.mem.in) > 0 {
		t.mem.src = t.mem.in
		wrote, err = t.read(dst)
		if t.mem.in = t.mem.src; len(t.mem.in) == 0 {
			t.mem.in = nil
		}
		if wrote > 0 || err != nil {
			return wrote, 0, err
		}
	}
	t.mem.src = src
	wrote, err = t.read(dst)
	used = len(src) - len(t.mem.src)
	t.mem.src = nil
	return wrote, used, err
}

// read fills dst from whole records, as far as they are there. An error behind
// some bytes is told by the next call: crypto/tls keeps it.
func (t *TLS) read(dst []byte) (n int, err error) {
	for n < len(dst) && err == nil {
		var k int
		k, err = t.conn.Read(dst[n:])
		n += k
	}
	if n > 0 || errors.Is(err, error(notYet{})) {
		return n, nil
	}
	return n, err
}

// Encode encrypts plain into records of up to 16 KB and appends them to dst.
func (t *TLS) Encode(dst, plain []byte) ([]byte, error) {
	owed := t.mem.out
	t.mem.out = append(dst, owed...)
	var err error
	if len(plain) > 0 {
		_, err = t.conn.Write(plain)
	}
	dst, t.mem.out = t.mem.out, nil
	return dst, err
}

// Owes reports whether TLS itself has something to send: an alert, or the
// answer to a change of keys.
func (t *TLS) Owes() bool { return len(t.mem.out) > 0 }

// Step is the number of plain bytes to encode at once: 0.1 ms of a loop's time.
func (t *TLS) Step() int { return 256 << 10 }

// End appends the goodbye.
func (t *TLS) End(dst []byte) []byte {
	t.mem.out = append(dst, t.mem.out...)
	_ = t.conn.CloseWrite() // memory takes every write
	dst, t.mem.out = t.mem.out, nil
	return dst
}

// Close gives nothing back: the garbage collector has it all.
func (t *TLS) Close() {}

// ErrClosed ends the handshake of a connection that is gone.
var ErrClosed = io.ErrClosedPipe
