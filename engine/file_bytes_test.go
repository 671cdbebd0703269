package engine_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

// backlogFiles returns the sizes of all files of queues on disk, by path.
func backlogFiles(t *testing.T, dataPath string) map[string]int64 {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dataPath, "zsq", "*@*", "*.seg*"))
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int64{}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sizes[path] = info.Size()
	}
	return sizes
}

// TestMaxBytesPerFile shows that no file of a queue becomes larger than the flag says,
// neither of what overflows nor of what a stop or an export writes; that a daemon started with
// another size, the least here, makes files of that; and that all comes back.
func TestMaxBytesPerFile(t *testing.T) {
	t.Parallel()
	const batch, first, second = 50, 10_000, 1_000
	o := options(t)
	o.MemQueueSize = 4000
	published := 0
	filler := strings.Repeat("x", 1000)
	publish := func(p *peer, n int) {
		t.Helper()
		for end := published + n; published < end; published += batch {
			var bodies []string
			for i := range batch {
				bodies = append(bodies, fmt.Sprintf("%05d %s", published+i, filler))
			}
			p.send(mpub("t", bodies...))
			p.want("OK")
		}
	}

	o.MaxBytesPerFile = 1_000_000
	e := open(t, o)
	p := greet(t, e)
	publish(p, first)
	running := backlogFiles(t, o.DataPath)
	if err := e.Shutdown(); err != nil {
		t.Fatal(err)
	}
	old := backlogFiles(t, o.DataPath)
	for _, sizes := range []map[string]int64{running, old} {
		for path, size := range sizes {
			if size > o.MaxBytesPerFile {
				t.Errorf("%s has %d bytes", path, size)
			}
		}
	}
	if len(running) < 6 || len(old) < 10 {
		t.Errorf("10 MB, 4 MB of them in memory, are in %d files, and after the stop in %d", len(running), len(old))
	}

	export := *o
	export.ExportUpstream = filepath.Join(t.TempDir(), "out")
	if err := engine.ExportUpstream(&export, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	exported, err := filepath.Glob(filepath.Join(export.ExportUpstream, "t.diskqueue.*.dat"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range exported {
		if info, err := os.Stat(path); err != nil || info.Size() > o.MaxBytesPerFile {
			t.Errorf("%s: %v, or it is too large", path, err)
		}
	}
	if len(exported) < 10 {
		t.Errorf("10 MB are exported in %d files", len(exported))
	}

	old = backlogFiles(t, o.DataPath) // the export starts and stops on it
	o.MaxBytesPerFile = -1
	e = start(t, o)
	publish(greet(t, e), second)
	newFiles := 0
	for path, size := range backlogFiles(t, o.DataPath) {
		if _, ok := old[path]; ok {
			continue
		}
		newFiles++
		if size > 64<<10 {
			t.Errorf("%s has %d bytes", path, size)
		}
	}
	if newFiles < second/64 {
		t.Errorf("1 MB is in %d files", newFiles)
	}

	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	c.send("RDY 1000\n")
	seen := make([]bool, first+second)
	for range seen {
		m := c.message()
		n, err := strconv.Atoi(string(wire.FrameBody(m)[:5]))
		if err != nil || n >= len(seen) || seen[n] {
			t.Fatalf("got %.20q, which is another or came twice: %v", wire.FrameBody(m), err)
		}
		seen[n] = true
		c.send(fin(idOf(t, m)))
	}
}
