//go:build long

package survival

import "testing"

// TestLongFillAndFree is TestFillAndFree a hundred times over.
func TestLongFillAndFree(t *testing.T) { fillAndFreeAll(t, 100) }
