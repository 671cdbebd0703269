//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"testing"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
	"github.com/zsqio/zsq/internal/tool/tooltest"
)

// TestUsage shows what each wrong command line is answered with.
func TestUsage(t *testing.T) {
	line := func(want string, args ...string) {
		t.Helper()
		tooltest.ExpectLine(t, tool.ExitError, want, "nsq_to_nsq", run, args...)
	}
	line("--topic and --channel are required")
	line("--topic and --channel are required", "--topic=t", "--channel=")
	line("--topic is invalid", "--topic=t@")
	line("--destination-topic is invalid", "--topic=t", "--destination-topic=t@")
	line("--channel is invalid", "--topic=t", "--channel=c@")
	line("--nsqd-tcp-address or --lookupd-http-address required", "--topic=t")
	line("use --nsqd-tcp-address or --lookupd-http-address not both", "--topic=t", "--nsqd-tcp-address=a", "--lookupd-http-address=a")
	line("--destination-nsqd-tcp-address required", "--topic=t", "--nsqd-tcp-address=a")
	tooltest.Expect(t, tool.ExitUsage, "nsq_to_nsq", run, "", "--producer-opt=bogus")
	if out, _ := tooltest.Expect(t, tool.ExitOK, "nsq_to_nsq", run, "", "--version"); out != "nsq_to_nsq v1.3.0\n" {
		t.Errorf("%q", out)
	}
	_, stderr := tooltest.Expect(t, tool.ExitError, "nsq_to_nsq", run, "", "--topic=t", "--nsqd-tcp-address=127.0.0.1:1", "--destination-nsqd-tcp-address=127.0.0.1:1")
	if !strings.HasSuffix(stderr, "connection refused\n") {
		t.Errorf("%q", stderr)
	}
}

// TestFilter shows which messages pass and what of them.
func TestFilter(t *testing.T) {
	const drop, retry = "(drop)", "(retry)"
	f := func(flt filter, body, want string) {
		t.Helper()
		var l bytes.Buffer
		out, pass, err := flt.apply([]byte(body), log.New(&l, "", 0))
		got := string(out)
		switch {
		case errors.Is(err, errNoField):
			got = retry
		case err != nil:
			t.Error(err)
		case !pass:
			got = drop
		}
		if got != want {
			t.Errorf("%+v: %s gives %s, want %s", flt, body, got, want)
		}
	}
	f(filter{}, "no json", "no json")

	field := filter{requireField: "a"}
	f(field, "no json", drop)
	f(field, "[1]", drop)
	f(field, `{"a":1} x`, drop)
	f(field, `{"b":1}`, drop)
	f(field, `{ "a" : null }`, `{ "a" : null }`)

	value := filter{requireField: "a", requireValue: "5"}
	f(value, `{"b":1}`, retry)
	for _, v := range []string{`5`, `5.0`, `"5"`, `50e-1`} {
		f(value, `{"a":`+v+`}`, `{"a":`+v+`}`)
	}
	for _, v := range []string{`"05"`, `"5.0"`, `6`, `true`, `[5]`, `null`} {
		f(value, `{"a":`+v+`}`, drop)
	}
	f(filter{requireField: "a", requireValue: "x"}, `{"a":5}`, drop)

	some := filter{whitelist: tool.Strings{"b", "a"}}
	f(some, `{"c":1, "b":[1.50, {"z":1,"y":2}], "a":"<"}`, `{"a":"\u003c","b":[1.5,{"y":2,"z":1}]}`)
	f(some, `{"c":1}`, `{}`)
	f(some, `{"a":5.0,"b":1e3}`, `{"a":5,"b":1000}`)
	f(some, `{"a":12345678901234567890,"b":0.1}`, `{"a":12345678901234567890,"b":0.1}`) // upstream: ...67000
	f(some, `{"a":1e999,"b":1e-999999999999999999999}`, `{"a":1e999,"b":1e-999999999999999999999}`)
	f(some, `{"a":-0.0,"b":-1.50e-7}`, `{"a":-0,"b":-1.5e-7}`)
	f(some, `{"a":100000000000000000000000,"b":3.14159265358979323846}`, `{"a":1e+23,"b":3.14159265358979323846}`)
}

