package house

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// root is the repository's root directory, and module what its packages' import
// paths start with.
const (
	root   = "../.."
	module = "github.com/zsqio/zsq"
)

// A file is one Go source file of the tree.
type file struct {
	name string // relative to root, with slashes
	pkg  string // its directory, the same way; "." for the root itself
	test bool
	ast  *ast.File
}

// tree returns every Go file of the main module, tests included, with comments.
// Build constraints do not matter: all of them are read.
func tree(t *testing.T) (fset *token.FileSet, files []file) {
	t.Helper()
	fset = token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return unlessGone(p, err)
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if d.IsDir() {
			return skip(p, name)
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return unlessGone(p, err)
		}
		parsed, err := parser.ParseFile(fset, name, src, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, file{
			name: name,
			pkg:  path.Dir(name),
			test: strings.HasSuffix(name, "_test.go"),
			ast:  parsed,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fset, files
}

// unlessGone returns err, but for a file or a directory that went during the walk:
// tests of other packages run at the same time, and so may tools.
func unlessGone(p string, err error) error {
	if p != root && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// skip says fs.SkipDir of directories that the go tool leaves out of ./... too.
func skip(p, name string) error {
	if name == "." {
		return nil
	}
	base := path.Base(name)
	if base == "testdata" || base[0] == '.' || base[0] == '_' {
		return fs.SkipDir
	}
	switch _, err := os.Stat(filepath.Join(p, "go.mod")); {
	case err == nil:
		return fs.SkipDir
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}
