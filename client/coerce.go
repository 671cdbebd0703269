package nsq

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"reflect"
	"strconv"
	"time"
)

var (
	errValueType  = errors.New("invalid value type")
	errValueRange = errors.New("value out of range")
)

// coerce makes a value of the option's type from one that stands for it.
func coerce(v any, typ reflect.Type) (reflect.Value, error) {
	out := reflect.New(typ).Elem()
	var err error
	switch p := out.Addr().Interface().(type) {
	case *string:
		*p = coerceString(v)
	case *bool:
		*p, err = coerceBool(v)
	case *float64:
		*p, err = coerceFloat(v)
	case *time.Duration:
		*p, err = coerceDuration(v)
	case *net.Addr:
		*p, err = coerceAddr(v)
	case *BackoffStrategy:
		*p, err = coerceStrategy(v)
	case **tls.Config:
		var ok bool
		if *p, ok = v.(*tls.Config); !ok {
			err = errValueType
		}
	case *int, *int32, *int64:
		var n int64
		if n, err = coerceInt(v); err == nil && out.OverflowInt(n) {
			err = errValueRange
		}
		out.SetInt(n)
	case *uint16:
		*p, err = coerceUint16(v)
	default:
		panic("BUG: nsq: no coercion to " + typ.String())
	}
	return out, err
}

func coerceString(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int, int16, int32, int64, uint, uint16, uint32, uint64:
		return fmt.Sprintf("%d", v)
	case float32, float64:
		return fmt.Sprintf("%f", v)
	}
	return fmt.Sprintf("%s", v)
}

// integer returns what the accepted integer types hold. (int8 and uint8 were never
// accepted.)
func integer(v any) (n int64, ok bool, err error) {
	switch rv := reflect.ValueOf(v); v.(type) {
	case int, int16, int32, int64:
		return rv.Int(), true, nil
	case uint, uint16, uint32, uint64:
		if rv.Uint() > math.MaxInt64 {
			return 0, true, errValueRange
		}
		return int64(rv.Uint()), true, nil
	}
	return 0, false, nil
}

func coerceInt(v any) (int64, error) {
	if s, ok := v.(string); ok {
		return strconv.ParseInt(s, 10, 64)
	}
	n, ok, err := integer(v)
	if !ok {
		return 0, errValueType
	}
	return n, err
}

func coerceUint16(v any) (uint16, error) {
	if s, ok := v.(string); ok {
		n, err := strconv.ParseUint(s, 10, 64)
		if err == nil && n > math.MaxUint16 {
			err = errValueRange
		}
		return uint16(n), err
	}
	n, err := coerceInt(v)
	if err == nil && (n < 0 || n > math.MaxUint16) {
		err = errValueRange
	}
	return uint16(n), err
}

func coerceBool(v any) (bool, error) {
	switch v := v.(type) {
	case bool:
		return v, nil
	case string:
		return strconv.ParseBool(v)
	}
	n, ok, err := integer(v)
	if !ok {
		return false, errValueType
	}
	return n != 0 || err != nil, nil
}

func coerceFloat(v any) (float64, error) {
	switch v := v.(type) {
	case string:
		return strconv.ParseFloat(v, 64)
	case float32:
		return float64(v), nil
	case float64:
		return v, nil
	}
	n, ok, err := integer(v)
	if !ok {
		return 0, errValueType
	}
	return float64(n), err
}

// coerceDuration takes a bare number for milliseconds.
func coerceDuration(v any) (time.Duration, error) {
	switch v := v.(type) {
	case string:
		return time.ParseDuration(v)
	case time.Duration:
		return v, nil
	}
	n, ok, err := integer(v)
	switch {
	case !ok:
		return 0, errValueType
	case err != nil || n > int64(math.MaxInt64/time.Millisecond) || n < int64(math.MinInt64/time.Millisecond):
		return 0, errValueRange
	}
	return time.Duration(n) * time.Millisecond, nil
}

func coerceAddr(v any) (net.Addr, error) {
	switch v := v.(type) {
	case string:
		addr, err := net.ResolveTCPAddr("tcp", v)
		if err != nil {
			return nil, err
		}
		return addr, nil
	case net.Addr:
		return v, nil
	}
	return nil, errValueType
}

