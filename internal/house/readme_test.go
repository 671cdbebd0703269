package house

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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

// testName is a test that a document names.
var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")

// TestDocumentsNameTests shows that what documents call a proof exists, nested
// modules included.
func TestDocumentsNameTests(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case d.IsDir() && p != root && d.Name()[0] == '.':
			return fs.SkipDir // git's own, where files come and go
		case strings.HasSuffix(p, "_test.go"):
			var text []byte
			text, err = os.ReadFile(p)
			code.Write(text)
		}
		return unlessGone(p, err)
	})
	if err != nil {
		t.Fatal(err)
	}
	var documents []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		documents = append(documents, found...)
	}
	for _, name := range documents {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(code.String(), "func "+m[1]+"(") {
				t.Errorf("%s names %s, which does not exist", filepath.Base(name), m[1])
			}
		}
	}
}
