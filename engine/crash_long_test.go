//go:build long

package engine_test

import (
	"os"
	"strconv"
	"testing"
)

// TestLongCrash kills the daemon a thousand times in process and in disk mode;
// ZSQ_CRASH_ROUNDS sets how often with each size of the memory queue.
func TestLongCrash(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("ZSQ_CRASH_ROUNDS"))
	if err != nil {
		rounds = 350
	}
	crashAll(t, rounds, 10_000, 50, 0)
}
