package lookup

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// This file is the list of differences between ours and upstream's nsqlookupd:
// each is shown on both. docs/nsqlookupd.md tells people about them.

// both runs a test on ours and on upstream's, each fresh.
func both(t *testing.T, f func(t *testing.T, d *server, isOurs bool), flags ...string) {
	t.Helper()
	t.Run("ours", func(t *testing.T) { f(t, launch(t, ours, flags...), true) })
	t.Run("theirs", func(t *testing.T) { f(t, launch(t, theirs, flags...), false) })
}

// differs fails unless got is what this side should say.
func differs(t *testing.T, isOurs bool, got, ourWant, theirWant string) {
	t.Helper()
	want := theirWant
	if isOurs {
		want = ourWant
	}
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// status is the status and body of one request.
func (d *server) status(method, path string) string {
	d.t.Helper()
	resp, body := d.call(method, path)
	return fmt.Sprint(resp.StatusCode, " ", body)
}

// TestDiffersNegativeLength: fifteen bytes end upstream's process.
func TestDiffersNegativeLength(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		l := d.dial()
		l.send("  V1IDENTIFY\n\xff\xff\xff\xff")
		differs(t, isOurs, l.read(), "E_BAD_BODY IDENTIFY invalid body size -1", closed)
		if isOurs {
			d.get("/ping")
			return
		}
		if err := d.Wait(); fmt.Sprint(err) != "exit status 2" {
			t.Errorf("upstream ends with %v", err)
		}
	})
}

// TestDiffersBodySize: upstream takes any body, up to two gigabytes.
func TestDiffersBodySize(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		l := d.dial()
		const size = 70_000
		// Ours has refused the size before it has all of the body, and may be gone.
		if _, err := io.WriteString(l, "  V1IDENTIFY\n"+sized(size)+goodBody+strings.Repeat(" ", size-len(goodBody))); err != nil && !isOurs {
			t.Fatal(err)
		}
		answer := l.read()
		if !isOurs && strings.HasPrefix(answer, "{") {
			answer = "welcome"
		}
		differs(t, isOurs, answer, "E_BAD_BODY IDENTIFY body too big 70000 > 65536", "welcome")
	})
}

// TestDiffersLineLength: upstream takes any line.
func TestDiffersLineLength(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		l := d.dial()
		l.send("  V1")
		differs(t, isOurs, l.do("PING "+strings.Repeat("x", 3000)), "E_INVALID command line longer than 2048 bytes", "OK")
	})
}

// TestDiffersWildcard: upstream takes a star for every name, unless it checks
// names.
func TestDiffersWildcard(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		d.post("/channel/create?topic=t&channel=x")
		differs(t, isOurs, d.status("GET", "/lookup?topic=*"),
			`404 {"message":"TOPIC_NOT_FOUND"}`, `200 {"channels":["x"],"producers":[]}`)
		differs(t, isOurs, d.status("GET", "/channels?topic=*"), `200 {"channels":[]}`, `200 {"channels":["x"]}`)
		const refused = `400 {"message":"INVALID_ARG_TOPIC"}`
		differs(t, isOurs, d.status("POST", "/topic/tombstone?topic=*&node=b:2"), refused, "200 ")
		differs(t, isOurs, d.status("POST", "/topic/delete?topic=*"), refused, "200 ")
		differs(t, isOurs, d.get("/topics"), `{"topics":["t"]}`, `{"topics":[]}`)
	})
}

// TestDiffersSilentClient: upstream does not end before a client has that has
// not sent its four bytes. Ours does not even keep it.
func TestDiffersSilentClient(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		l := d.dial()
		eventually(t, "the client is accepted", func() bool { return strings.Contains(d.Log.String(), "new client("+l.LocalAddr().String()) })
		if err := d.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if !isOurs {
			eventually(t, "upstream has closed its port", func() bool {
				c, err := net.Dial("tcp", d.TCP)
				if err == nil {
					c.Close()
				}
				return err != nil
			})
			select {
			case <-d.Done():
				t.Errorf("upstream ends with %v although a client is there", d.Wait())
			case <-time.After(100 * time.Millisecond):
			}
			l.Close()
		}
		if err := d.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	})
}

// TestDiffersSilence: ours closes what does not get on, upstream keeps it.
func TestDiffersSilence(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		if isOurs {
			d.Kill()
			d.Flags = append(d.Flags, "--reap-timeout=50ms")
			d.move()
		}
		for _, text := range []string{"", "  V1", "  V1PI"} {
			l := d.dial()
			l.send(text)
			if isOurs {
				differs(t, true, l.read(), closed, "")
			} else if !l.isOpen(300 * time.Millisecond) {
				t.Errorf("%q: upstream has closed", text)
			}
		}
	})
}

