package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/zsqio/zsq/engine"
)

// loadConfig sets every option that the file has and the command line has not.
// Keys that are nobody's, tables among them, are ignored, as upstream does.
func loadConfig(path string, o *engine.Options, given map[string]bool) error {
	var file map[string]any
	if _, err := toml.DecodeFile(path, &file); err != nil {
		return err
	}
	for _, f := range o.Fields() {
		v, ok := file[f.Key]
		if !ok || given[f.Flag] {
			continue
		}
		if err := setField(f.Ptr, v); err != nil {
			return fmt.Errorf("%s: %w", f.Key, err)
		}
	}
	return nil
}

// errKind is a value that the option has no use for.
var errKind = errors.New("the value is of the wrong kind")

// setField stores a TOML value in an option. It takes what upstream takes: a
// number may be quoted, a whole number for a duration is milliseconds, a list may
// be one string with commas. What upstream misunderstands it refuses, but for
// two things that it gets right instead: 0 and 1 as booleans, and whole numbers
// as percentiles.
func setField(ptr, v any) (err error) {
	switch p := ptr.(type) {
	case *string:
		s, ok := v.(string)
		if !ok {
			return errKind
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
			return "", errKind
		})
	case *[]float64:
		*p, err = toList(v, toFloat)
	case flag.Value:
		switch v.(type) {
		case string, bool, int64, float64:
			return p.Set(fmt.Sprint(v))
		}
		return errKind
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
	return false, errKind
}

func toInt(v any) (int64, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case string:
		return strconv.ParseInt(v, 0, 64)
	}
	return 0, errKind
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
	return 0, errKind
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
	return 0, errKind
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
		return nil, errKind
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
