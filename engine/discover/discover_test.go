package discover_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/engine/discover"
	"github.com/zsqio/zsq/internal/peerhttp"
)

// patience bounds every wait. Nothing comes near it unless something hangs, not even
// on a machine that stands still for a minute.
const patience = 2 * time.Minute

// A lookupd is a fake nsqlookupd. Its answers can be replaced by lies.
type lookupd struct {
	t     *testing.T
	l     net.Listener
	http  *httptest.Server
	lines chan string // commands, IDENTIFY with its body
	mu    sync.Mutex
	lie   func(command string) (answer []byte, lied bool)
	names []string // what /channels answers
	conns []net.Conn
}

func framed(text string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

func newLookupd(t *testing.T) *lookupd {
	t.Helper()
	// At an address of its own: whoever still looks for a server that had the same
	// port a moment ago, another package's test, does not come here.
	l, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &lookupd{t: t, l: l, lines: make(chan string, 10_000)}
	d.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if r.URL.RequestURI() != "/channels?topic=t%23ephemeral" {
			t.Errorf("asked for %s", r.URL.RequestURI())
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"channels": d.names})
	}))
	t.Cleanup(func() {
		_ = l.Close()
		d.hangUp()
		d.http.Close()
	})
	go d.accept()
	return d
}

func (d *lookupd) accept() {
	for {
		c, err := d.l.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		d.conns = append(d.conns, c)
		d.mu.Unlock()
		go d.serve(c)
	}
}

func (d *lookupd) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		_ = c.Close()
	}
	d.conns = nil
}

func (d *lookupd) setLie(f func(command string) ([]byte, bool)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lie = f
}

func (d *lookupd) info() string {
	return fmt.Sprintf(`{"broadcast_address":"127.0.0.1","http_port":%d,"tcp_port":1,"version":"1.3.0"}`,
		d.http.Listener.Addr().(*net.TCPAddr).Port)
}

func (d *lookupd) serve(c net.Conn) {
	r := bufio.NewReader(c)
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return // the test ended just as we were called
	}
	if string(head) != "  V1" {
		d.t.Errorf("magic %q", head)
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\n")
		answer := framed("OK")
		if line == "IDENTIFY" {
			if _, err := io.ReadFull(r, head); err != nil {
				return
			}
			body := make([]byte, binary.BigEndian.Uint32(head))
			if _, err := io.ReadFull(r, body); err != nil {
				return
			}
			line += " " + string(body)
			answer = framed(d.info())
		}
		d.mu.Lock()
		if d.lie != nil {
			if a, lied := d.lie(line); lied {
				answer = a
			}
		}
		d.mu.Unlock()
		d.lines <- line
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// want reads commands, PINGs aside.
func (d *lookupd) want(lines ...string) {
	d.t.Helper()
	for _, want := range lines {
		if got := d.next(); got != want {
			d.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func (d *lookupd) next() string {
	d.t.Helper()
	for {
		select {
		case got := <-d.lines:
			if got != "PING" {
				return got
			}
		case <-time.After(patience):
			d.t.Fatal("no command came")
		}
	}
}

func (d *lookupd) address() string { return d.l.Addr().String() }

// A registry is what the daemon has.
type registry struct {
	mu     sync.Mutex
	topics map[string]discover.Topic
	births int
	tell   *discover.Registrar
}

func (r *registry) Topics() (all []discover.Topic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.topics {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b discover.Topic) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (r *registry) Topic(name string) (discover.Topic, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.topics[name]
	return t, ok
}

// set makes the topic have these channels; a topic that was deleted is born again.
func (r *registry) set(name string, channels ...string) {
	r.mu.Lock()
	t, ok := r.topics[name]
	if !ok {
		r.births++
		t = discover.Topic{Name: name, Birth: r.births}
	}
	t.Channels = channels
	r.topics[name] = t
	r.mu.Unlock()
	r.tell.Changed(name)
}

func (r *registry) remove(name string) {
	r.mu.Lock()
	delete(r.topics, name)
	r.mu.Unlock()
	r.tell.Changed(name)
}

const identity = `IDENTIFY {"broadcast_address":"b","hostname":"h","http_port":2,"tcp_port":1,"version":"1.3.0"}`

type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) logf(_ int, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, format+"\n", args...)
}

func (l *logged) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}

func (l *logged) wait(t *testing.T, s string) {
	t.Helper()
	for end := time.Now().Add(patience); !l.has(s); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.mu.Lock()
			defer l.mu.Unlock()
			t.Fatalf("nothing of %q is in the log:\n%s", s, l.text.String())
		}
	}
}

