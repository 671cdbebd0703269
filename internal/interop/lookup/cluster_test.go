package lookup

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// unhurried are flags of everything that asks over HTTP: a busy machine may take
// longer than the default's few seconds.
var unhurried = []string{"--http-client-connect-timeout=2m", "--http-client-request-timeout=2m"}

// A cluster is nsqd nodes that register with every lookupd.
type cluster struct {
	t       *testing.T
	lookups []*server
	nodes   []*server
}

func startCluster(t *testing.T, lookups, nodes int, flags ...string) *cluster {
	t.Helper()
	c := &cluster{t: t}
	for range lookups {
		c.lookups = append(c.lookups, launch(t, ours, flags...))
	}
	for range nodes {
		c.addNode()
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			if t.Failed() {
				t.Logf("node %s: %s", n.TCP, n.get("/stats"))
			}
		}
	})
	return c
}

// addNode starts one more node and waits until every lookupd knows it.
func (c *cluster) addNode() *server {
	c.t.Helper()
	args := append([]string{"--data-path=" + c.t.TempDir()}, unhurried...)
	for _, l := range c.lookups {
		args = append(args, "--lookupd-tcp-address="+l.TCP)
	}
	n := launch(c.t, daemon.Nsqd, args...)
	c.nodes = append(c.nodes, n)
	c.acquainted(n)
	return n
}

// acquainted waits until a node that has just started and every lookupd know each
// other: only then does it ask them for the channels of its topics.
func (c *cluster) acquainted(n *server) {
	c.t.Helper()
	for _, l := range c.lookups {
		c.sees(l, "/nodes", n)
		eventually(c.t, "the node has read the answer to IDENTIFY", func() bool {
			return strings.Contains(n.Log.String()[n.logged:], "LOOKUPD("+l.TCP+"): peer info {")
		})
	}
}

// dataPath is where a node keeps its files.
func dataPath(n *server) string {
	const flag = "--data-path="
	i := slices.IndexFunc(n.Flags, func(f string) bool { return strings.HasPrefix(f, flag) })
	return n.Flags[i][len(flag):]
}

// shows returns the TCP ports of the producers in a reply of /lookup or /nodes;
// none if it is an error.
func (c *cluster) shows(l *server, path string) (ports []string) {
	c.t.Helper()
	var reply struct {
		Producers []struct {
			Port int `json:"tcp_port"`
		} `json:"producers"`
	}
	_, body := l.call("GET", path)
	if err := json.Unmarshal([]byte(body), &reply); err != nil {
		c.t.Fatalf("%s: %v", body, err)
	}
	for _, p := range reply.Producers {
		ports = append(ports, fmt.Sprint(p.Port))
	}
	return ports
}

// sees waits until a lookupd shows a node, and misses until it does not.
func (c *cluster) sees(l *server, path string, n *server)   { c.t.Helper(); c.watch(l, path, n, true) }
func (c *cluster) misses(l *server, path string, n *server) { c.t.Helper(); c.watch(l, path, n, false) }

func (c *cluster) watch(l *server, path string, n *server, want bool) {
	c.t.Helper()
	_, port, err := net.SplitHostPort(n.TCP)
	if err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, fmt.Sprintf("%s shows %s: %v", path, port, want), func() bool {
		return slices.Contains(c.shows(l, path), port) == want
	})
}

// A reader is a go-nsq consumer that finds its nodes through the lookupds, and
// the bodies it has got.
type reader struct {
	t *testing.T
	*nsq.Consumer
	mu  sync.Mutex
	got map[string]bool
}

func (c *cluster) read(topic, channel string) *reader {
	c.t.Helper()
	conf := nsq.NewConfig()
	conf.LookupdPollInterval = 50 * time.Millisecond
	conf.MaxInFlight = 100
	consumer, err := nsq.NewConsumer(topic, channel, conf)
	if err != nil {
		c.t.Fatal(err)
	}
	r := &reader{t: c.t, Consumer: consumer, got: map[string]bool{}}
	consumer.SetLoggerLevel(nsq.LogLevelMax)
	consumer.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got[string(m.Body)] = true
		return nil
	}))
	var addrs []string
	for _, l := range c.lookups {
		addrs = append(addrs, l.HTTP)
	}
	if err := consumer.ConnectToNSQLookupds(addrs); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		consumer.Stop()
		<-consumer.StopChan
	})
	return r
}

// gets waits for bodies.
func (r *reader) gets(bodies []string) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d messages from %s on", len(bodies), bodies[0]), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return !slices.ContainsFunc(bodies, func(b string) bool { return !r.got[b] })
	})
}

