package discover

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// magic opens a connection to an nsqlookupd.
const magic = "  V1"

const (
	// batch is how many commands go out before their replies are read.
	batch = 64
	// staleAfter is at how many PINGs in a row the peer's name must not have
	// led to it before the connection is changed over. One answer of a name
	// server that gives only some of the addresses says nothing.
	staleAfter = 4
)

// A peer is one nsqlookupd. Its goroutine owns the connection.
type peer struct {
	r       *Registrar
	address string
	ctx     context.Context
	cancel  context.CancelFunc

	tried     chan struct{} // closed when the first attempt to connect has ended
	triedOnce sync.Once
	http      atomic.Pointer[string] // base of its HTTP API, nil before it told

	kick  chan struct{} // holds at most one
	mu    sync.Mutex    // guards dirty
	dirty map[string]struct{}
}

func newPeer(r *Registrar, address string) *peer {
	p := &peer{r: r, address: address, tried: make(chan struct{}), kick: make(chan struct{}, 1), dirty: map[string]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(r.ctx)
	return p
}

// changed notes a topic to look at. At most as many are noted as there are
// names.
func (p *peer) changed(topic string) {
	p.mu.Lock()
	p.dirty[topic] = struct{}{}
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// takeDirty returns the noted topics and forgets them.
func (p *peer) takeDirty() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := slices.Sorted(maps.Keys(p.dirty))
	clear(p.dirty)
	return names
}

func (p *peer) logf(level int, format string, args ...any) {
	p.r.o.Logf(level, "LOOKUPD(%s): %s", p.address, fmt.Sprintf(format, args...))
}

// run holds one connection after the other until the peer is left.
func (p *peer) run() {
	defer p.setTried()
	pause := p.r.o.RetryMin
	for {
		served, err := p.session()
		if p.ctx.Err() != nil {
			return
		}
		p.logf(LevelError, "%s", err)
		p.setTried()
		if served {
			pause = p.r.o.RetryMin
		}
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, p.r.o.RetryMax)
	}
}

func (p *peer) setTried() { p.triedOnce.Do(func() { close(p.tried) }) }

// A session is one connection and what is registered over it.
type session struct {
	p       *peer
	conn    net.Conn
	replies chan reply
	have    map[string]registered
	lines   []byte // commands to be sent
	pending int    // how many
}

type registered struct {
	birth    any
	channels map[string]struct{}
}

// reply is what the peer said, or why it says nothing any more.
type reply struct {
	text []byte
	err  error
}

// errUnasked is a reply without a command.
var errUnasked = errors.New("the peer answers what was not asked")

// session connects, registers everything and goes on until the connection ends.
// served tells that it came as far as registering.
func (p *peer) session() (served bool, err error) {
	o := &p.r.o
	ctx, cancel := context.WithTimeout(p.ctx, o.DialTimeout)
	conn, err := o.Dial(ctx, "tcp", p.address)
	cancel()
	if err != nil {
		return false, err
	}
	s := &session{p: p, conn: conn, replies: make(chan reply, batch), have: map[string]registered{}}
	var wg sync.WaitGroup
	done := make(chan struct{})
	stop := context.AfterFunc(p.ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
		close(done)
		wg.Wait()
	}()
	wg.Go(func() { s.read(done) })

	if err := s.identify(); err != nil {
		return false, err
	}
	p.setTried()
	p.takeDirty() // the whole registry comes now
	for _, t := range o.Registry.Topics() {
		if err := s.register(t); err != nil {
			return true, err
		}
	}
	if err := s.flush(); err != nil {
		return true, err
	}
	return true, s.serve()
}

// read hands the peer's replies over until the connection or the session ends.
func (s *session) read(done chan struct{}) {
	r := bufio.NewReader(s.conn)
	for {
		text, err := readReply(r, s.p.r.o.ReplyMax)
		select {
		case s.replies <- reply{text, err}:
		case <-done:
			return
		}
		if err != nil {
			return
		}
	}
}

// readReply reads one reply. Memory follows the bytes that come, not those that
// are announced.
func readReply(r io.Reader, sizeMax int64) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int64(int32(binary.BigEndian.Uint32(head[:])))
	if size < 0 || size > sizeMax {
		return nil, fmt.Errorf("the peer announces a reply of %d bytes", size)
	}
	text, err := io.ReadAll(io.LimitReader(r, size))
	if err == nil && int64(len(text)) < size {
		err = io.ErrUnexpectedEOF
	}
	return text, err
}

// ask sends bytes and waits for count replies, the last of which it returns. All
// of it must be done within the time-out, however the peer spreads its bytes.
func (s *session) ask(b []byte, count int) (last []byte, err error) {
	if err := s.conn.SetDeadline(time.Now().Add(s.p.r.o.ReplyTimeout)); err != nil {
		return nil, err
	}
	if _, err := s.conn.Write(b); err != nil {
		return nil, err
	}
	for range count {
		r := <-s.replies
		if r.err != nil {
			return nil, r.err
		}
		last = r.text
		if len(last) > 2 && string(last[:2]) == "E_" {
			return nil, fmt.Errorf("the peer says %.200q", last)
		}
	}
	return last, s.conn.SetDeadline(time.Time{})
}

