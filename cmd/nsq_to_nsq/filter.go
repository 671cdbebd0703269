package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"strconv"
	"strings"

	"github.com/zsqio/zsq/internal/tool"
)

var errNoField = errors.New("missing field to check required value")

// A filter decides by their JSON which messages pass, and what of them. The zero
// value passes everything as it is.
type filter struct {
	requireField string
	requireValue string // empty: any
	whitelist    tool.Strings
}

// apply returns the body to publish; pass is false if the message is dropped.
// Without a whitelist that is body itself. An error means that the message is
// to be tried again. What is dropped because it is no object, and what has not
// the field whose value matters, is logged.
func (f *filter) apply(body []byte, l *log.Logger) (out []byte, pass bool, err error) {
	if f.requireField == "" && f.requireValue == "" && len(f.whitelist) == 0 {
		return body, true, nil
	}
	object, err := decode(body)
	if err != nil {
		l.Printf("ERROR: Unable to decode json: %s", body)
		return nil, false, nil
	}
	pass, err = f.wants(object)
	if err != nil {
		l.Printf("ERROR: %s", err)
	}
	if !pass || len(f.whitelist) == 0 {
		return body, pass, err
	}
	chosen := make(map[string]any, len(f.whitelist))
	for _, name := range f.whitelist {
		if v, ok := object[name]; ok {
			chosen[name] = plainNumbers(v)
		}
	}
	out, err = json.Marshal(chosen)
	return out, err == nil, err
}

// wants says whether the object has the required field and value. It is an error
// if a value is required of a field that is missing.
func (f *filter) wants(object map[string]any) (bool, error) {
	if f.requireField == "" {
		return true, nil
	}
	v, ok := object[f.requireField]
	if f.requireValue == "" {
		return ok, nil
	}
	if !ok {
		return false, errNoField
	}
	switch v := v.(type) {
	case string:
		return v == f.requireValue, nil
	case json.Number:
		got, err1 := v.Float64()
		want, err2 := strconv.ParseFloat(f.requireValue, 64)
		return err1 == nil && err2 == nil && got == want, nil
	}
	return false, nil
}

// decode reads one object and nothing behind it. Numbers stay as they are written.
func decode(body []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return object, nil
}

// plainNumbers writes the numbers in v as upstream does, which passes them
// through a float64: 5.0 as 5, 1e3 as 1000. Those that a float64 cannot hold,
// whose last digits upstream changes, stay as they are.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		float, err := v.Float64()
		if err != nil {
			return v
		}
		text, err := json.Marshal(float)
		if err != nil || canonical(string(text)) != canonical(string(v)) {
			return v
		}
		return json.RawMessage(text)
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = plainNumbers(v[name])
		}
	}
	return v
}

// A decimal is a number without redundancy: digits times ten to the exponent,
// the digits neither starting nor ending with a zero. Zero has none.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

// canonical reads a JSON number.
func canonical(number string) decimal {
	number, negative := strings.CutPrefix(number, "-")
	mantissa, power, _ := strings.Cut(strings.ToLower(number), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	// An exponent too large to be read is no float64's, so nothing compares
	// equal to what comes of it.
	exponent, _ := strconv.Atoi(power)
	exponent -= len(fraction)
	digits := strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return decimal{}
	}
	return decimal{negative, trimmed, exponent + len(digits) - len(trimmed)}
}
