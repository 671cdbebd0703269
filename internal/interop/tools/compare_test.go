package tools

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// TestToNsq pipes the same records through both, by newlines and otherwise.
func TestToNsq(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	f := func(topic, input string, count int, flags ...string) {
		t.Helper()
		var got [2][]string
		for i, side := range sides {
			name := topic + "_" + side
			r := run(t, side, "to_nsq", input, slices.Concat(unhurried("to_nsq"), flags, []string{"--topic=" + name, "--nsqd-tcp-address=" + b.TCP})...)
			if r.code != 0 {
				t.Errorf("%s ends with %d: %s", side, r.code, r.stderr)
			}
			got[i] = b.consume(t, name, count)
		}
		if !slices.Equal(got[0], got[1]) {
			t.Errorf("%s: the messages differ:\n%q\n%q", topic, got[0], got[1])
		}
	}
	var many strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&many, "record %d %s\n", i, strings.Repeat("x", i%300))
	}
	f("lines", many.String(), 3000)
	f("empty", "\n\na\n\nb\r\n\n", 2)
	f("other", "a\nb;c;;d;", 3, "--delimiter=;")
	f("paced", "1\n2\n3\n4\n5\n", 5, "--rate=100")
	f("large", strings.Repeat("y", 900_000)+"\nz\n", 2)
}

// TestNsqTail prints the same messages by both.
func TestNsqTail(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	lines := logLines(300)
	b.Create(t, "t", sides...)
	b.publish(t, "t", lines)
	for _, flags := range [][]string{{"-n=100"}, {"-n=100", "--print-topic"}} {
		var got [2]string
		for i, side := range sides {
			r := run(t, side, "nsq_tail", "", slices.Concat(unhurried("nsq_tail"), flags,
				[]string{"--topic=t", "--channel=" + side, "--max-in-flight=1", "--nsqd-tcp-address=" + b.TCP})...)
			if r.code != 0 {
				t.Errorf("%s ends with %d: %s", side, r.code, r.stderr)
			}
			got[i] = r.stdout
		}
		// The last message that upstream prints is not finished, so the two are in
		// step for the first run only.
		if flags[len(flags)-1] == "-n=100" && got[0] != got[1] {
			t.Errorf("%q: the outputs differ:\n%.300q\n%.300q", flags, got[0], got[1])
		}
		if n, m := strings.Count(got[0], "\n"), strings.Count(got[1], "\n"); n != 100 || m != 100 {
			t.Errorf("%q: %d and %d lines", flags, n, m)
		}
		for line := range strings.Lines(got[1]) {
			if !slices.Contains(lines, strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "t | ")) {
				t.Errorf("ours prints %q", line)
			}
			if want := len(flags) > 1; strings.HasPrefix(line, "t | ") != want {
				t.Errorf("ours prints %q", line)
			}
		}
	}
	b.settles(t, "t", "ours", "all that was printed is finished", func(ch channelStats) bool {
		return ch.Depth == 100 && ch.InFlightCount == 0
	})
}

// TestNsqStat prints the same table by both, from nsqd and from nsqlookupd.
func TestNsqStat(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	b.Create(t, "t", "ch")
	b.publish(t, "t", logLines(17))
	b.settles(t, "t", "ch", "all waiting", func(ch channelStats) bool { return ch.Depth == 17 })

	lookupd := daemon.Start(t, daemon.Config{Program: daemon.UpstreamNsqlookupd})
	other := startNsqd(t, daemon.UpstreamNsqd, "--lookupd-tcp-address="+lookupd.TCP)
	other.Create(t, "t", "ch")
	other.publish(t, "t", logLines(5))
	other.settles(t, "t", "ch", "all waiting", func(ch channelStats) bool { return ch.Depth == 5 })
	eventually(t, "nsqlookupd knows the topic", func() bool {
		resp, err := http.Get("http://" + lookupd.HTTP + "/lookup?topic=t")
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		return strings.Contains(string(text), `"http_port"`)
	})

	f := func(flags ...string) {
		t.Helper()
		var got [2]result
		for i, side := range sides {
			got[i] = run(t, side, "nsq_stat", "", slices.Concat(unhurried("nsq_stat"), flags,
				[]string{"--topic=t", "--interval=20ms", "--count=27"})...)
		}
		if got[0].code != got[1].code || got[0].stdout != got[1].stdout {
			t.Errorf("%q: upstream ends with %d:\n%s%s\nours with %d:\n%s%s", flags, got[0].code, got[0].stdout, got[0].stderr,
				got[1].code, got[1].stdout, got[1].stderr)
		}
		if got[0].code != 0 {
			a, b := stamp.ReplaceAllString(got[0].stderr, ""), stamp.ReplaceAllString(got[1].stderr, "")
			a, _, _ = strings.Cut(a, " - ") // behind it stand the words of a library
			b, _, _ = strings.Cut(b, " - ")
			if a != b {
				t.Errorf("%q: upstream says %q, ours %q", flags, a, b)
			}
		}
	}
	f("--channel=ch", "--nsqd-http-address="+b.HTTP)
	f("--channel=ch", "--nsqd-http-address="+b.HTTP, "--nsqd-http-address="+other.HTTP)
	f("--channel=ch", "--lookupd-http-address="+lookupd.HTTP)
	f("--channel=other", "--nsqd-http-address="+b.HTTP)
	f("--channel=other", "--lookupd-http-address="+lookupd.HTTP)
	f("--channel=ch", "--nsqd-http-address=127.0.0.1:1")
	f("--channel=ch", "--nsqd-http-address=127.0.0.1:1", "--nsqd-http-address="+b.HTTP)
	f("--channel=ch", "--lookupd-http-address=127.0.0.1:1")
}

