//go:build long && linux

package main

import "testing"

// TestLongKilled is TestKilled with more lines and kills.
func TestLongKilled(t *testing.T) { testKilled(t, 50_000, 60) }