// publish sends messages of that name to a node and returns their bodies.
func (d *server) publish(topic, name string, count int) (bodies []string) {
	d.t.Helper()
	for i := range count {
		bodies = append(bodies, fmt.Sprint(name, "-", i))
	}
	resp, err := http.Post("http://"+d.HTTP+"/mpub?topic="+topic, "text/plain", strings.NewReader(strings.Join(bodies, "\n")))
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
		d.t.Fatalf("mpub: %s %s", resp.Status, text)
	}
	return bodies
}

// TestCluster runs three nodes and two lookupds through a day's troubles. Two
// consumers on two channels miss nothing.
func TestCluster(t *testing.T) {
	c := startCluster(t, 2, 3, "--tombstone-lifetime=2s")
	a, b := c.nodes[0], c.nodes[1]
	l, m := c.lookups[0], c.lookups[1]
	a.post("/topic/create?topic=t")
	a.post("/channel/create?topic=t&channel=one")
	a.post("/channel/create?topic=t&channel=two")
	// A node that is told of the topic asks for these.
	for _, l := range c.lookups {
		eventually(t, "the channels are registered", func() bool {
			return l.get("/channels?topic=t") == `{"channels":["one","two"]}`
		})
	}
	readers := []*reader{c.read("t", "one"), c.read("t", "two")}
	everyone := func(bodies []string) {
		t.Helper()
		for _, r := range readers {
			r.gets(bodies)
		}
	}
	for i, n := range c.nodes {
		everyone(n.publish("t", fmt.Sprint("start", i), 50))
	}

	// A node is killed and comes back on other ports. Its list of channels may
	// take a second to reach its disk; before that a crash forgets the newest.
	eventually(t, "the node has saved its channels", func() bool {
		list, _ := os.ReadFile(filepath.Join(dataPath(b), "nsqd.dat")) // it may not be there yet
		return strings.Contains(string(list), `"one"`) && strings.Contains(string(list), `"two"`)
	})
	b.Kill()
	for _, l := range c.lookups {
		c.misses(l, "/lookup?topic=t", b)
	}
	everyone(a.publish("t", "without", 50))
	b.move()
	c.acquainted(b)
	everyone(b.publish("t", "moved", 50))

	// A lookupd goes; the other one does for all. It comes back knowing nothing,
	// and learns.
	if err := l.Signal(t, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	fresh := c.addNodeTo(m)
	everyone(fresh.publish("t", "one lookupd", 50))
	fresh.Kill()
	c.misses(m, "/lookup?topic=t", fresh)
	// A node looks after its lookupds when it has something to say, or every
	// fifteen seconds: first it finds that one has gone, then that it is back.
	nudge := func(word string) {
		for i, n := range c.nodes {
			n.post(fmt.Sprint("/topic/create?topic=", word, i))
		}
	}
	nudge("gone")
	l.Restart(t)
	nudge("back")
	for _, n := range c.nodes {
		c.sees(l, "/lookup?topic=t", n)
	}
	everyone(a.publish("t", "both again", 50))

	// A tombstone hides one topic of one node for a while; who is connected stays.
	for _, l := range c.lookups {
		// Again and again, for it does not last long.
		eventually(t, "the tombstone hides the node", func() bool {
			l.post("/topic/tombstone?topic=t&node=" + a.HTTP)
			return len(c.shows(l, "/lookup?topic=t")) == len(c.nodes)-1
		})
		c.sees(l, "/nodes", a)
		c.sees(l, "/lookup?topic=back0", a)
	}
	everyone(a.publish("t", "tombstoned", 50))
	for _, l := range c.lookups {
		c.sees(l, "/lookup?topic=t", a)
	}

	// A new node's first message of the topic finds both channels there already,
	// though no consumer has found the node.
	late := c.addNode()
	for _, r := range readers {
		r.ChangeMaxInFlight(0)
	}
	first := late.publish("t", "first", 1)
	eventually(t, "both channels have the first message", func() bool {
		return strings.Count(late.get("/stats?topic=t&format=json"), `"message_count":1`) == 3 // the topic and two channels
	})
	for _, r := range readers {
		r.ChangeMaxInFlight(100)
	}
	everyone(first)
}

// addNodeTo starts a node while only that lookupd runs.
func (c *cluster) addNodeTo(l *server) *server {
	c.t.Helper()
	all := c.lookups
	defer func() { c.lookups = all }()
	c.lookups = []*server{l}
	n := c.addNode()
	c.nodes = slices.DeleteFunc(c.nodes, func(d *server) bool { return d == n })
	return n
}

// TestTools shows that nsqadmin and nsq_stat work with ours: what they list, and
// what nsqadmin changes.
func TestTools(t *testing.T) {
	c := startCluster(t, 2, 2)
	for i, n := range c.nodes {
		n.post("/topic/create?topic=t")
		n.post("/channel/create?topic=t&channel=ch")
		n.publish("t", fmt.Sprint("m", i), 3)
		n.Settles(t, patience, "t", "ch", "it has the messages", func(ch daemon.Channel) bool { return ch.Depth == 3 })
		for _, l := range c.lookups {
			c.sees(l, "/lookup?topic=t", n)
		}
	}
	addrs := slices.Clone(unhurried)
	for _, l := range c.lookups {
		addrs = append(addrs, "--lookupd-http-address="+l.HTTP)
	}

	out, err := exec.Command(daemon.Upstream("nsq_stat").Path(t), append(addrs, "--topic=t", "--channel=ch", "--count=1", "--interval=10ms")...).CombinedOutput()
	if err != nil {
		t.Fatalf("nsq_stat: %v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := strings.Fields(lines[len(lines)-1]); len(last) != 13 || last[3] != "6" {
		t.Errorf("nsq_stat printed\n%s\nwant 6 messages in total", out)
	}

	admin := &server{Daemon: &daemon.Daemon{HTTP: daemon.FreeAddr(t), Log: new(daemon.Log)}, t: t}
	cmd := exec.Command(daemon.Upstream("nsqadmin").Path(t), append(addrs, "--http-address="+admin.HTTP)...)
	cmd.Stdout, cmd.Stderr = admin.Log, admin.Log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it says that it was killed
		if t.Failed() {
			t.Logf("nsqadmin's log:\n%s", admin.Log)
		}
	}()
	eventually(t, "nsqadmin answers", func() bool { return daemon.Pings(admin.Daemon) })
	var topics struct {
		Topics  []string
		Message string
	}
	unmarshal(t, admin.get("/api/topics"), &topics)
	if !slices.Equal(topics.Topics, []string{"t"}) || topics.Message != "" {
		t.Errorf("nsqadmin's topics: %+v", topics)
	}
	var nodes struct {
		Nodes []struct {
			RemoteAddresses []string `json:"remote_addresses"`
			Topics          []struct {
				Topic      string
				Tombstoned bool
			}
		}
		Message string
	}
	unmarshal(t, admin.get("/api/nodes"), &nodes)
	if len(nodes.Nodes) != 2 || nodes.Message != "" || len(nodes.Nodes[0].RemoteAddresses) != 2 || len(nodes.Nodes[0].Topics) != 1 {
		t.Errorf("nsqadmin's nodes: %+v", nodes)
	}
	var topic struct {
		Nodes   []struct{ Depth int }
		Message string
	}
	unmarshal(t, admin.get("/api/topics/t"), &topic)
	if len(topic.Nodes) != 2 || topic.Message != "" {
		t.Errorf("nsqadmin's topic: %+v", topic)
	}

	// Create, tombstone, delete.
	admin.send("POST", "/api/topics", `{"topic":"made","channel":"ch"}`)
	for _, l := range c.lookups {
		if got := l.get("/channels?topic=made"); got != `{"channels":["ch"]}` {
			t.Errorf("after nsqadmin made a channel: %s", got)
		}
	}
	admin.send("DELETE", "/api/nodes/"+c.nodes[0].HTTP, `{"topic":"t"}`)
	for _, l := range c.lookups {
		c.misses(l, "/lookup?topic=t", c.nodes[0])
		c.sees(l, "/lookup?topic=t", c.nodes[1])
	}
	admin.send("DELETE", "/api/topics/made/ch", "")
	admin.send("DELETE", "/api/topics/made", "")
	for _, l := range c.lookups {
		if got := l.get("/topics"); got != `{"topics":["t"]}` {
			t.Errorf("after nsqadmin deleted a topic: %s", got)
		}
	}
}

func unmarshal(t *testing.T, body string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), v); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
}

// send makes a request with a body that must be answered with 200.
func (d *server) send(method, path, body string) {
	d.t.Helper()
	req, err := http.NewRequest(method, "http://"+d.HTTP+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
		d.t.Fatalf("%s %s: %s %s", method, path, resp.Status, text)
	}
}
