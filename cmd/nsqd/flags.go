// Command nsqd is zsq's message daemon: nsqd's flags, protocol and HTTP API.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/config"
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
		given := map[string]bool{}
		fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if err := loadConfig(name, o, given); err != nil {
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
	engine.LogLine(w, "[nsqd] ", o.LogFormat, engine.LogFatal, fmt.Sprintf(format, args...))
}

// versionText is what --version prints: upstream's line, which scripts read,
// and a second one of our own.
func versionText() string {
	return fmt.Sprintf("nsqd v%s (built w/%s)\nzsq v%s\n", engine.Version, runtime.Version(), engine.OwnVersion)
}

// defineFlags defines every flag on fs and gives it a usage text in which our
// own flags stand apart from upstream's. It returns where --version lands.
func defineFlags(fs *flag.FlagSet, o *engine.Options) (version *bool) {
	upstream := flag.NewFlagSet("", flag.ContinueOnError)
	own := flag.NewFlagSet("", flag.ContinueOnError)

	version = upstream.Bool("version", false, "print the version and end")
	upstream.String("config", "", "path to a config file")
	upstream.Bool("verbose", false, "accepted as nsqd has it; without effect (see --log-level)")
	upstream.Bool("worker-id", false, "accepted as nsqd has it; without effect (see --node-id)")
	for _, f := range o.Fields() {
		if f.Own {
			defineField(own, f)
		} else {
			defineField(upstream, f)
		}
	}

	for _, part := range []*flag.FlagSet{upstream, own} {
		part.VisitAll(func(f *flag.Flag) { fs.Var(f.Value, f.Name, f.Usage) })
		part.SetOutput(fs.Output())
	}
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "Usage of nsqd:")
		upstream.PrintDefaults()
		fmt.Fprintln(fs.Output(), "\nzsq's own:")
		own.PrintDefaults()
	}
	return version
}

func defineField(fs *flag.FlagSet, f engine.Field) {
	switch p := f.Ptr.(type) {
	case flag.Value:
		fs.Var(p, f.Flag, f.Usage)
	case *string:
		fs.StringVar(p, f.Flag, *p, f.Usage)
	case *bool:
		fs.BoolVar(p, f.Flag, *p, f.Usage)
	case *int:
		fs.IntVar(p, f.Flag, *p, f.Usage)
	case *int64:
		fs.Int64Var(p, f.Flag, *p, f.Usage)
	case *time.Duration:
		fs.DurationVar(p, f.Flag, *p, f.Usage)
	case *[]string:
		fs.Var((*stringList)(p), f.Flag, f.Usage)
	case *[]float64:
		fs.Var((*floatList)(p), f.Flag, f.Usage)
	default:
		panic(fmt.Sprintf("BUG: --%s has type %T", f.Flag, p))
	}
}

// stringList collects a flag given several times. Commas are part of a value.
type stringList []string

// String is what the usage text shows as the default.
func (l *stringList) String() string { return strings.Join(*l, ",") }

// Set appends one value.
func (l *stringList) Set(s string) error {
	*l = append(*l, s)
	return nil
}

// floatList collects numbers, several times and comma separated, and keeps
// them in descending order.
type floatList []float64

// String is what the usage text shows as the default.
func (l *floatList) String() string {
	var s []string
	for _, v := range *l {
		s = append(s, strconv.FormatFloat(v, 'g', -1, 64))
	}
	return strings.Join(s, ",")
}

// Set adds the numbers of one value.
func (l *floatList) Set(s string) error {
	for word := range strings.SplitSeq(s, ",") {
		v, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return err
		}
		*l = append(*l, v)
	}
	slices.SortFunc(*l, func(a, b float64) int {
		switch {
		case a > b:
			return -1
		case a < b:
			return 1
		default:
			return 0
		}
	})
	return nil
}

// loadConfig sets every option that the file has and the command line has not.
func loadConfig(path string, o *engine.Options, given map[string]bool) error {
	file, err := config.Load(path)
	if err != nil {
		return err
	}
	for _, f := range o.Fields() {
		if given[f.Flag] {
			continue
		}
		if err := file.Set(f.Key, f.Ptr); err != nil {
			return err
		}
	}
	return nil
}
