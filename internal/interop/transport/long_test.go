//go:build long

package transport

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

// TestLongNsqjs holds the stock JavaScript client to every transport, of our broker
// and of upstream's. It needs node, npm and a registry of npm's packages; it is
// skipped without node or npm.
func TestLongNsqjs(t *testing.T) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("there is no %s here, and nsqjs needs it", tool)
		}
	}
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "nsqjs"))))
	run := func(limit time.Duration, name string, args ...string) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", name, err, out)
		}
		return nil
	}
	must(t, run(5*time.Minute, "npm", "ci", "--no-audit", "--no-fund"))

	cert, key, _ := identity(t, t.TempDir())
	for side, program := range map[string]daemon.Program{"ours": daemon.Nsqd, "upstream": daemon.UpstreamNsqd} {
		t.Run(side, func(t *testing.T) {
			host, port, err := net.SplitHostPort(startProgram(t, program, "--tls-cert="+cert, "--tls-key="+key))
			must(t, err)
			for i, transport := range []string{
				`{}`, `{"tls":true}`, `{"snappy":true}`, `{"deflate":true}`, `{"deflate":true,"deflateLevel":1}`,
				`{"tls":true,"snappy":true}`, `{"tls":true,"deflate":true}`,
			} {
				if err := run(time.Minute, "node", "check.js", host, port, fmt.Sprintf("nsqjs_%d", i), transport); err != nil {
					t.Error(err)
				}
			}

			// Where TLS is required the script shows that it asks for what it is told.
			host, port, err = net.SplitHostPort(startProgram(t, program, "--tls-cert="+cert, "--tls-key="+key, "--tls-required=tcp-https"))
			must(t, err)
			for transport, want := range map[string]bool{`{"tls":true,"snappy":true}`: true, `{"snappy":true}`: false} {
				if err := run(time.Minute, "node", "check.js", host, port, "nsqjs", transport); (err == nil) != want {
					t.Errorf("%s where TLS is required: %v", transport, err)
				}
			}
		})
	}
}
