package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
)

type options struct {
	topics      tool.Strings
	channel     string
	maxInFlight int
	count       int
	printTopic  bool
	sources     tool.Sources
	config      *nsq.Config
}

// check says what is missing, in upstream's order.
func (o *options) check() error {
	if err := o.sources.Check(); err != nil {
		return err
	}
	if len(o.topics) == 0 {
		return errors.New("--topic required")
	}
	return nil
}

// run prints until enough messages are printed, a signal comes or standard
// output fails.
func run(p *tool.Process) int {
	o := options{config: nsq.NewConfig()}
	fs := p.Flags()
	fs.Var(&o.topics, "topic", "NSQ topic (may be given multiple times)")
	fs.StringVar(&o.channel, "channel", "", "NSQ channel (default: an ephemeral one of our own)")
	fs.IntVar(&o.maxInFlight, "max-in-flight", 200, "max number of messages to allow in flight")
	fs.IntVar(&o.count, "n", 0, "total messages to show (0: until stopped)")
	fs.BoolVar(&o.printTopic, "print-topic", false, "print the topic in front of each message")
	o.sources.Define(fs)
	fs.Var(tool.ClientOption(o.config), "consumer-opt", "`name,value` of an option of the client's consumer (may be given multiple times)")
	if code, end := p.Start(fs, "print version string", o.check); end {
		return code
	}
	if o.channel == "" {
		o.channel = fmt.Sprintf("tail%06d#ephemeral", rand.IntN(999999))
	}
	if o.count > 0 && o.count < o.maxInFlight {
		o.maxInFlight = o.count
	}
	o.config.UserAgent = p.UserAgent()
	o.config.MaxInFlight = o.maxInFlight
	if err := tail(p, &o); err != nil {
		return p.Fatal(err) // the last line, after those of connections that end
	}
	return tool.ExitOK
}

// tail is run with options that are fine.
func tail(p *tool.Process, o *options) error {
	out := newPrinter(p.Stdout, o.count)
	var consumers []*nsq.Consumer
	stop := func() {
		for _, c := range consumers {
			c.Stop()
		}
		out.giveBack()
		tool.StopConsumers(consumers)
	}
	for _, topic := range o.topics {
		p.Log.Printf("Adding consumer for topic: %s", topic)
		c, err := p.NewConsumer(topic, o.channel, o.config)
		if err != nil {
			stop()
			return err
		}
		prefix := ""
		if o.printTopic {
			prefix = topic + " | "
		}
		c.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error { return out.print(prefix, m) }))
		consumers = append(consumers, c)
		if err := o.sources.Connect(c); err != nil {
			stop()
			return err
		}
	}
	select {
	case <-p.Signals:
	case <-out.doneC:
	}
	stop()
	return out.failure()
}

// A printer writes each message as one record, in one write, so that records of
// several topics do not mix. It counts over all topics.
type printer struct {
	doneC chan struct{} // closed after the last record, or when writing has failed

	mu     sync.Mutex
	w      io.Writer
	left   int // records still to print; negative: no limit
	record []byte
	err    error
	done   bool
	held   []*nsq.Message // not to be printed, for giveBack
	ending bool           // giveBack was called
}

// newPrinter returns a printer of count records, or of any number if count is
// not positive.
func newPrinter(w io.Writer, count int) *printer {
	if count <= 0 {
		count = -1
	}
	return &printer{doneC: make(chan struct{}), w: w, left: count}
}

// print writes m. A message that is not to be printed goes back to nsqd.
func (p *printer) print(prefix string, m *nsq.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		p.hold(m)
		return nil
	}
	p.record = append(append(append(p.record[:0], prefix...), m.Body...), '\n')
	if _, err := p.w.Write(p.record); err != nil {
		p.err = fmt.Errorf("failed to write to standard output - %w", err)
		p.finish()
		p.hold(m)
		return nil
	}
	p.left--
	if p.left == 0 {
		p.finish()
	}
	return nil
}

func (p *printer) finish() {
	p.done = true
	close(p.doneC)
}

// hold keeps a message until nsqd knows that we want no more. Before that it would
// come to us again at once, and again, until the client gives it up after
// max_attempts, and nobody would ever see it.
func (p *printer) hold(m *nsq.Message) {
	if p.ending {
		m.RequeueWithoutBackoff(0)
		return
	}
	m.DisableAutoResponse()
	p.held = append(p.held, m)
}

// giveBack requeues what is held, and from then on what else is not to be printed,
// without backoff: others may wait for it. The consumers have been told to stop.
func (p *printer) giveBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ending = true
	for _, m := range p.held {
		m.RequeueWithoutBackoff(0)
	}
	p.held = nil
}

func (p *printer) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