// TestDiffersEphemeral: upstream forgets ephemeral topics and channels only when
// their last producer says UNREGISTER, and then keeps the channels of an
// ephemeral topic, and the ephemeral channels of a topic.
func TestDiffersEphemeral(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		l := d.join("b")
		l.do("REGISTER e#ephemeral x")
		l.do("REGISTER t y#ephemeral")
		l.do("UNREGISTER e#ephemeral")
		l.do("UNREGISTER t")
		differs(t, isOurs, d.get("/channels?topic=e%23ephemeral"), `{"channels":[]}`, `{"channels":["x"]}`)
		differs(t, isOurs, d.get("/channels?topic=t"), `{"channels":[]}`, `{"channels":["y#ephemeral"]}`)
		d.post("/topic/delete?topic=t")

		l.do("REGISTER f#ephemeral x#ephemeral")
		l.Close()
		eventually(t, "the producer goes", func() bool { return d.get("/nodes") == `{"producers":[]}` })
		differs(t, isOurs, d.get("/topics"), `{"topics":[]}`, `{"topics":["f#ephemeral"]}`)
		differs(t, isOurs, d.get("/channels?topic=f%23ephemeral"), `{"channels":[]}`, `{"channels":["x#ephemeral"]}`)
	})
}

// TestDiffersIPv6Tombstone: what nsqadmin sends for an IPv6 node matches none of
// upstream's.
func TestDiffersIPv6Tombstone(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		l := d.join("::1")
		l.do("REGISTER t")
		shown := func() string { return fmt.Sprint(strings.Count(d.get("/lookup?topic=t"), "remote_address")) }
		d.post("/topic/tombstone?topic=t&node=[::1]:2")
		differs(t, isOurs, shown(), "0", "1")
		l.do("UNREGISTER t")
		l.do("REGISTER t")
		d.post("/topic/tombstone?topic=t&node=::1:2")
		differs(t, isOurs, shown(), "0", "0")
	})
}

// TestDiffersTopology: ours shows zone and region where they are set; 1.3.0 does
// not know them, its successor always shows them.
func TestDiffersTopology(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		l := d.dial()
		l.send("  V1" + identify(strings.TrimSuffix(goodBody, "}")+`,"topology_zone":"z","topology_region":"r"}`))
		l.read()
		differs(t, isOurs, fmt.Sprint(strings.Contains(d.get("/nodes"), `"version":"v","topology_zone":"z","topology_region":"r"`)), "true", "false")
	})
}

// TestDiffersMetrics: there are figures for Prometheus.
func TestDiffersMetrics(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		resp, _ := d.call("GET", "/metrics")
		differs(t, isOurs, fmt.Sprint(resp.StatusCode), "200", "404")
	})
}

// TestDiffersLog: a client that closes is no error, and what a client is told is
// logged once.
func TestDiffersLog(t *testing.T) {
	both(t, func(t *testing.T, d *server, isOurs bool) {
		l := d.join("b")
		name := l.LocalAddr().String()
		l.Close()
		line := func() string {
			for s := range strings.Lines(d.Log.String()) {
				if strings.Contains(s, "client("+name+") - EOF") {
					return strings.Fields(s)[3]
				}
			}
			return ""
		}
		eventually(t, "the end is logged", func() bool { return line() != "" })
		differs(t, isOurs, line(), "INFO:", "ERROR:")

		bad := d.join("b")
		const told = "E_INVALID invalid command NO"
		if got := bad.do("NO"); got != told || bad.read() != closed {
			t.Errorf("%s, want %s and the end", got, told)
		}
		bad.Close()
		eventually(t, "the producer has gone", func() bool { return d.get("/nodes") == `{"producers":[]}` })
		if err := d.Signal(t, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		differs(t, isOurs, fmt.Sprint(strings.Count(d.Log.String(), told)), "1", "2")
	})
}

// TestDiffersBusyPort: the error that ends the process is readable.
func TestDiffersBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i, program := range []daemon.Program{ours, theirs} {
		cmd := exec.Command(program.Path(t), "--http-address=127.0.0.1:0", "--tcp-address="+l.Addr().String())
		out, err := cmd.CombinedOutput()
		if fmt.Sprint(err) != "exit status 1" {
			t.Errorf("%v, want exit status 1", err)
		}
		cause := fmt.Sprintf("listen (%s) failed - listen tcp %[1]s: bind: address already in use", l.Addr())
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		_, last, _ := strings.Cut(lines[len(lines)-1], "FATAL: ")
		differs(t, i == 0, last, "failed to instantiate nsqlookupd - "+cause, "failed to instantiate nsqlookupd%!(EXTRA *errors.errorString="+cause+")")
	}
}
