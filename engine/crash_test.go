package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/engine/httpapi"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// The crash harness: a daemon in a process of its own is killed under load, again
// and again over the same directory, while a ledger says what it answered for.
// At the end all that was acknowledged must have come, on every channel; and what
// was finished, with a FIN that was answered for, must not come again. A FIN
// has no answer of its own: one counts when a later PUB on the connection got OK.

// crashChild in the environment makes the test binary the daemon of that
// directory; the others hold its mode, its memory queue and what is wrong with it.
const (
	crashChild = "ZSQ_CRASH_CHILD"
	crashMode  = "ZSQ_CRASH_MODE"
	crashMem   = "ZSQ_CRASH_MEM"
	crashFault = "ZSQ_CRASH_FAULT"
	crashBegan = "ZSQ_CRASH_BEGAN" // when the harness was started, wall ns
)

// harnessBegan is the same for all daemons of a harness.
var harnessBegan = time.Now()

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashChild); dir != "" {
		fmt.Fprintln(os.Stderr, runChild(dir))
		os.Exit(3)
	}
	// The tests that are parallel wait, mostly: for time-outs, and for the disk.
	if err := flag.Set("test.parallel", "16"); err != nil { // a flag on the command line wins
		panic(err)
	}
	os.Exit(m.Run())
}

// crashHTTP is the socket of the HTTP API of the daemon of a directory.
func crashHTTP(dir string) string { return dir + ".http" }

// runChild serves until it is killed.
func runChild(dir string) error {
	o := engine.NewOptions()
	o.TCPAddress, o.HTTPAddress, o.HTTPSAddress = "127.0.0.1:0", crashHTTP(dir), ""
	_ = os.Remove(o.HTTPAddress) // of the run before, which was killed
	o.DataPath, o.Loops = dir, 2
	if err := o.Durability.Set(os.Getenv(crashMode)); err != nil {
		return err
	}
	var err error
	if o.MemQueueSize, err = strconv.ParseInt(os.Getenv(crashMem), 10, 64); err != nil {
		return err
	}
	began, err := strconv.ParseInt(os.Getenv(crashBegan), 10, 64)
	if err != nil {
		return err
	}
	disk, wall := plantedFault(os.Getenv(crashFault), time.Unix(0, began))
	e, err := engine.NewOn(disk, wall, o, os.Stderr)
	if err != nil {
		return err
	}
	e.Start()
	fmt.Println(e.TCPAddr())
	_, err = io.Copy(io.Discard, os.Stdin) // ends with the parent, at the latest
	return errors.Join(errors.New("the parent is gone"), err)
}

// crashLedger is what clients were told.
type crashLedger struct {
	mu       sync.Mutex
	acked    map[string]map[uint64]int64 // by topic: due time, wall ns
	channels map[string]*crashChannel    // by topic/channel
	nextKey  uint64
	bad      []string
	said     int       // messages acknowledged
	over     int       // messages of a channel whose FIN was answered for
	seen     crashLoad // both, when wait was called last
}

type crashChannel struct {
	topic    string
	finSent  map[uint64]bool
	certain  map[uint64]bool  // their FIN was answered for
	again    map[uint64]int64 // given back, and answered for: due time, wall ns
	seenLast map[uint64]bool  // in the final drain
}

// answers are what a consumer has said since its last PUB.
type answers struct {
	fins []uint64
	reqs map[uint64]int64
}

func (l *crashLedger) fail(format string, args ...any) {
	l.bad = append(l.bad, fmt.Sprintf(format, args...))
}

// crashRun is one life of the daemon.
type crashRun struct {
	l     *crashLedger
	addr  string
	final bool
	delay int // of deferred messages, at most, ms
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns []net.Conn
	down  bool
}

func (r *crashRun) dial() (net.Conn, error) {
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		c.Close()
		return nil, net.ErrClosed
	}
	r.conns = append(r.conns, c)
	_, err = c.Write([]byte("  V2"))
	return c, err
}

