package engine

import (
	"os"
	"path/filepath"

	"github.com/zsqio/zsq/mmapqueue"
)

// A start and a stop have to write a little, whatever else there is on the disk:
// what each channel has finished, the topics, the id mark. So that a full disk does
// not keep a daemon from starting, and its consumers from making room, that little
// is set aside in a file while the daemon runs.
const (
	reserveMax = 4 << 20
	reserveMin = 64 << 10
)

func (e *Engine) reservePath() string { return filepath.Join(e.dataPath(), "zsq", "reserve") }

// keepReserve sets the space aside, or as much of it as there is.
func (e *Engine) keepReserve() {
	if _, err := os.Stat(e.reservePath()); err == nil {
		return
	}
	for size := int64(reserveMax); size >= reserveMin; size /= 2 {
		if f, err := mmapqueue.OS.Create(e.reservePath(), size); err == nil {
			_ = f.Close()
			return
		}
		e.spendReserve()
	}
}

// spendReserve gives the space to whoever writes next.
func (e *Engine) spendReserve() { _ = os.Remove(e.reservePath()) }
