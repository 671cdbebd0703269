package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestStrftime shows every conversion, and that text stays text.
func TestStrftime(t *testing.T) {
	zone := time.FixedZone("ABC", -(3*3600 + 30*60))
	at := time.Date(2026, 11, 2, 15, 4, 5, 0, zone)
	f := func(format, want string) {
		t.Helper()
		if got := strftime(format, at); got != want {
			t.Errorf("%q gives %q, want %q", format, got, want)
		}
	}
	f("%Y-%m-%d_%H", "2026-11-02_15")
	f("%y %B %b %A %a %I %M %S %p %Z %z", "26 November Nov Monday Mon 03 04 05 PM ABC -0330")
	f("v1-%Y", "v1-2026") // a layout for the whole would turn 1 into 11
	f("Jan2 MST 15 %d 2006", "Jan2 MST 15 02 2006")
	f("%%Y %q %", "%Y %q %")
	f("", "")
}

// TestNames shows how a name is made and what must be in it.
func TestNames(t *testing.T) {
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	short, _, _ := strings.Cut(hostname, ".")
	at := time.Date(2026, 11, 2, 15, 4, 5, 0, time.UTC)
	f := func(o options, want string) {
		t.Helper()
		if o.filenameFormat == "" {
			o.filenameFormat = "<TOPIC>.<HOST><REV>.<DATETIME>.log"
		}
		o.datetimeFormat = "%Y-%m-%d_%H"
		n, err := newNames(&o, "clicks")
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = n.at(at)
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(options{}, "clicks."+short+".2026-11-02_15.log")
	f(options{gzip: true}, "clicks."+short+"<REV>.2026-11-02_15.log.gz")
	f(options{gzip: true, filenameFormat: "x<REV>.gz"}, "x<REV>.gz")
	f(options{rotateSize: 1, hostIdentifier: "h-<SHORT_HOST>-<HOSTNAME>"}, "clicks.h-"+short+"-"+hostname+"<REV>.2026-11-02_15.log")
	f(options{filenameFormat: "<DATETIME>/<PID><REV>"}, "2026-11-02_15/"+strconv.Itoa(os.Getpid()))
	const missing = "missing <REV> in --filename-format when gzip, rotation, or work dir enabled"
	f(options{filenameFormat: "x", gzip: true}, missing)
	f(options{filenameFormat: "x", rotateSize: 1}, missing)
	f(options{filenameFormat: "x", rotateInterval: 1}, missing)
	f(options{filenameFormat: "x", workDir: "a", outputDir: "b"}, missing)
	f(options{filenameFormat: "x"}, "x")
	if got := withRev("a<REV>b", 7); got != "a-000007b" {
		t.Errorf("%q", got)
	}
}

// TestNameFollowsTheClock shows that the kept name is not kept too long.
func TestNameFollowsTheClock(t *testing.T) {
	n, err := newNames(&options{filenameFormat: "<DATETIME>", datetimeFormat: "%H:%M:%S"}, "t")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 2, 15, 4, 5, 999_999_999, time.UTC)
	if a, b := n.at(at), n.at(at.Add(1)); a != "15:04:05" || b != "15:04:06" {
		t.Errorf("%q, %q", a, b)
	}
}
