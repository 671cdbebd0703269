package engine_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/engine/httpapi"
)

// A lookupd is an nsqlookupd that says OK to everything and keeps what is registered
// with it. In which steps a daemon comes there is its own affair: a topic may be
// registered before its first channel is, or with it. What it is asked comes through
// asked, which holds the answer back until somebody receives from it.
type lookupd struct {
	address  string
	asked    chan string
	channels string        // JSON list
	moved    chan struct{} // something of what follows may have changed; holds at most one

	mu         sync.Mutex
	conn       net.Conn        // the daemon's last
	node       string          // what it has said of itself there
	registered map[string]bool // there: "topic" and "topic channel"
	wrong      []string        // what no daemon should say
}

func newLookupd(t *testing.T, channels string) *lookupd {
	t.Helper()
	d := &lookupd{asked: make(chan string), channels: channels, moved: make(chan struct{}, 1)}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case d.asked <- r.URL.Query().Get("topic"):
			fmt.Fprintf(w, `{"channels":%s}`, d.channels)
		case <-r.Context().Done():
		}
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.address = l.Addr().String()
	t.Cleanup(func() {
		_ = l.Close()
		api.CloseClientConnections()
		api.Close()
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, line := range d.wrong {
			t.Errorf("nsqlookupd was told %q, which is not so", line)
		}
	})
	info := fmt.Sprintf(`{"broadcast_address":"127.0.0.1","http_port":%d}`, api.Listener.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.serve(c, info)
		}
	}()
	return d
}

func (d *lookupd) serve(c net.Conn, info string) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	if _, err := r.Discard(len("  V1")); err != nil {
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		answer := "OK"
		if line == "IDENTIFY\n" {
			var n uint32
			if binary.Read(r, binary.BigEndian, &n) != nil {
				return
			}
			body := make([]byte, n)
			if _, err := io.ReadFull(r, body); err != nil {
				return
			}
			line, answer = string(body), info
		}
		d.take(c, strings.TrimSpace(line))
		if _, err := io.WriteString(c, size(int32(len(answer)))+answer); err != nil {
			return
		}
	}
}

// take notes a line that the daemon told over c. It begins anew with what it says of
// itself, in JSON; that makes c its connection.
func (d *lookupd) take(c net.Conn, line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	word, name, _ := strings.Cut(line, " ")
	topic, _, ofChannel := strings.Cut(name, " ")
	switch {
	case strings.HasPrefix(line, "{"):
		d.conn, d.node, d.registered = c, line, map[string]bool{}
	case c != d.conn || line == "PING":
	case word == "REGISTER":
		d.registered[topic], d.registered[name] = true, true
	case word != "UNREGISTER" || !d.registered[name], !ofChannel && d.hasChannels(topic):
		d.wrong = append(d.wrong, line)
	default:
		delete(d.registered, name)
	}
	select {
	case d.moved <- struct{}{}:
	default:
	}
}

func (d *lookupd) hasChannels(topic string) bool {
	for name := range d.registered {
		if strings.HasPrefix(name, topic+" ") {
			return true
		}
	}
	return false
}

// wait returns when ok is true of d, whose lock is held then.
func (d *lookupd) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	for {
		d.mu.Lock()
		done := ok()
		has := fmt.Sprint(d.registered)
		d.mu.Unlock()
		if done {
			return
		}
		select {
		case <-d.moved:
		case <-late:
			t.Fatalf("nsqlookupd has no %s; registered is %s", what, has)
		}
	}
}

// has wants the daemon to have registered these names in the end, "topic" and "topic
// channel", and no others.
func (d *lookupd) has(t *testing.T, names ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, name := range names {
		want[name] = true
	}
	d.wait(t, fmt.Sprint(names), func() bool { return maps.Equal(d.registered, want) })
}

// identified wants the daemon to have said who it is.
func (d *lookupd) identified(t *testing.T, e *engine.Engine) {
	t.Helper()
	var node struct {
		BroadcastAddress string `json:"broadcast_address"`
		TCPPort          int    `json:"tcp_port"`
		HTTPPort         int    `json:"http_port"`
		Version          string
	}
	d.wait(t, "IDENTIFY", func() bool {
		if d.node == "" {
			return false
		}
		if err := json.Unmarshal([]byte(d.node), &node); err != nil {
			t.Errorf("%q: %v", d.node, err)
		}
		return true
	})
	tcp, http := e.TCPAddr().(*net.TCPAddr).Port, e.HTTPAddr().(*net.TCPAddr).Port
	if node.BroadcastAddress != "here" || node.TCPPort != tcp || node.HTTPPort != http || node.Version != engine.Version {
		t.Errorf("identified as %+v, want ports %d and %d", node, tcp, http)
	}
}

