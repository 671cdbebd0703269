// Package house holds tests of the source tree itself.
package house

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers is the import picture, highest first: a package imports packages on
// lower lines only. It is a statement of policy; move a name with care, and say
// why in the commit.
var layers = [][]string{
	{"cmd/nsqd", "cmd/mmapdump", "bench", "internal/nsqtest"},
	{"engine", "lookupd", "client"},
	{"engine/httpapi", "engine/netloop"},
	{"engine/broker"},
	{"mmapqueue"},
	{"ring", "internal/wire", "internal/block"},
	{"internal/invariant"},
}

func TestImportsPointDown(t *testing.T) {
	const root, module = "../..", "github.com/zsqio/zsq/"
	layer := func(pkg string) int {
		return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, pkg) })
	}
	// The files are read here rather than by `go list`, so that go test knows
	// them as inputs and does not answer from its cache.
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		pkg := path.Dir(filepath.ToSlash(rel))
		if layer(pkg) < 0 {
			t.Errorf("%s: package has no place in layers", rel)
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			if dep, ours := strings.CutPrefix(name, module); ours && layer(dep) <= layer(pkg) {
				t.Errorf("%s imports %s, which is not below it", rel, dep)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
