package engine_test

import (
	"io"
	"strings"
	"testing"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

const (
	noID  = "0123456789abcdef"
	notID = "not hexadecimal!"
)

// transcripts returns a function that plays a script, magic included, in one
// piece and byte by byte. Both must give the frames; then the connection must
// be closed if the last of them is ended, and answer a PUB if not.
func transcripts(t *testing.T, e *engine.Engine) func(script string, want ...string) {
	return func(script string, want ...string) {
		t.Helper()
		play := func(how string, step int) {
			p := dial(t, e)
			for rest := script; rest != ""; rest = rest[min(step, len(rest)):] {
				// What follows a fatal error may or may not be taken.
				if _, err := io.WriteString(p, rest[:min(step, len(rest))]); err != nil {
					break
				}
			}
			for i, w := range want {
				if got := p.next(); got != w {
					t.Errorf("%.60q %s: frame %d: got %q, want %q", script, how, i, got, w)
					return
				}
			}
			if want[len(want)-1] == ended {
				return
			}
			p.send(pub("probe", "x"))
			if got := p.next(); got != "OK" {
				t.Errorf("%.60q %s: PUB after it: got %q", script, how, got)
			}
			_ = p.Close()
		}
		play("at once", len(script))
		if len(script) < 1000 {
			play("byte by byte", 1)
		}
	}
}

// TestMagic shows what may come first.
func TestMagic(t *testing.T) {
	f := transcripts(t, start(t, options(t)))
	f("  V1", "E_BAD_PROTOCOL", ended)
	f("GET / HTTP/1.1\r\n\r\n", "E_BAD_PROTOCOL", ended)
	f("  V2NOP\n"+pub("t", "x"), "OK")
}

// TestLines shows how a command line is cut.
func TestLines(t *testing.T) {
	e := start(t, options(t))
	f := func(script string, want ...string) {
		t.Helper()
		transcripts(t, e)(wire.Magic+script, want...)
	}
	f("PUB t\r\n"+size(1)+"x", "OK")
	f("PUB t\r\r\n"+size(1)+"x", `E_BAD_TOPIC PUB topic name "t\r" is not valid`, ended)
	f("PUB  t\n"+size(1)+"x", `E_BAD_TOPIC PUB topic name "" is not valid`, ended)
	f("PUB t \n"+size(1)+"x", "OK")
	f("PUB t more of it\n"+size(1)+"x", "OK")
	f(" NOP\n", "E_INVALID invalid command ", ended)
	f("\n", "E_INVALID invalid command ", ended)
	f("\r\n", "E_INVALID invalid command ", ended)
	f("nop\n", "E_INVALID invalid command nop", ended)
	f("NOP\nNOP extra\nBOGUS x\n", "E_INVALID invalid command BOGUS", ended)

	longest := "NOP " + strings.Repeat("x", 16384-len("NOP \n")) + "\n"
	f(longest+pub("t", "x"), "OK")
	f("NOP "+longest, ended)
	f(strings.Repeat("x", 20000), ended)
}

// TestStates shows every command in every state that a connection can be in.
func TestStates(t *testing.T) {
	e := start(t, options(t))
	f := func(script string, want ...string) {
		t.Helper()
		transcripts(t, e)(wire.Magic+script, want...)
	}
	cannot := func(name string) string { return "E_INVALID cannot " + name + " in current state" }
	for _, name := range []string{"RDY", "FIN", "REQ", "TOUCH", "CLS"} {
		f(name+"\n", cannot(name), ended)
	}
	f(pub("t", "x")+mpub("t", "x", "y")+"DPUB t 1\n"+size(1)+"x", "OK", "OK", "OK")

	s := sub("state", "c")
	for _, name := range []string{"IDENTIFY", "AUTH", "SUB"} {
		f(s+name+"\n", "OK", cannot(name), ended)
		f(s+"CLS\n"+name+"\n", "OK", "CLOSE_WAIT", cannot(name), ended)
	}
	f(s+pub("t", "x")+mpub("t", "x", "y")+"DPUB t 1\n"+size(1)+"x"+"RDY 0\nNOP\n", "OK", "OK", "OK", "OK")
	f(s+"CLS\nCLS\n", "OK", "CLOSE_WAIT", cannot("CLS"), ended)
	f(s+"CLS\nRDY nonsense\nNOP\n"+pub("t", "x"), "OK", "CLOSE_WAIT", "OK")
	f(s+"CLS\nFIN "+noID+"\n", "OK", "CLOSE_WAIT", "E_FIN_FAILED FIN "+noID+" failed ID not in flight")
}

// TestIdentify shows what IDENTIFY takes, and its answers.
func TestIdentify(t *testing.T) {
	o := options(t)
	o.MsgTimeout = engine.NewOptions().MsgTimeout
	e := start(t, o)
	f := func(script string, want ...string) {
		t.Helper()
		transcripts(t, e)(wire.Magic+script, want...)
	}
	answer := func(timeout, sample, bufSize, bufTimeout string) string {
		return `{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":` + timeout +
			`,"tls_v1":false,"deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":` + sample +
			`,"auth_required":false,"output_buffer_size":` + bufSize + `,"output_buffer_timeout":` + bufTimeout + `}`
	}
	f(identify(`{}`)+identify(`null`), "OK", "OK")
	f(identify(`{"feature_negotiation":true}`), answer("60000", "0", "16384", "250"))
	f(identify(`{"FEATURE_negotiation":true,"msg_timeout":1000,"sample_rate":99,"output_buffer_size":64,"output_buffer_timeout":25,"unknown":[]}`),
		answer("1000", "99", "64", "25"))
	f(identify(`{"feature_negotiation":true,"output_buffer_size":-1}`), answer("60000", "0", "1", "0"))
	f(identify(`{"heartbeat_interval":-1}`)+pub("t", "x"), "OK", "OK")
	f(identify(`{"heartbeat_interval":-1}`)+sub("t", "c"), "OK", "E_INVALID cannot SUB with heartbeats disabled", ended)
	f(identify(`{"snappy":true,"deflate":true}`), "OK")

	for _, body := range []string{`{`, `[]`, `{} x`, `{"client_id":1}`, `{"msg_timeout":1e3}`, `{"sample_rate":3000000000}`} {
		f(identify(body), "E_BAD_BODY IDENTIFY failed to decode JSON body", ended)
	}
	invalid := func(field, value, name string) {
		t.Helper()
		f(identify(`{"`+field+`":`+value+`}`), "E_BAD_BODY IDENTIFY "+name+" ("+value+") is invalid", ended)
	}
	for _, v := range []string{"-2", "1", "999", "60001"} {
		invalid("heartbeat_interval", v, "heartbeat interval")
	}
	for _, v := range []string{"-2", "24", "30001"} {
		invalid("output_buffer_timeout", v, "output buffer timeout")
	}
	for _, v := range []string{"-2", "63", "65537"} {
		invalid("output_buffer_size", v, "output buffer size")
	}
	for _, v := range []string{"-1", "100"} {
		invalid("sample_rate", v, "sample rate")
	}
	for _, v := range []string{"-1", "999", "900001"} {
		invalid("msg_timeout", v, "msg timeout")
	}
	f("IDENTIFY\n"+size(0), "E_BAD_BODY IDENTIFY invalid body size 0", ended)
	f("IDENTIFY\n"+size(-1), "E_BAD_BODY IDENTIFY invalid body size -1", ended)
	f("IDENTIFY\n"+size(5<<20+1), "E_BAD_BODY IDENTIFY body too big 5242881 > 5242880", ended)
	f("AUTH\n"+size(1)+"s", "E_AUTH_DISABLED AUTH disabled", ended)
	f("AUTH \n", "E_INVALID AUTH invalid number of parameters", ended)
	f("AUTH\n"+size(0), "E_BAD_BODY AUTH invalid body size 0", ended)
	f("AUTH\n"+size(5<<20+1), "E_BAD_BODY AUTH body too big 5242881 > 5242880", ended)
}

// TestSubscribe shows what SUB and RDY take.
func TestSubscribe(t *testing.T) {
	e := start(t, options(t))
	f := func(script string, want ...string) {
		t.Helper()
		transcripts(t, e)(wire.Magic+script, want...)
	}
	f("SUB\n", "E_INVALID SUB insufficient number of parameters", ended)
	f("SUB t\n", "E_INVALID SUB insufficient number of parameters", ended)
	f("SUB t \n", `E_BAD_CHANNEL SUB channel name "" is not valid`, ended)
	f("SUB  c\n", `E_BAD_TOPIC SUB topic name "" is not valid`, ended)
	f("SUB a:b c\n", `E_BAD_TOPIC SUB topic name "a:b" is not valid`, ended)
	f("SUB t \xff\n", `E_BAD_CHANNEL SUB channel name "\xff" is not valid`, ended)
	f("SUB #ephemeral c\n", `E_BAD_TOPIC SUB topic name "#ephemeral" is not valid`, ended)
	long := strings.Repeat("n", 64)
	f(sub(long, long), "OK")
	f(sub(long+"n", "c"), `E_BAD_TOPIC SUB topic name "`+long+`n" is not valid`, ended)
	// Only once: a name that is being deleted may refuse a moment later.
	greet(t, e, sub(".a-Z_9#ephemeral", "c#ephemeral")).want("OK")

	s := sub("ready", "c")
	f(s+"RDY\nRDY \nRDY 2500\nRDY 0002\nRDY 18446744073709551617\n", "OK")
	f(s+"RDY 2501\n", "OK", "E_INVALID RDY count 2501 out of range 0-2500", ended)
	f(s+"RDY 18446744073709551615\n", "OK", "E_INVALID RDY count -1 out of range 0-2500", ended)
	for _, v := range []string{"-1", "+5", "1.5", "x"} {
		f(s+"RDY "+v+"\n", "OK", "E_INVALID RDY could not parse count "+v, ended)
	}
}

// TestConsumerLimit shows the answer to one consumer too many.
func TestConsumerLimit(t *testing.T) {
	o := options(t)
	o.MaxChannelConsumers = 1
	e := start(t, o)
	greet(t, e, sub("t", "c")).want("OK")
	greet(t, e, sub("t", "c")).want("E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 1", ended)
	greet(t, e, sub("t", "d")).want("OK")
}

// TestResponses shows FIN, REQ and TOUCH of messages that are not there.
func TestResponses(t *testing.T) {
	e := start(t, options(t))
	f := func(script string, want ...string) {
		t.Helper()
		transcripts(t, e)(wire.Magic+sub("response", "c")+script, append([]string{"OK"}, want...)...)
	}
	f("FIN\n", "E_INVALID FIN insufficient number of params", ended)
	f("REQ\n", "E_INVALID REQ insufficient number of params", ended)
	f("REQ "+noID+"\n", "E_INVALID REQ insufficient number of params", ended)
	f("TOUCH\n", "E_INVALID TOUCH insufficient number of params", ended)
	for _, id := range []string{"", noID[1:], noID + "0"} {
		f("FIN "+id+"\n", "E_INVALID invalid message ID", ended)
		f("REQ "+id+" 0\n", "E_INVALID invalid message ID", ended)
		f("TOUCH "+id+"\n", "E_INVALID invalid message ID", ended)
	}
	f("REQ "+noID+" -1\n", "E_INVALID REQ could not parse timeout -1", ended)
	for _, id := range []string{noID, strings.ToUpper(noID), strings.Repeat("0", 16)} {
		f("FIN "+id+"\nTOUCH "+id+" x\nREQ "+id+" 99999999999\nREQ "+id+" \n",
			"E_FIN_FAILED FIN "+id+" failed ID not in flight",
			"E_TOUCH_FAILED TOUCH "+id+" failed ID not in flight",
			"E_REQ_FAILED REQ "+id+" failed ID not in flight",
			"E_REQ_FAILED REQ "+id+" failed ID not in flight")
	}
	id := strings.ReplaceAll(notID, " ", "_")
	f("FIN "+id+"\n", "E_FIN_FAILED FIN "+id+" failed ID not in flight")
}

// TestPublish shows what PUB and DPUB take.
func TestPublish(t *testing.T) {
	o := options(t)
	o.MaxMsgSize = 100
	e := start(t, o)
	f := func(script string, want ...string) {
		t.Helper()
		transcripts(t, e)(wire.Magic+script, want...)
	}
	for _, line := range []string{"PUB t", "DPUB t 0"} {
		name, _, _ := strings.Cut(line, " ")
		f(name+"\n", "E_INVALID "+name+" insufficient number of parameters", ended)
		f(strings.Replace(line, "t", "a:b", 1)+"\n", `E_BAD_TOPIC `+name+` topic name "a:b" is not valid`, ended)
		f(line+"\n"+size(0), "E_BAD_MESSAGE "+name+" invalid message body size 0", ended)
		f(line+"\n"+size(-1), "E_BAD_MESSAGE "+name+" invalid message body size -1", ended)
		f(line+"\n"+size(101), "E_BAD_MESSAGE "+name+" message too big 101 > 100", ended)
		f(line+"\n"+size(100)+strings.Repeat("x", 100)+line+"\n"+size(1)+"\n", "OK", "OK")
	}
	f("DPUB t\n", "E_INVALID DPUB insufficient number of parameters", ended)
	f("DPUB t \n"+size(1)+"x", "OK")
	f("DPUB t 3600000\n"+size(1)+"x", "OK")
	f("DPUB t 3600001\n", "E_INVALID DPUB timeout 3600001 out of range 0-3600000", ended)
	f("DPUB t -1\n", "E_INVALID DPUB could not parse timeout -1", ended)
	f("DPUB t 1.5\n", "E_INVALID DPUB could not parse timeout 1.5", ended)
	f(strings.Repeat(pub("t", "x"), 20), strings.Split(strings.Repeat("OK ", 20)[:59], " ")...)
}

// TestPublishBatch shows what MPUB takes.
func TestPublishBatch(t *testing.T) {
	o := options(t)
	o.MaxMsgSize, o.MaxBodySize = 100, 1000
	e := start(t, o)
	f := func(script string, want ...string) {
		t.Helper()
		transcripts(t, e)(wire.Magic+script, want...)
	}
	f("MPUB\n", "E_INVALID MPUB insufficient number of parameters", ended)
	f("MPUB a:b\n", `E_BAD_TOPIC E_BAD_TOPIC MPUB topic name "a:b" is not valid`, ended)
	f("MPUB t\n"+size(0), "E_BAD_BODY MPUB invalid body size 0", ended)
	f("MPUB t\n"+size(-5), "E_BAD_BODY MPUB invalid body size -5", ended)
	f("MPUB t\n"+size(1001), "E_BAD_BODY MPUB body too big 1001 > 1000", ended)
	for _, count := range []int32{0, -1, 200} {
		want := map[int32]string{0: "0", -1: "-1", 200: "200"}[count]
		f("MPUB t\n"+size(20)+size(count), "E_BAD_BODY MPUB invalid message count "+want, ended)
	}
	f("MPUB t\n"+size(20)+size(2)+size(1)+"x"+size(0), "E_BAD_MESSAGE MPUB invalid message(1) body size 0", ended)
	f("MPUB t\n"+size(20)+size(1)+size(-1), "E_BAD_MESSAGE MPUB invalid message(0) body size -1", ended)
	f("MPUB t\n"+size(200)+size(1)+size(101), "E_BAD_MESSAGE MPUB message too big 101 > 100", ended)
	f(mpub("t", "x", strings.Repeat("y", 100))+mpub("t", "z"), "OK", "OK")

	// The declared size does not delimit the batch, which is as long as it is; it
	// only bounds the messages.
	f("MPUB t\n"+size(1)+size(2)+size(1)+"x", "E_BAD_BODY MPUB message(0) exceeds body size 1", ended)
	f("MPUB t\n"+size(500)+size(2)+size(1)+"x"+size(1)+"y"+pub("t", "z"), "OK", "OK")
}

// TestCommandOrder pipelines publishes, which wait for the round's end, with
// failures, which do not: the answers keep the commands' order.
func TestCommandOrder(t *testing.T) {
	e := start(t, options(t))
	bad := "E_FIN_FAILED FIN " + noID + " failed ID not in flight"
	transcripts(t, e)(
		wire.Magic+sub("order", "c")+pub("t", "1")+"FIN "+noID+"\n"+pub("t", "2")+mpub("t", "3", "4")+
			"FIN "+noID+"\nFIN "+noID+"\n"+pub("t", "5")+"CLS\n"+pub("t", "6")+"BOGUS\n"+pub("t", "7"),
		"OK", "OK", bad, "OK", "OK", bad, bad, "OK", "CLOSE_WAIT", "OK", "E_INVALID invalid command BOGUS", ended)
}

// TestHalfClosed ends the stream behind a script: whole commands are answered,
// and half a command gets the error for what is missing.
func TestHalfClosed(t *testing.T) {
	e := start(t, options(t))
	f := func(script string, want ...string) {
		t.Helper()
		p := greet(t, e, script)
		if err := p.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		for i, w := range append(want, ended) {
			if got := p.next(); got != w {
				t.Errorf("%q: frame %d: got %q, want %q", script, i, got, w)
				return
			}
		}
	}
	f("")
	f("PUB t")
	f(pub("t", "x")+mpub("t", "x"), "OK", "OK")
	f(pub("t", "x")+"PUB t\n", "OK", "E_BAD_MESSAGE PUB failed to read message body size")
	for _, c := range stalls {
		f(c.script, c.want)
	}
}

// stalls are commands that lack their end, with what the client is told.
var stalls = []struct{ script, want string }{
	{"PUB t\n\x00\x00", "E_BAD_MESSAGE PUB failed to read message body size"},
	{"PUB t\n" + size(10) + "half", "E_BAD_MESSAGE PUB failed to read message body"},
	{"DPUB t 1\n", "E_BAD_MESSAGE DPUB failed to read message body size"},
	{"DPUB t 1\n" + size(10), "E_BAD_MESSAGE DPUB failed to read message body"},
	{"IDENTIFY\n", "E_BAD_BODY IDENTIFY failed to read body size"},
	{"IDENTIFY\n" + size(10) + "{", "E_BAD_BODY IDENTIFY failed to read body"},
	{"AUTH\n", "E_BAD_BODY AUTH failed to read body size"},
	{"AUTH\n" + size(10), "E_BAD_BODY AUTH failed to read body"},
	{"MPUB t\n", "E_BAD_BODY MPUB failed to read body size"},
	{"MPUB t\n" + size(20), "E_BAD_BODY MPUB failed to read message count"},
	{"MPUB t\n" + size(20) + size(2) + size(1) + "x", "E_BAD_MESSAGE MPUB failed to read message(1) body size"},
	{"MPUB t\n" + size(20) + size(1) + size(5) + "x", "E_BAD_MESSAGE MPUB failed to read message body"},
}
