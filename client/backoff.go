package nsq

import (
	"math"
	"math/rand"
	"sync"
	"time"
)

// BackoffStrategy says how long to back off.
type BackoffStrategy interface {
	// Calculate returns the wait at the given level; the first one is 1.
	Calculate(attempt int) time.Duration
}

// boundStrategy is a strategy that reads a Config.
type boundStrategy interface {
	bind(*Config)
}

// ExponentialStrategy doubles the wait at each level.
type ExponentialStrategy struct {
	cfg *Config
}

func (s *ExponentialStrategy) bind(c *Config) { s.cfg = c }

// Calculate returns Config.BackoffMultiplier times two to the power of attempt.
func (s *ExponentialStrategy) Calculate(attempt int) time.Duration {
	return exponential(s.cfg, attempt)
}

// FullJitterStrategy draws the wait evenly from what ExponentialStrategy would
// answer, so that consumers that failed together do not come back together.
type FullJitterStrategy struct {
	cfg *Config

	mu  sync.Mutex
	rng *rand.Rand // nil: the process's own source
}

func (s *FullJitterStrategy) bind(c *Config) { s.cfg = c }

// Calculate returns a random wait from zero up to Config.BackoffMultiplier times
// two to the power of attempt.
func (s *FullJitterStrategy) Calculate(attempt int) time.Duration {
	limit := int64(exponential(s.cfg, attempt))
	if limit <= 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rng == nil {
		return time.Duration(rand.Int63n(limit))
	}
	return time.Duration(s.rng.Int63n(limit))
}

// exponential is multiplier * 2^attempt, and the longest duration if that is more.
// Without a Config the multiplier is its default.
func exponential(cfg *Config, attempt int) time.Duration {
	unit := time.Second
	if cfg != nil {
		unit = cfg.BackoffMultiplier
	}
	if unit <= 0 {
		return 0
	}
	if attempt >= 62 || int64(unit) > math.MaxInt64>>attempt {
		return math.MaxInt64
	}
	return unit << attempt
}
