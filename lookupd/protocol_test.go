package lookupd_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/zsqio/zsq/lookupd"
)

const goodBody = `{"broadcast_address":"b","tcp_port":1,"http_port":2,"version":"v"}`

// TestIdentifyAnswer shows the answer to IDENTIFY, with the ports really bound.
func TestIdentifyAnswer(t *testing.T) {
	n := start(t)
	c := n.dial()
	c.send("  V1" + identify(goodBody))
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"broadcast_address":"lookup.test","hostname":%q,"http_port":%d,"tcp_port":%d,"version":"1.3.0"}`,
		host, n.HTTPAddr().(*net.TCPAddr).Port, n.TCPAddr().(*net.TCPAddr).Port)
	if got := c.answer(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestErrors shows each error of the protocol, and that it ends the connection.
// A before is answered by OK or the greeting.
func TestErrors(t *testing.T) {
	n := start(t)
	f := func(before []string, last, want string) {
		t.Helper()
		c := n.dial()
		for _, s := range before {
			c.send(s)
			if got := c.answer(); got != "OK" && got[0] != '{' {
				t.Fatalf("%q: %s", s, got)
			}
		}
		c.send(last)
		if got := c.answer(); got != want {
			t.Errorf("%q: %s, want %s", last, got, want)
		}
		c.ends()
	}
	in := []string{"  V1" + identify(goodBody)}
	f(nil, "  V2", "E_BAD_PROTOCOL")
	f(nil, "GET / HTTP/1.1\r\n\r\n", "E_BAD_PROTOCOL")
	f(nil, "  V1HELLO there\n", "E_INVALID invalid command HELLO")
	f(nil, "  V1ping\n", "E_INVALID invalid command ping")
	f(nil, "  V1\n", "E_INVALID invalid command ")
	f(nil, "  V1REGISTER a\n", "E_INVALID client must IDENTIFY")
	f(nil, "  V1UNREGISTER\n", "E_INVALID client must IDENTIFY")
	f(in, "IDENTIFY\n", "E_INVALID cannot IDENTIFY again")
	f(in, "REGISTER\n", "E_INVALID REGISTER insufficient number of params")
	f(in, "UNREGISTER \n", "E_INVALID UNREGISTER insufficient number of params")
	f(in, "REGISTER  a\n", "E_BAD_TOPIC REGISTER topic name '' is not valid")
	f(in, "UNREGISTER a*\n", "E_BAD_TOPIC UNREGISTER topic name 'a*' is not valid")
	f(in, "REGISTER *\n", "E_BAD_TOPIC REGISTER topic name '*' is not valid")
	f(in, "REGISTER a b$\n", "E_BAD_CHANNEL REGISTER channel name 'b$' is not valid")
	f(in, "UNREGISTER a "+strings.Repeat("c", 65)+"\n", "E_BAD_CHANNEL UNREGISTER channel name '"+strings.Repeat("c", 65)+"' is not valid")

	body := func(body, want string) {
		t.Helper()
		f(nil, "  V1"+identify(body), want)
	}
	const decode, fields = "E_BAD_BODY IDENTIFY failed to decode JSON body", "E_BAD_BODY IDENTIFY missing fields"
	body(``, decode)
	body(`{`, decode)
	body(`[]`, decode)
	body(`{"broadcast_address":"b","tcp_port":"1","http_port":2,"version":"v"}`, decode)
	body(`null`, fields)
	body(`{}`, fields)
	body(`{"broadcast_address":"","tcp_port":1,"http_port":2,"version":"v"}`, fields)
	body(`{"broadcast_address":"b","http_port":2,"version":"v"}`, fields)
	body(`{"broadcast_address":"b","tcp_port":1,"http_port":0,"version":"v"}`, fields)
	body(`{"broadcast_address":"b","tcp_port":1,"http_port":2}`, fields)
}

// TestShortBody shows what a client is told that ends in the middle of IDENTIFY.
func TestShortBody(t *testing.T) {
	n := start(t)
	f := func(sent, want string) {
		t.Helper()
		c := n.dial()
		c.send("  V1IDENTIFY\n" + sent)
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := c.answer(); got != want {
			t.Errorf("%q: %s, want %s", sent, got, want)
		}
		c.ends()
	}
	f("", "E_BAD_BODY IDENTIFY failed to read body size")
	f("\x00\x00", "E_BAD_BODY IDENTIFY failed to read body size")
	f(sized(9)+"{", "E_BAD_BODY IDENTIFY failed to read body")
}

// TestCommands shows the commands that work, in all their spellings, and what
// they do to the registry.
func TestCommands(t *testing.T) {
	n := start(t)
	c := n.dial()
	c.send("  V1")
	c.do("PING", "OK") // also before IDENTIFY
	c.send("IDENTIFY these are ignored\r\n" + sized(len(goodBody)) + goodBody)
	c.answer()
	c.do("PING again", "OK")
	c.do("REGISTER a x more of it", "OK")
	c.do("REGISTER a x", "OK")
	c.do("  REGISTER b  \r", "OK")
	c.do("REGISTER c  x", "OK") // an empty channel is none
	n.get("/topics", `{"topics":["a","b","c"]}`)
	n.get("/channels?topic=a", `{"channels":["x"]}`)
	n.get("/channels?topic=c", `{"channels":[]}`)
	c.do("UNREGISTER a y", "OK")
	c.do("UNREGISTER unknown", "OK")
	c.do("UNREGISTER unknown x", "OK")
	c.do("UNREGISTER a x", "OK")
	p := fmt.Sprintf(`{"remote_address":%q,"hostname":"","broadcast_address":"b","tcp_port":1,"http_port":2,"version":"v"}`, c.LocalAddr())
	n.get("/lookup?topic=a", `{"channels":["x"],"producers":[`+p+`]}`)
	c.do("UNREGISTER a", "OK")
	n.get("/lookup?topic=a", `{"channels":["x"],"producers":[]}`)
}

// TestAnswersInOrder sends many commands at once, half of one behind them, and
// reads as many answers.
func TestAnswersInOrder(t *testing.T) {
	n := start(t)
	c := n.join("b")
	const count = 2000
	go func() {
		var b strings.Builder
		for i := range count {
			fmt.Fprintf(&b, "REGISTER t%d\n", i)
		}
		c.Write([]byte(b.String() + "PI"))
	}()
	for i := range count {
		if got := c.answer(); got != "OK" {
			t.Fatalf("answer %d: %s", i, got)
		}
	}
	c.do("NG", "OK")
	if _, body := n.call("GET", "/topics"); strings.Count(body, "t") != count+1 {
		t.Errorf("%d topics", strings.Count(body, "t")-1)
	}
}

// TestIdentity shows what of IDENTIFY is kept: the remote address is the
// socket's, whatever it says, and the topology shows where it is set.
func TestIdentity(t *testing.T) {
	n := start(t)
	c := n.dial()
	c.send("  V1" + identify(`{"broadcast_address":"b<","tcp_port":1,"http_port":2,"version":"v","remote_address":"9.9.9.9:9",
		"topology_zone":"z","topology_region":"r","extra":[1]}`))
	c.answer()
	c.do("REGISTER a", "OK")
	p := fmt.Sprintf(`{"remote_address":%q,"hostname":"","broadcast_address":"b\u003c","tcp_port":1,"http_port":2,"version":"v",`+
		`"topology_zone":"z","topology_region":"r"`, c.LocalAddr())
	n.get("/lookup?topic=a", `{"channels":[],"producers":[`+p+`}]}`)
	n.get("/nodes", `{"producers":[`+p+`,"tombstones":[false],"topics":["a"]}]}`)
}

// TestTwoConnections shows that a node that is connected twice is two producers
// until one of them goes.
func TestTwoConnections(t *testing.T) {
	n := start(t)
	a, b := n.join("same"), n.join("same")
	a.do("REGISTER t x", "OK")
	b.do("REGISTER t", "OK")
	list := func(path string) int {
		var reply struct{ Producers []json.RawMessage }
		_, body := n.call("GET", path)
		if err := json.Unmarshal([]byte(body), &reply); err != nil {
			t.Fatal(err)
		}
		return len(reply.Producers)
	}
	if list("/lookup?topic=t") != 2 || list("/nodes") != 2 {
		t.Error("two connections are not two producers")
	}
	a.Close()
	eventually(t, "the first producer goes", func() bool { return list("/nodes") == 1 })
	n.get("/lookup?topic=t", `{"channels":["x"],"producers":[`+producer(b, "same")+`]}`)
}

// TestLog shows the lines that operators look for.
func TestLog(t *testing.T) {
	n := start(t)
	c := n.join("b")
	c.do("REGISTER t x", "OK")
	c.do("UNREGISTER t", "OK")
	c.do("PING", "OK")
	c.do("NO", "E_INVALID invalid command NO")
	c.ends()
	bad := n.dial()
	bad.send("HTTP")
	bad.answer()
	bad.ends()
	n.post("/channel/create?topic=t&channel=y")
	n.post("/topic/tombstone?topic=t&node=b:2")
	n.post("/channel/delete?topic=t&channel=y")
	n.post("/topic/delete?topic=t")
	n.call("GET", "/lookup?topic=t")
	n.Shutdown()
	log, addr := n.logged(), c.LocalAddr().String()
	for _, want := range []string{
		"INFO: nsqlookupd v1.3.0 (built w/go",
		"INFO: TCP: listening on " + n.TCPAddr().String(),
		"INFO: HTTP: listening on " + n.HTTPAddr().String(),
		"INFO: TCP: new client(" + addr + ")",
		"INFO: CLIENT(" + addr + "): desired protocol magic '  V1'",
		"INFO: CLIENT(" + addr + "): IDENTIFY Address:b TCP:1 HTTP:2 Version:v",
		"INFO: DB: client(" + addr + ") REGISTER category:client key: subkey:",
		"INFO: DB: client(" + addr + ") REGISTER category:channel key:t subkey:x",
		"INFO: DB: client(" + addr + ") REGISTER category:topic key:t subkey:",
		"WARNING: client(" + addr + ") unexpected UNREGISTER category:channel key:t subkey:x",
		"INFO: DB: client(" + addr + ") UNREGISTER category:topic key:t subkey:",
		"INFO: CLIENT(" + addr + "): pinged (last ping ",
		"ERROR: [" + addr + "] - E_INVALID invalid command NO",
		"INFO: PROTOCOL(V1): [" + addr + "] exiting ioloop",
		"INFO: DB: client(" + addr + ") UNREGISTER category:client key: subkey:",
		"ERROR: client(" + bad.LocalAddr().String() + ") bad protocol magic 'HTTP'",
		"INFO: DB: adding channel(y) in topic(t)",
		"INFO: DB: adding topic(t)",
		"INFO: DB: setting tombstone for producer@b:2 of topic(t)",
		"INFO: DB: removing channel(y) from topic(t)",
		"INFO: DB: removing topic(t)",
		"INFO: 404 GET /lookup?topic=t (127.0.0.1:",
		"INFO: TCP: closing " + n.TCPAddr().String(),
		"INFO: HTTP: closing " + n.HTTPAddr().String(),
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no line %q", want)
		}
	}
	if !strings.HasPrefix(log, "[nsqlookupd] 20") {
		t.Errorf("the log starts with %.40q", log)
	}
	if t.Failed() {
		t.Log(log)
	}
}

// TestLogLevel shows that lines below the level are not written.
func TestLogLevel(t *testing.T) {
	n := start(t, func(o *lookupd.Options) { o.LogLevel = lookupd.LogError; o.LogPrefix = "p " })
	c := n.dial()
	c.send("  V1NO\n")
	c.answer()
	c.ends()
	n.Shutdown()
	if log := n.logged(); !strings.HasPrefix(log, "p 20") || strings.Count(log, "\n") != 1 || !strings.Contains(log, "ERROR: [") {
		t.Errorf("%q, want one error", log)
	}
}