// TestNsqToNsq forwards the same messages by both, whole and by their fields.
func TestNsqToNsq(t *testing.T) {
	t.Parallel()
	bodies := []string{
		`{"a":1,"b":"x","c":[1,2.5]}`, `{"a":"1","b":{"z":1.50,"y":[0.1,1e3]}}`, `{"b":3.0,"a":1.0}`, `{"a":2}`, `{"c":1}`,
		`{"a":null}`, `no json`, `[1]`, `{"a":true,"b":"<&>"}`, `{"a":"é\u00e9","b":100}`, `{ "a" : 1 , "x" : 1 }`, `null`,
		`{"a":1e300,"b":-0.5,"c":1234567890123}`, `"end"`,
	}
	f := func(topic string, count int, flags ...string) {
		t.Helper()
		src, dst := startBroker(t), startBroker(t)
		var got [2][]string
		src.Create(t, topic, sides...)
		src.publish(t, topic, bodies)
		for i, side := range sides {
			cmd := start(t, side, "nsq_to_nsq", append(flags, "--topic="+topic, "--channel="+side, "--destination-topic="+side,
				"--nsqd-tcp-address="+src.TCP, "--destination-nsqd-tcp-address="+dst.TCP)...)
			src.settles(t, topic, side, "forwarded", finished(len(bodies)))
			stop(t, cmd)
			got[i] = dst.consume(t, side, count)
		}
		if !slices.Equal(got[0], got[1]) {
			t.Errorf("%q: the messages differ:\n%q\n%q", flags, got[0], got[1])
		}
	}
	f("whole", len(bodies))
	f("field", 8, "--require-json-field=a")
	f("fields", 11, "--whitelist-json-field=b", "--whitelist-json-field=a", "--whitelist-json-field=c")
}

// TestNsqToHTTP compares what an endpoint is asked.
func TestNsqToHTTP(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	bodies := append(logLines(20), "a b&c", "%s%d", "é\x00\xff")
	b.Create(t, "t", "upstream_get", "ours_get", "upstream_post", "ours_post", "upstream_all", "ours_all")
	b.publish(t, "t", bodies)
	f := func(mode string, times int, flags ...string) {
		t.Helper()
		var got [2][]string
		for i, side := range sides {
			var mu sync.Mutex
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				r.Header.Del("X-Forwarded-For")
				mu.Lock()
				defer mu.Unlock()
				got[i] = append(got[i], fmt.Sprintf("%s %s %v %d %q", r.Method, r.URL, r.Header, r.ContentLength, body))
			}))
			args := []string{"--topic=t", "--channel=" + side + "_" + mode, "--nsqd-tcp-address=" + b.TCP, "-n=4"}
			for _, flag := range flags {
				args = append(args, strings.ReplaceAll(flag, "SERVER", server.URL))
			}
			cmd := start(t, side, "nsq_to_http", args...)
			b.settles(t, "t", side+"_"+mode, "forwarded", finished(len(bodies)))
			stop(t, cmd)
			server.Close()
			slices.Sort(got[i])
		}
		if len(got[0]) != times*len(bodies) || !slices.Equal(got[0], got[1]) {
			t.Errorf("%s: %d requests by upstream and %d by ours:\n%q\n%q", mode, len(got[0]), len(got[1]), got[0], got[1])
		}
	}
	f("get", 1, "--get=SERVER/in?body=%s&x=y")
	f("post", 1, "--post=SERVER/in", "--content-type=text/plain", "--header=X-A: b:c", "--header=User-Agent:me")
	f("all", 2, "--post=SERVER/1", "--post=SERVER/2", "--mode=multicast")
}

