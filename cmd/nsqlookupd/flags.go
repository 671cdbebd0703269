package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"

	"github.com/zsqio/zsq/internal/config"
	"github.com/zsqio/zsq/internal/logbuf"
	"github.com/zsqio/zsq/internal/version"
	"github.com/zsqio/zsq/lookupd"
)

// parseFlags turns the command line (without the program's name) and the config
// file it names into checked options. When it returns nil options the process
// ends with the code: 0 after --version and -h, 2 after a syntax error, 1 after
// a file or a value that cannot work. It has then said why, the version on
// stdout and all else on stderr.
func parseFlags(args []string, stdout, stderr io.Writer) (o *lookupd.Options, code int) {
	o = lookupd.NewOptions()
	fs := flag.NewFlagSet("nsqlookupd", flag.ContinueOnError)
	fs.SetOutput(stderr)
	showVersion, path := defineFlags(fs, o)
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil, 0
	} else if err != nil {
		return nil, 2 // fs has printed the error and the usage
	}
	if *showVersion {
		fmt.Fprintf(stdout, "nsqlookupd v%s (built w/%s)\nzsq v%s\n", lookupd.Version, runtime.Version(), version.Own)
		return nil, 0
	}
	if err := loadConfig(*path, o, fs); err != nil {
		fatal(stderr, "%s", err)
		return nil, 1
	}
	if err := o.Validate(); err != nil {
		fatal(stderr, "failed to instantiate nsqlookupd - %s", err)
		return nil, 1
	}
	return o, 0
}

// fatal logs why the process ends. During the start upstream's lines have its
// default prefix, whatever --log-prefix says; so have ours.
func fatal(w io.Writer, format string, args ...any) {
	logbuf.Line(w, lookupd.NewOptions().LogPrefix, logbuf.Text, lookupd.LogFatal, fmt.Sprintf(format, args...))
}

// loadConfig sets every option that the file has and the command line has not.
func loadConfig(path string, o *lookupd.Options, line *flag.FlagSet) error {
	file, err := config.Load(path)
	if err != nil {
		return fmt.Errorf("failed to load config file %s - %w", path, err)
	}
	level := o.LogLevel
	err = file.Fill(o.Fields(), line)
	switch {
	case err == nil:
		return nil
	case file["log_level"] != nil && level.Set(fmt.Sprint(file["log_level"])) != nil:
		return fmt.Errorf("failed parsing log_level %v", file["log_level"])
	}
	return fmt.Errorf("failed to load config file %s - %w", path, err)
}

// defineFlags defines every flag on fs. It returns where --version and --config
// land.
func defineFlags(fs *flag.FlagSet, o *lookupd.Options) (showVersion *bool, path *string) {
	config.Define(fs, o.Fields(), func(upstream *flag.FlagSet) {
		showVersion = upstream.Bool("version", false, "print the version and end")
		path = upstream.String("config", "", "path to a config file")
		upstream.Bool("verbose", false, "accepted as nsqlookupd has it; without effect (see --log-level)")
	})
	return showVersion, path
}
