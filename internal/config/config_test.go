package config_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/config"
)

type list []string

func (l *list) String() string     { return "" }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// settings are one flag of each kind.
type settings struct {
	name, host string
	count      int
	wait, idle time.Duration
	loud       bool
	share      float64
	peers      list
}

// apply parses args and then a file of that text.
func apply(t *testing.T, text string, key func(string) string, args ...string) (s settings, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.cfg")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.StringVar(&s.name, "node-name", "default", "")
	fs.StringVar(&s.host, "host", "default", "")
	fs.IntVar(&s.count, "count", 1, "")
	fs.DurationVar(&s.wait, "wait", time.Hour, "")
	fs.DurationVar(&s.idle, "idle", time.Hour, "")
	fs.BoolVar(&s.loud, "loud", false, "")
	fs.Float64Var(&s.share, "share", 1, "")
	fs.Var(&s.peers, "peer", "")
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	file, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return s, file.Apply(fs, key)
}

// TestApply shows each kind of value, and that the command line wins over the
// file and the file over the defaults.
func TestApply(t *testing.T) {
	s, err := apply(t, `
		node_name = "file"
		host = "file"
		count = 7
		wait = 1500
		idle = "2m"
		loud = true
		share = 0.5
		peer = ["a:1", "b:2"]
		unheard_of = [1, 2]
		`, nil, "--host=line")
	if err != nil {
		t.Fatal(err)
	}
	if s.name != "file" || s.host != "line" || s.count != 7 || s.wait != 1500*time.Millisecond ||
		s.idle != 2*time.Minute || !s.loud || s.share != 0.5 || len(s.peers) != 2 || s.peers[1] != "b:2" {
		t.Errorf("%+v", s)
	}
}

// TestKey shows a flag whose key in the file has another name.
func TestKey(t *testing.T) {
	s, err := apply(t, `peers = "x"`, func(name string) string {
		if name == "peer" {
			return "peers"
		}
		return config.Key(name)
	})
	if err != nil || len(s.peers) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestRefused shows what a file may not say.
func TestRefused(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if _, err := apply(t, text, nil); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	f(`count = "many"`, `count: invalid value "many": parse error`)
	f(`wait = "soon"`, `wait: invalid value "soon": parse error`)
	f(`host = 1979-05-27`, `host: a time.Time is no value`)
}

// TestLoad shows the empty path and files that cannot be read.
func TestLoad(t *testing.T) {
	if f, err := config.Load(""); err != nil || len(f) != 0 {
		t.Errorf("no path: %v, %v", f, err)
	}
	if _, err := config.Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file loads")
	}
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("a = = b"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(bad); err == nil {
		t.Error("a file that is not TOML loads")
	}
}
