// Package config reads the daemons' configuration files: TOML, one level, a key
// for each setting. What the command line says wins over the file, and the file
// over the defaults; the callers see to that.
package config

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// A File is what stands in a configuration file. Keys that are nobody's, tables
// among them, do no harm, as upstream has it.
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

// ErrKind is a value that the setting has no use for. Compare with errors.Is.
var ErrKind = errors.New("the value is of the wrong kind")

// Set stores the key's value, if there is one, in the setting that ptr points to:
// a *string, *bool, *int, *int64, *time.Duration, *[]string, *[]float64 or a
// flag.Value. It takes what upstream takes: a number may be quoted, a whole
// number for a duration is milliseconds, a list may be one string with commas.
// What upstream misunderstands it refuses, but for two things that it gets right
// instead: 0 and 1 as booleans, and whole numbers for fractions. Errors name the
// key.
func (f File) Set(key string, ptr any) error {
	v, ok := f[key]
	if !ok {
		return nil
	}
	if err := set(ptr, v); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func set(ptr, v any) (err error) {
	switch p := ptr.(type) {
	case *string:
		s, ok := v.(string)
		if !ok {
			return ErrKind
		}
		*p = s
	case *bool:
		*p, err = toBool(v)
	case *int:
		var n int64
		n, err = toInt(v)
		*p = int(n)
	case *int64:
		*p, err = toInt(v)
	case *time.Duration:
		*p, err = toDuration(v)
	case *[]string:
		*p, err = toList(v, func(v any) (string, error) {
			if s, ok := v.(string); ok {
				return s, nil
			}
			return "", ErrKind
		})
	case *[]float64:
		*p, err = toList(v, toFloat)
	case flag.Value:
		switch v.(type) {
		case string, bool, int64, float64:
			return p.Set(fmt.Sprint(v))
		}
		return ErrKind
	default:
		panic(fmt.Sprintf("BUG: no way to set a %T", p))
	}
	return err
}

func toBool(v any) (bool, error) {
	switch v := v.(type) {
	case bool:
		return v, nil
	case string:
		return strconv.ParseBool(v)
	case int64:
		if v == 0 || v == 1 {
			return v == 1, nil
		}
	}
	return false, ErrKind
}

func toInt(v any) (int64, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case string:
		return strconv.ParseInt(v, 0, 64)
	}
	return 0, ErrKind
}

func toDuration(v any) (time.Duration, error) {
	switch v := v.(type) {
	case int64:
		const limit = math.MaxInt64 / int64(time.Millisecond)
		if v > limit || v < -limit {
			return 0, fmt.Errorf("%d ms is out of range", v)
		}
		return time.Duration(v) * time.Millisecond, nil
	case string:
		if ms, err := strconv.ParseInt(v, 10, 64); err == nil {
			return toDuration(ms)
		}
		return time.ParseDuration(v)
	}
	return 0, ErrKind
}

func toFloat(v any) (float64, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case int64:
		return float64(v), nil
	case string:
		return strconv.ParseFloat(strings.TrimSpace(v), 64)
	}
	return 0, ErrKind
}

// toList takes an array, or a string with commas, which may be empty.
func toList[T any](v any, one func(any) (T, error)) ([]T, error) {
	list := []T{}
	var parts []any
	switch v := v.(type) {
	case string:
		for part := range strings.SplitSeq(v, ",") {
			if part != "" {
				parts = append(parts, part)
			}
		}
	case []any:
		parts = v
	default:
		return nil, ErrKind
	}
	for _, part := range parts {
		x, err := one(part)
		if err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	return list, nil
}
