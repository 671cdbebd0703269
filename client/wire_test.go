package nsq_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

// writes counts the calls of Write.
type writes struct {
	bytes.Buffer
	count int
}

// Write counts.
func (w *writes) Write(p []byte) (int, error) {
	w.count++
	return w.Buffer.Write(p)
}

// TestCommands pins every command's bytes. Each is one write.
func TestCommands(t *testing.T) {
	f := func(cmd *nsq.Command, text, want string) {
		t.Helper()
		var w writes
		n, err := cmd.WriteTo(&w)
		must(t, err)
		if w.String() != want || int(n) != len(want) || w.count != 1 {
			t.Errorf("%q (%d bytes) in %d writes, want %q", w.String(), n, w.count, want)
		}
		if cmd.String() != text {
			t.Errorf("it shows as %q, want %q", cmd, text)
		}
	}
	ok := func(cmd *nsq.Command, err error) *nsq.Command {
		t.Helper()
		must(t, err)
		return cmd
	}
	id := messageID(1)
	f(ok(nsq.Identify(map[string]any{"b": 1, "a": "x"})), "IDENTIFY", "IDENTIFY\n\x00\x00\x00\x0f{\"a\":\"x\",\"b\":1}")
	f(ok(nsq.Auth("secret")), "AUTH", "AUTH\n\x00\x00\x00\x06secret")
	f(nsq.Register("t", "ch"), "REGISTER t ch", "REGISTER t ch\n")
	f(nsq.Register("t", ""), "REGISTER t", "REGISTER t\n")
	f(nsq.UnRegister("t", "ch"), "UNREGISTER t ch", "UNREGISTER t ch\n")
	f(nsq.Ping(), "PING", "PING\n")
	f(nsq.Publish("t", []byte("body")), "PUB t", "PUB t\n\x00\x00\x00\x04body")
	f(nsq.Publish("t", []byte{}), "PUB t", "PUB t\n\x00\x00\x00\x00")
	f(nsq.Publish("t", nil), "PUB t", "PUB t\n")
	f(nsq.DeferredPublish("t", 1999*time.Microsecond, []byte("b")), "DPUB t 1", "DPUB t 1\n\x00\x00\x00\x01b")
	f(ok(nsq.MultiPublish("t", [][]byte{[]byte("a"), []byte("bc")})), "MPUB t",
		"MPUB t\n\x00\x00\x00\x0f\x00\x00\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x02bc")
	f(nsq.Subscribe("t", "ch"), "SUB t ch", "SUB t ch\n")
	f(nsq.Ready(7), "RDY 7", "RDY 7\n")
	f(nsq.Finish(id), "FIN "+string(id[:]), "FIN "+string(id[:])+"\n")
	f(nsq.Requeue(id, 2*time.Second), "REQ "+string(id[:])+" 2000", "REQ "+string(id[:])+" 2000\n")
	f(nsq.Touch(id), "TOUCH "+string(id[:]), "TOUCH "+string(id[:])+"\n")
	f(nsq.StartClose(), "CLS", "CLS\n")
	f(nsq.Nop(), "NOP", "NOP\n")
	_, err := nsq.Identify(map[string]any{"c": make(chan int)})
	wantText(t, err, "unsupported type")
}

// TestMessageForm encodes and decodes a message.
func TestMessageForm(t *testing.T) {
	m := nsq.NewMessage(messageID(5), []byte("body"))
	m.Attempts = 0x0102
	m.Timestamp = 0x0304
	var b bytes.Buffer
	n, err := m.WriteTo(&b)
	must(t, err)
	const want = "\x00\x00\x00\x00\x00\x00\x03\x04\x01\x020000000000000005body"
	if b.String() != want || int(n) != len(want) {
		t.Errorf("%q, want %q", b.String(), want)
	}
	got, err := nsq.DecodeMessage(b.Bytes())
	must(t, err)
	if got.ID != m.ID || got.Attempts != m.Attempts || got.Timestamp != m.Timestamp || string(got.Body) != "body" {
		t.Errorf("decoded %+v", got)
	}
	_, err = nsq.DecodeMessage(b.Bytes()[:25])
	wantText(t, err, "not enough data to decode valid message")
}

// TestReaders reads frames and refuses what is none.
func TestReaders(t *testing.T) {
	kind, data, err := nsq.ReadUnpackedResponse(strings.NewReader(frame(2, "data")))
	if kind != 2 || string(data) != "data" || err != nil {
		t.Errorf("%d %q %v", kind, data, err)
	}
	f := func(in string, limit int32, want string) {
		t.Helper()
		_, _, err := nsq.ReadUnpackedResponse(strings.NewReader(in), limit)
		wantText(t, err, want)
	}
	f("", 0, "EOF")
	f("\x00\x00\x00\x08\x00\x00", 0, "unexpected EOF")
	f("\x7f\xff\xff\xff\x00\x00", 0, "unexpected EOF")
	f("\xff\xff\xff\xfe", 0, "response msg size is negative: -2")
	f("HTTP/1.1 400", 0, "unexpected HTTP response, a nsqd TCP endpoint is required")
	f(frame(0, "12345"), 8, "response msg size 9 exceeds configured maximum (8)")
	f("\x00\x00\x00\x02ab", 0, "length of response is too small")
	large := strings.Repeat("x", 5<<20)
	if got, err := nsq.ReadResponse(io.MultiReader(strings.NewReader(frame(0, large)))); err != nil || string(got[4:]) != large {
		t.Errorf("a large frame: %d bytes, %v", len(got), err)
	}
}

// TestNames pins the rule for names.
func TestNames(t *testing.T) {
	f := func(name string, want bool) {
		t.Helper()
		if nsq.IsValidTopicName(name) != want || nsq.IsValidChannelName(name) != want {
			t.Errorf("%q: want %v", name, want)
		}
	}
	f("a.B-9_", true)
	f("t#ephemeral", true)
	f(strings.Repeat("x", 64), true)
	f(strings.Repeat("x", 65), false)
	f("", false)
	f("#ephemeral", false)
	f("t#other", false)
	f("a b", false)
}

// TestMessageDelegates answers messages of a test's own, as tests of handlers do.
func TestMessageDelegates(t *testing.T) {
	d := new(answers)
	m := nsq.NewMessage(messageID(1), nil)
	m.Delegate = d
	m.Touch()
	m.RequeueWithoutBackoff(time.Second)
	m.Requeue(0)
	m.Finish()
	m.Touch()
	if d.touched != 1 || d.requeued != 1 || d.finished != 0 || d.backoff {
		t.Errorf("%+v", d)
	}
	copied := *m // programs copy messages
	if !copied.HasResponded() || copied.IsAutoResponseDisabled() {
		t.Error("a copy has forgotten")
	}
}

type answers struct {
	touched, requeued, finished int
	backoff                     bool
}

// OnFinish counts.
func (a *answers) OnFinish(*nsq.Message) { a.finished++ }

// OnRequeue counts.
func (a *answers) OnRequeue(_ *nsq.Message, _ time.Duration, backoff bool) {
	a.requeued++
	a.backoff = backoff
}

// OnTouch counts.
func (a *answers) OnTouch(*nsq.Message) { a.touched++ }
