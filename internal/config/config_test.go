package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/config"
)

// load reads a file of that text.
func load(t *testing.T, text string) (config.File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.cfg")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(path)
}

// A word is a setting that takes one word only.
type word string

func (w *word) String() string { return string(*w) }

// errWord is what word says of every other word.
var errWord = errors.New("no such word")

func (w *word) Set(s string) error {
	if s != "right" && s != "true" && s != "7" {
		return errWord
	}
	*w = word(s)
	return nil
}

var _ flag.Value = (*word)(nil)

// set reads a value into a setting that has one already.
func set[T any](t *testing.T, value string, setting T) (T, error) {
	t.Helper()
	f, err := load(t, "key = "+value)
	if err != nil {
		t.Fatal(err)
	}
	err = f.Set("key", &setting)
	return setting, err
}

// TestValues shows how each kind of setting is read.
func TestValues(t *testing.T) {
	takes(t, `"text"`, "text")
	takes(t, `true`, true)
	takes(t, `"true"`, true)
	takes(t, `1`, true)
	takes(t, `7`, 7)
	takes(t, `"7"`, 7)
	takes(t, `7`, int64(7))
	takes(t, `1500`, 1500*time.Millisecond)
	takes(t, `"1500"`, 1500*time.Millisecond)
	takes(t, `"2m"`, 2*time.Minute)
	takes(t, `["a:1", "b:2"]`, []string{"a:1", "b:2"})
	takes(t, `"a:1,b:2"`, []string{"a:1", "b:2"})
	takes(t, `[0.5, 1]`, []float64{0.5, 1})
	takes(t, `"0.5, 1.0"`, []float64{0.5, 1})
	takes(t, `"right"`, word("right"))
	takes(t, `true`, word("true"))
	takes(t, `7`, word("7"))
}

func takes[T any](t *testing.T, value string, want T) {
	t.Helper()
	var before T
	if got, err := set(t, value, before); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, %v, want %v", value, got, err, want)
	}
}

// TestRefused shows values that a setting has no use for.
func TestRefused(t *testing.T) {
	refuses(t, `7`, "old", config.ErrKind)
	refuses(t, `2`, true, config.ErrKind)
	refuses(t, `"many"`, 3, nil)
	refuses(t, `1.5`, 3*time.Second, config.ErrKind)
	refuses(t, `"soon"`, 3*time.Second, nil)
	refuses(t, `9223372036854775807`, 3*time.Second, nil)
	refuses(t, `[1]`, []string{"old"}, config.ErrKind)
	refuses(t, `{ a = 1 }`, []string{"old"}, config.ErrKind)
	refuses(t, `["x"]`, []float64{3}, nil)
	refuses(t, `"wrong"`, word("right"), errWord)
	refuses(t, `["right"]`, word("right"), config.ErrKind)
}

func refuses[T any](t *testing.T, value string, old T, want error) {
	t.Helper()
	if _, err := set(t, value, old); err == nil || want != nil && !errors.Is(err, want) || err.Error()[:5] != "key: " {
		t.Errorf("%s: %v, want an error that names the key and is %v", value, err, want)
	}
}

// TestOtherKeys shows that a setting without a key in the file keeps its value,
// and that keys of nobody do no harm.
func TestOtherKeys(t *testing.T) {
	f, err := load(t, "unheard_of = [1, 2]\n[table]\nkey = 1\n")
	if err != nil {
		t.Fatal(err)
	}
	n := 3
	if err := f.Set("key", &n); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
}

// TestLoad shows the empty path and files that cannot be read.
func TestLoad(t *testing.T) {
	if f, err := config.Load(""); err != nil || len(f) != 0 {
		t.Errorf("no path: %v, %v", f, err)
	}
	if _, err := config.Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := load(t, "a = = b"); err == nil {
		t.Error("a file that is not TOML loads")
	}
}