// start makes a registrar for the given peers that is quick to come back and gives
// them all the time they need.
func start(t *testing.T, change func(o *discover.Options), peers ...string) (*registry, *logged) {
	t.Helper()
	log := new(logged)
	reg := &registry{topics: map[string]discover.Topic{}}
	client := peerhttp.New(peerhttp.Options{RequestTimeout: patience, BodyMax: 1 << 20})
	t.Cleanup(client.Close)
	o := discover.Options{
		Node: func() discover.Node {
			return discover.Node{BroadcastAddress: "b", Hostname: "h", HTTPPort: 2, TCPPort: 1, Version: "1.3.0"}
		},
		Registry: reg, HTTP: client, ReplyMax: 1 << 16, Logf: log.logf,
		DialTimeout: patience, ReplyTimeout: patience,
		RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	reg.tell = discover.New(o)
	t.Cleanup(reg.tell.Close)
	reg.tell.SetAddresses(peers)
	return reg, log
}

// TestRegister follows a daemon's topics: what is there at first, what comes,
// what goes, and what dies and is born again between two looks.
func TestRegister(t *testing.T) {
	d := newLookupd(t)
	reg, _ := start(t, nil)
	reg.set("a")
	reg.set("b", "c1", "c2")
	reg.tell.SetAddresses([]string{d.address(), d.address()})
	d.want(identity, "REGISTER a", "REGISTER b c1", "REGISTER b c2")
	reg.set("a", "x#ephemeral")
	d.want("REGISTER a x#ephemeral")
	reg.set("b", "c2", "c3")
	d.want("UNREGISTER b c1", "REGISTER b c3")
	reg.remove("b")
	d.want("UNREGISTER b c2", "UNREGISTER b c3", "UNREGISTER b")
	reg.mu.Lock()
	reg.topics["a"] = discover.Topic{Name: "a", Birth: "another"}
	reg.mu.Unlock()
	reg.tell.Changed("a")
	d.want("UNREGISTER a x#ephemeral", "UNREGISTER a", "REGISTER a")
}

// TestManyTopics registers more than a batch.
func TestManyTopics(t *testing.T) {
	d := newLookupd(t)
	reg, _ := start(t, nil)
	want := []string{identity}
	for i := range 1000 {
		name := fmt.Sprintf("t%03d", i)
		reg.set(name)
		want = append(want, "REGISTER "+name)
	}
	reg.tell.SetAddresses([]string{d.address()})
	d.want(want...)
}

// TestReconnect shows that the end of a connection is noticed without a PING,
// and that everything is registered anew.
func TestReconnect(t *testing.T) {
	d := newLookupd(t)
	reg, _ := start(t, nil, d.address())
	d.want(identity)
	for i := range 3 {
		name := fmt.Sprint("t", i)
		reg.set(name)
		d.want("REGISTER " + name)
		d.hangUp()
		d.want(identity)
		for j := range i + 1 {
			d.want(fmt.Sprint("REGISTER t", j))
		}
	}
}

// TestAddresses changes the list while it is in use.
func TestAddresses(t *testing.T) {
	a, b := newLookupd(t), newLookupd(t)
	reg, _ := start(t, nil, a.address())
	a.want(identity)
	reg.tell.SetAddresses([]string{a.address(), b.address()})
	b.want(identity)
	reg.set("t")
	a.want("REGISTER t")
	b.want("REGISTER t")
	reg.tell.SetAddresses([]string{b.address()})
	reg.set("u")
	b.want("REGISTER u")
	reg.tell.SetAddresses(nil)
	if reg.tell.HasPeers() {
		t.Error("there are peers")
	}
	reg.tell.SetAddresses([]string{a.address()})
	// The one that was left has heard nothing since, and hears all of it now.
	a.want(identity, "REGISTER t", "REGISTER u")
}

// hasty is a connection whose time-outs are short while its peer lies. Other peers,
// and this one once it has come to its senses, have theirs.
type hasty struct {
	net.Conn
	d *lookupd
}

func (h hasty) SetDeadline(t time.Time) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.lie != nil && !t.IsZero() {
		t = time.Now().Add(100 * time.Millisecond)
	}
	return h.Conn.SetDeadline(t)
}

// TestBadPeers shows that a peer that hangs or lies costs a log line, memory for
// what it really sends, and nothing of anybody else's.
func TestBadPeers(t *testing.T) {
	f := func(want string, lie func(command string) ([]byte, bool)) {
		t.Helper()
		bad, good := newLookupd(t), newLookupd(t)
		bad.setLie(lie)
		reg, log := start(t, func(o *discover.Options) {
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil && address == bad.address() {
					c = hasty{c, bad}
				}
				return c, err
			}
		}, bad.address(), good.address())
		good.want(identity)
		for i := range 100 {
			reg.set(fmt.Sprint("t", i))
		}
		heard := map[string]bool{}
		for range 100 {
			heard[good.next()] = true
		}
		if len(heard) != 100 {
			t.Fatalf("%q: %d of 100 topics registered", want, len(heard))
		}
		log.wait(t, "LOOKUPD("+bad.address()+"): "+want)
		bad.setLie(nil) // it comes to its senses
		for bad.next() != "REGISTER t99" {
		}
	}
	at := func(prefix string, answer []byte) func(string) ([]byte, bool) {
		return func(c string) ([]byte, bool) { return answer, strings.HasPrefix(c, prefix) }
	}
	f("IDENTIFY: the peer announces a reply of -1 bytes", at("IDENTIFY", []byte("\xff\xff\xff\xff")))
	f("IDENTIFY: the peer announces a reply of 2147483647 bytes", at("IDENTIFY", []byte("\x7f\xff\xff\xff")))
	f("IDENTIFY: the peer says \"E_INVALID", at("IDENTIFY", framed("E_INVALID no")))
	f("IDENTIFY: invalid character", at("IDENTIFY", framed("OK")))
	f("no HTTP address can be made of \"a/b?\" and 1", at("IDENTIFY", framed(`{"broadcast_address":"a/b?","http_port":1}`)))
	f("the peer says \"E_BAD_TOPIC", at("REGISTER", framed("E_BAD_TOPIC x")))
	f("the peer answers what was not asked", at("IDENTIFY", append(framed("{}"), framed("OK")...)))
	// These hang.
	f("IDENTIFY: read tcp", at("IDENTIFY", nil))
	f("read tcp", at("REGISTER", []byte("\x00\x00\x00\x05half")))
}

