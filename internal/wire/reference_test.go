package wire_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/zsqio/zsq/internal/wire"
)

// refCommand is what a command comes to, as text: a command's fields, or an
// error with a "!" before it. A stream that ends inside a line gives nothing.
//
// The reference is slow and obvious: it reads a stream field by field and
// stops at the first thing that is wrong, as the contract's tables are
// written.
type reference struct {
	r   *bytes.Reader
	lim *wire.Limits
}

var refName = regexp.MustCompile(`\A[.a-zA-Z0-9_-]+(#ephemeral)?\z`)

func validRef(name string) bool { return len(name) <= 64 && refName.MatchString(name) }

func (f *reference) int32() (int64, bool) {
	var b [4]byte
	if _, err := io.ReadFull(f.r, b[:]); err != nil {
		return 0, false
	}
	return int64(int32(binary.BigEndian.Uint32(b[:]))), true
}

func (f *reference) bytes(n int64) (string, bool) {
	if n > int64(f.r.Len()) {
		return "", false
	}
	b := make([]byte, n)
	_, err := io.ReadFull(f.r, b)
	return string(b), err == nil
}

func (f *reference) number(s string) (uint64, bool) {
	var n uint64
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

func (f *reference) next() (string, bool) {
	var line []byte
	for {
		c, err := f.r.ReadByte()
		if err != nil {
			return "", false
		}
		line = append(line, c)
		if c == '\n' {
			break
		}
		if len(line) == wire.LineSizeMax {
			return "!too long", true
		}
	}
	text := strings.TrimSuffix(string(line), "\n")
	text = strings.TrimSuffix(text, "\r")
	p := strings.Split(text, " ")
	return f.command(p[0], p[1:]), true
}

func (f *reference) command(name string, p []string) string {
	bad := func(format string, args ...any) string { return "!" + fmt.Sprintf(format, args...) }
	switch name {
	case "CLS", "NOP":
		return name
	case "IDENTIFY", "AUTH":
		if name == "AUTH" && len(p) > 0 {
			return bad("E_INVALID AUTH invalid number of parameters")
		}
		size, ok := f.int32()
		if !ok {
			return bad("E_BAD_BODY %s failed to read body size", name)
		}
		if size > f.lim.MaxBodySize {
			return bad("E_BAD_BODY %s body too big %d > %d", name, size, f.lim.MaxBodySize)
		}
		if size <= 0 {
			return bad("E_BAD_BODY %s invalid body size %d", name, size)
		}
		body, ok := f.bytes(size)
		if !ok {
			return bad("E_BAD_BODY %s failed to read body", name)
		}
		return fmt.Sprintf("%s %q", name, body)
	case "SUB":
		if len(p) < 2 {
			return bad("E_INVALID SUB insufficient number of parameters")
		}
		if !validRef(p[0]) {
			return bad("E_BAD_TOPIC SUB topic name %q is not valid", p[0])
		}
		if !validRef(p[1]) {
			return bad("E_BAD_CHANNEL SUB channel name %q is not valid", p[1])
		}
		return fmt.Sprintf("SUB %s %s", p[0], p[1])
	case "RDY":
		n := uint64(1)
		if len(p) > 0 {
			var ok bool
			if n, ok = f.number(p[0]); !ok {
				return bad("E_INVALID RDY could not parse count %s", p[0])
			}
		}
		if int64(n) < 0 || int64(n) > f.lim.MaxRdyCount {
			return bad("E_INVALID RDY count %d out of range 0-%d", int64(n), f.lim.MaxRdyCount)
		}
		return fmt.Sprintf("RDY %d", n)
	case "FIN", "TOUCH", "REQ":
		want := 1
		if name == "REQ" {
			want = 2
		}
		if len(p) < want {
			return bad("E_INVALID %s insufficient number of params", name)
		}
		if len(p[0]) != 16 {
			return bad("E_INVALID invalid message ID")
		}
		if name != "REQ" {
			return fmt.Sprintf("%s %q", name, p[0])
		}
		n, ok := f.number(p[1])
		if !ok {
			return bad("E_INVALID REQ could not parse timeout %s", p[1])
		}
		d := max(0, min(time.Duration(n)*time.Millisecond, f.lim.MaxReqTimeout))
		return fmt.Sprintf("REQ %q %v", p[0], d)
	case "PUB", "DPUB":
		return f.publish(name, p)
	case "MPUB":
		return f.mpub(p)
	}
	return bad("E_INVALID invalid command %s", name)
}

func (f *reference) publish(name string, p []string) string {
	bad := func(format string, args ...any) string { return "!" + fmt.Sprintf(format, args...) }
	if len(p) < 1 || name == "DPUB" && len(p) < 2 {
		return bad("E_INVALID %s insufficient number of parameters", name)
	}
	if !validRef(p[0]) {
		return bad("E_BAD_TOPIC %s topic name %q is not valid", name, p[0])
	}
	delay := ""
	if name == "DPUB" {
		n, ok := f.number(p[1])
		if !ok {
			return bad("E_INVALID DPUB could not parse timeout %s", p[1])
		}
		d := time.Duration(n) * time.Millisecond
		if d < 0 || d > f.lim.MaxReqTimeout {
			return bad("E_INVALID DPUB timeout %d out of range 0-%d", n, f.lim.MaxReqTimeout.Milliseconds())
		}
		delay = " " + d.String()
	}
	size, ok := f.int32()
	if !ok {
		return bad("E_BAD_MESSAGE %s failed to read message body size", name)
	}
	if size <= 0 {
		return bad("E_BAD_MESSAGE %s invalid message body size %d", name, size)
	}
	if size > f.lim.MaxMsgSize {
		return bad("E_BAD_MESSAGE %s message too big %d > %d", name, size, f.lim.MaxMsgSize)
	}
	body, ok := f.bytes(size)
	if !ok {
		return bad("E_BAD_MESSAGE %s failed to read message body", name)
	}
	return fmt.Sprintf("%s %s%s %q", name, p[0], delay, body)
}

func (f *reference) mpub(p []string) string {
	bad := func(format string, args ...any) string { return "!" + fmt.Sprintf(format, args...) }
	if len(p) < 1 {
		return bad("E_INVALID MPUB insufficient number of parameters")
	}
	if !validRef(p[0]) {
		return bad("E_BAD_TOPIC E_BAD_TOPIC MPUB topic name %q is not valid", p[0])
	}
	size, ok := f.int32()
	if !ok {
		return bad("E_BAD_BODY MPUB failed to read body size")
	}
	if size <= 0 {
		return bad("E_BAD_BODY MPUB invalid body size %d", size)
	}
	if size > f.lim.MaxBodySize {
		return bad("E_BAD_BODY MPUB body too big %d > %d", size, f.lim.MaxBodySize)
	}
	count, ok := f.int32()
	if !ok {
		return bad("E_BAD_BODY MPUB failed to read message count")
	}
	if count < 1 || count > (f.lim.MaxBodySize-4)/5 {
		return bad("E_BAD_BODY MPUB invalid message count %d", count)
	}
	text, used := "MPUB "+p[0], int64(4)
	for i := range count {
		n, ok := f.int32()
		if !ok {
			return bad("E_BAD_MESSAGE MPUB failed to read message(%d) body size", i)
		}
		if n <= 0 {
			return bad("E_BAD_MESSAGE MPUB invalid message(%d) body size %d", i, n)
		}
		if n > f.lim.MaxMsgSize {
			return bad("E_BAD_MESSAGE MPUB message too big %d > %d", n, f.lim.MaxMsgSize)
		}
		if used += 4 + n; used > size {
			return bad("E_BAD_BODY MPUB message(%d) exceeds body size %d", i, size)
		}
		body, ok := f.bytes(n)
		if !ok {
			return bad("E_BAD_MESSAGE MPUB failed to read message body")
		}
		text += fmt.Sprintf(" %q", body)
	}
	return text
}

// referenceRun returns all commands of a stream, up to the first error.
func referenceRun(stream []byte, lim *wire.Limits) (all []string) {
	f := &reference{bytes.NewReader(stream), lim}
	for {
		s, ok := f.next()
		if !ok {
			return all
		}
		all = append(all, s)
		if s[0] == '!' {
			return all
		}
	}
}
