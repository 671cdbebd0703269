package differential

import (
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// An admin is upstream's nsqadmin before one broker.
type admin struct {
	t    *testing.T
	b    *broker
	addr string
}

func newAdmin(t *testing.T, b *broker, flags ...string) *admin {
	t.Helper()
	a := &admin{t: t, b: b, addr: daemon.FreeAddr(t)}
	log := new(daemon.Log)
	flags = append(flags, "--http-address="+a.addr, "--http-client-connect-timeout=2m", "--http-client-request-timeout=2m")
	cmd := exec.Command(daemon.Upstream("nsqadmin").Path(t), flags...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it says that it was killed
		if t.Failed() {
			t.Logf("nsqadmin's log:\n%s", log.Tail(8<<10))
		}
	})
	daemon.Eventually(t, patience, "nsqadmin answers", func() bool { return daemon.Pings(&daemon.Daemon{HTTP: a.addr}) })
	return a
}

// adminMasks hide what two nsqadmins cannot say alike of two brokers.
var adminMasks = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDR"},
	{regexp.MustCompile(`"(tcp_port|http_port|connect_ts|connected|timestamp|gc_\w+|heap_\w+|next_gc_bytes)":\d+`), `"$1":0`},
	{regexp.MustCompile(`"(start_time|client_id|hostname)":"?[^,"]*"?`), `"$1":""`},
}

// ask plays "METHOD /path [body]" and returns the answer; NODE stands for the
// broker's HTTP address. With "until RE" in front it asks until the answer matches.
func (a *admin) ask(step string) (answer string) {
	a.t.Helper()
	if rest, ok := strings.CutPrefix(step, "until "); ok {
		re, step, _ := strings.Cut(rest, " ")
		daemon.Eventually(a.t, patience, step+" says "+re, func() bool {
			answer = a.ask(step)
			return regexp.MustCompile(re).MatchString(answer)
		})
		return answer
	}
	method, rest, _ := strings.Cut(strings.ReplaceAll(step, "NODE", a.b.HTTP), " ")
	path, body, _ := strings.Cut(rest, " ")
	req, err := http.NewRequest(method, "http://"+a.addr+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	answer = resp.Status + " " + (&masks{a.b}).apply(string(text))
	for _, m := range adminMasks {
		answer = m.re.ReplaceAllString(answer, m.to)
	}
	return answer
}

// TestSameAdmin has upstream's nsqadmin show and change both brokers, found
// directly and through nsqlookupd, and compares what it says and what comes of it.
func TestSameAdmin(t *testing.T) {
	const stats = "GET /stats?format=json&include_mem=false"
	for _, how := range []string{"direct", "lookup"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			var both [2]*admin
			var players [2]*player
			for i, program := range sides {
				var b *broker
				if how == "direct" {
					b = newBroker(t, program, []string{"--broadcast-address=127.0.0.1"})
					both[i] = newAdmin(t, b, "--nsqd-http-address="+b.HTTP)
				} else {
					l := daemon.Start(t, daemon.Config{Program: daemon.UpstreamNsqlookupd})
					b = newBroker(t, program, []string{"--broadcast-address=127.0.0.1", "--lookupd-tcp-address=" + l.TCP})
					both[i] = newAdmin(t, b, "--lookupd-http-address="+l.HTTP)
				}
				players[i] = newPlayer(t, b, &testCase{topic: "t"})
			}
			for _, step := range []string{
				"GET /api/topics",
				"GET /api/nodes",
				`POST /api/topics {"topic":"t","channel":"c"}`,
				`POST /api/topics {"topic":"t"}`,
				`POST /api/topics {"topic":"a:b"}`,
				"=POST /topic/create?topic=t",
				"=POST /channel/create?topic=t&channel=c",
				"=POST /channel/create?topic=t&channel=d",
				"=POST /topic/create?topic=idle",
				"=POST /mpub?topic=t | a\\nb\\nc",
				`=a> IDENTIFY\n[52]{"user_agent":"ua/1","client_id":"x","hostname":"y"}SUB t c\nRDY 1\n`,
				"=a< 3",
				"=a> FIN {m1}\\n",
				"=a< 1",
				`=until "message_count":3.*"message_count":3.*"message_count":3 ` + stats,
				`until "idle" GET /api/topics`,
				"GET /api/topics?inactive=true",
				`until "channel_name":"c".*"channel_name":"d" GET /api/topics/t`,
				"GET /api/topics/t/c",
				"GET /api/topics/t/d",
				"GET /api/topics/t/none",
				"GET /api/topics/none",
				"GET /api/nodes",
				"GET /api/nodes/NODE",
				"GET /api/counter",
				`POST /api/topics/t {"action":"pause"}`,
				`POST /api/topics/t/c {"action":"pause"}`,
				"GET /api/topics/t",
				"GET /api/topics/t/c",
				`POST /api/topics/t {"action":"unpause"}`,
				`POST /api/topics/t/c {"action":"unpause"}`,
				`POST /api/topics/t {"action":"empty"}`,
				`POST /api/topics/t/d {"action":"empty"}`,
				`POST /api/topics/t {"action":"bogus"}`,
				`POST /api/topics/none {"action":"pause"}`,
				`POST /api/topics/t/none {"action":"empty"}`,
				"=" + stats,
				"GET /api/topics/t/d",
				"DELETE /api/topics/t/d",
				"DELETE /api/topics/t/none",
				"GET /api/topics/t",
				`DELETE /api/nodes/NODE {"topic":"t"}`,
				"=a.",
				`until "topics":\[\{"topic":"idle","tombstoned":false\}\] GET /api/nodes`,
				"=" + stats,
				"DELETE /api/topics/t",
				"DELETE /api/topics/idle",
				"=" + stats,
			} {
				var got [2]string
				onBroker, isBroker := strings.CutPrefix(step, "=")
				began := time.Now()
				for end := began.Add(patience); ; {
					for i := range sides {
						if isBroker {
							got[i] = players[i].answer(onBroker)
						} else {
							got[i] = both[i].ask(step)
						}
					}
					// nsqlookupd hears of changes a moment later, at its own time for each.
					if got[0] == got[1] || !waits(onBroker) && !strings.HasPrefix(step, "GET /api/") || time.Now().After(end) {
						break
					}
				}
				switch {
				case got[0] != got[1]:
					t.Errorf("%s\nupstream: %s\nzsq:      %s\n%s", step, got[1], got[0], where(got[1], got[0]))
				case strings.Contains(got[0], broken):
					t.Errorf("%s\n%s", step, got[0])
				case testing.Verbose():
					t.Logf("%s\n%s", step, got[0])
				}
				if t.Failed() && time.Since(began) > patience/2 { // or go test ends before it tells of this
					t.Fatal("the rest is not asked: it may wait as long")
				}
			}
		})
	}
}
