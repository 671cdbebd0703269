package lookupd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// The tests of this file are about deadlines, with a client whose silence takes no
// time. That a deadline ends a real connection is TestSilence's affair.

// Limits so far apart that it does not matter how long a test takes.
const (
	reapLimit = 10 * time.Hour
	idleLimit = 1000 * time.Hour
)

// A talker is a connection whose other side says one word a read and then falls
// silent until the deadline. It notes the limits under which it is read.
type talker struct {
	script
	words []string
	mute  bool // takes no answers

	reading, writing time.Time // deadlines
	renewed          bool      // reading was set since the last read
	limits           []string  // one a read
}

func (c *talker) Read(p []byte) (int, error) {
	limit := limitOf(c.reading)
	if !c.renewed {
		limit = "the same"
	}
	c.limits, c.renewed = append(c.limits, limit), false
	if len(c.words) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, c.words[0])
	if c.words[0] = c.words[0][n:]; c.words[0] == "" {
		c.words = c.words[1:]
	}
	return n, nil
}

func (c *talker) Write(p []byte) (int, error) {
	if limit := limitOf(c.writing); limit != "reap" {
		return 0, fmt.Errorf("an answer is written with the limit %s", limit)
	}
	if c.mute {
		return 0, os.ErrDeadlineExceeded
	}
	return c.script.Write(p)
}

func (c *talker) SetDeadline(t time.Time) error {
	c.writing = t
	return c.SetReadDeadline(t)
}

func (c *talker) SetReadDeadline(t time.Time) error {
	c.reading, c.renewed = t, true
	return nil
}

func (c *talker) SetWriteDeadline(t time.Time) error {
	c.writing = t
	return nil
}

// limitOf names the limit of a deadline that was set a moment ago.
func limitOf(deadline time.Time) string {
	left := time.Until(deadline)
	for name, limit := range map[string]time.Duration{"reap": reapLimit, "idle": idleLimit} {
		if left <= limit && left > limit-time.Hour {
			return name
		}
	}
	return fmt.Sprint("of ", left)
}

// converse runs a connection to its end and returns the answers.
func (c *talker) converse(t *testing.T, s *Server) (answers []string) {
	t.Helper()
	s.opts.ReapTimeout, s.opts.IdleTimeout = reapLimit, idleLimit
	(&conn{s: s, c: c, addr: "1.2.3.4:5", r: bufio.NewReaderSize(c, lineMax)}).run()
	if !c.closed {
		t.Error("the connection was left open")
	}
	for r := bytes.NewReader(c.out.Bytes()); r.Len() > 0; {
		var size uint32
		if err := binary.Read(r, binary.BigEndian, &size); err != nil || int(size) > r.Len() {
			t.Fatalf("half an answer: %q", c.out.Bytes())
		}
		text := make([]byte, size)
		_, _ = r.Read(text) // all of it is there
		answers = append(answers, string(text))
	}
	return answers
}

const identifyBody = `{"broadcast_address":"b","tcp_port":1,"http_port":2,"version":"v"}`

func identifySize() string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(identifyBody))))
}

// TestDeadlines shows that each command has its time, all of it and no more,
// however it is spread: little before IDENTIFY, much afterwards. A producer whose
// time is over goes.
func TestDeadlines(t *testing.T) {
	s := fuzzed()
	c := &talker{}
	var want []string
	for _, step := range []struct{ word, limit string }{
		{"  V", "reap"},
		{"1", "the same"},
		{"PI", "reap"},
		{"NG\n", "the same"},
		{"IDENTIFY\n", "reap"},
		{identifySize()[:3], "the same"},
		{identifySize()[3:] + "{", "the same"},
		{identifyBody[1:], "the same"},
		{"REGISTER t", "idle"},
		{" x\n", "the same"},
		{"PING\n", "idle"},
		{"PING\nPING\nPI", "idle"},
		{"NG\n", "idle"},
		{"", "idle"}, // silence
	} {
		if step.word != "" {
			c.words = append(c.words, step.word)
		}
		want = append(want, step.limit)
	}
	answers := c.converse(t, s)
	if !slices.Equal(c.limits, want) {
		t.Errorf("read with the limits %q, want %q", c.limits, want)
	}
	if want := []string{"OK", string(s.greeting), "OK", "OK", "OK", "OK", "OK"}; !slices.Equal(answers, want) {
		t.Errorf("answered %q, want %q", answers, want)
	}
	if producers, topics, _ := s.registry.totals(); producers != 0 || topics != 1 {
		t.Errorf("%d producers of %d topics, want the topic without its producer", producers, topics)
	}
}

// TestStalledIdentify shows that a client is told which stalls in the middle of
// IDENTIFY, as when it ends there.
func TestStalledIdentify(t *testing.T) {
	const size, body = "E_BAD_BODY IDENTIFY failed to read body size", "E_BAD_BODY IDENTIFY failed to read body"
	for sent, want := range map[string]string{"": size, "\x00\x00": size, identifySize(): body, identifySize() + "{": body} {
		c := &talker{words: []string{"  V1IDENTIFY\n" + sent}}
		if answers := c.converse(t, fuzzed()); !slices.Equal(answers, []string{want}) {
			t.Errorf("%q: %q, want %s", sent, answers, want)
		}
	}
}

// TestMuteProducer shows that a producer goes which does not take its answers.
func TestMuteProducer(t *testing.T) {
	s := fuzzed()
	c := &talker{mute: true, words: []string{"  V1IDENTIFY\n" + identifySize() + identifyBody + "REGISTER t\n", "PING\n"}}
	if answers := c.converse(t, s); len(answers) > 0 {
		t.Errorf("answered %q", answers)
	}
	if producers, _, _ := s.registry.totals(); producers != 0 || len(c.words) != 1 {
		t.Errorf("%d producers, %d words unread; want the connection to end with the first answer", producers, len(c.words))
	}
}
