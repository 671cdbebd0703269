//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// sinkCommand as the only argument turns this program into a null sink.
const sinkCommand = "null-sink"

// A sink is the cheapest thing that a generator cannot tell from a broker: it
// answers OK to frames it counts by their bytes, and streams prebuilt messages,
// numbered as it goes, for as many as were published. It stores nothing and
// looks at no body. What the generator reaches against it is the generator's
// ceiling.
//
// It serves one topic with one channel to clients that are well behaved and
// alike; it is not a broker for anything else.
type sink struct {
	ep        int
	listener  int
	conns     map[int32]*sinkConn
	subs      []*sinkConn
	published uint64
	sent      uint64
	body      int
	batch     int
	in        []byte
	oks       []byte

	// stamps are the publish times of recent messages, by number: copied from
	// bodies where frames come in so slowly that somebody may ask for latency.
	stamps [sinkBlock]uint64
}

type sinkConn struct {
	fd      int
	open    bool // the magic has been read
	carry   []byte
	pubSize int // bytes of each of this producer's frames, once known
	first   int // offset of a frame's first body
	partial int // bytes of an unfinished frame, also of an unfinished FIN
	ready   int // credit
	block   []byte
	pending []byte // part of block that is still to be written
}

// sinkBlock is how many messages a consumer's prebuilt block holds.
const sinkBlock = 1000

// stampBelow is the size in bytes of a read that is too large to be looked into.
const stampBelow = 16 << 10

// runSink serves until the process is killed.
func runSink() error {
	s := &sink{conns: map[int32]*sinkConn{}, in: make([]byte, 256<<10), oks: bytes.Repeat([]byte(okFrame), 4096)}
	var err error
	if s.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	addr := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err = errors.Join(unix.Bind(s.listener, addr), unix.Listen(s.listener, 1024)); err != nil {
		return err
	}
	name, err := unix.Getsockname(s.listener)
	if err != nil {
		return err
	}
	if s.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err = s.add(s.listener); err != nil {
		return err
	}
	fmt.Printf("127.0.0.1:%d\n", name.(*unix.SockaddrInet4).Port)

	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(s.ep, events, 5)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, ev := range events[:max(n, 0)] {
			if int(ev.Fd) == s.listener {
				err = s.accept()
			} else {
				err = s.serve(s.conns[ev.Fd])
			}
			if err != nil {
				return err
			}
		}
		for _, c := range s.subs {
			if err := s.stream(c); err != nil {
				return err
			}
		}
	}
}

func (s *sink) add(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	return unix.EpollCtl(s.ep, unix.EPOLL_CTL_ADD, fd, &ev)
}

func (s *sink) accept() error {
	fd, _, err := unix.Accept4(s.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	s.conns[int32(fd)] = &sinkConn{fd: fd}
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), s.add(fd))
}

// serve reads once. Until a connection shows what it is, its bytes are parsed;
// from then on they are counted.
func (s *sink) serve(c *sinkConn) error {
	n, err := rawIO(unix.SYS_READ, c.fd, s.in)
	if n == 0 || err != nil {
		delete(s.conns, int32(c.fd))
		return unix.Close(c.fd)
	}
	if n < 0 {
		return nil
	}
	switch {
	case c.pubSize > 0:
		return s.countPubs(c, n)
	case c.ready > 0 || c.block != nil:
		c.countFins(n)
		return nil
	}
	c.carry = append(c.carry, s.in[:n]...)
	return s.parse(c)
}

func (s *sink) countPubs(c *sinkConn, n int) error {
	if n < stampBelow {
		s.copyStamps(c, n)
	}
	c.partial += n
	frames := c.partial / c.pubSize
	c.partial %= c.pubSize
	s.published += uint64(frames * s.batch)
	for b := frames * len(okFrame); b > 0; {
		n, err := rawIO(unix.SYS_WRITE, c.fd, s.oks[:min(b, len(s.oks))])
		if err != nil || n < 0 {
			return errors.Join(err, errors.New("sink: a producer does not read its answers"))
		}
		b -= n
	}
	return nil
}

