package main

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
)

// run writes until a signal comes or something fails.
func run(p *tool.Process) int {
	var o options
	fs := p.Flags()
	version := fs.Bool("version", false, "print version string")
	o.define(fs)
	if code, end := p.Parse(fs); end {
		return code
	}
	if fs.NArg() > 0 {
		return p.Fatal(fmt.Errorf("unknown arguments: %v", fs.Args()))
	}
	var ok bool
	if o.level, ok = parseLevel(o.logLevel); !ok {
		return p.Fatal(errors.New("--log-level is invalid"))
	}
	if *version {
		return p.PrintVersion()
	}
	if err := o.check(); err != nil {
		return p.Fatal(err)
	}
	o.config.UserAgent = p.UserAgent()
	o.config.MaxInFlight = o.maxInFlight

	a := newArchive(p, &o)
	rate := tool.NewRate()
	progress := tool.StartProgress(p.Stderr, func() string {
		return rate.Describe(a.total.lines.Load(), a.total.bytes.Load())
	})
	if progress != nil {
		p.Log.SetOutput(progress)
		a.log.out.SetOutput(progress)
	}
	err := a.run()
	if progress != nil {
		progress.Stop()
		p.Log.SetOutput(p.Stderr)
		a.log.out.SetOutput(p.Stderr)
	}
	if err != nil {
		a.log.printf(levelFatal, "%s", err)
		return tool.ExitError
	}
	return tool.ExitOK
}

// An archive is all topics of the process. One goroutine, run's, uses it.
type archive struct {
	p       *tool.Process
	o       *options
	log     *logger
	total   counters
	failC   chan error
	cluster *tool.Cluster

	topics    []string // whose writers and consumers follow, in the same order
	writers   []*fileWriter
	consumers []*nsq.Consumer
}

func newArchive(p *tool.Process, o *options) *archive {
	return &archive{
		p: p, o: o, log: newLogger(p.Stderr, o.logPrefix, o.level), failC: make(chan error, 1),
		cluster: tool.NewCluster(o.connectTimeout, o.requestTimeout),
	}
}

// run starts the topics and stops them when a signal or an error comes.
func (a *archive) run() error {
	for _, topic := range a.o.topics {
		if err := a.add(topic); err != nil {
			a.stop()
			return err
		}
	}
	err := a.serve()
	a.stop()
	if err != nil {
		return err
	}
	select {
	case err = <-a.failC: // while stopping, or right before the signal
	default:
	}
	return err
}

// serve discovers topics, if none is given, and answers signals.
func (a *archive) serve() error {
	var (
		refreshC <-chan time.Time
		foundC   = make(chan []string, 1)
	)
	if len(a.o.topics) == 0 {
		ticker := time.NewTicker(a.o.topicRefresh)
		defer ticker.Stop()
		refreshC = ticker.C
		go a.discover(foundC)
	}
	for {
		select {
		case s := <-a.p.Signals:
			if s != syscall.SIGHUP {
				return nil
			}
			for _, w := range a.writers {
				w.reopen()
			}
		case err := <-a.failC:
			return err
		case <-refreshC:
			go a.discover(foundC)
		case topics := <-foundC:
			for _, topic := range topics {
				if err := a.add(topic); err != nil {
					a.log.printf(levelError, "couldn't create logger for new topic %s: %s", topic, err)
				}
			}
		}
	}
}

// discover asks every nsqlookupd for its topics. If one fails the round is
// skipped. It drops its answer when the one before it has not been read yet.
func (a *archive) discover(foundC chan<- []string) {
	topics, err := a.cluster.Topics(a.o.sources.Lookupds)
	if err != nil {
		a.log.printf(levelError, "could not retrieve topic list: %s", err)
		return
	}
	select {
	case foundC <- topics:
	default:
	}
}

// add starts a topic, unless it is there already or does not match the pattern.
func (a *archive) add(topic string) error {
	if slices.Contains(a.topics, topic) {
		return nil
	}
	if a.o.pattern != nil && !a.o.pattern.MatchString(topic) {
		a.log.printf(levelWarn, "skipping topic %s (doesn't match pattern %s)", topic, a.o.topicPattern)
		return nil
	}
	w, err := newFileWriter(a.o, a.log, topic, &a.total, a.failC)
	if err != nil {
		return err
	}
	c, err := a.p.NewConsumer(topic, a.o.channel, a.o.config)
	if err != nil {
		return err
	}
	w.starved = c.IsStarved
	c.AddHandler(w)
	w.start()
	if err := a.o.sources.Connect(c); err != nil {
		w.stopping()
		tool.StopConsumers([]*nsq.Consumer{c})
		w.finish()
		return err
	}
	a.topics, a.writers, a.consumers = append(a.topics, topic), append(a.writers, w), append(a.consumers, c)
	return nil
}

// stop finishes what is in flight and closes all files.
func (a *archive) stop() {
	for _, w := range a.writers {
		w.stopping()
	}
	tool.StopConsumers(a.consumers)
	for _, w := range a.writers {
		w.finish()
	}
}
