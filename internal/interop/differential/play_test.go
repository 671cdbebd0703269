package differential

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A player plays one case on one broker and writes down what it sees.
type player struct {
	t     *testing.T
	b     *broker
	c     *testCase
	mask  *masks
	beats bool // heartbeats are told
	conns map[byte]*wireConn
	ids   []string // message ids in the order of their first sight
}

func newPlayer(t *testing.T, b *broker, c *testCase) *player {
	return &player{t: t, b: b, c: c, mask: &masks{b}, conns: map[byte]*wireConn{}}
}

var (
	httpLine = regexp.MustCompile(`^(until (\S+) )?([A-Z]+)(\*?) (\S+)(?: (\|\|?) ?(.*))?$`)
	connLine = regexp.MustCompile(`^([a-zA-Z])([>.|<])\s?(.*)$`)
)

// answer plays one step and returns what is to be compared.
func (p *player) answer(step string) string {
	got, err := p.step(step)
	if err != nil {
		got += broken + err.Error() + "\n"
	}
	return p.mask.apply(got)
}

// waits reports whether a step waits for what goes on by itself in a broker.
func waits(step string) bool {
	return strings.HasPrefix(step, "until ") || strings.HasPrefix(step, "file ")
}

// broken stands in the answer to a step that cannot be played, or that waits for
// what does not come. It fails the test even if both brokers say so.
const broken = "BROKEN STEP: "

// impliedSteps are the last ones of a case in their order: the ends of connections
// that no step of it ends.
func impliedSteps(steps []string) (implied []string) {
	open := map[byte]bool{}
	for _, s := range steps {
		m := connLine.FindStringSubmatch(s)
		switch {
		case m == nil || m[1] == "h":
		case m[2] == "|" || m[2] == ".":
			delete(open, m[1][0])
		default:
			open[m[1][0]] = true
		}
	}
	for name := byte('A'); name <= 'z'; name++ {
		if open[name] {
			implied = append(implied, string(name)+"|")
		}
	}
	return implied
}

func (p *player) step(s string) (string, error) {
	if s == "restart" {
		return "", p.b.restart(p.t)
	}
	if name, ok := strings.CutPrefix(s, "file "); ok {
		text, err := os.ReadFile(filepath.Join(p.b.dir, name))
		return string(text), err
	}
	if raw, ok := strings.CutPrefix(s, ">> "); ok {
		return p.oneShot(raw, false)
	}
	if raw, ok := strings.CutPrefix(s, "> "); ok {
		return p.oneShot(raw, true)
	}
	if m := connLine.FindStringSubmatch(s); m != nil {
		return p.connStep(m[1][0], m[2], m[3])
	}
	if m := httpLine.FindStringSubmatch(s); m != nil {
		return p.httpStep(m)
	}
	return "", fmt.Errorf("no such step: %s", s)
}

func (p *player) oneShot(text string, magic bool) (string, error) {
	raw, err := p.c.expand(text, p.ids)
	if err != nil {
		return "", err
	}
	if magic {
		raw = "  V2" + raw
	}
	w, err := dial(p.b.TCP)
	if err != nil {
		return "", err
	}
	w.send(raw)
	w.halfClose()
	return p.frames(w, -1), nil
}

func (p *player) connStep(name byte, do, rest string) (string, error) {
	if name == 'h' {
		return p.rawHTTP(rest)
	}
	w := p.conns[name]
	if w == nil {
		var err error
		if w, err = dial(p.b.TCP); err != nil {
			return "", err
		}
		p.conns[name] = w
		if name >= 'a' {
			w.send("  V2")
		}
	}
	switch do {
	case ">":
		raw, err := p.c.expand(rest, p.ids)
		w.send(raw)
		return "", err
	case "<":
		n, err := strconv.Atoi(rest)
		return p.frames(w, n), err
	case "|":
		w.halfClose()
	}
	delete(p.conns, name)
	return p.frames(w, -1), nil
}

// frames reads n frames, or with -1 all until the end, and spells them out.
func (p *player) frames(w *wireConn, n int) string {
	var b strings.Builder
	for ; n != 0; n-- {
		kind, body, err := w.frame()
		if err != nil {
			fmt.Fprintf(&b, "%s\n", ending(err))
			w.Close()
			break
		}
		if kind == 0 && string(body) == "_heartbeat_" && !p.beats {
			n++ // a machine that stands still for a second makes one
			continue
		}
		switch kind {
		case 0:
			fmt.Fprintf(&b, "response %q\n", body)
		case 1:
			fmt.Fprintf(&b, "error %q\n", p.named(string(body)))
		case 2:
			if len(body) < 26 {
				fmt.Fprintf(&b, "short message %q\n", body)
				continue
			}
			id := string(body[10:26])
			if !slices.Contains(p.ids, id) {
				p.ids = append(p.ids, id)
			}
			fmt.Fprintf(&b, "message %s attempts %d %q\n", p.named(id), binary.BigEndian.Uint16(body[8:]), body[26:])
		default:
			fmt.Fprintf(&b, "frame type %d %q\n", kind, body)
		}
	}
	return b.String()
}

