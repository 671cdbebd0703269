package main

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
)

// options are the flags, checked and put into the form that the rest uses.
type options struct {
	topics       tool.Strings
	topicPattern string
	topicRefresh time.Duration
	channel      string
	maxInFlight  int

	outputDir      string
	workDir        string // never empty once checked
	datetimeFormat string
	filenameFormat string
	hostIdentifier string

	gzip           bool
	gzipLevel      int
	skipEmptyFiles bool
	rotateSize     int64 // bytes; 0: never
	rotateInterval time.Duration
	syncInterval   time.Duration

	connectTimeout time.Duration
	requestTimeout time.Duration
	logLevel       string
	logPrefix      string
	sources        tool.Sources
	config         *nsq.Config

	pattern *regexp.Regexp // of topicPattern, by check; nil: any topic
	level   level          // of logLevel, by check
}

func (o *options) define(fs *flag.FlagSet) {
	fs.Var(&o.topics, "topic", "NSQ topic (may be given multiple times)")
	fs.StringVar(&o.topicPattern, "topic-pattern", "", "only log topics matching the following pattern")
	fs.DurationVar(&o.topicRefresh, "topic-refresh", time.Minute, "how frequently the topic list should be refreshed")
	fs.StringVar(&o.channel, "channel", "nsq_to_file", "NSQ channel")
	fs.IntVar(&o.maxInFlight, "max-in-flight", 200, "max number of messages to allow in flight, and to hold before a sync")

	fs.StringVar(&o.outputDir, "output-dir", "/tmp", "directory to write output files to")
	fs.StringVar(&o.workDir, "work-dir", "", "directory for in-progress files before moving to output-dir")
	fs.StringVar(&o.datetimeFormat, "datetime-format", "%Y-%m-%d_%H", "strftime compatible format for <DATETIME> in filename format")
	fs.StringVar(&o.filenameFormat, "filename-format", "<TOPIC>.<HOST><REV>.<DATETIME>.log",
		"output filename format (<TOPIC>, <HOST>, <PID>, <DATETIME>, <REV> are replaced. <REV> is increased when file already exists)")
	fs.StringVar(&o.hostIdentifier, "host-identifier", "", "value to output in log filename in place of hostname. <SHORT_HOST> and <HOSTNAME> are valid replacement tokens")

	fs.BoolVar(&o.gzip, "gzip", false, "gzip output files.")
	fs.IntVar(&o.gzipLevel, "gzip-level", 6, "gzip compression level (1-9, 1=BestSpeed, 9=BestCompression)")
	fs.BoolVar(&o.skipEmptyFiles, "skip-empty-files", false, "skip writing empty files")
	fs.Int64Var(&o.rotateSize, "rotate-size", 0, "rotate the file when it grows bigger than `rotate-size` bytes")
	fs.DurationVar(&o.rotateInterval, "rotate-interval", 0, "rotate the file every duration")
	fs.DurationVar(&o.syncInterval, "sync-interval", 30*time.Second, "sync file to disk every duration")

	fs.DurationVar(&o.connectTimeout, "http-client-connect-timeout", 2*time.Second, "timeout for HTTP connect")
	fs.DurationVar(&o.requestTimeout, "http-client-request-timeout", 5*time.Second, "timeout for HTTP request")
	fs.StringVar(&o.logLevel, "log-level", "info", "set log verbosity: debug, info, warn, error, or fatal")
	fs.StringVar(&o.logPrefix, "log-prefix", "[nsq_to_file] ", "log message prefix")
	o.sources.Define(fs)
	o.config = nsq.NewConfig()
	// The client gives a message up after five attempts, which here means that a
	// line that five killed processes had in flight is lost. An option may bring
	// the limit back.
	o.config.MaxAttempts = 0
	fs.Var(tool.ClientOption(o.config), "consumer-opt", "`name,value` of an option of the client's consumer (may be given multiple times)")
}

// check says what is wrong, in upstream's order, and fills what is derived.
func (o *options) check() (err error) {
	positive := func(name string, ok bool) {
		if err == nil && !ok {
			err = fmt.Errorf("--%s should be positive", name)
		}
	}
	if o.channel == "" {
		return errors.New("--channel is required")
	}
	positive("http-client-connect-timeout", o.connectTimeout > 0)
	positive("http-client-request-timeout", o.requestTimeout > 0)
	if err != nil {
		return err
	}
	if len(o.sources.NSQDs) == 0 && len(o.sources.Lookupds) == 0 {
		//lint:ignore ST1005 upstream's text has the dot
		return errors.New("--nsqd-tcp-address or --lookupd-http-address required.")
	}
	if err := o.sources.Check(); err != nil {
		return err
	}
	switch {
	case o.gzipLevel < 1 || o.gzipLevel > 9:
		return fmt.Errorf("invalid --gzip-level value (%d), should be 1-9", o.gzipLevel)
	case len(o.topics) == 0 && o.topicPattern == "":
		return errors.New("--topic or --topic-pattern required")
	case len(o.topics) == 0 && len(o.sources.Lookupds) == 0:
		return errors.New("--lookupd-http-address must be specified when no --topic specified")
	}
	positive("max-in-flight", o.maxInFlight > 0)
	positive("sync-interval", o.syncInterval > 0)
	positive("topic-refresh", o.topicRefresh > 0)
	if err != nil {
		return err
	}
	if o.topicPattern != "" {
		if o.pattern, err = regexp.Compile(o.topicPattern); err != nil {
			return fmt.Errorf("invalid --topic-pattern - %w", err)
		}
	}
	if o.workDir == "" {
		o.workDir = o.outputDir
	}
	o.workDir, o.outputDir = filepath.Clean(o.workDir), filepath.Clean(o.outputDir)
	return nil
}

// moves says whether finished files go from the work to the output directory.
func (o *options) moves() bool { return o.workDir != o.outputDir }

// exclusive says whether files must be ours from their first byte on.
func (o *options) exclusive() bool { return o.gzip || o.rotateInterval > 0 }

// numbered says whether a name may be needed more than once.
func (o *options) numbered() bool { return o.exclusive() || o.rotateSize > 0 || o.moves() }
