package lookup

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// A pair is ours and upstream's, to which everything is done alike.
type pair struct {
	t     *testing.T
	sides [2]*server // ours, theirs
	links map[string][2]*link
	names [2]*strings.Replacer // remote addresses and ports to names
	known [2][]string
}

func startPair(t *testing.T, flags ...string) *pair {
	t.Helper()
	p := &pair{t: t, links: map[string][2]*link{}}
	for i, program := range []daemon.Program{ours, theirs} {
		p.sides[i] = launch(t, program, flags...)
		for name, addr := range map[string]string{"TCP": p.sides[i].TCP, "HTTP": p.sides[i].HTTP} {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				t.Fatal(err)
			}
			p.know(i, ":"+port, ":"+name) // a bare number may stand in any time
		}
	}
	return p
}

// know makes text one word in both transcripts. An address that the system gives a
// second time has the newer name.
func (p *pair) know(side int, text, name string) {
	p.known[side] = append([]string{text, name}, p.known[side]...)
	p.names[side] = strings.NewReplacer(p.known[side]...)
}

// same fails when the two sides differ, once their own addresses are out.
func (p *pair) same(what string, got [2]string) {
	p.t.Helper()
	a, b := p.names[0].Replace(got[0]), p.names[1].Replace(got[1])
	if a != b {
		p.t.Errorf("%s\nours:   %s\ntheirs: %s", what, a, b)
	}
}

// link connects both under a name.
func (p *pair) link(name string) {
	p.t.Helper()
	var l [2]*link
	for i, d := range p.sides {
		l[i] = d.dial()
		p.know(i, l[i].LocalAddr().String(), name)
	}
	p.links[name] = l
}

// say sends bytes and compares the answers, or that there are none.
func (p *pair) say(name, bytes string) (answer string) {
	p.t.Helper()
	var got [2]string
	for i, l := range p.links[name] {
		l.send(bytes)
		got[i] = l.read()
	}
	p.same(fmt.Sprintf("%s says %q", name, bytes), got)
	return got[0]
}

// join makes a link with a name that is a producer.
func (p *pair) join(name, host string) {
	p.t.Helper()
	p.link(name)
	p.say(name, "  V1"+identify(fmt.Sprintf(`{"broadcast_address":%q,"tcp_port":1,"http_port":2,"version":"v","hostname":"h<"}`, host)))
}

// leave closes a link and waits until its producer has gone.
func (p *pair) leave(name string) {
	p.t.Helper()
	for i, l := range p.links[name] {
		addr := l.LocalAddr().String()
		l.Close()
		d := p.sides[i]
		eventually(p.t, name+" goes", func() bool { return !strings.Contains(d.get("/debug"), addr) })
	}
	delete(p.links, name)
}

// ask makes a request and compares status, headers and body. Order in lists of
// JSON does not count, upstream's is random.
func (p *pair) ask(method, path string) {
	p.t.Helper()
	var got [2]string
	for i, d := range p.sides {
		resp, body := d.call(method, path)
		got[i] = fmt.Sprintf("%d %q %s", resp.StatusCode, []string{
			resp.Header.Get("Content-Type"), resp.Header.Get("X-NSQ-Content-Type"),
			resp.Header.Get("Allow"), resp.Header.Get("Location"),
		}, p.sorted(i, body))
	}
	p.same(method+" "+path, got)
}

var times = regexp.MustCompile(`"(last_update|tombstoned_at)":\d+`)