// tree returns the files below dir by their names; what ends in .gz is
// decompressed, and must be whole.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(path, ".gz") {
			r, zerr := gzip.NewReader(bytes.NewReader(raw))
			if zerr != nil {
				return fmt.Errorf("%s: %w", path, zerr)
			}
			raw, err = io.ReadAll(r)
		}
		name, _ := filepath.Rel(dir, path)
		files[name] = string(raw)
		return err
	})
	must(t, err)
	return files
}

// TestNsqToFile writes the same messages by both and compares the files, names
// and bytes.
func TestNsqToFile(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	const rounds, round = 3, 400
	lines := logLines(rounds * round)
	for i := range lines[:50] {
		lines[i] = strings.Repeat("z", i*i+1)
	}
	lines[60] = "two\nlines"
	f := func(name string, hangUp bool, flags ...string) {
		t.Helper()
		topic := "t_" + name
		b.Create(t, topic, sides...)
		var dirs [2]string
		for i := range sides {
			dirs[i] = t.TempDir()
			// A file that is there already.
			must(t, os.WriteFile(filepath.Join(dirs[i], topic+"-000001.end"), []byte("before\n"), 0o600))
		}
		for i, side := range sides {
			args := []string{
				"--topic=" + topic, "--channel=" + side, "--nsqd-tcp-address=" + b.TCP,
				"--output-dir=" + filepath.Join(dirs[i], "out"), "--filename-format=<TOPIC><REV>.<DATETIME>",
				"--datetime-format=end", "--sync-interval=1h",
			}
			must(t, os.Rename(dirs[i], dirs[i]+"x"))
			must(t, os.Mkdir(dirs[i], 0o700))
			must(t, os.Rename(dirs[i]+"x", filepath.Join(dirs[i], "out")))
			for _, flag := range flags {
				args = append(args, strings.ReplaceAll(flag, "WORK", filepath.Join(dirs[i], "work")))
			}
			cmd := start(t, side, "nsq_to_file", args...)
			for r := range rounds {
				if i == 0 {
					b.publish(t, topic, lines[r*round:(r+1)*round])
				}
				if hangUp && r < rounds-1 {
					// The lines of a batch that is not full are synced by HUP, once they
					// have come as far as the file, which nobody tells.
					b.settles(t, topic, side, "all finished", func(ch channelStats) bool {
						if ch.ClientCount == 1 { // before that it would be killed
							must(t, cmd.Process.Signal(syscall.SIGHUP))
						}
						return ch.Depth == 0 && ch.InFlightCount == 0
					})
				}
			}
			b.settles(t, topic, side, "all in the tool", func(ch channelStats) bool { return ch.MessageCount == len(lines) && ch.Depth == 0 })
			stop(t, cmd)
			b.settles(t, topic, side, "all finished", finished(len(lines)))
		}
		theirs, ours := tree(t, dirs[0]), tree(t, dirs[1])
		all := ""
		for _, path := range slices.Sorted(func(yield func(string) bool) {
			for path := range theirs {
				if !yield(path) {
					return
				}
			}
		}) {
			if ours[path] != theirs[path] {
				t.Errorf("%s: %s has %d bytes by ours, %d by upstream", name, path, len(ours[path]), len(theirs[path]))
			}
			all += theirs[path]
		}
		if len(ours) != len(theirs) {
			t.Errorf("%s: %d files by ours, %d by upstream", name, len(ours), len(theirs))
		}
		if n := strings.Count(all, "\n"); n != len(lines)+2 { // two lines in one, and the file before
			t.Errorf("%s: %d lines by upstream, want %d", name, n, len(lines)+2)
		}
	}
	f("plain", false)
	f("plain_hup", true)
	f("gzip", false, "--gzip")
	f("size", false, "--rotate-size=5000")
	f("gzip_size", false, "--gzip", "--rotate-size=5000", "--gzip-level=9")
	f("interval", false, "--rotate-interval=1h")
	f("work", false, "--work-dir=WORK", "--rotate-size=5000", "--gzip")
	f("host", false, "--filename-format=<HOST>/<TOPIC><REV>.<DATETIME>", "--host-identifier=h-<SHORT_HOST>.<HOSTNAME>", "--datetime-format=%Y%%")
}
