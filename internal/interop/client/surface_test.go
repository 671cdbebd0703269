package client

import (
	"bytes"
	"go/ast"
	"go/build"
	"go/parser"
	"go/printer"
	"go/token"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	upstream "github.com/nsqio/go-nsq"

	nsq "github.com/zsqio/zsq/client"
)

// TestSurface reads go-nsq's sources and ours: every exported identifier is here,
// with the same type. What is ours alone is listed, so that it is added knowingly.
func TestSurface(t *testing.T) {
	theirs := surface(t, "github.com/nsqio/go-nsq")
	ours := surface(t, "github.com/zsqio/zsq/client")
	if len(theirs) < 180 {
		t.Fatalf("only %d identifiers found", len(theirs))
	}
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		got, ok := ours[name]
		switch {
		case !ok:
			t.Errorf("%s is missing", name)
		case name == "ReadResponse" || name == "ReadUnpackedResponse":
			// Master has a limit there; ours takes both calls.
			if want := strings.Replace(theirs[name], "io.Reader", "io.Reader, ...int32", 1); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		case got != theirs[name]:
			t.Errorf("%s: %s, want %s", name, got, theirs[name])
		}
	}
	added := 0
	for name := range ours {
		if _, ok := theirs[name]; !ok {
			added++
		}
	}
	t.Logf("%d identifiers of go-nsq, %d of our own", len(theirs), added)
}

// surface returns the exported identifiers of a package, methods and fields as
// Type.Name, and their types as text.
func surface(t *testing.T, path string) map[string]string {
	t.Helper()
	pkg, err := build.Import(path, ".", build.FindOnly)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	files, err := build.Default.ImportDir(pkg.Dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := func(n ast.Node) string {
		var b bytes.Buffer
		if err := printer.Fprint(&b, fset, n); err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(strings.ReplaceAll(b.String(), "interface{}", "any")), " ")
	}
	all := make(map[string]string)
	for _, name := range files.GoFiles {
		f, err := parser.ParseFile(fset, pkg.Dir+"/"+name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if name, ok := funcName(d); ok {
					all[name] = "func(" + fields(d.Type.Params, text) + ") " + fields(d.Type.Results, text)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					addSpec(all, d.Tok, spec, text)
				}
			}
		}
	}
	return all
}

// funcName returns a function's name, or a method's after its type's; ok is false if
// it is not exported.
func funcName(d *ast.FuncDecl) (name string, ok bool) {
	name = d.Name.Name
	if d.Recv == nil {
		return name, d.Name.IsExported()
	}
	recv, pointer := d.Recv.List[0].Type, ""
	if star, ok := recv.(*ast.StarExpr); ok {
		recv, pointer = star.X, "*"
	}
	id, ok := recv.(*ast.Ident)
	return pointer + id.Name + "." + name, ok && id.IsExported() && d.Name.IsExported()
}

// fields lists the types of parameters or results, without names.
func fields(list *ast.FieldList, text func(ast.Node) string) string {
	var types []string
	if list != nil {
		for _, f := range list.List {
			for range max(1, len(f.Names)) {
				types = append(types, text(f.Type))
			}
		}
	}
	return strings.Join(types, ", ")
}

// addSpec adds a constant, a variable or a type, and what is exported in it.
func addSpec(all map[string]string, tok token.Token, spec ast.Spec, text func(ast.Node) string) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, id := range s.Names {
			if id.IsExported() {
				all[id.Name] = tok.String() // client/surface_test.go has the types
			}
		}
	case *ast.TypeSpec:
		if !s.Name.IsExported() {
			return
		}
		switch typ := s.Type.(type) {
		case *ast.StructType:
			all[s.Name.Name] = "struct"
			for _, f := range typ.Fields.List {
				for _, id := range f.Names {
					if id.IsExported() {
						all[s.Name.Name+"."+id.Name] = text(f.Type)
						if f.Tag != nil {
							all[s.Name.Name+"."+id.Name] += " " + f.Tag.Value
						}
					}
				}
			}
		case *ast.InterfaceType:
			all[s.Name.Name] = "interface"
			for _, f := range typ.Methods.List {
				fn := f.Type.(*ast.FuncType)
				all[s.Name.Name+"."+f.Names[0].Name] = fields(fn.Params, text) + " -> " + fields(fn.Results, text)
			}
		default:
			if text(s.Type) == "func(message *Message) error" || s.Name.Name != "HandlerFunc" {
				all[s.Name.Name] = text(s.Type)
			}
		}
	}
}

