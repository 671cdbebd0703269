package wire_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/invariant"
	"github.com/zsqio/zsq/internal/wire"
)

var testLimits = wire.Limits{
	MaxMsgSize: 1 << 20, MaxBodySize: 5 << 20, MaxRdyCount: 2500, MaxReqTimeout: time.Hour,
}

// describe writes a command as the reference does.
func describe(c *wire.Command) string {
	switch c.Op {
	case wire.OpIdentify, wire.OpAuth:
		return fmt.Sprintf("%s %q", c.Op, c.Body)
	case wire.OpSub:
		return fmt.Sprintf("SUB %s %s", c.Topic, c.Channel)
	case wire.OpRdy:
		return fmt.Sprintf("RDY %d", c.Count)
	case wire.OpFin, wire.OpTouch:
		return fmt.Sprintf("%s %q", c.Op, c.IDText)
	case wire.OpReq:
		return fmt.Sprintf("REQ %q %v", c.IDText, c.Delay)
	case wire.OpPub:
		return fmt.Sprintf("PUB %s %q", c.Topic, c.Body)
	case wire.OpDpub:
		return fmt.Sprintf("DPUB %s %v %q", c.Topic, c.Delay, c.Body)
	case wire.OpMpub:
		text, size, m := fmt.Sprintf("MPUB %s", c.Topic), 0, c.Messages()
		want := m.Size()
		for body, ok := m.Next(); ok; body, ok = m.Next() {
			text += fmt.Sprintf(" %q", body)
			size += len(body)
		}
		if size != want {
			text += fmt.Sprintf(" (size %d, want %d)", size, want)
		}
		return text
	}
	return c.Op.String()
}

// run parses a stream that arrives in pieces of the sizes that cut returns,
// and calls the parser after each piece, as a server does. Every piece moves
// the bytes to new memory, so that what is kept from an older one shows.
func run(stream []byte, lim *wire.Limits, cut func() int) (all []string) {
	var (
		c      wire.Command
		resume wire.BatchState
		at     int // start of the command that is not complete
		stall  string
	)
	for end := 0; ; {
		b := bytes.Clone(stream[at:end])
		n, s := c.ParseLine(b)
		if s == wire.LineTooLong {
			return append(all, "!too long")
		}
		stall = ""
		if s == wire.OK {
			c.Resume = resume
			err := c.CheckParams(lim)
			m := 0
			if err == nil {
				m, s, err = c.ParseBody(b[n:], lim)
			}
			if err != nil {
				return append(all, "!"+err.Error())
			}
			if s == wire.OK {
				all = append(all, describe(&c))
				at, resume = at+n+m, wire.BatchState{}
				continue
			}
			resume, stall = c.Resume, "!"+c.Stalled().Error()
			if c.Need <= len(b)-n {
				return append(all, "needs bytes that are there")
			}
		}
		if end == len(stream) {
			break
		}
		end = min(end+max(1, cut()), len(stream))
	}
	if stall != "" {
		all = append(all, stall)
	}
	return all
}

// checkStream compares the parser to the reference under several splits.
func checkStream(t *testing.T, stream []byte, lim *wire.Limits, seed uint64) {
	t.Helper()
	want := referenceRun(stream, lim)
	step := func(n int) func() int { return func() int { return n } }
	random := func() int {
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed >> 60)
	}
	for name, cut := range map[string]func() int{"one": step(1), "seven": step(7), "whole": step(1 << 30), "random": random} {
		if got := run(stream, lim, cut); !slices.Equal(got, want) {
			t.Errorf("stream %q split %s:\ngot  %q\nwant %q", stream, name, got, want)
		}
	}
}

