// Package config reads the daemons' configuration files: TOML, one level, each
// key a flag's name with underscores for dashes. What the command line says wins
// over the file, and the file over the defaults. Unknown keys are ignored, as
// upstream's daemons ignore them.
package config

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// A File is what stands in a configuration file.
type File map[string]any

// Load reads a file. The empty path is a file with nothing in it.
func Load(path string) (File, error) {
	f := File{}
	if path == "" {
		return f, nil
	}
	_, err := toml.DecodeFile(path, &f)
	return f, err
}

// Key is the name in a file of a flag without a name of its own there.
func Key(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// Apply sets every flag of fs that the command line has left alone and the file
// has a value for. fs must have been parsed. key names a flag's key in the file,
// nil means Key. A value that its flag does not take is an error, which names
// the flag.
func (f File) Apply(fs *flag.FlagSet, key func(flag string) string) error {
	if key == nil {
		key = Key
	}
	given := map[string]bool{}
	fs.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var failed error
	fs.VisitAll(func(fl *flag.Flag) {
		v, ok := f[key(fl.Name)]
		if !ok || given[fl.Name] || failed != nil {
			return
		}
		if err := set(fl, v); err != nil {
			failed = fmt.Errorf("%s: %w", fl.Name, err)
		}
	})
	return failed
}

// set gives the flag a value; a list is as many values.
func set(fl *flag.Flag, v any) error {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, v := range list {
		text, err := word(fl, v)
		if err != nil {
			return err
		}
		if err := fl.Value.Set(text); err != nil {
			return fmt.Errorf("invalid value %q: %w", text, err)
		}
	}
	return nil
}

// word spells a value as the command line would. An integer for a duration
// means milliseconds.
func word(fl *flag.Flag, v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case int64:
		text := strconv.FormatInt(v, 10)
		if g, ok := fl.Value.(flag.Getter); ok {
			if _, ok := g.Get().(time.Duration); ok {
				text += "ms"
			}
		}
		return text, nil
	}
	return "", fmt.Errorf("a %T is no value", v)
}
