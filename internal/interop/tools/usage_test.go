package tools

import (
	"regexp"
	"strings"
	"testing"
)

var stamp = regexp.MustCompile(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(\.\d+)? `)

// TestUsage gives both sides the same wrong command lines and wants the same
// exit code and the same line.
func TestUsage(t *testing.T) {
	t.Parallel()
	must(t, built())
	f := func(name, args string) {
		t.Helper()
		words := strings.Fields(args)
		theirs, ours := run(t, "upstream", name, "", words...), run(t, "ours", name, "", words...)
		first := func(r result) string {
			line, _, _ := strings.Cut(stamp.ReplaceAllString(r.stderr, ""), "\n")
			return line
		}
		if strings.HasPrefix(first(theirs), "Usage of ") { // with the path of the program
			if !strings.HasPrefix(first(ours), "Usage of ") {
				t.Errorf("%s %s: ours says %q, want its usage", name, args, first(ours))
			}
		} else if first(ours) != first(theirs) {
			t.Errorf("%s %s: ours says %q, upstream %q", name, args, first(ours), first(theirs))
		}
		if ours.code != theirs.code || ours.stdout != theirs.stdout {
			t.Errorf("%s %s: ours ends with %d and prints %q, upstream %d and %q", name, args, ours.code, ours.stdout, theirs.code, theirs.stdout)
		}
	}
	for _, name := range names {
		f(name, "")
		f(name, "--help")
		f(name, "--version")
		f(name, "--bogus")
		f(name, "--topic")
		if name != "nsq_to_file" { // upstream's logs the error and waits for ever
			f(name, "--nsqd-tcp-address=127.0.0.1:1 --topic=t")
		}
		f(name, "--lookupd-http-address=127.0.0.1:1 --nsqd-tcp-address=127.0.0.1:1 --topic=t")
	}
	f("nsq_tail", "--lookupd-http-address=a --nsqd-tcp-address=a")
	f("nsq_tail", "--nsqd-tcp-address=a")
	f("nsq_tail", "--consumer-opt=bogus,1")
	f("nsq_tail", "--consumer-opt=max_in_flight,x")
	f("nsq_tail", "-n=x")

	f("to_nsq", "--topic=t --delimiter=ab")
	f("to_nsq", "--topic=t --delimiter=ab --nsqd-tcp-address=127.0.0.1:1")
	f("to_nsq", "--producer-opt=bogus,1")
	f("to_nsq", "--producer-opt=dial_timeout,bogus")
	f("to_nsq", "--rate=x")

	f("nsq_to_nsq", "--topic=t --channel=")
	f("nsq_to_nsq", "--topic=t@ --nsqd-tcp-address=a --destination-nsqd-tcp-address=b")
	f("nsq_to_nsq", "--topic=t --channel=c@ --nsqd-tcp-address=a --destination-nsqd-tcp-address=b")
	f("nsq_to_nsq", "--topic=t --destination-topic=t@ --nsqd-tcp-address=a --destination-nsqd-tcp-address=b")
	f("nsq_to_nsq", "--topic=t --nsqd-tcp-address=a")
	f("nsq_to_nsq", "--topic=t --nsqd-tcp-address=a --lookupd-http-address=b")
	f("nsq_to_nsq", "--producer-opt=bogus")

	f("nsq_to_http", "--header=a=b")
	f("nsq_to_http", "--header=a:")
	f("nsq_to_http", "--topic=t --channel=")
	f("nsq_to_http", "--topic=t --content-type=x --get=http://a/%s")
	f("nsq_to_http", "--topic=t --content-type= --post=http://a/")
	f("nsq_to_http", "--topic=t --nsqd-tcp-address=a")
	f("nsq_to_http", "--topic=t --nsqd-tcp-address=a --get=a --post=a")
	f("nsq_to_http", "--topic=t --nsqd-tcp-address=a --get=http://a/")
	f("nsq_to_http", "--topic=t --nsqd-tcp-address=a --get=http://a/%s%s")
	f("nsq_to_http", "--topic=t --nsqd-tcp-address=a --post=http://a/ --sample=2")

	f("nsq_to_file", "a b")
	f("nsq_to_file", "--log-level=loud --version")
	f("nsq_to_file", "--channel=")
	f("nsq_to_file", "--http-client-connect-timeout=0")
	f("nsq_to_file", "--http-client-request-timeout=-1s")
	f("nsq_to_file", "--nsqd-tcp-address=a --lookupd-http-address=b")
	f("nsq_to_file", "--nsqd-tcp-address=a --gzip-level=0")
	f("nsq_to_file", "--nsqd-tcp-address=a")
	f("nsq_to_file", "--nsqd-tcp-address=a --topic-pattern=x")

	f("nsq_stat", "--topic=t")
	f("nsq_stat", "--topic=t --channel=c --interval=0")
	f("nsq_stat", "--topic=t --channel=c --http-client-connect-timeout=0")
	f("nsq_stat", "--topic=t --channel=c --http-client-request-timeout=0")
	f("nsq_stat", "--topic=t --channel=c --count=0")
	f("nsq_stat", "--topic=t --channel=c --count=x")
	f("nsq_stat", "--topic=t --channel=c")
	f("nsq_stat", "--topic=t --channel=c --nsqd-http-address=a --lookupd-http-address=b")
	f("nsq_stat", "--topic=t --channel=c --nsqd-http-address=http://a")
	f("nsq_stat", "--topic=t --channel=c --lookupd-http-address=http://a")
}

// flagLine is a flag in a usage text: its name, what it takes and, in the lines
// below it, the default.
var flagLine = regexp.MustCompile(`(?m)^  -(\S+)`)

// TestFlags wants every flag of upstream's, with the same default.
func TestFlags(t *testing.T) {
	t.Parallel()
	must(t, built())
	value := regexp.MustCompile(`\(default (.*)\)$`)
	flags := func(side, name string) map[string]string {
		all := map[string]string{}
		text := run(t, side, name, "", "--help").stderr
		places := flagLine.FindAllStringSubmatchIndex(text, -1)
		for i, p := range places {
			end := len(text)
			if i+1 < len(places) {
				end = places[i+1][0]
			}
			all[text[p[2]:p[3]]] = ""
			if m := value.FindStringSubmatch(strings.TrimSpace(text[p[0]:end])); m != nil {
				all[text[p[2]:p[3]]] = m[1]
			}
		}
		return all
	}
	for _, name := range names {
		theirs, ours := flags("upstream", name), flags("ours", name)
		if len(theirs) < 5 {
			t.Errorf("%s: upstream has the flags %v only", name, theirs)
		}
		for flag, value := range theirs {
			if got, ok := ours[flag]; !ok || got != value {
				t.Errorf("%s -%s: ours has the default %q (has it: %v), upstream %q", name, flag, got, ok, value)
			}
		}
		for flag := range ours {
			if _, ok := theirs[flag]; !ok {
				t.Errorf("%s -%s: upstream has no such flag", name, flag)
			}
		}
	}
}
