package main

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/zsqio/zsq/internal/tool"
)

type options struct {
	topic, channel string
	interval       time.Duration
	count          count
	connectTimeout time.Duration
	requestTimeout time.Duration
	nsqds          tool.Strings
	lookupds       tool.Strings
}

// A count is a number that may be left out.
type count struct {
	n   int
	set bool
}

// String is what the usage text shows as the default.
func (c *count) String() string {
	if !c.set {
		return ""
	}
	return strconv.Itoa(c.n)
}

// Set parses the number.
func (c *count) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	c.n, c.set = int(n), err == nil
	return err
}

func (o *options) define(fs *flag.FlagSet) {
	fs.StringVar(&o.topic, "topic", "", "NSQ topic")
	fs.StringVar(&o.channel, "channel", "", "NSQ channel")
	fs.DurationVar(&o.interval, "interval", 2*time.Second, "duration of time between polling/printing output")
	fs.Var(&o.count, "count", "`number` of reports (default: until stopped)")
	fs.DurationVar(&o.connectTimeout, "http-client-connect-timeout", 2*time.Second, "timeout for HTTP connect")
	fs.DurationVar(&o.requestTimeout, "http-client-request-timeout", 5*time.Second, "timeout for HTTP request")
	fs.Var(&o.nsqds, "nsqd-http-address", "nsqd HTTP address (may be given multiple times)")
	fs.Var(&o.lookupds, "lookupd-http-address", "lookupd HTTP address (may be given multiple times)")
}

// check says what is wrong, in upstream's order.
func (o *options) check() error {
	switch {
	case o.topic == "" || o.channel == "":
		return errors.New("--topic and --channel are required")
	case o.interval <= 0:
		return errors.New("--interval should be positive")
	case o.connectTimeout <= 0:
		return errors.New("--http-client-connect-timeout should be positive")
	case o.requestTimeout <= 0:
		return errors.New("--http-client-request-timeout should be positive")
	case o.count.set && o.count.n <= 0:
		return errors.New("--count should be positive")
	case len(o.nsqds) == 0 && len(o.lookupds) == 0:
		return errors.New("--nsqd-http-address or --lookupd-http-address required")
	case len(o.nsqds) > 0 && len(o.lookupds) > 0:
		return errors.New("use --nsqd-http-address or --lookupd-http-address not both")
	}
	if err := noScheme("nsqd", o.nsqds); err != nil {
		return err
	}
	return noScheme("lookupd", o.lookupds)
}

func noScheme(kind string, addresses []string) error {
	for _, a := range addresses {
		if strings.HasPrefix(a, "http") {
			return fmt.Errorf("--%s-http-address error - address should not contain scheme", kind)
		}
	}
	return nil
}

// run prints until there are enough rows, a signal comes or a daemon does not
// answer.
func run(p *tool.Process) int {
	var o options
	fs := p.Flags()
	o.define(fs)
	if code, end := p.Start(fs, "print version", o.check); end {
		return code
	}
	var t table = &lineTable{w: p.Stdout}
	if _, height, ok := tool.TerminalSize(p.Stdout); ok {
		t = newScreenTable(p.Stdout, height)
	}
	if err := report(p, &o, t); err != nil {
		return p.Fatal(fmt.Errorf("ERROR: %w", err))
	}
	return tool.ExitOK
}

// report adds a row to the table for every interval. The first sample gives no
// row, for it has nothing to be compared with.
func report(p *tool.Process, o *options, t table) error {
	cluster := tool.NewCluster(o.connectTimeout, o.requestTimeout)
	type result struct {
		stats tool.ChannelStats
		err   error
	}
	sampleC := make(chan result, 1) // buffered: nobody may listen any more
	var last tool.ChannelStats
	for i := 0; !o.count.set || i <= o.count.n; i++ {
		go func() {
			stats, err := sample(cluster, o)
			sampleC <- result{stats, err}
		}()
		select {
		case <-p.Signals:
			return nil
		case r := <-sampleC:
			if r.err != nil {
				return r.err
			}
			if err := t.head(i); err != nil {
				return err
			}
			if i > 0 {
				if err := t.row(newRow(last, r.stats, o.interval)); err != nil {
					return err
				}
			}
			last = r.stats
		}
		select {
		case <-p.Signals:
			return nil
		case <-time.After(o.interval):
		}
	}
	return nil
}

// sample asks the daemons once.
func sample(c *tool.Cluster, o *options) (tool.ChannelStats, error) {
	nsqds := []string(o.nsqds)
	failed := "failed to get topic producers - %w" // upstream asks nsqd for these too
	if len(o.lookupds) > 0 {
		var err error
		if nsqds, err = c.LookupProducers(o.topic, o.lookupds); err != nil {
			return tool.ChannelStats{}, fmt.Errorf(failed, err)
		}
		failed = "failed to get nsqd stats - %w"
	}
	stats, err := c.Channel(o.topic, o.channel, nsqds)
	if errors.Is(err, tool.ErrNoChannel) {
		return stats, fmt.Errorf("failed to find channel(%s) in stats metadata for topic(%s)", o.channel, o.topic)
	}
	if err != nil {
		return stats, fmt.Errorf(failed, err)
	}
	return stats, nil
}
