package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// A Program is a command that can be built.
type Program struct {
	// Package is what go build is told: "./cmd/nsqd" is a command of the
	// repository, any other path one of a module that go.mod names.
	Package string
	// Env is the environment variable that, when set, names another binary to
	// take instead. It may be empty.
	Env string
}

// The daemons. UpstreamNsqd and UpstreamNsqlookupd are always upstream's.
var (
	Nsqd               = Program{Package: "./cmd/nsqd", Env: "ZSQ_NSQD"}
	Nsqlookupd         = Program{Package: "./cmd/nsqlookupd", Env: "ZSQ_NSQLOOKUPD"}
	UpstreamNsqd       = Upstream("nsqd")
	UpstreamNsqlookupd = Upstream("nsqlookupd")
)

// Upstream is one of upstream's commands, such as "nsq_stat".
func Upstream(name string) Program { return Program{Package: "github.com/nsqio/nsq/apps/" + name} }

var (
	mu    sync.Mutex
	built = make(map[Program]string) // to the path of its binary
	dir   string                     // of all binaries; empty until the first build
)

// Main runs the tests of a package and removes what was built for them.
func Main(m *testing.M) {
	// Processes inherit from us that a signal is ignored, as nohup has it. They do
	// not inherit that it is caught.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	code := m.Run()
	if dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// Path returns the path of the program's binary, which is built when a process
// asks for it first. The test fails if it cannot be built.
func (p Program) Path(t testing.TB) string {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if file := built[p]; file != "" {
		return file
	}
	file, err := p.locate()
	if err != nil {
		t.Fatal(err)
	}
	built[p] = file
	return file
}

func (p Program) locate() (string, error) {
	if file := os.Getenv(p.Env); file != "" {
		return filepath.Abs(file)
	}
	if dir == "" {
		made, err := os.MkdirTemp("", "zsq-interop-")
		if err != nil {
			return "", err
		}
		dir = made
	}
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	// Ours and upstream's have the same last element.
	file := filepath.Join(dir, fmt.Sprint(len(built)), path.Base(p.Package))
	cmd := exec.Command("go", "build", "-o", file, p.Package)
	cmd.Dir = filepath.Dir(string(bytes.TrimSpace(mod)))
	if p.Package[0] == '.' {
		cmd.Dir = filepath.Join(cmd.Dir, "..", "..")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", p.Package, err, text)
	}
	return file, nil
}