// named puts the numbers of message ids in the place of ids.
func (p *player) named(s string) string {
	for i, id := range p.ids {
		s = strings.ReplaceAll(s, id, fmt.Sprintf("{m%d}", i+1))
	}
	return s
}

func ending(err error) string {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return broken + "nothing comes"
	}
	return "closed" // with or without a reset
}

func (p *player) httpStep(m []string) (string, error) {
	until, method, short, target, kind, body := m[2], m[3], m[4] != "", m[5], m[6], m[7]
	target, err := p.c.expand(target, p.ids)
	if err != nil {
		return "", err
	}
	if body, err = p.c.expand(body, p.ids); err != nil {
		return "", err
	}
	raw := method + " " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	switch kind {
	case "|":
		raw += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	case "||":
		raw += "Transfer-Encoding: chunked\r\n\r\n"
		for rest := body; rest != ""; {
			n := min(len(rest), 7)
			raw += fmt.Sprintf("%x\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		raw += "0\r\n\r\n"
	default:
		raw += "\r\n"
	}
	if until == "" {
		return p.exchange(raw, method, short)
	}
	re, err := regexp.Compile(until)
	if err != nil {
		return "", err
	}
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) { // nobody tells us when it is so
		got, err := p.exchange(raw, method, short)
		if err != nil || re.MatchString(got) {
			return got, err
		}
		if time.Now().After(end) {
			return broken + "never " + until + "\n" + got, nil
		}
	}
}

// exchange sends one request and spells the response out.
func (p *player) exchange(raw, method string, short bool) (string, error) {
	w, err := dial(p.b.HTTP)
	if err != nil {
		return "", err
	}
	defer w.Close()
	w.send(raw)
	return response(w, method, short)
}

func response(w *wireConn, method string, short bool) (string, error) {
	resp, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		return ending(err) + "\n", nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", resp.Proto, resp.Status)
	if resp.ContentLength >= 0 && method != "HEAD" && int(resp.ContentLength) == len(body) {
		// The number counts what is masked.
		resp.Header.Set("Content-Length", "as it is")
	}
	if len(resp.TransferEncoding) > 0 {
		resp.Header["Transfer-Encoding"] = resp.TransferEncoding
	}
	resp.Header.Del("Date")
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		if short && (name == "Content-Length" || name == "Transfer-Encoding" || name == "Content-Disposition") {
			continue
		}
		fmt.Fprintf(&b, "%s: %q\n", name, resp.Header[name])
	}
	if short {
		fmt.Fprintf(&b, "a body: %t\n", len(body) > 0)
	} else {
		fmt.Fprintf(&b, "%s\n", body)
	}
	return b.String(), nil
}

// rawHTTP sends bytes to the HTTP port and takes every response until the end.
func (p *player) rawHTTP(text string) (string, error) {
	raw, err := p.c.expand(text, p.ids)
	if err != nil {
		return "", err
	}
	w, err := dial(p.b.HTTP)
	if err != nil {
		return "", err
	}
	defer w.Close()
	w.send(raw)
	w.halfClose()
	var all strings.Builder
	for {
		one, err := response(w, "GET", false)
		all.WriteString(one)
		if err != nil || one == "closed\n" || strings.HasPrefix(one, broken) {
			return all.String(), err
		}
	}
}

// wireConn is a connection to a broker with a bound on every read.
type wireConn struct {
	*net.TCPConn
	r *bufio.Reader
}

func dial(addr string) (*wireConn, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	w := &wireConn{TCPConn: c.(*net.TCPConn)}
	w.r = bufio.NewReader(w)
	return w, nil
}

// Read reads some bytes, within patience.
func (w *wireConn) Read(b []byte) (int, error) {
	if err := w.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return w.TCPConn.Read(b)
}

// send writes what it can: a broker that has closed the connection shows in
// what it sent before.
func (w *wireConn) send(s string) { _, _ = io.WriteString(w.TCPConn, s) }

func (w *wireConn) halfClose() { _ = w.CloseWrite() }

func (w *wireConn) frame() (kind uint32, body []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[:])-4)
	_, err = io.ReadFull(w.r, body)
	return binary.BigEndian.Uint32(head[4:]), body, err
}
