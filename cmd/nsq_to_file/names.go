package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// revToken stands in a name for the number that makes it unique.
const revToken = "<REV>"

// names makes the file names of one topic. Not safe for concurrent use.
type names struct {
	format   string // with <DATETIME> and perhaps <REV> left
	datetime string

	second int64  // the Unix second for which last was made
	last   string // a datetime has no finer part than a second
}

// newNames replaces what does not change. It fails if the format has no <REV>
// and the options need one.
func newNames(o *options, topic string) (*names, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	short, _, _ := strings.Cut(hostname, ".")
	host := short
	if o.hostIdentifier != "" {
		host = strings.NewReplacer("<SHORT_HOST>", short, "<HOSTNAME>", hostname).Replace(o.hostIdentifier)
	}
	format := strings.NewReplacer(
		"<TOPIC>", topic, "<HOST>", host, "<PID>", strconv.Itoa(os.Getpid()),
	).Replace(o.filenameFormat)
	if !o.numbered() {
		format = strings.ReplaceAll(format, revToken, "")
	} else if !strings.Contains(format, revToken) {
		return nil, errors.New("missing <REV> in --filename-format when gzip, rotation, or work dir enabled")
	}
	if o.gzip && !strings.HasSuffix(format, ".gz") {
		format += ".gz"
	}
	return &names{format: format, datetime: o.datetimeFormat, second: -1}, nil
}

// at returns the name for a time, with <REV> left in it.
func (n *names) at(now time.Time) string {
	if s := now.Unix(); s != n.second {
		n.second = s
		n.last = strings.ReplaceAll(n.format, "<DATETIME>", strftime(n.datetime, now))
	}
	return n.last
}

// withRev returns the name with its number.
func withRev(name string, rev int) string {
	return strings.ReplaceAll(name, revToken, fmt.Sprintf("-%06d", rev))
}

// strftimeLayouts are the conversions that there are, as layouts of package time.
var strftimeLayouts = map[byte]string{
	'Y': "2006", 'y': "06",
	'm': "01", 'B': "January", 'b': "Jan",
	'd': "02", 'A': "Monday", 'a': "Mon",
	'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM",
	'Z': "MST", 'z': "-0700",
}

// strftime formats t. Everything that is not a conversion stays as it is typed.
// Each conversion is formatted by itself: in one layout for the whole, a digit
// of the text could look like a conversion.
func strftime(format string, t time.Time) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] == '%' && i+1 < len(format) {
			if layout, ok := strftimeLayouts[format[i+1]]; ok {
				b.WriteString(t.Format(layout))
				i++
				continue
			}
			if format[i+1] == '%' {
				i++
			}
		}
		b.WriteByte(format[i])
	}
	return b.String()
}
