//go:build long

package broker

import (
	"os"
	"testing"
	"time"
)

// TestLongLedger runs ledgers with new seeds for ZSQ_LONG, ten minutes if unset.
func TestLongLedger(t *testing.T) {
	length := 10 * time.Minute
	if s := os.Getenv("ZSQ_LONG"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	for end := time.Now().Add(length); time.Now().Before(end); seed++ {
		if bad := runLedger(t, seed, 5000); bad != "" {
			t.Fatalf("seed %d: %s", seed, bad)
		}
	}
}
