//go:build long && linux

package interop

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLongGoNSQSuite runs go-nsq's own tests against our nsqd and upstream's
// nsqlookupd. They want both on their default ports, so this happens in a network
// namespace of its own, which needs root; otherwise the test is skipped.
func TestLongGoNSQSuite(t *testing.T) {
	if out, err := exec.Command("unshare", "--net", "true").CombinedOutput(); err != nil {
		t.Skipf("no network namespace: %v: %s", err, out)
	}
	daemon, err := nsqd()
	must(t, err)
	bin := t.TempDir()
	must(t, build(".", bin+"/", "github.com/nsqio/nsq/apps/nsqlookupd"))
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/nsqio/go-nsq").Output()
	must(t, err)
	// The module cache is read-only, and the tests write beside themselves.
	source := filepath.Join(t.TempDir(), "go-nsq")
	must(t, os.CopyFS(source, os.DirFS(strings.TrimSpace(string(out)))))
	if out, err := exec.Command("chmod", "-R", "u+w", source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	suite := filepath.Join(bin, "suite.test")
	cmd := exec.Command("go", "test", "-c", "-o", suite, ".")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}

	const script = `set -eu
ip link set lo up
"$1/nsqlookupd" >"$1/nsqlookupd.log" 2>&1 &
lookupd=$!
mkdir "$1/data"
"$2" --data-path="$1/data" --lookupd-tcp-address=127.0.0.1:4160 --tls-cert=test/server.pem \
	--tls-key=test/server.key --tls-root-ca-file=test/ca.pem >"$1/nsqd.log" 2>&1 &
nsqd=$!
trap 'kill $nsqd $lookupd; wait' EXIT
for i in $(seq 100); do
	curl -sf http://127.0.0.1:4151/ping >/dev/null && curl -sf http://127.0.0.1:4161/ping >/dev/null && break
	sleep 0.1
done
"$1/suite.test" -test.v -test.timeout 5m`
	cmd = exec.Command("unshare", "--net", "bash", "-c", script, "suite", bin, daemon)
	cmd.Dir = source
	var all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &all, &all
	err = cmd.Run()
	for line := range strings.Lines(all.String()) {
		if strings.HasPrefix(line, "--- ") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(bin, "nsqd.log"))
		t.Errorf("%v\n%s\nnsqd's log:\n%s", err, all.String(), log)
	}
}
