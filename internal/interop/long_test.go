//go:build long

package interop

import "testing"

// TestLongFiveMillion is TestExactlyOncePerChannel with 5,000,000 messages of
// 200 B, most of which wait somewhere for a while.
func TestLongFiveMillion(t *testing.T) {
	fanOut(t, startBroker(t), 5_000_000, 200)
}