// identify introduces the daemon and learns where the peer's HTTP API is.
func (s *session) identify() error {
	body, err := json.Marshal(s.p.r.o.Node())
	if err != nil {
		return err
	}
	b := append([]byte(magic), "IDENTIFY\n"...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	text, err := s.ask(append(b, body...), 1)
	if err != nil {
		return fmt.Errorf("IDENTIFY: %w", err)
	}
	var peer struct {
		TCPPort          int    `json:"tcp_port"`
		HTTPPort         int    `json:"http_port"`
		Version          string `json:"version"`
		BroadcastAddress string `json:"broadcast_address"`
	}
	if err := json.Unmarshal(text, &peer); err != nil {
		return fmt.Errorf("IDENTIFY: %w in %.200q", err, text)
	}
	s.p.logf(LevelInfo, "peer info %+v", peer)
	base, ok := httpBase(peer.BroadcastAddress, peer.HTTPPort)
	if !ok {
		s.p.logf(LevelError, "no HTTP address can be made of %.200q and %d; its channels are not asked for", peer.BroadcastAddress, peer.HTTPPort)
		s.p.http.Store(nil)
		return nil
	}
	s.p.http.Store(&base)
	return nil
}

// serve keeps the peer up to date until the connection ends.
func (s *session) serve() error {
	p := s.p
	ping := time.NewTicker(p.r.o.PingEvery)
	defer ping.Stop()
	stale := 0
	for {
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case r := <-s.replies:
			if r.err == nil {
				return errUnasked
			}
			return r.err
		case <-p.kick:
			for _, name := range p.takeDirty() {
				if err := s.update(name); err != nil {
					return err
				}
			}
			if err := s.flush(); err != nil {
				return err
			}
		case <-ping.C:
			if _, err := s.ask([]byte("PING\n"), 1); err != nil {
				return fmt.Errorf("PING: %w", err)
			}
			if s.moved() {
				if stale++; stale >= staleAfter {
					return errors.New("its name leads elsewhere now; connecting anew")
				}
			} else {
				stale = 0
			}
		}
	}
}

// moved reports whether the peer's name is known not to lead to it any more.
func (s *session) moved() bool {
	host, _, err := net.SplitHostPort(s.p.address)
	if err != nil || net.ParseIP(host) != nil {
		return false
	}
	there, _, err := net.SplitHostPort(s.conn.RemoteAddr().String())
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(s.p.ctx, s.p.r.o.DialTimeout)
	defer cancel()
	addrs, err := s.p.r.o.Resolve(ctx, host)
	return err == nil && len(addrs) > 0 && !slices.Contains(addrs, there)
}

// update brings one topic's registration to what there is.
func (s *session) update(name string) error {
	t, ok := s.p.r.o.Registry.Topic(name)
	have, had := s.have[name]
	if had && (!ok || have.birth != t.Birth) {
		// Channels first: to a topic that is gone nsqlookupd keeps none.
		for _, c := range slices.Sorted(maps.Keys(have.channels)) {
			if err := s.send("UNREGISTER ", name, c); err != nil {
				return err
			}
		}
		if err := s.send("UNREGISTER ", name, ""); err != nil {
			return err
		}
		delete(s.have, name)
	}
	if !ok {
		return nil
	}
	return s.register(t)
}

// register registers what is new of a topic and unregisters channels that are
// gone. A channel's registration implies its topic's.
func (s *session) register(t Topic) error {
	have, had := s.have[t.Name]
	if !had {
		have = registered{birth: t.Birth, channels: map[string]struct{}{}}
		s.have[t.Name] = have
		if len(t.Channels) == 0 {
			return s.send("REGISTER ", t.Name, "")
		}
	}
	for _, c := range slices.Sorted(maps.Keys(have.channels)) {
		if _, there := slices.BinarySearch(t.Channels, c); !there {
			delete(have.channels, c)
			if err := s.send("UNREGISTER ", t.Name, c); err != nil {
				return err
			}
		}
	}
	for _, c := range t.Channels {
		if _, ok := have.channels[c]; !ok {
			have.channels[c] = struct{}{}
			if err := s.send("REGISTER ", t.Name, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// send adds a command to the batch, which goes out when it is full.
func (s *session) send(command, topic, channel string) error {
	s.lines = append(append(s.lines, command...), topic...)
	if channel != "" {
		s.lines = append(append(s.lines, ' '), channel...)
	}
	s.lines = append(s.lines, '\n')
	if s.pending++; s.pending < batch {
		return nil
	}
	return s.flush()
}

// flush sends the batch and reads its replies.
func (s *session) flush() error {
	if s.pending == 0 {
		return nil
	}
	_, err := s.ask(s.lines, s.pending)
	s.lines, s.pending = s.lines[:0], 0
	return err
}
