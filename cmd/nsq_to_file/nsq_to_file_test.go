//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
	"github.com/zsqio/zsq/internal/tool/tooltest"
)

// asTool makes a process of this test binary the tool itself.
const asTool = "ZSQ_TEST_RUN_AS_TOOL"

func TestMain(m *testing.M) {
	if os.Getenv(asTool) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestUsage shows what each wrong command line is answered with.
func TestUsage(t *testing.T) {
	line := func(want string, args ...string) {
		t.Helper()
		tooltest.ExpectLine(t, tool.ExitError, want, "nsq_to_file", run, args...)
	}
	line("unknown arguments: [a b]", "a", "b")
	line("--log-level is invalid", "--log-level=loud", "--version")
	line("--channel is required", "--channel=")
	line("--http-client-connect-timeout should be positive", "--http-client-connect-timeout=0")
	line("--http-client-request-timeout should be positive", "--http-client-request-timeout=-1s")
	line("--nsqd-tcp-address or --lookupd-http-address required.")
	line("use --nsqd-tcp-address or --lookupd-http-address not both", "--nsqd-tcp-address=a", "--lookupd-http-address=a")
	line("invalid --gzip-level value (10), should be 1-9", "--nsqd-tcp-address=a", "--gzip-level=10")
	line("--topic or --topic-pattern required", "--nsqd-tcp-address=a")
	line("--lookupd-http-address must be specified when no --topic specified", "--nsqd-tcp-address=a", "--topic-pattern=x")
	line("--max-in-flight should be positive", "--nsqd-tcp-address=a", "--topic=t", "--max-in-flight=0")
	line("--sync-interval should be positive", "--nsqd-tcp-address=a", "--topic=t", "--sync-interval=-1s")
	line("--topic-refresh should be positive", "--nsqd-tcp-address=a", "--topic=t", "--topic-refresh=0")
	line("invalid --topic-pattern - error parsing regexp: missing closing ): `(`", "--nsqd-tcp-address=a", "--topic=t", "--topic-pattern=(")
	tooltest.Expect(t, tool.ExitUsage, "nsq_to_file", run, "", "--consumer-opt=bogus,1") // upstream ignores it
	tooltest.Expect(t, tool.ExitOK, "nsq_to_file", run, "", "--help")
	if out, _ := tooltest.Expect(t, tool.ExitOK, "nsq_to_file", run, "", "--version"); out != "nsq_to_file v1.3.0\n" {
		t.Errorf("%q", out)
	}
	_, stderr := tooltest.Expect(t, tool.ExitError, "nsq_to_file", run, "", "--nsqd-tcp-address=127.0.0.1:1", "--topic=t", "--gzip", "--filename-format=x")
	if want := "FATAL: missing <REV> in --filename-format when gzip, rotation, or work dir enabled\n"; !strings.HasSuffix(stderr, want) {
		t.Errorf("%q, want %q", stderr, want) // upstream logs it and waits for ever
	}
	_, stderr = tooltest.Expect(t, tool.ExitError, "nsq_to_file", run, "", "--nsqd-tcp-address=127.0.0.1:1", "--topic=t")
	if !strings.HasSuffix(stderr, " FATAL: dial tcp 127.0.0.1:1: connect: connection refused\n") {
		t.Errorf("%q", stderr)
	}
}

// text returns the lines of all files under dir, by file name.
func text(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		text, err := readFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatalf("%s: %v", e.Name(), err)
		}
		b.WriteString(text)
	}
	return b.String()
}

// TestHangUpAndStop runs the tool, has it reopen its file and stops it.
func TestHangUpAndStop(t *testing.T) {
	for _, flags := range [][]string{{"--gzip"}, {"--work-dir=WORK"}, {"--rotate-size=20"}} {
		t.Run(flags[0], func(t *testing.T) {
			b, dir := tooltest.StartBroker(t), t.TempDir()
			out := filepath.Join(dir, "out")
			// Without the hour in their names, files are in order whenever this runs.
			args := []string{"--topic=t", "--nsqd-tcp-address=" + b.TCP, "--output-dir=" + out, "--datetime-format=end"}
			for _, f := range flags {
				args = append(args, strings.ReplaceAll(f, "WORK", filepath.Join(dir, "work")))
			}
			r := tooltest.Start(t, "nsq_to_file", run, nil, args...)
			b.Settles(t, "t", "nsq_to_file", "the tool is there", tooltest.HasClients(1))
			b.Publish(t, "t", "one", "two")
			tooltest.Eventually(t, "HUP puts the lines there", func() bool {
				r.Signal(syscall.SIGHUP)
				return text(t, out) == "one\ntwo\n"
			})
			b.Settles(t, "t", "nsq_to_file", "finished", tooltest.Finished(2))
			b.Publish(t, "t", "three")
			b.Settles(t, "t", "nsq_to_file", "in the tool", func(ch tool.ChannelStats) bool { return ch.MessageCount == 3 && ch.Depth == 0 })
			r.Signal(syscall.SIGTERM)
			if code := r.Wait(t); code != tool.ExitOK {
				t.Errorf("code %d", code)
			}
			if got := text(t, out); got != "one\ntwo\nthree\n" {
				t.Errorf("wrote %q", got)
			}
			b.Settles(t, "t", "nsq_to_file", "finished", tooltest.Finished(3))
		})
	}
}

