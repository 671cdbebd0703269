package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
)

type options struct {
	topics       tool.Strings
	channel      string
	destTopic    string // empty: the same as the source
	destinations tool.Strings
	maxInFlight  int
	mode         string
	statusEvery  int
	filter       filter
	sources      tool.Sources
	consumer     *nsq.Config
	producer     *nsq.Config
}

func (o *options) define(fs *flag.FlagSet) {
	fs.Var(&o.topics, "topic", "nsq topic (may be given multiple times)")
	fs.StringVar(&o.channel, "channel", "nsq_to_nsq", "nsq channel")
	fs.StringVar(&o.destTopic, "destination-topic", "", "use this destination topic for all consumed topics (default is consumed topic name)")
	fs.Var(&o.destinations, "destination-nsqd-tcp-address", "destination nsqd TCP address (may be given multiple times)")
	fs.IntVar(&o.maxInFlight, "max-in-flight", 200, "max number of messages to allow in flight")
	fs.StringVar(&o.mode, "mode", tool.ModeHostPool, "how a destination is chosen: round-robin, hostpool or epsilon-greedy")
	fs.IntVar(&o.statusEvery, "status-every", 250, "the # of requests between logging status (per destination), 0 disables")
	fs.StringVar(&o.filter.requireField, "require-json-field", "", "for JSON messages: only pass messages that contain this field")
	fs.StringVar(&o.filter.requireValue, "require-json-value", "", "for JSON messages: only pass messages in which the required field has this value")
	fs.Var(&o.filter.whitelist, "whitelist-json-field", "for JSON messages: pass this field (may be given multiple times)")
	o.sources.Define(fs)
	o.consumer, o.producer = nsq.NewConfig(), nsq.NewConfig()
	fs.Var(tool.ClientOption(o.consumer), "consumer-opt", "`name,value` of an option of the client's consumer (may be given multiple times)")
	fs.Var(tool.ClientOption(o.producer), "producer-opt", "`name,value` of an option of the client's producer (may be given multiple times)")
}

// check says what is wrong, in upstream's order.
func (o *options) check() error {
	if len(o.topics) == 0 || o.channel == "" {
		return errors.New("--topic and --channel are required")
	}
	for _, topic := range o.topics {
		if !nsq.IsValidTopicName(topic) {
			return errors.New("--topic is invalid")
		}
	}
	if o.destTopic != "" && !nsq.IsValidTopicName(o.destTopic) {
		return errors.New("--destination-topic is invalid")
	}
	if !nsq.IsValidChannelName(o.channel) {
		return errors.New("--channel is invalid")
	}
	if err := o.sources.Check(); err != nil {
		return err
	}
	if len(o.destinations) == 0 {
		return errors.New("--destination-nsqd-tcp-address required")
	}
	return nil
}

// run forwards until a signal comes.
func run(p *tool.Process) int {
	var o options
	fs := p.Flags()
	o.define(fs)
	if code, end := p.Start(fs, "print version string", o.check); end {
		return code
	}
	o.consumer.UserAgent, o.producer.UserAgent = p.UserAgent(), p.UserAgent()
	o.consumer.MaxInFlight = o.maxInFlight
	if err := forward(p, &o); err != nil {
		return p.Fatal(err) // the last line, after those of connections that end
	}
	return tool.ExitOK
}

// forward is run with options that are fine.
func forward(p *tool.Process, o *options) error {
	var addresses []string
	for _, a := range o.destinations {
		if !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	f := &forwarder{
		log:    p.Log,
		filter: &o.filter,
		hosts:  tool.NewHostPool(o.mode, len(addresses)),
		status: tool.NewStatusBoard(o.statusEvery, addresses, p.Log),
		doneC:  make(chan struct{}),
	}
	// Consumers stop first, and their messages are answered by then; nothing
	// is under way when the producers stop.
	for i, addr := range addresses {
		producer, err := nsq.NewProducer(addr, o.producer)
		if err != nil {
			f.close()
			return fmt.Errorf("failed creating producer %w", err)
		}
		producer.SetLogger(p.Log, nsq.LogLevelInfo)
		f.add(i, producer)
	}
	defer f.close()

	var consumers []*nsq.Consumer
	defer func() { tool.StopConsumers(consumers) }()
	for _, topic := range o.topics {
		c, err := p.NewConsumer(topic, o.channel, o.consumer)
		if err != nil {
			return err
		}
		destTopic := topic
		if o.destTopic != "" {
			destTopic = o.destTopic
		}
		c.AddConcurrentHandlers(nsq.HandlerFunc(func(m *nsq.Message) error {
			return f.forward(m, destTopic)
		}), len(addresses))
		consumers = append(consumers, c)
	}
	for _, c := range consumers {
		if err := o.sources.Connect(c); err != nil {
			return err
		}
	}
	<-p.Signals
	return nil
}
