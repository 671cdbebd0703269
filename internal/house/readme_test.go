package house

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadmeTestCommand keeps the promise that machines run what README tells
// people to run.
func TestReadmeTestCommand(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s does not contain %q", name, want)
		}
	}
	f("README.md", "\n.ci/test ")
	f(".ci/run", "\nexec .ci/test\n")
	f("README.md", "\n.ci/long ")
}