// TestManyAttempts shows that a message is written however often it was held by
// somebody else before.
func TestManyAttempts(t *testing.T) {
	b, out := tooltest.StartBroker(t), t.TempDir()
	b.Create(t, "t", "nsq_to_file")
	b.Publish(t, "t", "line")
	config := nsq.NewConfig()
	config.MaxAttempts = 0
	config.DialTimeout, config.WriteTimeout = tooltest.Patience, tooltest.Patience
	c, err := nsq.NewConsumer("t", "nsq_to_file", config)
	if err != nil {
		t.Fatal(err)
	}
	c.SetLoggerLevel(nsq.LogLevelError)
	tenth := make(chan struct{})
	c.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error {
		if m.Attempts == 10 {
			c.ChangeMaxInFlight(0)
			close(tenth)
		}
		m.RequeueWithoutBackoff(0)
		return nil
	}))
	if err := c.ConnectToNSQD(b.TCP); err != nil {
		t.Fatal(err)
	}
	<-tenth
	tool.StopConsumers([]*nsq.Consumer{c})
	r := tooltest.Start(t, "nsq_to_file", run, nil, "--topic=t", "--nsqd-tcp-address="+b.TCP, "--output-dir="+out, "--sync-interval=5ms")
	tooltest.Eventually(t, "the line is in a file", func() bool { return text(t, out) == "line\n" })
	b.Settles(t, "t", "nsq_to_file", "finished", func(ch tool.ChannelStats) bool {
		return ch.Depth == 0 && ch.InFlightCount == 0 && ch.DeferredCount == 0
	})
	r.Signal(syscall.SIGTERM)
	r.Wait(t)
	if got := text(t, out); got != "line\n" {
		t.Errorf("wrote %q", got)
	}
}

// TestUnwritable shows that a directory that cannot be written ends the tool and
// loses nothing.
func TestUnwritable(t *testing.T) {
	b, dir := tooltest.StartBroker(t), t.TempDir()
	b.Create(t, "t", "nsq_to_file")
	b.Publish(t, "t", "one", "two")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr := tooltest.Expect(t, tool.ExitError, "nsq_to_file", run, "", "--topic=t", "--nsqd-tcp-address="+b.TCP, "--output-dir="+file)
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "[nsq_to_file] ") || !strings.Contains(last, " FATAL: ") || !strings.Contains(last, file) {
		t.Errorf("the last line is %q", last)
	}
	b.Settles(t, "t", "nsq_to_file", "both are back", func(ch tool.ChannelStats) bool { return ch.Depth == 2 && ch.InFlightCount == 0 })
}

// TestDiscovery shows that topics that match the pattern are found, also later,
// and that a failing nsqlookupd does no harm.
func TestDiscovery(t *testing.T) {
	b, out := tooltest.StartBroker(t), t.TempDir()
	topics := make(chan []string, 1)
	topics <- []string{"yes1", "no"}
	lookupd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-NSQ-Content-Type", "nsq; version=1.0")
		switch r.URL.Path {
		case "/topics":
			select {
			case known := <-topics:
				if known == nil {
					w.WriteHeader(http.StatusInternalServerError)
					return
				}
				json.NewEncoder(w).Encode(map[string]any{"topics": known})
				select {
				case topics <- known: // until the test says something else
				default:
				}
			default:
				w.WriteHeader(http.StatusInternalServerError)
			}
		case "/lookup":
			host, port, _ := strings.Cut(b.TCP, ":")
			fmt.Fprintf(w, `{"producers":[{"broadcast_address":%q,"tcp_port":%s,"http_port":1}]}`, host, port)
		}
	}))
	defer lookupd.Close()
	r := tooltest.Start(t, "nsq_to_file", run, nil, "--topic-pattern=^yes", "--topic-refresh=10ms", "--output-dir="+out,
		"--lookupd-http-address="+strings.TrimPrefix(lookupd.URL, "http://"), "--sync-interval=10ms")
	b.Settles(t, "yes1", "nsq_to_file", "the tool is there", tooltest.HasClients(1))
	<-topics
	tooltest.Eventually(t, "an error is logged", func() bool {
		return strings.Contains(r.Stderr.String(), "ERROR: could not retrieve topic list: ")
	})
	topics <- []string{"yes1", "yes2", "no"}
	b.Settles(t, "yes2", "nsq_to_file", "the tool is there", tooltest.HasClients(1))
	if _, ok := b.Channel(t, "no", "nsq_to_file"); ok {
		t.Error("it consumes a topic that does not match")
	}
	if !strings.Contains(r.Stderr.String(), "WARNING: skipping topic no (doesn't match pattern ^yes)") {
		t.Error("no warning about the other topic")
	}
	b.Publish(t, "yes2", "line")
	b.Settles(t, "yes2", "nsq_to_file", "finished", tooltest.Finished(1))
}

