package tool

import (
	"errors"
	"flag"
	"strings"
)

// Strings is a flag that may be given several times. Commas are part of a value.
type Strings []string

// String is what the usage text shows as the default.
func (s *Strings) String() string { return strings.Join(*s, ",") }

// Set appends one value.
func (s *Strings) Set(value string) error {
	*s = append(*s, value)
	return nil
}

// A Setter has named options, as the client's Config does.
type Setter interface {
	Set(name string, value any) error
}

// ClientOption returns a flag that sets options of config: "name,value", or
// "name" alone for a boolean that becomes true. It may be given several times.
// A bad option is an error of the flag.
func ClientOption(config Setter) flag.Value { return clientOption{config} }

type clientOption struct{ config Setter }

// String is empty: the usage text has no defaults to show.
func (o clientOption) String() string { return "" }

// Set passes one option on to the configuration.
func (o clientOption) Set(s string) error {
	name, value, ok := strings.Cut(s, ",")
	if !ok {
		return o.config.Set(name, true)
	}
	return o.config.Set(name, value)
}

// Sources are the daemons that a tool consumes from: nsqd given one by one, or
// nsqlookupd that know them, and never both.
type Sources struct {
	NSQDs    Strings // TCP addresses
	Lookupds Strings // HTTP addresses
}

// Define adds the flags of the sources to fs.
func (s *Sources) Define(fs *flag.FlagSet) {
	fs.Var(&s.NSQDs, "nsqd-tcp-address", "nsqd TCP address (may be given multiple times)")
	fs.Var(&s.Lookupds, "lookupd-http-address", "lookupd HTTP address (may be given multiple times)")
}

// Check wants exactly one kind of source.
func (s *Sources) Check() error {
	switch {
	case len(s.NSQDs) == 0 && len(s.Lookupds) == 0:
		return errors.New("--nsqd-tcp-address or --lookupd-http-address required")
	case len(s.NSQDs) > 0 && len(s.Lookupds) > 0:
		return errors.New("use --nsqd-tcp-address or --lookupd-http-address not both")
	}
	return nil
}