// sorted returns JSON with the addresses named, times left out and its lists
// sorted, and everything else as it is.
func (p *pair) sorted(side int, body string) string {
	// Times first: a port may be the first digits of one.
	body = p.names[side].Replace(times.ReplaceAllString(body, `"$1":TIME`))
	var v any
	if json.Unmarshal([]byte(strings.ReplaceAll(body, "TIME", "1")), &v) != nil || body == "" {
		return body
	}
	b, err := json.Marshal(sortLists(v))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// sortLists sorts every list in v by its text. Topics and tombstones of a node
// go together and become one list.
func sortLists(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if topics, ok := v["topics"].([]any); ok {
			if stones, ok := v["tombstones"].([]any); ok && len(topics) == len(stones) {
				for i := range topics {
					topics[i] = fmt.Sprint(topics[i], stones[i])
				}
				delete(v, "tombstones")
			}
		}
		for k := range v {
			v[k] = sortLists(v[k])
		}
	case []any:
		for i := range v {
			v[i] = sortLists(v[i])
		}
		slices.SortFunc(v, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
	return v
}

// look compares everything that can be read of the registrations.
func (p *pair) look(topics ...string) {
	p.t.Helper()
	p.ask("GET", "/topics")
	p.ask("GET", "/nodes")
	p.ask("GET", "/debug")
	for _, topic := range topics {
		p.ask("GET", "/lookup?topic="+topic)
		p.ask("GET", "/channels?topic="+topic)
	}
}

const goodBody = `{"broadcast_address":"b","tcp_port":1,"http_port":2,"version":"v"}`

// TestSameProtocol compares the answers to each command, right and wrong.
func TestSameProtocol(t *testing.T) {
	p := startPair(t)
	n := 0
	// f says lines on a new link; the last one may end it, on both sides alike.
	f := func(lines ...string) {
		t.Helper()
		n++
		name := fmt.Sprint("link", n)
		p.link(name)
		for _, line := range lines {
			if answer := p.say(name, line); strings.HasPrefix(answer, "E_") {
				var got [2]string
				for i, l := range p.links[name] {
					got[i] = l.read()
				}
				p.same(fmt.Sprintf("the end of %q", lines), got)
				return
			}
		}
		p.leave(name)
	}
	f("  V2")
	f("GET / HTTP/1.1\r\n\r\n")
	f("  V1PING\n", "PING and more\r\n", "HELLO there\n")
	f("  V1\n")
	f("  V1 \t \n")
	f("  V1ping\n")
	f("  V1IDENTIFY\n\x00\x00\x00\x00")
	in := "  V1" + identify(goodBody)
	for _, body := range []string{
		`{`, `[]`, `null`, `7`, `{}`, `"x"`,
		`{"broadcast_address":"","tcp_port":1,"http_port":2,"version":"v"}`,
		`{"broadcast_address":"b","http_port":2,"version":"v"}`,
		`{"broadcast_address":"b","tcp_port":1,"version":"v"}`,
		`{"broadcast_address":"b","tcp_port":1,"http_port":2}`,
		`{"broadcast_address":"b","tcp_port":"1","http_port":2,"version":"v"}`,
		`{"broadcast_address":"b","tcp_port":1.5,"http_port":2,"version":"v"}`,
		`{"broadcast_address":7,"tcp_port":1,"http_port":2,"version":"v"}`,
		`{"broadcast_address":"b","tcp_port":-1,"http_port":2,"version":"v","remote_address":"x:1","more":[{}]}`,
		`{"Broadcast_Address":"b","TCP_PORT":1,"http_port":2,"version":"v"}`,
		goodBody + "x",
	} {
		f("  V1"+identify(body), "REGISTER t x\n")
	}
	f("  V1REGISTER t\n")
	f("  V1UNREGISTER t\n")
	f("  V1REGISTER\n")
	f(in, "IDENTIFY\n")
	f(in, "REGISTER\n")
	f(in, "REGISTER \n")
	f(in, "UNREGISTER\n")
	for _, verb := range []string{"REGISTER", "UNREGISTER"} {
		long := strings.Repeat("n", 64)
		f(in, verb+" t\n", verb+" t x\n", verb+" t x more\r\n", "  "+verb+" t  \n", verb+" t  x\n", verb+" a.b-C_9 "+long+"\n")
		for _, bad := range []string{" ", " t*", " *", " #ephemeral", " " + long + "n", " t#other", " t\x00", " \xff", " t x*", " t *", " t #ephemeral", " t " + long + "n", "\tt"} {
			f(in, verb+bad+"\n")
		}
	}
	f(in, "REGISTER e#ephemeral x#ephemeral\n", "REGISTER t y#ephemeral\n",
		"UNREGISTER t y#ephemeral\n", "UNREGISTER e#ephemeral x#ephemeral\n", "UNREGISTER e#ephemeral\n")
	p.look("t", "a.b-C_9", "e%23ephemeral")
}

// TestSameEnds compares what a client is told that ends in the middle.
func TestSameEnds(t *testing.T) {
	p := startPair(t)
	for i, text := range []string{"", "  V", "  V1", "  V1PI", "  V1IDENTIFY\n", "  V1IDENTIFY\n\x00\x00", "  V1IDENTIFY\n\x00\x00\x00\x09{"} {
		name := fmt.Sprint("link", i)
		p.link(name)
		var got [2]string
		for i, l := range p.links[name] {
			l.send(text)
			if err := l.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got[i] = l.read()
		}
		p.same(fmt.Sprintf("%q and the end", text), got)
	}
}

// TestSameHTTP compares what does not depend on registrations.
func TestSameHTTP(t *testing.T) {
	p := startPair(t)
	for _, path := range []string{
		"/ping", "/info", "/topics", "/channels", "/lookup", "/nodes", "/debug",
		"/topic/create", "/topic/delete", "/topic/tombstone", "/channel/create", "/channel/delete",
		"/", "/unknown", "/topic", "/debug/pprof/symbol", "/debug/setblockrate", "/config/log_level",
	} {
		for _, method := range []string{"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"} {
			p.ask(method, path)
			p.ask(method, path+"/")
			p.ask(method, "/"+path)
			p.ask(method, strings.ToUpper(path)+"?topic=t")
		}
		p.ask("GET", path+"?topic=%zz")
		p.ask("POST", path+"?topic=a;b")
	}
	for _, path := range []string{"/debug/pprof", "/debug/pprof/cmdline", "/debug/pprof/heap", "/debug/pprof/goroutine", "/debug/pprof/block", "/debug/pprof/threadcreate"} {
		var got [2]string
		for i, d := range p.sides {
			resp, _ := d.call("GET", path)
			got[i] = fmt.Sprint(resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		p.same("GET "+path, got)
	}
	// Parameters: names right and wrong, twice, missing, empty.
	for _, query := range []string{
		"", "topic=", "topic=t", "topic=t&topic=u", "topic=t%20t", "topic=" + strings.Repeat("n", 65), "topic=e%23ephemeral", "channel=x",
		"topic=t&channel=", "topic=t&channel=x", "topic=t&channel=x%23ephemeral", "topic=t&channel=*", "topic=u&channel=none",
		"topic=t&node=", "topic=t&node=b:2", "node=b:2", "topic=none&node=b:2",
	} {
		for _, path := range []string{"/channel/create", "/topic/create", "/topic/tombstone", "/channels", "/lookup", "/channel/delete", "/topic/delete"} {
			method := "POST"
			if path == "/channels" || path == "/lookup" {
				method = "GET"
			}
			p.ask(method, path+"?"+query)
			p.look("t", "e%23ephemeral")
		}
	}
}

// TestSameRegistrations does random things to both and looks at everything. Left
// out is what differs on purpose: see differences_test.go.
func TestSameRegistrations(t *testing.T) {
	// No tombstone or silence ends on one side before it does on the other.
	p := startPair(t, "--tombstone-lifetime=1h", "--inactive-producer-timeout=1h")
	topics, channels := []string{"a", "b", "c"}, []string{"x", "y", "z#ephemeral"}
	escape := strings.NewReplacer("#", "%23")
	rnd := rand.New(rand.NewPCG(1, 2))
	var names []string
	for step := range 300 {
		topic, channel := topics[rnd.IntN(3)], channels[rnd.IntN(3)]
		both := fmt.Sprintf("?topic=%s&channel=%s", topic, escape.Replace(channel))
		if len(names) < 2 || rnd.IntN(12) == 0 && len(names) < 4 {
			names = append(names, fmt.Sprint("p", step))
			p.join(names[len(names)-1], fmt.Sprint("host", step%3))
		}
		i := rnd.IntN(len(names))
		name := names[i]
		switch n := rnd.IntN(20); {
		case n < 7:
			p.say(name, "REGISTER "+topic+" "+channel+"\n")
		case n < 9:
			p.say(name, "REGISTER "+topic+"\n")
		case n < 12:
			p.say(name, "UNREGISTER "+topic+" "+channel+"\n")
		case n < 13:
			p.say(name, "UNREGISTER "+topic+" z#ephemeral\n")
			p.say(name, "UNREGISTER "+topic+"\n")
		case n < 14:
			p.say(name, "PING\n")
		case n < 15:
			p.ask("POST", "/topic/create?topic="+topic)
		case n < 16:
			p.ask("POST", "/channel/create"+both)
		case n < 17:
			p.ask("POST", "/channel/delete"+both)
		case n < 18:
			p.ask("POST", "/topic/delete?topic="+topic)
		case n < 19:
			p.ask("POST", fmt.Sprintf("/topic/tombstone?topic=%s&node=host%d:2", topic, rnd.IntN(3)))
		default:
			for _, topic := range topics { // or the ephemeral channels would differ
				p.say(name, "UNREGISTER "+topic+" z#ephemeral\n")
			}
			p.leave(name)
			names = slices.Delete(names, i, i+1)
		}
		p.look(topics...)
		if t.Failed() {
			t.Fatalf("step %d", step)
		}
	}
}

// TestSameTimes compares producers that are hidden for a while.
func TestSameTimes(t *testing.T) {
	p := startPair(t, "--inactive-producer-timeout=300ms", "--tombstone-lifetime=10m")
	p.join("a", "host")
	p.say("a", "REGISTER t x\n")
	for _, d := range p.sides {
		eventually(t, "the producer is hidden", func() bool {
			return !strings.Contains(d.get("/lookup?topic=t")+d.get("/nodes"), "host")
		})
	}
	p.look("t")
	p.say("a", "REGISTER t y\n") // does not count as a sign of life
	for _, d := range p.sides {
		if strings.Contains(d.get("/lookup?topic=t"), "host") {
			t.Error("REGISTER shows a hidden producer")
		}
	}
	for _, d := range p.sides {
		// Again and again, for it does not last long.
		eventually(t, "PING shows a hidden producer", func() bool {
			p.say("a", "PING\n")
			return strings.Contains(d.get("/lookup?topic=t"), "host")
		})
	}
}

// TestSameProcess compares command lines: exit status, what is on stdout, and
// the first line on stderr.
func TestSameProcess(t *testing.T) {
	config := func(text string) string {
		path := filepath.Join(t.TempDir(), "cfg")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--config=" + path
	}
	stamp := regexp.MustCompile(`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6}`)
	f := func(args ...string) {
		t.Helper()
		var got [2]string
		for i, program := range []daemon.Program{ours, theirs} {
			cmd := exec.Command(program.Path(t), args...)
			var out, errOut strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errOut
			err := cmd.Run()
			first := func(s string) string {
				line, _, _ := strings.Cut(s, "\n")
				return stamp.ReplaceAllString(line, "TIME")
			}
			got[i] = fmt.Sprintf("%v\n%s\n%s", err, first(out.String()), first(errOut.String()))
		}
		if got[0] != got[1] {
			t.Errorf("%q\nours:   %s\ntheirs: %s", args, got[0], got[1])
		}
	}
	f("--version")
	f("--version", "--config=none.cfg")
	f("--bogus")
	f("--tombstone-lifetime=45")
	f("--config=none.cfg")
	f(config(`log_level = "loud"`))
	f(config(`log_level = "warning"`))
	f("-version")

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		p := startPair(t, config("tombstone_lifetime = 1500\ninactive_producer_timeout = \"2m\"\nunknown = 1\n"))
		p.join("a", "host")
		p.same(fmt.Sprint(sig), [2]string{fmt.Sprint(p.sides[0].Signal(t, sig)), fmt.Sprint(p.sides[1].Signal(t, sig))})
	}
}

var (
	logTime     = regexp.MustCompile(`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6}`)
	logDuration = regexp.MustCompile(`\b[0-9.]+(ns|µs|ms|s)\b`)
	logRemote   = regexp.MustCompile(`\(127\.0\.0\.1:\d+\) DURATION`)
)

// TestSameLog compares the log of a day: the lines, not their order, for several
// goroutines write them. Two things differ on purpose: see TestDiffersLog.
func TestSameLog(t *testing.T) {
	p := startPair(t)
	p.join("a", "host")
	for _, line := range []string{
		"REGISTER t x", "REGISTER t x", "REGISTER t", "REGISTER u y", "REGISTER e#ephemeral z", "UNREGISTER t x", "UNREGISTER t x",
		"UNREGISTER u", "UNREGISTER e#ephemeral", "PING",
	} {
		p.say("a", line+"\n")
	}
	p.link("bad")
	p.say("bad", "HTTP")
	for i, last := range []string{"NO\n", "REGISTER\n", "REGISTER t *\n", identify("{"), identify("{}")} {
		name := fmt.Sprint("wrong", i)
		p.link(name)
		before := "  V1"
		if last[0] != 'I' {
			before += identify(goodBody)
			p.say(name, before)
			before = ""
		}
		p.say(name, before+last)
	}
	for _, path := range []string{
		"/topic/create?topic=v", "/topic/create?topic=*", "/channel/create?topic=v&channel=x", "/channel/delete?topic=v&channel=x",
		"/channel/delete?topic=v&channel=x", "/topic/tombstone?topic=t&node=host:2", "/topic/delete?topic=v", "/topic/delete?topic=v",
	} {
		p.ask("POST", path)
	}
	p.ask("GET", "/lookup?topic=t")
	p.leave("a")
	var got [2]string
	for i, d := range p.sides {
		if err := d.Signal(t, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(d.Log.String()) {
			line = logTime.ReplaceAllString(line, "TIME")
			// Before the names: one of HTTP's ports may be a link's as well.
			line = logRemote.ReplaceAllString(logDuration.ReplaceAllString(line, "DURATION"), "(REMOTE) DURATION")
			line = p.names[i].Replace(line)
			// How often eventually had to ask does not matter.
			if strings.Contains(line, "/ping") || strings.Contains(line, "/debug") ||
				strings.Contains(line, ") - E") || strings.Contains(line, "closed network connection") || strings.Contains(line, "closing") {
				continue
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		got[i] = strings.Join(lines, "")
	}
	if got[0] != got[1] {
		t.Errorf("ours:\n%s\ntheirs:\n%s", got[0], got[1])
	}
}
