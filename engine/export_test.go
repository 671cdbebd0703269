package engine_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine"
	"github.com/zsqio/zsq/internal/wire"
)

// TestExportAndAdopt writes a stopped daemon's data path for upstream, and starts
// a daemon on that as on a data path of upstream's: everything comes, once, with
// its attempts.
func TestExportAndAdopt(t *testing.T) {
	t.Parallel()
	const count = 500
	o := options(t)
	o.MemQueueSize = 10
	e := open(t, o)
	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	publishMany(c, count)
	c.send(pub("alone", "kept by its topic"))
	c.want("OK")
	c.send("RDY 1\n")
	c.message() // in flight at the stop: attempts 1
	if err := e.Shutdown(); err != nil {
		t.Fatal(err)
	}
	o.ExportUpstream = filepath.Join(t.TempDir(), "out")
	var summary strings.Builder
	if err := engine.ExportUpstream(o, &summary, io.Discard); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(summary.String(), "501 messages of 2 topics in 2 queues") {
		t.Errorf("summary %q", summary.String())
	}
	if err := engine.ExportUpstream(o, &summary, io.Discard); err == nil {
		t.Error("a second export into the same directory went well")
	}

	again := options(t)
	again.DataPath = o.ExportUpstream
	e = start(t, again)
	c = greet(t, e, sub("t", "c"))
	c.want("OK")
	c.send("RDY 100\n")
	attempts := map[uint16]int{}
	seen := map[string]bool{}
	for range count {
		m := c.message()
		attempts[wire.FrameAttempts(m)]++
		body := string(wire.FrameBody(m))
		if n, err := strconv.Atoi(body); err != nil || n >= count || seen[body] {
			t.Fatalf("got %q, which is another or came twice", body)
		}
		seen[body] = true
		c.send(fin(idOf(t, m)))
	}
	if attempts[1] != count-1 || attempts[2] != 1 {
		t.Errorf("messages by attempts: %v", attempts)
	}
	late := greet(t, e, sub("alone", "first"))
	late.want("OK")
	late.send("RDY 1\n")
	if body := string(wire.FrameBody(late.message())); body != "kept by its topic" {
		t.Errorf("the topic's own message is %q", body)
	}
}

// TestBadMetadata shows that a nsqd.dat which cannot be understood neither stops
// the start nor hides what waits, and is kept.
func TestBadMetadata(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", "not JSON", "\x00\x00\x00\x00"} {
		o := options(t)
		o.MemQueueSize = 10
		e := open(t, o)
		c := greet(t, e, sub("t", "c"))
		c.want("OK")
		publishMany(c, 100)
		if err := e.Shutdown(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(o.DataPath, "nsqd.dat")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		e = open(t, o)
		if s := topicStats(t, e, "t"); len(s.Channels) != 1 || s.Channels[0].Depth != 100 {
			t.Errorf("%q: after the start: %+v", text, s)
		}
		if kept, err := os.ReadFile(path + ".bad"); err != nil || string(kept) != text {
			t.Errorf("%q: kept is %q, %v", text, kept, err)
		}
		if err := e.Shutdown(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStartOnFullDisk starts on a disk that another has filled while we were stopped:
// consumers must be able to make room, and nsqd.dat follows when there is some.
func TestStartOnFullDisk(t *testing.T) {
	o := options(t)
	o.MemQueueSize = 10
	o.DataPath = t.TempDir()
	if err := syscall.Mount("zsq-test", o.DataPath, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("a file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(o.DataPath, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	e := open(t, o)
	c := greet(t, e, sub("t", "c"))
	c.want("OK")
	publishMany(c, 100)
	if err := e.Shutdown(); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(o.DataPath, "filler")
	f, err := os.Create(filler)
	for piece := make([]byte, 1<<16); err == nil; {
		_, err = f.Write(piece)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(o.DataPath, "nsqd.dat")
	before, err := os.Stat(meta)
	if err != nil {
		t.Fatal(err)
	}
	e = open(t, o)
	if s := topicStats(t, e, "t"); len(s.Channels) != 1 || s.Channels[0].Depth != 100 {
		t.Errorf("after the start: %+v", s)
	}
	c = greet(t, e, sub("t", "c"), "RDY 100\n")
	c.want("OK")
	for range 100 {
		c.send("FIN " + string(wire.AppendMessageID(nil, idOf(t, c.message()))) + "\n")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if now, err := os.Stat(meta); err == nil && !os.SameFile(before, now) {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal("nsqd.dat is not written, and there is room")
		}
	}
	if err := e.Shutdown(); err != nil {
		t.Error(err)
	}
}