// copyStamps takes the publish times out of the n bytes just read.
func (s *sink) copyStamps(c *sinkConn, n int) {
	number := s.published
	for at := c.first + seqSize - c.partial; at+8 <= n; at += c.pubSize {
		if at >= 0 {
			s.stamps[number%sinkBlock] = binary.LittleEndian.Uint64(s.in[at:])
		}
		number++
	}
}

func (c *sinkConn) countFins(n int) {
	c.partial += n
	c.ready += c.partial / finSize
	c.partial %= finSize
}

// parse takes whole commands off the front of what has come.
func (s *sink) parse(c *sinkConn) error {
	if !c.open {
		if len(c.carry) < len(magic) {
			return nil
		}
		c.open, c.carry = true, c.carry[len(magic):]
	}
	for {
		line, rest, found := bytes.Cut(c.carry, []byte("\n"))
		if !found {
			return nil
		}
		verb, param, _ := bytes.Cut(line, []byte(" "))
		switch string(verb) {
		case "IDENTIFY", "PUB", "MPUB":
			if len(rest) < 8 {
				return nil
			}
			size := int(binary.BigEndian.Uint32(rest))
			if verb[0] != 'I' {
				return s.producer(c, line, rest, size)
			}
			if len(rest) < 4+size {
				return nil
			}
			rest = rest[4+size:]
			fallthrough
		case "SUB":
			if _, err := rawIO(unix.SYS_WRITE, c.fd, []byte(okFrame)); err != nil {
				return err
			}
		case "RDY":
			n, err := strconv.Atoi(string(param))
			if err != nil {
				return err
			}
			c.ready = n
			s.subs = append(s.subs, c)
		default:
			return fmt.Errorf("sink: unexpected command %q", line)
		}
		c.carry = rest
	}
}

// producer learns from a first frame what all frames of a run look like.
func (s *sink) producer(c *sinkConn, line, rest []byte, size int) error {
	s.body, s.batch = size, 1
	if line[0] == 'M' {
		s.batch = int(binary.BigEndian.Uint32(rest[4:]))
		s.body = (size-4)/s.batch - 4
	}
	c.pubSize = len(line) + 1 + 4 + size
	c.first = c.pubSize - s.body
	c.partial = len(c.carry)
	c.carry = nil
	return s.countPubs(c, 0)
}

// stream gives one consumer what its credit and the number of published
// messages allow.
func (s *sink) stream(c *sinkConn) error {
	if s.body == 0 || s.conns[int32(c.fd)] != c {
		return nil
	}
	size := bodyAt + s.body
	if c.block == nil {
		m := make([]byte, size)
		binary.BigEndian.PutUint32(m, uint32(size-4))
		binary.BigEndian.PutUint32(m[4:], typeMessage)
		m[attemptsAt+1] = 1
		copy(m[idAt:], "0123456789abcdef")
		c.block = bytes.Repeat(m, sinkBlock)
	}
	for {
		if len(c.pending) == 0 {
			n := min(sinkBlock, c.ready, int(s.published-s.sent))
			if n == 0 {
				return nil
			}
			for i := range n {
				seq := s.sent + uint64(i)
				binary.LittleEndian.PutUint64(c.block[i*size+bodyAt:], seq)
				binary.LittleEndian.PutUint64(c.block[i*size+bodyAt+seqSize:], s.stamps[seq%sinkBlock])
			}
			s.sent += uint64(n)
			c.ready -= n
			c.pending = c.block[:n*size]
		}
		n, err := rawIO(unix.SYS_WRITE, c.fd, c.pending)
		if err != nil {
			return err
		}
		// A full socket empties with the consumer's FINs, which wake us again.
		c.pending = c.pending[max(n, 0):]
		if len(c.pending) > 0 {
			return nil
		}
	}
}
