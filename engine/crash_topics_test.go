package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
)

// crashNames is what clients were told of topics and channels: whether each is
// paused.
type crashNames struct {
	t      *testing.T
	http   *http.Client
	addr   string
	topics map[string]*crashName
	count  int // messages of counted/c
}

type crashName struct {
	paused   bool
	mode     string // its own durability
	channels map[string]bool
}

func (n *crashNames) post(what string) {
	n.t.Helper()
	resp, err := n.http.Post("http://daemon"+what, "", strings.NewReader("x"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		n.t.Fatalf("%s: %s, %v", what, resp.Status, err)
	}
}

// tcp sends one command on a connection of its own and waits for its OK.
func (n *crashNames) tcp(command string, body []byte) {
	n.t.Helper()
	c, err := net.Dial("tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	out := []byte("  V2" + command + "\n")
	if body != nil {
		out = withSize(out, body)
	}
	if _, err := c.Write(out); err != nil {
		n.t.Fatal(err)
	}
	if kind, answer, err := crashAnswer(bufio.NewReader(c)); err != nil || kind != 0 || string(answer) != "OK" {
		n.t.Fatalf("%s: %d %q, %v", command, kind, answer, err)
	}
}

// step asks for one change and, answered, notes it.
func (n *crashNames) step(rng *rand.Rand) {
	n.t.Helper()
	topic, channel := fmt.Sprint("t", rng.IntN(4)), fmt.Sprint("c", rng.IntN(3))
	have := n.topics[topic]
	what := rng.IntN(12)
	if have == nil {
		have = &crashName{channels: map[string]bool{}}
		switch what % 3 {
		case 0:
			n.post("/topic/create?topic=" + topic)
		case 1:
			n.tcp("PUB "+topic, []byte("x"))
		default:
			n.tcp("SUB "+topic+" "+channel, nil)
			have.channels[channel] = false
		}
		n.topics[topic] = have
		return
	}
	paused, there := have.channels[channel]
	args := "?topic=" + topic + "&channel=" + channel
	un := map[bool]string{true: "un"}
	switch {
	case what == 0:
		n.post("/topic/delete" + args)
		delete(n.topics, topic)
	case what < 3:
		n.post("/topic/" + un[have.paused] + "pause" + args)
		have.paused = !have.paused
	case what == 3:
		n.tcp("PUB "+topic, []byte("x"))
	case what == 4:
		mode := []string{"memory", "process", "disk"}[rng.IntN(3)]
		n.post("/topic/durability?topic=" + topic + "&mode=" + mode)
		have.mode = mode
	case what < 7:
		n.tcp("PUB counted", []byte("x"))
		n.count++
	case what == 7:
		n.post("/channel/empty?topic=counted&channel=c")
		n.count = 0
	case !there && what == 8:
		n.post("/channel/create" + args)
		have.channels[channel] = false
	case !there:
		n.tcp("SUB "+topic+" "+channel, nil)
		have.channels[channel] = false
	case what == 8:
		n.post("/channel/delete" + args)
		delete(have.channels, channel)
	default:
		n.post("/channel/" + un[paused] + "pause" + args)
		have.channels[channel] = !paused
	}
}

// check holds what a daemon says against what was answered.
func (n *crashNames) check(mode, when string) {
	n.t.Helper()
	resp, err := n.http.Get("http://daemon/stats?format=json")
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	var stats struct {
		Topics []struct {
			Name       string `json:"topic_name"`
			Paused     bool
			Durability string
			Channels   []struct {
				Name   string `json:"channel_name"`
				Paused bool
				Depth  int
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&stats); err != nil {
		n.t.Fatal(err)
	}
	got := map[string]*crashName{}
	for _, t := range stats.Topics {
		if t.Name == "counted" {
			if d := t.Channels[0].Depth; d > n.count || mode != "memory" && d != n.count {
				n.t.Fatalf("%s: %d messages, want %d", when, d, n.count)
			}
			n.count = t.Channels[0].Depth
			continue
		}
		one := &crashName{t.Paused, t.Durability, map[string]bool{}}
		for _, c := range t.Channels {
			one.channels[c.Name] = c.Paused
		}
		got[t.Name] = one
	}
	spell := func(all map[string]*crashName) string {
		shown := map[string]string{}
		for name, t := range all {
			if t.mode == mode {
				t.mode = "" // the daemon's own is not shown
			}
			shown[name] = fmt.Sprint(t.paused, t.mode, t.channels)
		}
		return fmt.Sprint(shown)
	}
	if got, want := spell(got), spell(n.topics); got != want {
		n.t.Fatalf("%s: %s, want %s", when, got, want)
	}
}

// A topic and a channel survive kill -9 from the answer on that its creation, by
// whatever command, got, in every mode; so do deletions, pauses, emptyings and
// durabilities.
func TestCrashTopics(t *testing.T) {
	t.Parallel()
	for i, mode := range []string{"memory", "process", "disk"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel() // they wait, mostly
			crashNamesIn(t, mode, 6, uint64(i))
		})
	}
}

func crashNamesIn(t *testing.T, mode string, rounds int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 11))
	dir := t.TempDir()
	n := &crashNames{t: t, topics: map[string]*crashName{}}
	for round := range rounds {
		cmd, addr, log := startChild(t, dir, mode, 10_000, "")
		n.addr = addr
		n.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", crashHTTP(dir))
		}}}
		if round == 0 {
			n.tcp("SUB counted c", nil)
		} else {
			n.check(mode, fmt.Sprintf("round %d of seed %d", round, seed))
		}
		for range rng.IntN(25) {
			n.step(rng)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		n.http.CloseIdleConnections()
		if bytes.Contains(log.Bytes(), []byte("panic")) {
			t.Fatal(log)
		}
	}
}