func (d *lookupd) answer(t *testing.T, topic string) {
	t.Helper()
	select {
	case got := <-d.asked:
		if got != topic {
			t.Errorf("asked for %s, want %s", got, topic)
		}
	case <-time.After(patience):
		t.Fatalf("not asked for %s", topic)
	}
}

// TestLookupChannels publishes to a new topic: the producer is answered at once,
// nothing is delivered until nsqlookupd has answered, and then every channel
// that it knows has every message.
func TestLookupChannels(t *testing.T) {
	d := newLookupd(t, `["known","gone#ephemeral"]`)
	o := options(t)
	o.NSQLookupdTCPAddresses, o.BroadcastAddress = []string{d.address}, "here"
	e := start(t, o)
	d.identified(t, e)
	c := greet(t, e, sub("t", "mine"), "RDY 10\n")
	c.want("OK")
	producer := greet(t, e, pub("t", "one"), mpub("t", "two", "three"))
	producer.want("OK", "OK")
	if s := topicStats(t, e, "t"); s.Depth != 3 || len(s.Channels) != 1 {
		t.Errorf("before the answer: %+v", s)
	}
	d.has(t, "t", "t mine")
	d.answer(t, "t")
	c.want("message one", "message two", "message three")
	d.has(t, "t", "t known", "t mine")
	// One channel may have its messages a moment before the other.
	untilStats(t, e, "t", func(s httpapi.TopicStats) bool {
		return s.Depth == 0 && len(s.Channels) == 2 && s.Channels[0].ChannelName == "known" && s.Channels[0].Depth == 3 && s.Channels[0].MessageCount == 3
	})
	post(t, e, "/topic/delete?topic=t", "")
	d.has(t)
}

// TestLookupdDown shows that a topic's first messages go on in bounded time when
// nobody answers, and at once when nobody is there.
func TestLookupdDown(t *testing.T) {
	d := newLookupd(t, `[]`)
	o := options(t)
	o.HTTPClientConnectTimeout, o.HTTPClientRequestTimeout = 20*time.Millisecond, 20*time.Millisecond
	o.NSQLookupdTCPAddresses = []string{d.address, "127.0.0.1:1"}
	e := start(t, o)
	c := greet(t, e, sub("t", "c"), "RDY 10\n", pub("t", "one"))
	c.want("OK", "OK", "message one") // nobody receives from d.asked
}

// TestLookupdStop stops a daemon while nsqlookupd keeps it waiting. What waits
// with it is saved.
func TestLookupdStop(t *testing.T) {
	d := newLookupd(t, `[]`)
	o := options(t)
	o.NSQLookupdTCPAddresses, o.HTTPClientRequestTimeout = []string{d.address}, time.Hour
	e := open(t, o)
	greet(t, e, sub("t", "c"), pub("t", "one")).want("OK", "OK")
	stopped := make(chan error)
	go func() { stopped <- e.Shutdown() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the stop waits for nsqlookupd")
	}
	e = start(t, o)
	greet(t, e, sub("t", "c"), "RDY 1\n").want("OK", "message one")
}

// TestLookupdConfig changes the addresses at run time, and shows that a topic
// created over HTTP has its channels when that is answered.
func TestLookupdConfig(t *testing.T) {
	a, b := newLookupd(t, `["x"]`), newLookupd(t, `["y"]`)
	o := options(t)
	o.BroadcastAddress = "here"
	e := start(t, o)
	url := "http://" + e.HTTPAddr().String() + "/config/nsqlookupd_tcp_addresses"
	put := func(value string, wantStatus int, want string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodPut, url, strings.NewReader(value))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		got, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != wantStatus || string(got) != want {
			t.Errorf("PUT %s: %d %s, want %s", value, resp.StatusCode, got, want)
		}
	}
	put(`"a:1"`, 400, `{"message":"INVALID_VALUE"}`)
	put(`[1]`, 400, `{"message":"INVALID_VALUE"}`)
	post(t, e, "/topic/create?topic=before", "")
	put(`["`+a.address+`"]`, 200, `["`+a.address+`"]`)
	a.identified(t, e)
	a.has(t, "before")
	put(`["`+a.address+`","`+b.address+`"]`, 200, `["`+a.address+`","`+b.address+`"]`)
	b.identified(t, e)
	b.has(t, "before")
	go func() { <-a.asked; <-b.asked }()
	post(t, e, "/topic/create?topic=t", "")
	if s := topicStats(t, e, "t"); len(s.Channels) != 2 {
		t.Errorf("got %+v", s)
	}
	put(`null`, 200, `null`)
	post(t, e, "/topic/create?topic=alone", "")
	if s := topicStats(t, e, "alone"); len(s.Channels) != 0 {
		t.Errorf("got %+v", s)
	}
}