func (r *crashRun) hangUp() {
	r.mu.Lock()
	r.down = true
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// crashFrame reads a frame. It may be a heartbeat, when the machine has stood still;
// whoever owes answers must not wait for another frame before they are sent.
func crashFrame(r *bufio.Reader) (kind uint32, body []byte, err error) {
	f, err := readFrame(r)
	if err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint32(f[4:]), f[wire.FrameHeaderSize:], nil
}

// crashAnswer reads a frame, past heartbeats.
func crashAnswer(r *bufio.Reader) (kind uint32, body []byte, err error) {
	for {
		kind, body, err = crashFrame(r)
		if err != nil || kind != 0 || string(body) != "_heartbeat_" {
			return kind, body, err
		}
	}
}

func withSize(b, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

// crashBody is the whole body of a message; its length follows from its key.
func crashBody(key uint64) []byte {
	return append(binary.BigEndian.AppendUint64(nil, key), bytes.Repeat([]byte{'p'}, int(key%300))...)
}

// produce publishes to one topic, some commands ahead of the answers.
func (r *crashRun) produce(topic string, seed uint64) {
	defer r.wg.Done()
	c, err := r.dial()
	if err != nil {
		return
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	in := bufio.NewReader(c)
	type unit struct {
		keys []uint64
		due  int64
	}
	var owed []unit
	for {
		var out []byte
		for range 1 + rng.IntN(12) {
			var u unit
			bodies := [][]byte{}
			n := 1
			mpub := rng.IntN(4) == 0
			if mpub {
				n += rng.IntN(20)
			}
			r.l.mu.Lock()
			for range n {
				r.l.nextKey++
				u.keys = append(u.keys, r.l.nextKey)
				bodies = append(bodies, crashBody(r.l.nextKey))
			}
			r.l.mu.Unlock()
			switch {
			case mpub:
				batch := binary.BigEndian.AppendUint32(nil, uint32(n))
				for _, b := range bodies {
					batch = withSize(batch, b)
				}
				out = withSize(append(out, "MPUB "+topic+"\n"...), batch)
			case rng.IntN(5) == 0:
				ms := 1 + rng.IntN(r.delay)
				u.due = time.Now().UnixNano() + int64(ms)*1e6
				out = withSize(fmt.Appendf(out, "DPUB %s %d\n", topic, ms), bodies[0])
			default:
				out = withSize(append(out, "PUB "+topic+"\n"...), bodies[0])
			}
			owed = append(owed, u)
		}
		if _, err := c.Write(out); err != nil {
			return
		}
		for len(owed) > 0 {
			kind, body, err := crashFrame(in)
			if err != nil {
				return
			}
			if kind == 1 {
				r.l.mu.Lock()
				r.l.fail("publish: %s", body)
				r.l.mu.Unlock()
				return
			}
			if string(body) != "OK" {
				continue
			}
			r.l.mu.Lock()
			for _, key := range owed[0].keys {
				r.l.acked[topic][key] = owed[0].due
			}
			r.l.said += len(owed[0].keys)
			r.l.mu.Unlock()
			owed = owed[1:]
		}
	}
}

// consume reads a channel and decides about each message.
func (r *crashRun) consume(topic, channel string, seed uint64) {
	defer r.wg.Done()
	c, err := r.dial()
	if err != nil {
		return
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	in := bufio.NewReader(c)
	ready := 1 + rng.IntN(100)
	if r.final {
		ready = 2000
	}
	if _, err := fmt.Fprintf(c, "SUB %s %s\nRDY %d\n", topic, channel, ready); err != nil {
		return
	}
	ch := r.l.channels[topic+"/"+channel]
	if _, _, err := crashAnswer(in); err != nil { // the OK of SUB
		return
	}
	var out []byte
	said := answers{reqs: map[uint64]int64{}}
	var owed []answers
	for {
		kind, body, err := crashFrame(in)
		if err != nil {
			return
		}
		switch {
		case kind == 0 && string(body) == "OK":
			r.l.mu.Lock()
			for _, key := range owed[0].fins {
				ch.certain[key] = true
			}
			r.l.over += len(owed[0].fins)
			for key, due := range owed[0].reqs {
				if !ch.finSent[key] {
					ch.again[key] = max(due, ch.again[key])
				}
			}
			r.l.mu.Unlock()
			owed = owed[1:]
		case kind == 1:
			r.l.mu.Lock()
			r.l.fail("%s/%s: %s", topic, channel, body)
			r.l.mu.Unlock()
		case kind == 2:
			key := binary.BigEndian.Uint64(body[26:])
			id := body[10:26]
			now := time.Now().UnixNano()
			r.l.mu.Lock()
			if ch.certain[key] {
				r.l.fail("%s/%s: message %d came again after its FIN was answered for", topic, channel, key)
			}
			// Clocks are read in two processes, and a due time starts a little later.
			if due := r.l.acked[topic][key]; due > now+2e6 {
				r.l.fail("%s/%s: message %d came %v early", topic, channel, key, time.Duration(due-now))
			}
			if due := ch.again[key]; due > now+2e6 {
				r.l.fail("%s/%s: message %d, given back, came %v early", topic, channel, key, time.Duration(due-now))
			}
			if !bytes.Equal(body[26:], crashBody(key)) {
				r.l.fail("%s/%s: message %d has a body of %d bytes that nobody wrote", topic, channel, key, len(body)-26)
			}
			if r.final {
				ch.seenLast[key] = true
			}
			what := rng.IntN(20)
			if r.final || what < 14 {
				out = append(append(append(out, "FIN "...), id...), '\n')
				said.fins = append(said.fins, key)
				ch.finSent[key] = true
			} else if what == 14 {
				out = fmt.Appendf(out, "REQ %s 0\n", id)
			} else if what == 15 {
				ms := 1 + rng.IntN(300)
				out = fmt.Appendf(out, "REQ %s %d\n", id, ms)
				said.reqs[key] = now + int64(ms)*1e6
			}
			r.l.mu.Unlock()
			if n := len(said.fins) + len(said.reqs); n > 30 || n > 0 && rng.IntN(20) == 0 {
				out = withSize(append(out, "PUB marks\n"...), []byte("mark"))
				owed = append(owed, said)
				said = answers{reqs: map[uint64]int64{}}
			}
		}
		if in.Buffered() == 0 && len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
	}
}

// startChild starts the daemon and returns its process and address.
func startChild(t *testing.T, dir, mode string, mem int, fault string) (*exec.Cmd, string, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashChild+"="+dir, crashMode+"="+mode, fmt.Sprintf("%s=%d", crashMem, mem), crashFault+"="+fault,
		fmt.Sprintf("%s=%d", crashBegan, harnessBegan.UnixNano()))
	log := new(bytes.Buffer)
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err == nil {
		t.Cleanup(func() { _ = stdin.Close() })
	}
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("the daemon does not start: %v\n%s", err, log)
	}
	return cmd, line[:len(line)-1], log
}

var crashTopics = map[string][]string{"one": {"a", "b"}, "two": {"c"}}

// crashLoad is what a round has at the least, however slow the machine: so many
// messages acknowledged, and so many whose FIN was answered for.
type crashLoad struct{ said, over int }

// crash runs rounds of load and kill with a daemon that has a fault, or none, and
// returns what was wrong, up to the first round in which something was.
func crash(t *testing.T, mode string, mem, rounds int, seed uint64, fault string) (bad []string) {
	t.Helper()
	delay, least := 1000, crashLoad{said: 20}
	if fault != "" { // load enough for the fault to show
		least = crashLoad{said: 2000, over: 50}
	}
	if fault == faultHurry {
		delay = hurryDelay
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	dir := t.TempDir()
	l := &crashLedger{acked: map[string]map[uint64]int64{}, channels: map[string]*crashChannel{}}
	for topic, channels := range crashTopics {
		l.acked[topic] = map[uint64]int64{}
		for _, c := range channels {
			l.channels[topic+"/"+c] = &crashChannel{topic, map[uint64]bool{}, map[uint64]bool{}, map[uint64]int64{}, map[uint64]bool{}}
		}
	}
	for round := 0; round <= rounds; round++ {
		cmd, addr, log := startChild(t, dir, mode, mem, fault)
		r := &crashRun{l: l, addr: addr, final: round == rounds, delay: delay}
		if round == 0 { // channels first: what is published before them is for one only
			for topic, channels := range crashTopics {
				for _, c := range channels {
					conn, err := r.dial()
					if err != nil {
						t.Fatal(err)
					}
					fmt.Fprintf(conn, "SUB %s %s\n", topic, c)
					if _, _, err := crashAnswer(bufio.NewReader(conn)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		for _, topic := range slices.Sorted(maps.Keys(crashTopics)) { // or the seed would not say it all
			channels := crashTopics[topic]
			if !r.final {
				for range 2 {
					r.wg.Add(1)
					go r.produce(topic, rng.Uint64())
				}
			}
			for _, c := range channels {
				for i := range 1 + rng.IntN(2) {
					// A fault may show on one channel only.
					if r.final || rng.IntN(8) > 0 || fault != "" && i == 0 {
						r.wg.Add(1)
						go r.consume(topic, c, rng.Uint64())
					}
				}
			}
		}
		if r.final {
			looks := 3000
			if fault != "" {
				looks = 20 // something will be missing
			}
			l.drain(dir, looks)
		} else {
			time.Sleep(time.Duration(20+rng.IntN(130)) * time.Millisecond) // how long the load lasts
			l.wait(t, least)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		r.hangUp()
		if fault == "" && strings.Contains(log.String(), mmapqueue.ErrCorrupt.Error()) {
			l.fail("what a crash leaves was taken for damage")
		}
		if len(l.bad) > 0 {
			t.Logf("round %d of seed %d: %d faults, the first: %s\n%s", round, seed, len(l.bad), l.bad[0], log)
			return l.bad
		}
	}
	t.Logf("%d rounds, %d messages acknowledged, %d ends answered for", rounds, l.said, l.over)
	return nil
}

// wait returns when least is reached, and counts anew.
func (l *crashLedger) wait(t *testing.T, least crashLoad) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		said, over, bad := l.said-l.seen.said, l.over-l.seen.over, len(l.bad)
		enough := said >= least.said && over >= least.over || bad > 0
		if enough {
			l.seen = crashLoad{l.said, l.over}
		}
		l.mu.Unlock()
		if enough {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("only %d messages are acknowledged and %d ends answered for", said, over)
		}
	}
}

// missing returns how many acknowledged messages have not come to an end on
// every channel.
func (l *crashLedger) missing() (n int, example string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, ch := range l.channels {
		for key := range l.acked[ch.topic] {
			if !ch.finSent[key] && !ch.seenLast[key] {
				n++
				example = fmt.Sprintf("message %d (due %d) on %s", key, l.acked[ch.topic][key], name)
			}
		}
	}
	return n, example
}

// drain waits until the daemon has nothing left, by its own figures, and then for
// what is still missing: looks are how often it looks before that counts as lost.
func (l *crashLedger) drain(dir string, looks int) {
	last, moved, still := [2]int{}, time.Now(), 0
	for ; ; time.Sleep(10 * time.Millisecond) { // until the clients have got more
		held, err := crashHeld(dir) // before what is missing, which may come meanwhile
		if err != nil {
			l.mu.Lock()
			l.fail("the daemon does not say what it has: %v", err)
			l.mu.Unlock()
			return
		}
		n, example := l.missing()
		if now := [2]int{held, n}; now != last {
			last, moved, still = now, time.Now(), 0
		}
		if held == 0 {
			still++
		}
		switch {
		case held == 0 && n == 0:
			return
		case still > looks, time.Since(moved) > patience:
			l.mu.Lock()
			l.fail("%d acknowledged messages are lost, for example %s; the daemon has %d", n, example, held)
			l.mu.Unlock()
			return
		}
	}
}

// crashHeld is how many messages the daemon of a directory has for the consumers:
// waiting, in flight and deferred.
func crashHeld(dir string) (n int, err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", crashHTTP(dir))
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://daemon/stats?format=json&include_clients=false&include_mem=false")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var stats struct{ Topics []httpapi.TopicStats }
	if err := json.NewDecoder(resp.Body).Decode(&stats); err != nil {
		return 0, err
	}
	for _, topic := range stats.Topics {
		if crashTopics[topic.TopicName] == nil {
			continue
		}
		n += int(topic.Depth)
		for _, c := range topic.Channels {
			n += int(c.Depth) + c.InFlightCount + c.DeferredCount
		}
	}
	return n, nil
}

// What was acknowledged survives kill -9, on every channel, deferred messages
// with their time; what was finished does not come again. The long form is
// TestLongCrash.
func TestCrash(t *testing.T) {
	t.Parallel()
	crashAll(t, 2, 10_000, 50)
}

// crashAll runs the harness in both modes with each size of the memory queue.
func crashAll(t *testing.T, rounds int, sizes ...int) {
	for _, mode := range []string{"process", "disk"} {
		for _, mem := range sizes {
			t.Run(fmt.Sprintf("%s/mem=%d", mode, mem), func(t *testing.T) {
				t.Parallel() // they wait, mostly
				if bad := crash(t, mode, mem, rounds, uint64(mem)+uint64(rounds), ""); len(bad) > 0 {
					t.Errorf("%d faults, the first: %s", len(bad), bad[0])
				}
			})
		}
	}
}