// TestTexts holds the parser to the contract's error texts and accepted forms.
func TestTexts(t *testing.T) {
	lim := testLimits
	lim.MaxMsgSize, lim.MaxBodySize = 100, 1000
	f := func(stream, want string) {
		t.Helper()
		got := run([]byte(stream), &lim, func() int { return 1 << 30 })
		if len(got) == 0 {
			got = []string{""}
		}
		if last := got[len(got)-1]; last != want {
			t.Errorf("%q:\ngot  %q\nwant %q", stream, last, want)
		}
		checkStream(t, []byte(stream), &lim, 1)
	}
	const id = "0123456789abcdef"

	f("\n", "!E_INVALID invalid command ")
	f("nop\n", "!E_INVALID invalid command nop")
	f(" NOP\n", "!E_INVALID invalid command ")
	f("NOP\r\r\n", "!E_INVALID invalid command NOP\r")
	f("NOP\r\n", "NOP")
	f("NOP x y\n", "NOP")
	f("CLS\n", "CLS")
	f("NO", "")
	f(strings.Repeat("x", wire.LineSizeMax-1)+"\n", "!E_INVALID invalid command "+strings.Repeat("x", wire.LineSizeMax-1))
	f(strings.Repeat("x", wire.LineSizeMax)+"\n", "!too long")

	f("IDENTIFY\n", "!E_BAD_BODY IDENTIFY failed to read body size")
	f("IDENTIFY\n\x00\x00\x03\xe9", "!E_BAD_BODY IDENTIFY body too big 1001 > 1000")
	f("IDENTIFY\n\x00\x00\x00\x00", "!E_BAD_BODY IDENTIFY invalid body size 0")
	f("IDENTIFY\n\xff\xff\xff\xff", "!E_BAD_BODY IDENTIFY invalid body size -1")
	f("IDENTIFY\n\x00\x00\x00\x02{", "!E_BAD_BODY IDENTIFY failed to read body")
	f("IDENTIFY x\n\x00\x00\x00\x02{}", `IDENTIFY "{}"`)
	f("AUTH \n", "!E_INVALID AUTH invalid number of parameters")
	f("AUTH\n\x00", "!E_BAD_BODY AUTH failed to read body size")
	f("AUTH\n\x00\x00\x03\xe9", "!E_BAD_BODY AUTH body too big 1001 > 1000")
	f("AUTH\n\x80\x00\x00\x00", "!E_BAD_BODY AUTH invalid body size -2147483648")
	f("AUTH\n\x00\x00\x00\x01", "!E_BAD_BODY AUTH failed to read body")

	f("SUB t\n", "!E_INVALID SUB insufficient number of parameters")
	f("SUB a:b c\n", `!E_BAD_TOPIC SUB topic name "a:b" is not valid`)
	f("SUB t \xff\n", `!E_BAD_CHANNEL SUB channel name "\xff" is not valid`)
	f("SUB t  c\n", `!E_BAD_CHANNEL SUB channel name "" is not valid`)
	f("SUB t#ephemeral c more\n", "SUB t#ephemeral c")

	f("RDY\n", "RDY 1")
	f("RDY \n", "RDY 0")
	f("RDY 02500\n", "RDY 2500")
	f("RDY 2501\n", "!E_INVALID RDY count 2501 out of range 0-2500")
	f("RDY -1\n", "!E_INVALID RDY could not parse count -1")
	f("RDY +5\n", "!E_INVALID RDY could not parse count +5")
	f("RDY 1.5\n", "!E_INVALID RDY could not parse count 1.5")
	f("RDY 18446744073709551615\n", "!E_INVALID RDY count -1 out of range 0-2500")
	f("RDY 18446744073709551617\n", "RDY 1")

	f("FIN\n", "!E_INVALID FIN insufficient number of params")
	f("FIN 0123\n", "!E_INVALID invalid message ID")
	f("FIN "+id+"0\n", "!E_INVALID invalid message ID")
	f("FIN "+id+"\n", `FIN "`+id+`"`)
	f("FIN "+id+"\r\n", `FIN "`+id+`"`)
	f("FIN "+strings.ToUpper(id)+" x\n", `FIN "0123456789ABCDEF"`)
	f("TOUCH\n", "!E_INVALID TOUCH insufficient number of params")
	f("TOUCH x\n", "!E_INVALID invalid message ID")
	f("REQ "+id+"\n", "!E_INVALID REQ insufficient number of params")
	f("REQ x y\n", "!E_INVALID invalid message ID")
	f("REQ "+id+" -1\n", "!E_INVALID REQ could not parse timeout -1")
	f("REQ "+id+" 0\r\n", `REQ "`+id+`" 0s`)
	f("REQ "+id+" 1000 2000\n", `REQ "`+id+`" 1s`)
	f("REQ "+id+"  1000\n", `REQ "`+id+`" 0s`)
	f("REQ "+id+" 0000000100\n", `REQ "`+id+`" 100ms`)
	f("REQ "+id+" 00000000100\n", `REQ "`+id+`" 100ms`)
	f("REQ "+id+" 10x\n", "!E_INVALID REQ could not parse timeout 10x")
	f("REQ "+id+" \n", `REQ "`+id+`" 0s`)
	f("REQ "+id+" 99999999\n", `REQ "`+id+`" 1h0m0s`)
	f("REQ "+id+" 9223372036855\n", `REQ "`+id+`" 0s`)

	f("PUB\n", "!E_INVALID PUB insufficient number of parameters")
	f("PUB \n", `!E_BAD_TOPIC PUB topic name "" is not valid`)
	f("PUB "+strings.Repeat("t", 65)+"\n", `!E_BAD_TOPIC PUB topic name "`+strings.Repeat("t", 65)+`" is not valid`)
	f("PUB "+strings.Repeat("t", 64)+"\n\x00\x00\x00\x01x", "PUB "+strings.Repeat("t", 64)+` "x"`)
	f("PUB #ephemeral\n", `!E_BAD_TOPIC PUB topic name "#ephemeral" is not valid`)
	f("PUB t\n\x00", "!E_BAD_MESSAGE PUB failed to read message body size")
	f("PUB t\n\x00\x00\x00\x00", "!E_BAD_MESSAGE PUB invalid message body size 0")
	f("PUB t\n\x00\x00\x00\x65", "!E_BAD_MESSAGE PUB message too big 101 > 100")
	f("PUB t\n\x00\x00\x00\x02x", "!E_BAD_MESSAGE PUB failed to read message body")
	f("PUB t x\r\n\x00\x00\x00\x01xPUB t\n\x00\x00\x00\x01\n", `PUB t "\n"`)
	f("DPUB t\n", "!E_INVALID DPUB insufficient number of parameters")
	f("DPUB a:b x\n", `!E_BAD_TOPIC DPUB topic name "a:b" is not valid`)
	f("DPUB t x\n", "!E_INVALID DPUB could not parse timeout x")
	f("DPUB t 3600001\n", "!E_INVALID DPUB timeout 3600001 out of range 0-3600000")
	f("DPUB t 5\n", "!E_BAD_MESSAGE DPUB failed to read message body size")
	f("DPUB t 5\n\x00\x00\x00\x00", "!E_BAD_MESSAGE DPUB invalid message body size 0")
	f("DPUB t 5\n\x00\x00\x00\x65", "!E_BAD_MESSAGE DPUB message too big 101 > 100")
	f("DPUB t 5\n\x00\x00\x00\x01", "!E_BAD_MESSAGE DPUB failed to read message body")
	f("DPUB t \n\x00\x00\x00\x01x", `DPUB t 0s "x"`)
	f("DPUB t 18446744073710\n\x00\x00\x00\x01x", `DPUB t 448.384µs "x"`) // wraps into range

	f("MPUB\n", "!E_INVALID MPUB insufficient number of parameters")
	f("MPUB a:b\n", `!E_BAD_TOPIC E_BAD_TOPIC MPUB topic name "a:b" is not valid`)
	f("MPUB t\n\x00", "!E_BAD_BODY MPUB failed to read body size")
	f("MPUB t\n\x00\x00\x00\x00", "!E_BAD_BODY MPUB invalid body size 0")
	f("MPUB t\n\x00\x00\x03\xe9", "!E_BAD_BODY MPUB body too big 1001 > 1000")
	f("MPUB t\n\x00\x00\x00\x0e", "!E_BAD_BODY MPUB failed to read message count")
	f("MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\x00", "!E_BAD_BODY MPUB invalid message count 0")
	f("MPUB t\n\x00\x00\x00\x0e\xff\xff\xff\xff", "!E_BAD_BODY MPUB invalid message count -1")
	f("MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\xc8", "!E_BAD_BODY MPUB invalid message count 200")
	f("MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\xc7", "!E_BAD_MESSAGE MPUB failed to read message(0) body size")
	f("MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\x02\x00\x00\x00\x01x\x00", "!E_BAD_MESSAGE MPUB failed to read message(1) body size")
	f("MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\x02\x00\x00\x00\x01x\x00\x00\x00\x00", "!E_BAD_MESSAGE MPUB invalid message(1) body size 0")
	f("MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\x02\x00\x00\x00\x65", "!E_BAD_MESSAGE MPUB message too big 101 > 100")
	f("MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\x02\x00\x00\x00\x01", "!E_BAD_MESSAGE MPUB failed to read message body")
	f("MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\x02\x00\x00\x00\x01x\x00\x00\x00\x01y", `MPUB t "x" "y"`)
	// A batch shorter than announced ends with its last message, and one that
	// is longer is refused: our one difference.
	f("MPUB t\n\x00\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x01xNOP\n", "NOP")
	f("MPUB t\n\x00\x00\x00\x0d\x00\x00\x00\x02\x00\x00\x00\x01x\x00\x00\x00\x01y", "!E_BAD_BODY MPUB message(1) exceeds body size 13")
	f("MPUB t\n\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01x", "!E_BAD_BODY MPUB message(0) exceeds body size 1")
}