// TestLayouts compares what reflection sees: order and tags of fields, and which
// values can be compared.
func TestLayouts(t *testing.T) {
	f := func(theirs, ours reflect.Type, exact bool) {
		t.Helper()
		var want, got []string
		for _, sf := range reflect.VisibleFields(theirs) {
			if sf.IsExported() {
				want = append(want, sf.Name+" "+sf.Type.String()+" "+string(sf.Tag))
			}
		}
		for _, sf := range reflect.VisibleFields(ours) {
			line := sf.Name + " " + sf.Type.String() + " " + string(sf.Tag)
			if sf.IsExported() && (exact || slices.Contains(want, line)) {
				got = append(got, line)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v:\n%q, want\n%q", theirs, got, want)
		}
		if exact && theirs.NumField() == len(want) && ours.NumField() != len(got) {
			t.Errorf("%v: hidden fields, so that it cannot be written without field names", ours)
		}
		if exact && theirs.Comparable() != ours.Comparable() {
			t.Errorf("%v: comparable is %v, want %v", ours, ours.Comparable(), theirs.Comparable())
		}
	}
	f(reflect.TypeFor[upstream.Command](), reflect.TypeFor[nsq.Command](), true)
	f(reflect.TypeFor[upstream.Message](), reflect.TypeFor[nsq.Message](), true)
	f(reflect.TypeFor[upstream.IdentifyResponse](), reflect.TypeFor[nsq.IdentifyResponse](), true)
	f(reflect.TypeFor[upstream.AuthResponse](), reflect.TypeFor[nsq.AuthResponse](), true)
	f(reflect.TypeFor[upstream.ConsumerStats](), reflect.TypeFor[nsq.ConsumerStats](), true)
	f(reflect.TypeFor[upstream.ConfigFlag](), reflect.TypeFor[nsq.ConfigFlag](), true)
	f(reflect.TypeFor[upstream.ErrIdentify](), reflect.TypeFor[nsq.ErrIdentify](), true)
	f(reflect.TypeFor[upstream.ErrProtocol](), reflect.TypeFor[nsq.ErrProtocol](), true)
	f(reflect.TypeFor[upstream.ProducerTransaction](), reflect.TypeFor[nsq.ProducerTransaction](), true)
	f(reflect.TypeFor[upstream.Config](), reflect.TypeFor[nsq.Config](), false) // has master's options, too
}

// TestConfigAgrees gives many values to Set of both clients, which have to answer
// the same, except where upstream panics or cuts a value short.
func TestConfigAgrees(t *testing.T) {
	values := []any{
		"", "x", "1", "-1", "0.5", "10s", "100ms", "1000", "true", "false", "99", "100", "127.0.0.1:80", "full_jitter",
		0, 1, -1, 99, 100, 1500, int16(3), int32(4), int64(5), uint(6), uint16(7), uint32(8), uint64(9),
		int8(1), uint8(1), float32(0.25), 0.5, 1.5, true, false,
		struct{}{},
	}
	agreed, skipped := 0, 0
	for _, sf := range reflect.VisibleFields(reflect.TypeFor[upstream.Config]()) {
		opt := sf.Tag.Get("opt")
		if opt == "" {
			continue
		}
		for _, v := range values {
			theirs, ours := upstream.NewConfig(), nsq.NewConfig()
			want, panicked := setUpstream(theirs, opt, v)
			got := ours.Set(strings.ReplaceAll(opt, "_", "-"), v)
			wantValue := reflect.ValueOf(theirs).Elem().FieldByIndex(sf.Index)
			gotValue := reflect.ValueOf(ours).Elem().FieldByName(sf.Name)
			switch {
			case panicked, got != nil && strings.HasSuffix(got.Error(), "value out of range"):
				if got == nil {
					t.Errorf("%s = %#v: no error where upstream panics", opt, v)
				}
				skipped++
			case (got == nil) != (want == nil) || got != nil && got.Error() != want.Error():
				t.Errorf("%s = %#v: %v, want %v", opt, v, got, want)
			case sf.Name == "BackoffStrategy":
				if reflect.TypeOf(ours.BackoffStrategy).String() != reflect.TypeOf(theirs.BackoffStrategy).String() {
					t.Errorf("%s = %#v: %T", opt, v, ours.BackoffStrategy)
				}
			case !reflect.DeepEqual(gotValue.Interface(), wantValue.Interface()):
				t.Errorf("%s = %#v: has become %v, want %v", opt, v, gotValue, wantValue)
			default:
				agreed++
			}
		}
	}
	t.Logf("%d agree, %d are errors where upstream panics or truncates", agreed, skipped)
}

func setUpstream(c *upstream.Config, opt string, v any) (err error, panicked bool) {
	defer func() { panicked = recover() != nil }()
	return c.Set(opt, v), false
}