func coerceStrategy(v any) (BackoffStrategy, error) {
	switch v := v.(type) {
	case string:
		switch v {
		case "", "exponential":
			return new(ExponentialStrategy), nil
		case "full_jitter":
			return new(FullJitterStrategy), nil
		}
	case BackoffStrategy:
		return v, nil
	}
	return nil, errValueType
}

// checkLimits compares an option's value with its min and max tags.
func checkLimits(name string, v reflect.Value, f reflect.StructField) error {
	limit := func(tag string, order int, sign string) error {
		text := f.Tag.Get(tag)
		if text == "" {
			return nil
		}
		bound, err := coerce(text, f.Type)
		if err != nil {
			panic("BUG: nsq: " + tag + " of " + f.Name + ": " + err.Error())
		}
		if compare(v, bound) == order {
			return fmt.Errorf("invalid %s ! %v %s %v", name, v.Interface(), sign, bound.Interface())
		}
		return nil
	}
	if err := limit("min", -1, "<"); err != nil {
		return err
	}
	return limit("max", 1, ">")
}

// compare orders two values of the same type that has an order.
func compare(a, b reflect.Value) int {
	switch {
	case a.CanInt():
		return order(a.Int(), b.Int())
	case a.CanUint():
		return order(a.Uint(), b.Uint())
	default:
		return order(a.Float(), b.Float())
	}
}

func order[T int64 | uint64 | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// setTLS sets the options that are parts of the TlsConfig; handled is false for
// all others. It makes the TlsConfig if there is none.
func (c *Config) setTLS(option string, value any) (handled bool, err error) {
	var set func(*tls.Config, any) error
	switch option {
	case "tls_root_ca_file":
		set = setRootCA
	case "tls_insecure_skip_verify":
		set = func(t *tls.Config, v any) (err error) {
			skip, err := coerceBool(v)
			if err != nil {
				return fmt.Errorf("failed to coerce option %s (%v) - %s", option, v, err)
			}
			t.InsecureSkipVerify = skip
			return nil
		}
	case "tls_cert":
		set = func(t *tls.Config, v any) error { return c.origin.setPair(t, &c.origin.certFile, v) }
	case "tls_key":
		set = func(t *tls.Config, v any) error { return c.origin.setPair(t, &c.origin.keyFile, v) }
	case "tls_min_version":
		set = setMinVersion
	default:
		return false, nil
	}
	if c.TlsConfig == nil {
		c.TlsConfig = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS13}
	}
	return true, set(c.TlsConfig, value)
}

// setPair notes one of the two files, and loads both as soon as both are known.
func (o *origin) setPair(t *tls.Config, file *string, v any) error {
	name, ok := v.(string)
	if !ok {
		return fmt.Errorf("ERROR: %v is not a string", v)
	}
	*file = name
	if o.certFile == "" || o.keyFile == "" || len(t.Certificates) > 0 {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(o.certFile, o.keyFile)
	if err != nil {
		return err
	}
	t.Certificates = []tls.Certificate{pair}
	return nil
}

func setRootCA(t *tls.Config, v any) error {
	name, ok := v.(string)
	if !ok {
		return fmt.Errorf("ERROR: %v is not a string", v)
	}
	pem, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("ERROR: failed to read custom Certificate Authority file %s", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return errors.New("ERROR: failed to append certificates from Certificate Authority file")
	}
	t.RootCAs = pool
	return nil
}

func setMinVersion(t *tls.Config, v any) error {
	name, ok := v.(string)
	if !ok {
		return fmt.Errorf("ERROR: %v is not a string", v)
	}
	const versionSSL30 = 0x0300 // crypto/tls deprecates its own name for it
	version, ok := map[string]uint16{
		"ssl3.0": versionSSL30,
		"tls1.0": tls.VersionTLS10,
		"tls1.1": tls.VersionTLS11,
		"tls1.2": tls.VersionTLS12,
	}[name]
	if !ok {
		return fmt.Errorf("ERROR: %v is not a tls version", v)
	}
	t.MinVersion = version
	return nil
}
