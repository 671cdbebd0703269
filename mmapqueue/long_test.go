//go:build long

package mmapqueue_test

import (
	"testing"
	"time"
)

// TestLongEveryCut is TestEveryCut at every byte.
func TestLongEveryCut(t *testing.T) { everyCut(t, 1) }

// TestLongEveryFlip is TestEveryFlip at every bit.
func TestLongEveryFlip(t *testing.T) { everyFlip(t, 1) }

// TestLongPowerCut cuts the power 5,000 times.
func TestLongPowerCut(t *testing.T) { manyPowerCuts(t, 500) }

// TestLongTornLives is TestTornLives with 300 new seeds.
func TestLongTornLives(t *testing.T) { tornLives(t, uint64(time.Now().UnixNano())/1e6*1000, 300) }

// TestLongManyLogs is TestManyLogs with 10,000 logs.
func TestLongManyLogs(t *testing.T) { manyLogs(t, 10_000, 28) }
