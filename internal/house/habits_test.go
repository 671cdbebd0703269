package house

import (
	"go/ast"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestPackageComments wants a package comment in every package, commands and
// test-only packages included: "Package x ..." or, for a command, any text.
func TestPackageComments(t *testing.T) {
	_, files := tree(t)
	documented := map[string]bool{}
	for _, f := range files {
		doc := strings.TrimSpace(f.ast.Doc.Text())
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		good := doc != "" && (name == "main" || strings.HasPrefix(doc, "Package "+name+" "))
		documented[f.pkg] = documented[f.pkg] || good
	}
	for _, pkg := range slices.Sorted(maps.Keys(documented)) {
		if !documented[pkg] {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

var (
	marker   = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)
	numbered = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\(#[0-9]+\)`)
)

// TestMarkersHaveNumbers allows a note about work to do only with the number of
// the issue that holds it, as in "TO" + "DO(#12)".
func TestMarkersHaveNumbers(t *testing.T) {
	fset, files := tree(t)
	for _, f := range files {
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				for line := range strings.Lines(c.Text) {
					if marker.MatchString(numbered.ReplaceAllString(line, "")) {
						t.Errorf("%s: no issue number in %q", fset.Position(c.Pos()), strings.TrimSpace(line))
					}
				}
			}
		}
	}
}

// importName returns what a file calls the package of that import path; ok is
// false if it does not import it.
func importName(f file, importPath string) (name string, ok bool) {
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err != nil || p != importPath {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name, true
		}
		return importPath[strings.LastIndexByte(importPath, '/')+1:], true
	}
	return "", false
}

// uses calls report for each mention of a name of the imported package: x.Name.
func uses(f file, importPath string, report func(name string, pos token.Pos)) {
	local, ok := importName(f, importPath)
	if !ok {
		return
	}
	if local == "." {
		report(". import", f.ast.Pos())
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
				report(sel.Sel.Name, sel.Pos())
			}
		}
		return true
	})
}

var rawAtomic = regexp.MustCompile(`^(Load|Store|Add|Swap|CompareAndSwap|And|Or)(Int32|Int64|Uint32|Uint64|Uintptr|Pointer)$`)

// TestTypedAtomicsOnly forbids sync/atomic's functions on plain variables: a
// plain access to such a variable compiles, and is a race. One file may use them:
// programs copy the client's Message by value, as they may go-nsq's, and vet
// would refuse that of a typed atomic.
func TestTypedAtomicsOnly(t *testing.T) {
	fset, files := tree(t)
	for _, f := range files {
		if f.name == "client/message.go" {
			continue
		}
		uses(f, "sync/atomic", func(name string, pos token.Pos) {
			if rawAtomic.MatchString(name) || name == ". import" {
				t.Errorf("%s: atomic.%s; use a typed atomic", fset.Position(pos), name)
			}
		})
	}
}

// clocks are the names of package time that read the real clock or time by it.
// Sleep is not one: a helper goroutine backs off with it while a disk fails.
var clocks = []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", ". import"}

// TestBrokerHasNoClock keeps the clock out of the broker: its callers pass now,
// which is why its tests can pass any.
func TestBrokerHasNoClock(t *testing.T) {
	fset, files := tree(t)
	for _, f := range files {
		if f.test || (f.pkg != "engine/broker" && !strings.HasPrefix(f.pkg, "engine/broker/")) {
			continue
		}
		uses(f, "time", func(name string, pos token.Pos) {
			if slices.Contains(clocks, name) {
				t.Errorf("%s: time.%s; take the time as an argument", fset.Position(pos), name)
			}
		})
	}
}

// TestLongFunctions lists functions that pass a screen. It never fails: look at
// the list for a second idea in the function, and leave it whole if there is none.
func TestLongFunctions(t *testing.T) {
	const screen = 70
	fset, files := tree(t)
	count := 0
	for _, f := range files {
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || f.test {
				continue
			}
			count++
			start, end := fset.Position(fn.Pos()), fset.Position(fn.End())
			if lines := end.Line - start.Line + 1; lines > screen {
				t.Logf("%s: %s has %d lines", start, fn.Name.Name, lines)
			}
		}
	}
	t.Logf("%d functions, tests not counted", count)
}
