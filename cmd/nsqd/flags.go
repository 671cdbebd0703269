// Command nsqd is zsq's message daemon: nsqd's flags, protocol and HTTP API.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/config"
	"github.com/zsqio/zsq/internal/logbuf"
)

// parseFlags turns the command line (without the program's name) into checked
// options. When it returns nil options the process ends with the code: 0 after
// --version and -h, 2 after a syntax error, 1 after a value that cannot work.
// It has then said why, the version on stdout and all else on stderr.
func parseFlags(args []string, stdout, stderr io.Writer) (o *engine.Options, code int) {
	o = engine.NewOptions()
	fs := flag.NewFlagSet("nsqd", flag.ContinueOnError)
	fs.SetOutput(stderr)
	version := defineFlags(fs, o)
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil, 0
	} else if err != nil {
		return nil, 2 // fs has printed the error and the usage
	}
	if *version {
		fmt.Fprint(stdout, versionText())
		return nil, 0
	}
	if name := fs.Lookup("config").Value.String(); name != "" {
		if err := loadConfig(name, o, fs); err != nil {
			fatalf(stderr, o, "failed to load config file %s - %s", name, err)
			return nil, 1
		}
	}
	if err := o.Validate(); err != nil {
		fatalf(stderr, o, "failed to instantiate nsqd - %s", err)
		return nil, 1
	}
	return o, 0
}

// fatalf logs why the process ends. During the start upstream's lines have its
// default prefix, whatever --log-prefix says; so have ours.
func fatalf(w io.Writer, o *engine.Options, format string, args ...any) {
	logbuf.Line(w, "[nsqd] ", o.LogFormat, engine.LogFatal, fmt.Sprintf(format, args...))
}

// versionText is what --version prints: upstream's line, which scripts read,
// and a second one of our own.
func versionText() string {
	return fmt.Sprintf("nsqd v%s (built w/%s)\nzsq v%s\n", engine.Version, runtime.Version(), engine.OwnVersion)
}

// defineFlags defines every flag on fs. It returns where --version lands.
func defineFlags(fs *flag.FlagSet, o *engine.Options) (version *bool) {
	config.Define(fs, o.Fields(), func(upstream *flag.FlagSet) {
		version = upstream.Bool("version", false, "print the version and end")
		upstream.String("config", "", "path to a config file")
		upstream.Bool("verbose", false, "accepted as nsqd has it; without effect (see --log-level)")
		upstream.Bool("worker-id", false, "accepted as nsqd has it; without effect (see --node-id)")
	})
	return version
}

// loadConfig sets every option that the file has and the command line has not.
func loadConfig(path string, o *engine.Options, line *flag.FlagSet) error {
	file, err := config.Load(path)
	if err != nil {
		return err
	}
	return file.Fill(o.Fields(), line)
}
