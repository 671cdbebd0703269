package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
)

type options struct {
	topic     string
	delimiter string
	rate      int64
	nsqds     tool.Strings
	config    *nsq.Config
}

// check says what is missing, in upstream's order.
func (o *options) check() error {
	switch {
	case o.topic == "":
		return errors.New("--topic required")
	case len(o.delimiter) != 1:
		return errors.New("--delimiter must be a single byte")
	case len(o.nsqds) == 0:
		return errors.New("--nsqd-tcp-address required")
	}
	return nil
}

// run publishes until the input ends, a signal comes or something fails.
func run(p *tool.Process) int {
	o := options{config: nsq.NewConfig()}
	fs := p.Flags()
	fs.StringVar(&o.topic, "topic", "", "NSQ topic to publish to")
	fs.StringVar(&o.delimiter, "delimiter", "\n", "byte that ends a record of the input")
	fs.Int64Var(&o.rate, "rate", 0, "publish at most this many records a second (0: no limit)")
	fs.Var(&o.nsqds, "nsqd-tcp-address", "destination nsqd TCP address (may be given multiple times; each gets every record)")
	fs.Var(tool.ClientOption(o.config), "producer-opt", "`name,value` of an option of the client's producer (may be given multiple times)")
	if code, end := p.Parse(fs); end {
		return code
	}
	if err := o.check(); err != nil {
		return p.Fatal(err)
	}
	o.config.UserAgent = p.UserAgent()

	if err := publish(p, &o); err != nil {
		return p.Fatal(err) // the last line, after those of connections that end
	}
	return tool.ExitOK
}

// publish is run with options that are fine.
func publish(p *tool.Process, o *options) error {
	pub := &publisher{topic: o.topic, stopC: make(chan struct{})}
	// A terminal on which the records are typed has no room for a second writer.
	if !tool.IsTerminal(p.Stdin) {
		rate := tool.NewRate()
		progress := tool.StartProgress(p.Stderr, func() string {
			return rate.Describe(pub.records.Load(), pub.bytes.Load())
		})
		if progress != nil {
			p.Log.SetOutput(progress)
			defer p.Log.SetOutput(p.Stderr)
			defer progress.Stop()
		}
	}
	for i, addr := range o.nsqds {
		if slices.Contains(o.nsqds[:i], addr) {
			continue
		}
		d := &destination{dial: func() (producer, error) {
			np, err := nsq.NewProducer(addr, o.config)
			if err != nil {
				return nil, err
			}
			np.SetLogger(p.Log, nsq.LogLevelInfo)
			return np, nil
		}}
		if err := d.open(); err != nil {
			return fmt.Errorf("failed to create nsq.Producer - %w", err)
		}
		defer d.close()
		pub.to = append(pub.to, d)
	}
	if o.rate > 0 {
		p.Log.Printf("Throttling messages rate to max:%d/second", o.rate)
		pub.pace = newPace(o.rate, time.Now())
	}

	// A read cannot be interrupted, so reading has a goroutine of its own, which
	// ends with the input or with the process.
	done := make(chan error, 1)
	go func() { done <- pub.publishAll(p.Stdin, o.delimiter[0]) }()
	select {
	case <-p.Signals:
		pub.stop()
		return nil
	case err := <-done:
		return err
	}
}
