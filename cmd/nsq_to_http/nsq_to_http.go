package main

import (
	"errors"
	"flag"
	"net/http"
	"strings"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
)

const defaultContentType = "application/octet-stream"

type options struct {
	topic, channel string
	maxInFlight    int
	handlers       int
	mode           string
	sample         float64
	get, post      tool.Strings
	contentType    string
	headers        tool.Strings
	connectTimeout time.Duration
	requestTimeout time.Duration
	statusEvery    int
	sources        tool.Sources
	config         *nsq.Config

	header http.Header // of every request, by check
}

func (o *options) define(fs *flag.FlagSet) {
	fs.StringVar(&o.topic, "topic", "", "nsq topic")
	fs.StringVar(&o.channel, "channel", "nsq_to_http", "nsq channel")
	fs.IntVar(&o.maxInFlight, "max-in-flight", 200, "max number of messages to allow in flight")
	fs.IntVar(&o.handlers, "n", 100, "number of concurrent publishers")
	fs.StringVar(&o.mode, "mode", tool.ModeHostPool,
		"how a destination is chosen: round-robin, hostpool or epsilon-greedy; with any other word every destination gets every message")
	fs.Float64Var(&o.sample, "sample", 1, "fraction of messages to publish (0.0 - 1.0); the others are finished at once")
	fs.Var(&o.get, "get", "HTTP address to make a GET request to; '%s' is replaced by the message (may be given multiple times)")
	fs.Var(&o.post, "post", "HTTP address to make a POST request to, with the message as its body (may be given multiple times)")
	fs.StringVar(&o.contentType, "content-type", defaultContentType, "the Content-Type of POST requests")
	fs.Var(&o.headers, "header", "`Name: value` of a header of the requests (may be given multiple times)")
	fs.DurationVar(&o.connectTimeout, "http-client-connect-timeout", 2*time.Second, "timeout for HTTP connect")
	fs.DurationVar(&o.requestTimeout, "http-client-request-timeout", 20*time.Second, "timeout for HTTP request")
	fs.IntVar(&o.statusEvery, "status-every", 250, "the # of requests between logging status (per destination), 0 disables")
	o.sources.Define(fs)
	o.config = nsq.NewConfig()
	fs.Var(tool.ClientOption(o.config), "consumer-opt", "`name,value` of an option of the client's consumer (may be given multiple times)")
}

// check says what is wrong, in upstream's order, and fills header.
func (o *options) check() error {
	if err := o.parseHeaders(); err != nil {
		return err
	}
	if o.topic == "" || o.channel == "" {
		return errors.New("--topic and --channel are required")
	}
	if o.contentType != defaultContentType {
		if len(o.post) == 0 {
			return errors.New("--content-type only used with --post")
		}
		if o.contentType == "" {
			return errors.New("--content-type requires a value when used")
		}
	}
	if err := o.sources.Check(); err != nil {
		return err
	}
	switch {
	case len(o.get) == 0 && len(o.post) == 0:
		return errors.New("--get or --post required")
	case len(o.get) > 0 && len(o.post) > 0:
		return errors.New("use --get or --post not both")
	}
	for _, address := range o.get {
		if strings.Count(address, "%s") != 1 {
			return errors.New("invalid GET address - must be a printf string")
		}
	}
	if !(o.sample >= 0 && o.sample <= 1) { // NaN is neither
		return errors.New("ERROR: --sample must be between 0.0 and 1.0")
	}
	if o.handlers <= 0 {
		return errors.New("-n should be positive")
	}
	return nil
}

// parseHeaders sets header: ours first, so that a flag may replace them.
func (o *options) parseHeaders() error {
	o.header = http.Header{}
	o.header.Set("User-Agent", "nsq_to_http v"+tool.Version)
	if len(o.post) > 0 {
		o.header.Set("Content-Type", o.contentType)
	}
	for _, h := range o.headers {
		name, value, _ := strings.Cut(h, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if name == "" || value == "" {
			return errors.New("--header value format should be 'key=value'")
		}
		o.header.Set(name, value)
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
	o.config.UserAgent = p.UserAgent()
	o.config.MaxInFlight = o.maxInFlight
	consumer, err := p.NewConsumer(o.topic, o.channel, o.config)
	if err != nil {
		return p.Fatal(err)
	}
	consumer.AddConcurrentHandlers(newForwarder(&o, p.Log), o.handlers)
	if err := o.sources.Connect(consumer); err != nil {
		return p.Fatal(err)
	}
	<-p.Signals
	tool.StopConsumers([]*nsq.Consumer{consumer})
	return tool.ExitOK
}
