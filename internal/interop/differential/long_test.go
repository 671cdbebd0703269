//go:build long

package differential

import "testing"

// TestLongDifferential plays the scripts that wait for clocks. With the short
// ones, which go test -tags long plays too, it is all of them.
func TestLongDifferential(t *testing.T) { playAll(t, "testdata/long/*.txt") }