// TestResume shows that a big batch is not looked at again from its start: a
// resumed parse does not notice damage in what it has passed.
func TestResume(t *testing.T) {
	b := wire.AppendMpub(nil, "t", []byte("one"), []byte("two"), []byte("three"))
	var c wire.Command
	cut := len(b) - 5
	n, _ := c.ParseLine(b)
	if err := c.CheckParams(&testLimits); err != nil {
		t.Fatal(err)
	}
	if _, s, err := c.ParseBody(b[n:cut], &testLimits); s != wire.NeedMore || err != nil || c.Need != len(b)-n {
		t.Fatalf("status %d, error %v, need %d; want NeedMore and %d", s, err, c.Need, len(b)-n)
	}
	b[n+8] = 0xff // the size of message 0
	if m, s, err := c.ParseBody(b[n:], &testLimits); s != wire.OK || err != nil || n+m != len(b) {
		t.Fatalf("resumed: %d bytes, status %d, error %v", n+m, s, err)
	}
	// A state that cannot belong to the bytes starts over.
	if _, s, err := c.ParseBody(b[n:n+9], &testLimits); s != wire.NeedMore || err != nil {
		t.Fatalf("shorter bytes: status %d, error %v", s, err)
	}
}

func TestParseBatch(t *testing.T) {
	f := func(b []byte, want string) {
		t.Helper()
		m, err := wire.ParseBatch(b, &testLimits)
		got := fmt.Sprint(m.Count())
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", b, got, want)
		}
	}
	two := wire.AppendBatch(nil, []byte("a"), []byte("bc"))
	f(two, "2")
	f(append(bytes.Clone(two), "trailing"...), "2")
	f(nil, "E_BAD_BODY MPUB failed to read message count")
	f(make([]byte, 4), "E_BAD_BODY MPUB invalid message count 0")
	f(two[:4], "E_BAD_MESSAGE MPUB failed to read message(0) body size")
	f(two[:12], "E_BAD_MESSAGE MPUB failed to read message(1) body size")
	f(two[:len(two)-1], "E_BAD_MESSAGE MPUB failed to read message body")
}