// TestKilled kills the tool again and again while lines come in, in between with
// HUP and TERM, and then counts: no line is missing, none is torn, and what is
// there twice was in flight at a kill.
func TestKilled(t *testing.T) { testKilled(t, 900, 2) }

// TestRestarted is TestKilled without the kills: nothing is there twice.
func TestRestarted(t *testing.T) { testKilled(t, 900, 0) }

func testKilled(t *testing.T, lines int64, kills int) {
	const batch, maxInFlight = 50, 40
	for name, flags := range map[string][]string{
		"plain":  {"--rotate-size=8000"},
		"gzip":   {"--gzip"},
		"moving": {"--gzip", "--rotate-size=8000", "--work-dir=WORK"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, dir := tooltest.StartBroker(t), t.TempDir()
			b.Create(t, "t", "nsq_to_file")
			args := append(tooltest.Unhurried("nsq_to_file"),
				"--topic=t", "--nsqd-tcp-address="+b.TCP, "--output-dir="+filepath.Join(dir, "out"),
				"--sync-interval=20ms", fmt.Sprint("--max-in-flight=", maxInFlight))
			if kills > 0 { // what a killed process held comes again only after this
				args = append(args, "--consumer-opt=msg_timeout,3s") // what lives is quicker, on any machine
			}
			for _, f := range flags {
				args = append(args, strings.ReplaceAll(f, "WORK", filepath.Join(dir, "work")))
			}
			var log *tooltest.Buffer
			start := func() *exec.Cmd {
				log = new(tooltest.Buffer)
				cmd := exec.Command(os.Args[0], args...)
				cmd.Stderr = log
				cmd.Env = append(os.Environ(), asTool+"=1")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				return cmd
			}
			// A process that logs has come as far as to handle signals.
			handles := func() bool { return log.String() != "" }
			cmd := start()
			sent := int64(0)
			for sent < lines {
				for range batch {
					sent++
					b.Publish(t, "t", fmt.Sprintf("line %d", sent))
				}
				switch step := sent / batch; {
				case kills > 0 && step%(lines/batch/int64(kills)) == 0:
					cmd.Process.Kill()
					cmd.Wait()
					cmd = start()
				case step%7 == 0 && handles():
					cmd.Process.Signal(syscall.SIGHUP)
				case step%11 == 0 && handles():
					cmd.Process.Signal(syscall.SIGTERM)
					cmd.Wait()
					cmd = start()
				}
			}
			t.Cleanup(func() {
				if t.Failed() {
					ch, _ := b.Channel(t, "t", "nsq_to_file")
					t.Logf("%+v\n%s", ch, log)
				}
			})
			b.Settles(t, "t", "nsq_to_file", "all are finished", func(ch tool.ChannelStats) bool {
				return ch.Depth == 0 && ch.InFlightCount == 0 && ch.DeferredCount == 0
			})
			tooltest.Eventually(t, "the last one handles signals", handles)
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("the last one ends with %v\n%s", err, log)
			}
			seen := map[string]int{}
			all := text(t, filepath.Join(dir, "out")) + text(t, filepath.Join(dir, "work"))
			for line := range strings.Lines(all) {
				seen[strings.TrimSuffix(line, "\n")]++
			}
			double := 0
			for i := range lines {
				n := seen[fmt.Sprintf("line %d", i+1)]
				if n == 0 {
					t.Errorf("line %d is missing", i+1)
				}
				double += max(n-1, 0)
			}
			if len(seen) != int(lines) {
				t.Errorf("%d different lines, want %d", len(seen), lines)
			}
			if double > kills*maxInFlight {
				t.Errorf("%d lines are there twice", double)
			}
			t.Logf("%d lines are there twice after %d kills", double, kills)
		})
	}
}
