package config

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Field ties one setting of a daemon to its names.
type Field struct {
	Flag  string // command line name, without dashes
	Key   string // name in the config file; empty: the flag's, with underscores for dashes
	Usage string
	Own   bool // zsq's own, not upstream's
	// Ptr points to the setting: *string, *bool, *int, *int64, *time.Duration,
	// *[]string, *[]float64 or a flag.Value.
	Ptr any
}

// Define defines the flags of all fields on fs, with the value that each has now
// as its default, and those that more adds to upstream's. It gives fs a usage text
// in which our own flags stand apart.
func Define(fs *flag.FlagSet, fields []Field, more func(upstream *flag.FlagSet)) {
	upstream := flag.NewFlagSet("", flag.ContinueOnError)
	own := flag.NewFlagSet("", flag.ContinueOnError)
	more(upstream)
	for _, f := range fields {
		if f.Own {
			define(own, f)
		} else {
			define(upstream, f)
		}
	}
	for _, part := range []*flag.FlagSet{upstream, own} {
		part.VisitAll(func(f *flag.Flag) { fs.Var(f.Value, f.Name, f.Usage) })
		part.SetOutput(fs.Output())
	}
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage of %s:\n", fs.Name())
		upstream.PrintDefaults()
		fmt.Fprintln(fs.Output(), "\nzsq's own:")
		own.PrintDefaults()
	}
}

func define(fs *flag.FlagSet, f Field) {
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

// Fill sets every field that the file has and the parsed command line has not.
// The error is of Set.
func (f File) Fill(fields []Field, line *flag.FlagSet) error {
	given := map[string]bool{}
	line.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for _, field := range fields {
		key := field.Key
		if key == "" {
			key = strings.ReplaceAll(field.Flag, "-", "_")
		}
		if given[field.Flag] {
			continue
		}
		if err := f.Set(key, field.Ptr); err != nil {
			return err
		}
	}
	return nil
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
