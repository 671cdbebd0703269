//go:build long

package client

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLongUpstreamTools compiles upstream's tools with our client in place of
// go-nsq, and lets messages run through them: to_nsq publishes, nsq_to_nsq moves
// them to another topic, nsq_to_file and nsq_tail write them.
//
// Our client's files are copied into a module that bears go-nsq's name, which a
// replace directive in a copy of this module's go.mod then puts in its place.
func TestLongUpstreamTools(t *testing.T) {
	dir := t.TempDir()
	tools := upstreamTools(t, dir)
	d := start(t, kindZsq)
	for _, topic := range []string{"from", "to"} {
		d.Create(t, topic, "ch")
	}
	out := filepath.Join(dir, "out")
	must(t, os.Mkdir(out, 0o700))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := func(name string, args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.CommandContext(ctx, filepath.Join(tools, name), args...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = patience
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, &text
		must(t, cmd.Start())
		t.Cleanup(func() {
			cancel()
			cmd.Wait()
			if t.Failed() {
				t.Logf("%s:\n%s", name, &text)
			}
		})
		return cmd
	}
	start("nsq_to_nsq", "--topic=from", "--channel=ch", "--destination-topic=to",
		"--nsqd-tcp-address="+d.TCP, "--destination-nsqd-tcp-address="+d.TCP)
	start("nsq_to_file", "--topic=to", "--channel=ch", "--output-dir="+out,
		"--nsqd-tcp-address="+d.TCP, "--sync-interval=100ms")

	var want []string
	for i := range 1000 {
		want = append(want, strings.Repeat("line ", i%50)+time.Duration(i).String())
	}
	in := exec.Command(filepath.Join(tools, "to_nsq"), "--topic=from", "--nsqd-tcp-address="+d.TCP)
	in.Stdin = strings.NewReader(strings.Join(want, "\n") + "\n")
	if text, err := in.CombinedOutput(); err != nil {
		t.Fatalf("to_nsq: %v\n%s", err, text)
	}
	eventually(t, "every line is in the file", func() bool {
		files, _ := filepath.Glob(out + "/*.log")
		lines := make(map[string]bool)
		for _, name := range files {
			text, _ := os.ReadFile(name)
			for line := range strings.Lines(string(text)) {
				lines[strings.TrimSuffix(line, "\n")] = true
			}
		}
		for _, line := range want {
			if !lines[line] {
				return false
			}
		}
		return true
	})

	d.Create(t, "to", "tail")
	tail := exec.Command(filepath.Join(tools, "nsq_tail"), "--topic=to", "--channel=tail", "-n=1", "--nsqd-tcp-address="+d.TCP)
	var text bytes.Buffer
	tail.Stdout = &text
	must(t, tail.Start())
	must(t, newProducer(t, d.TCP, calm()).Publish("to", []byte("the last one")))
	must(t, tail.Wait())
	if text.String() != "the last one\n" {
		t.Errorf("nsq_tail prints %q", &text)
	}
}

// upstreamTools builds the tools below dir and returns where they are.
func upstreamTools(t *testing.T, dir string) string {
	t.Helper()
	const name, ours = "github.com/nsqio/go-nsq", "github.com/zsqio/zsq"
	root := filepath.Join("..", "..", "..")
	lib := filepath.Join(dir, "go-nsq")
	for from, to := range map[string]string{"client": "", "internal/wire": "internal/wire"} {
		files, err := filepath.Glob(filepath.Join(root, from, "*.go"))
		must(t, err)
		must(t, os.MkdirAll(filepath.Join(lib, to), 0o700))
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			must(t, err)
			text = bytes.ReplaceAll(text, []byte(`"`+ours+`/internal/`), []byte(`"`+name+`/internal/`))
			must(t, os.WriteFile(filepath.Join(lib, to, filepath.Base(file)), text, 0o600))
		}
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	must(t, err)
	mod = bytes.Replace(mod, []byte("module "+ours+"\n"), []byte("module "+name+"\n"), 1)
	must(t, os.WriteFile(filepath.Join(lib, "go.mod"), mod, 0o600))

	modfile := filepath.Join(dir, "go.mod")
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join("..", file))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, file), text, 0o600))
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir = ".."
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, text)
		}
		return string(text)
	}
	run("mod", "edit", "-replace="+name+"="+lib, modfile)
	bin := filepath.Join(dir, "bin")
	args := []string{"build", "-modfile=" + modfile, "-mod=mod", "-o", bin + string(filepath.Separator)}
	for _, tool := range []string{"to_nsq", "nsq_tail", "nsq_stat", "nsq_to_nsq", "nsq_to_file", "nsq_to_http"} {
		args = append(args, "github.com/nsqio/nsq/apps/"+tool)
	}
	run(args...)
	if deps := run("version", "-m", filepath.Join(bin, "to_nsq")); !strings.Contains(deps, "=>\t"+lib) {
		t.Fatalf("to_nsq was not built with our client:\n%s", deps)
	}
	return bin
}

// TestLongFailover is TestFailover for two minutes at 20,000 messages a second,
// with a daemon ended every five seconds.
func TestLongFailover(t *testing.T) {
	for _, kind := range []string{kindZsq, kindUpstream} {
		t.Run(kind, func(t *testing.T) { failover(t, kind, 5*time.Second, 2*time.Minute, 20_000) })
	}
}
