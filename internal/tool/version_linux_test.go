package tool

import (
	"testing"

	"github.com/zsqio/zsq/engine"
)

// TestVersion shows that the tools claim the release that the daemon claims.
func TestVersion(t *testing.T) {
	if Version != engine.Version {
		t.Errorf("tools %s, daemon %s", Version, engine.Version)
	}
}