// TestFilterLog shows the log lines.
func TestFilterLog(t *testing.T) {
	f := func(flt filter, body, want string) {
		t.Helper()
		var l bytes.Buffer
		flt.apply([]byte(body), log.New(&l, "", 0))
		if l.String() != want {
			t.Errorf("%q, want %q", &l, want)
		}
	}
	f(filter{requireField: "a"}, "[1]", "ERROR: Unable to decode json: [1]\n")
	f(filter{requireField: "a"}, "{}", "")
	f(filter{requireField: "a", requireValue: "1"}, "{}", "ERROR: missing field to check required value\n")
}

func start(t *testing.T, args ...string) *tooltest.Run {
	t.Helper()
	return tooltest.Start(t, "nsq_to_nsq", run, nil, append([]string{
		"--channel=ch", "--consumer-opt=default_requeue_delay,1ms",
		"--consumer-opt=max_backoff_duration,0", "--consumer-opt=max_attempts,0",
	}, args...)...)
}

// TestForward moves the messages of two topics to two destinations.
func TestForward(t *testing.T) {
	src, one, two := tooltest.StartBroker(t), tooltest.StartBroker(t), tooltest.StartBroker(t)
	one.Create(t, "all", "check")
	two.Create(t, "all", "check")
	r := start(t, "--topic=a", "--topic=b", "--destination-topic=all", "--mode=round-robin", "--nsqd-tcp-address="+src.TCP,
		"--destination-nsqd-tcp-address="+one.TCP, "--destination-nsqd-tcp-address="+two.TCP)
	for i := range 50 {
		src.Publish(t, "a", fmt.Sprint("a", i))
		src.Publish(t, "b", fmt.Sprint("b", i))
	}
	for _, topic := range []string{"a", "b"} {
		src.Settles(t, topic, "ch", "finished", tooltest.Finished(50))
	}
	for _, b := range []*tooltest.Broker{one, two} {
		b.Settles(t, "all", "check", "half of them", func(ch tool.ChannelStats) bool { return ch.Depth == 50 })
	}
	r.Signal(os.Interrupt)
	if code := r.Wait(t); code != tool.ExitOK {
		t.Errorf("code %d", code)
	}
}

// TestRoundTrip shows bodies unchanged, and chosen fields, at the destination.
func TestRoundTrip(t *testing.T) {
	f := func(body, want string, flags ...string) {
		t.Helper()
		src, dst := tooltest.StartBroker(t), tooltest.StartBroker(t)
		start(t, append(flags, "--topic=t", "--nsqd-tcp-address="+src.TCP, "--destination-nsqd-tcp-address="+dst.TCP)...)
		got := make(chan string, 1)
		config := nsq.NewConfig()
		config.DialTimeout, config.WriteTimeout = tooltest.Patience, tooltest.Patience
		c, err := nsq.NewConsumer("t", "check", config)
		if err != nil {
			t.Fatal(err)
		}
		c.SetLoggerLevel(nsq.LogLevelError)
		c.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error { got <- string(m.Body); return nil }))
		if err := c.ConnectToNSQD(dst.TCP); err != nil {
			t.Fatal(err)
		}
		defer tool.StopConsumers([]*nsq.Consumer{c})
		src.Publish(t, "t", body)
		if g := <-got; g != want {
			t.Errorf("got %q, want %q", g, want)
		}
	}
	f(" any \x00 bytes\n", " any \x00 bytes\n")
	f(`{"b":1,"a":2}`, `{"a":2}`, "--whitelist-json-field=a")
}

// TestDestinationFails shows that nothing is lost while a destination is away.
func TestDestinationFails(t *testing.T) {
	src, dst := tooltest.StartBroker(t), tooltest.StartBroker(t)
	dst.Create(t, "t", "check")
	l, err := net.Listen("tcp", "127.0.0.1:0") // a destination that hangs up
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	hungUp := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
			select {
			case hungUp <- struct{}{}:
			default:
			}
		}
	}()
	r := start(t, "--topic=t", "--nsqd-tcp-address="+src.TCP, "--destination-nsqd-tcp-address="+l.Addr().String(), "--destination-nsqd-tcp-address="+dst.TCP)
	for i := range 20 {
		src.Publish(t, "t", fmt.Sprint(i))
	}
	src.Settles(t, "t", "ch", "finished", tooltest.Finished(20))
	<-hungUp
	dst.Settles(t, "t", "check", "all", func(ch tool.ChannelStats) bool { return ch.Depth == 20 })
	r.Signal(os.Interrupt)
	if code := r.Wait(t); code != tool.ExitOK {
		t.Errorf("code %d", code)
	}
}