// TestPing shows that silence is broken, and that a peer that does not answer is
// left.
func TestPing(t *testing.T) {
	d := newLookupd(t)
	_, log := start(t, func(o *discover.Options) { o.PingEvery = time.Millisecond }, d.address())
	for range 3 {
		select {
		case <-d.lines:
		case <-time.After(patience):
			t.Fatal("no PING")
		}
	}
	d.setLie(func(c string) ([]byte, bool) { return framed("E_INVALID"), c == "PING" })
	log.wait(t, "PING: the peer says")
}

// TestMoved shows that a connection follows the peer's name.
func TestMoved(t *testing.T) {
	before, after := newLookupd(t), newLookupd(t)
	var mu sync.Mutex
	at := before
	start(t, func(o *discover.Options) {
		o.PingEvery = time.Millisecond
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "lookupd.example:4160" {
				t.Errorf("dialled %s", address)
			}
			mu.Lock()
			defer mu.Unlock()
			return new(net.Dialer).DialContext(ctx, network, at.address())
		}
		o.Resolve = func(context.Context, string) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			if at == after {
				return []string{"192.0.2.1"}, nil
			}
			return nil, errors.New("no name server")
		}
	}, "lookupd.example:4160")
	before.want(identity)
	mu.Lock()
	at = after
	mu.Unlock()
	after.want(identity)
}

// nobody returns an address that refuses connections until the test ends: a port
// that is taken, and not listened to.
func nobody(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("127.0.0.1:", at.(*unix.SockaddrInet4).Port)
}

// TestChannels asks several peers, of which some know nothing and some lie.
func TestChannels(t *testing.T) {
	a, b, c := newLookupd(t), newLookupd(t), newLookupd(t)
	a.names, b.names = []string{"x", "y", "z#ephemeral"}, []string{"y", "w"}
	nobody := nobody(t)
	reg, _ := start(t, func(o *discover.Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == nobody {
				return nil, syscall.ECONNREFUSED
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}, a.address(), b.address())
	ask := func(want string, wantErr string) {
		t.Helper()
		names, err := reg.tell.Channels(t.Context(), "t#ephemeral")
		if got := strings.Join(names, " "); got != want || fmt.Sprint(err) != wantErr {
			t.Errorf("got %q %v, want %q %s", got, err, want, wantErr)
		}
	}
	ask("w x y", "<nil>") // also when the peers are being dialled at this moment
	c.names = []string{"bad name", "v"}
	reg.tell.SetAddresses([]string{a.address(), c.address()})
	ask("v x y", c.address()+": 1 channel names of topic t#ephemeral are not valid")
	reg.tell.SetAddresses([]string{nobody})
	ask("", discover.ErrNoPeer.Error())
	reg.tell.SetAddresses(nil)
	ask("", "<nil>")
}

// TestChannelsBounded shows that a peer that hangs ends with the context.
func TestChannelsBounded(t *testing.T) {
	d := newLookupd(t)
	d.setLie(func(string) ([]byte, bool) { return nil, true })
	reg, _ := start(t, nil, d.address())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if names, err := reg.tell.Channels(ctx, "t"); names != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v %v", names, err)
	}
}

// FuzzReply shows a peer's bytes, whatever they are, to a connection.
func FuzzReply(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02OK"))
	f.Add([]byte("\x00\x00\x00\x02{}\x00\x00\x00\x02OK"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ended := make(chan struct{})
		once := sync.OnceFunc(func() { close(ended) })
		start(t, func(o *discover.Options) {
			o.RetryMin, o.RetryMax = time.Minute, time.Minute
			o.Logf = func(level int, _ string, _ ...any) {
				if level == discover.LevelError {
					once()
				}
			}
			o.Dial = func(context.Context, string, string) (net.Conn, error) {
				here, there := net.Pipe()
				go func() {
					go func() { _, _ = io.Copy(io.Discard, there) }()
					_, _ = there.Write(b)
					_ = there.Close()
				}()
				return here, nil
			}
		}, "fuzz:1")
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("the session does not end")
		}
	})
}