// TestBuild shows that what the build functions write, the parser reads, and
// that building again from what it read gives the same bytes.
func TestBuild(t *testing.T) {
	body := []byte("body\n")
	f := func(b []byte, rebuild func(c *wire.Command) []byte) {
		t.Helper()
		var c wire.Command
		n, s, err := c.Parse(b, &testLimits)
		if n != len(b) || s != wire.OK || err != nil {
			t.Fatalf("%q: %d bytes, status %d, error %v", b, n, s, err)
		}
		if got := rebuild(&c); !bytes.Equal(got, b) {
			t.Errorf("got %q, want %q", got, b)
		}
		checkStream(t, slices.Concat(b, b), &testLimits, 1)
	}
	f(wire.AppendIdentify(nil, body), func(c *wire.Command) []byte { return wire.AppendIdentify(nil, c.Body) })
	f(wire.AppendAuth(nil, body), func(c *wire.Command) []byte { return wire.AppendAuth(nil, c.Body) })
	f(wire.AppendSub(nil, "t", "c"), func(c *wire.Command) []byte { return wire.AppendSub(nil, string(c.Topic), string(c.Channel)) })
	f(wire.AppendPub(nil, "t", body), func(c *wire.Command) []byte { return wire.AppendPub(nil, string(c.Topic), c.Body) })
	f(wire.AppendDpub(nil, "t", time.Minute, body), func(c *wire.Command) []byte { return wire.AppendDpub(nil, string(c.Topic), c.Delay, c.Body) })
	f(wire.AppendMpub(nil, "t", body, body[:1]), func(c *wire.Command) []byte {
		var bodies [][]byte
		m := c.Messages()
		for body, ok := m.Next(); ok; body, ok = m.Next() {
			bodies = append(bodies, body)
		}
		return wire.AppendMpub(nil, string(c.Topic), bodies...)
	})
	f(wire.AppendRdy(nil, 7), func(c *wire.Command) []byte { return wire.AppendRdy(nil, c.Count) })
	f(wire.AppendFin(nil, 1<<63), func(c *wire.Command) []byte { return wire.AppendFin(nil, c.ID) })
	f(wire.AppendReq(nil, 255, time.Second), func(c *wire.Command) []byte { return wire.AppendReq(nil, c.ID, c.Delay) })
	f(wire.AppendTouch(nil, 254), func(c *wire.Command) []byte { return wire.AppendTouch(nil, c.ID) })
	f(wire.AppendCls(nil), func(*wire.Command) []byte { return wire.AppendCls(nil) })
	f(wire.AppendNop(nil), func(*wire.Command) []byte { return wire.AppendNop(nil) })
}

