package engine

import (
	"errors"
	"slices"

	"github.com/zsqio/zsq/engine/broker"
)

// Durability is what an accepted message survives.
type Durability broker.Durability

// The modes of --durability.
const (
	DurabilityMemory  = Durability(broker.DurabilityMemory)
	DurabilityProcess = Durability(broker.DurabilityProcess)
	DurabilityDisk    = Durability(broker.DurabilityDisk)
)

var durabilities = []string{"memory", "process", "disk"}

// String returns the flag's word.
func (d Durability) String() string { return durabilities[d] }

// MarshalText shows the word in /config.
func (d Durability) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Set parses the flag's word.
func (d *Durability) Set(s string) error {
	i := slices.Index(durabilities, s)
	if i < 0 {
		return errors.New("must be memory, process or disk")
	}
	*d = Durability(i)
	return nil
}

// Get makes Durability a flag.Getter.
func (d *Durability) Get() any { return *d }