func TestAllocations(t *testing.T) {
	if invariant.Enabled {
		t.Skip("checks allocate")
	}
	var c wire.Command
	f := func(b []byte) {
		t.Helper()
		got := testing.AllocsPerRun(100, func() {
			if n, s, err := c.Parse(b, &testLimits); n != len(b) || s != wire.OK || err != nil {
				t.Fatalf("%q: %d bytes, status %d, error %v", b, n, s, err)
			}
			if c.Op == wire.OpMpub {
				m := c.Messages()
				for _, ok := m.Next(); ok; _, ok = m.Next() {
				}
			}
		})
		if got != 0 {
			t.Errorf("%q: %v allocations", b, got)
		}
	}
	f(wire.AppendPub(nil, "topic", make([]byte, 200)))
	f(wire.AppendPub(nil, "topic#ephemeral", make([]byte, 200)))
	f(wire.AppendMpub(nil, "topic", make([]byte, 200), make([]byte, 10)))
	f(wire.AppendDpub(nil, "topic", time.Second, make([]byte, 200)))
	f(wire.AppendFin(nil, 1))
	f(wire.AppendReq(nil, 1, time.Second))
	f(wire.AppendTouch(nil, 1))
	f(wire.AppendRdy(nil, 100))
	f(wire.AppendNop(nil))
	name := []byte("topic#ephemeral")
	if got := testing.AllocsPerRun(100, func() { _ = wire.IsEphemeral(name) && wire.ValidName(name) }); got != 0 {
		t.Errorf("names: %v allocations", got)
	}
}

// FuzzParse holds the parser to the reference for any bytes under any split.
func FuzzParse(f *testing.F) {
	seeds := []string{
		"PUB t\n\x00\x00\x00\x01xFIN 0123456789abcdef\nRDY 5\r\n", "DPUB t#ephemeral 100\n\x00\x00\x00\x02hi",
		"MPUB t\n\x00\x00\x00\x0e\x00\x00\x00\x02\x00\x00\x00\x01x\x00\x00\x00\x01yNOP\n", "SUB t c\n",
		"REQ 0123456789abcdef 18446744073709551617\n", "IDENTIFY\n\x00\x00\x00\x02{}AUTH\n\x00\x00\x00\x01x",
		"TOUCH 0123456789ABCDEF\nCLS\n", "FIN 0123456789abcd\n\n", "PUB t\r\n\x00\x00\x00\x01\n  \n",
	}
	for i, s := range seeds {
		f.Add([]byte(s), uint64(i))
	}
	lim := wire.Limits{MaxMsgSize: 20, MaxBodySize: 60, MaxRdyCount: 10, MaxReqTimeout: time.Second}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		checkStream(t, stream, &lim, seed)
		m, err := wire.ParseBatch(stream, &lim)
		for _, ok := m.Next(); ok && err == nil; _, ok = m.Next() {
		}
	})
}

func BenchmarkParse(b *testing.B) {
	f := func(name string, cmd []byte) {
		b.Run(name, func(b *testing.B) {
			var c wire.Command
			b.ReportAllocs()
			for b.Loop() {
				if n, _, _ := c.Parse(cmd, &testLimits); n != len(cmd) {
					b.Fatal(n)
				}
			}
		})
	}
	bodies := make([][]byte, 100)
	for i := range bodies {
		bodies[i] = make([]byte, 200)
	}
	f("pub200", wire.AppendPub(nil, "some_topic", bodies[0]))
	f("fin", wire.AppendFin(nil, 0x18a2d1a245269000))
	f("rdy", wire.AppendRdy(nil, 2500))
	f("mpub100x200", wire.AppendMpub(nil, "some_topic", bodies...))
}
