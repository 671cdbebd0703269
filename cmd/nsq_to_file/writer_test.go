package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool/tooltest"
)

// A bench is a fileWriter without a consumer, on a clock of the test's.
type bench struct {
	t     *testing.T
	w     *fileWriter
	o     *options
	clock time.Time
	failC chan error
	log   bytes.Buffer

	finished []string // bodies, in the order of their FINs
	requeued []string
}

// newBench writes topic t to fresh directories. adjust may change the options.
func newBench(t *testing.T, adjust func(*options)) *bench {
	dir := t.TempDir()
	b := &bench{t: t, clock: time.Date(2026, 11, 2, 15, 4, 5, 0, time.UTC), failC: make(chan error, 1)}
	b.o = &options{
		channel: "ch", outputDir: filepath.Join(dir, "out"), workDir: filepath.Join(dir, "out"),
		datetimeFormat: "%H", filenameFormat: "<TOPIC><REV>.<DATETIME>", maxInFlight: 200, gzipLevel: 6,
		syncInterval: time.Hour,
	}
	if adjust != nil {
		adjust(b.o)
	}
	var err error
	b.w, err = newFileWriter(b.o, newLogger(&b.log, "", levelDebug), "t", new(counters), b.failC)
	if err != nil {
		t.Fatal(err)
	}
	b.w.now = func() time.Time { return b.clock }
	b.w.flushTimer = time.AfterFunc(time.Hour, func() {}) // tests flush themselves
	b.w.flushTimer.Stop()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", &b.log)
		}
	})
	return b
}

func inWorkDir(o *options) { o.workDir = filepath.Join(filepath.Dir(o.outputDir), "work") }

// put hands messages to the writer.
func (b *bench) put(bodies ...string) {
	b.t.Helper()
	for _, body := range bodies {
		m := nsq.NewMessage(nsq.MessageID{}, []byte(body))
		m.Delegate = b
		if err := b.w.HandleMessage(m); err != nil {
			b.t.Fatal(err)
		}
	}
	b.ok()
}

// OnFinish wants the line to be in a file already.
func (b *bench) OnFinish(m *nsq.Message) {
	b.finished = append(b.finished, string(m.Body))
	all := ""
	for _, text := range b.files() {
		all += text
	}
	if !strings.Contains("\n"+all, "\n"+string(m.Body)+"\n") {
		b.t.Errorf("%q is finished and in no file", m.Body)
	}
}

func (b *bench) OnRequeue(m *nsq.Message, delay time.Duration, backoff bool) {
	if delay != 0 || backoff {
		b.t.Errorf("requeued with %v, backoff %v", delay, backoff)
	}
	b.requeued = append(b.requeued, string(m.Body))
}

func (b *bench) OnTouch(*nsq.Message) { b.t.Error("touched") }

// ok fails the test if the writer has failed.
func (b *bench) ok() {
	b.t.Helper()
	select {
	case err := <-b.failC:
		b.t.Fatal(err)
	default:
	}
}

// files returns the texts of all files by their names under the parent of the
// output directory, decompressed.
func (b *bench) files() map[string]string {
	b.t.Helper()
	files := map[string]string{}
	root := filepath.Dir(b.o.outputDir)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		text, err := readFile(path)
		files[filepath.ToSlash(name)] = text
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return files
}

// readFile returns a file's text. An empty gzip file has none.
func readFile(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(path, ".gz") || len(raw) == 0 {
		return string(raw), err
	}
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), err
}

// want compares all files, given as name, text, name, text ...
func (b *bench) want(pairs ...string) {
	b.t.Helper()
	got := b.files()
	want := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		want[pairs[i]] = pairs[i+1]
	}
	for name, text := range want {
		if have, ok := got[name]; !ok || have != text {
			b.t.Errorf("%s: %q (there: %v), want %q", name, have, ok, text)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			b.t.Errorf("%s: %q, want no such file", name, got[name])
		}
	}
}

func (b *bench) wantFinished(bodies ...string) {
	b.t.Helper()
	if !slices.Equal(b.finished, bodies) {
		b.t.Errorf("finished %q, want %q", b.finished, bodies)
	}
}

func (b *bench) tick()   { b.w.do(b.w.tick); b.ok() }
func (b *bench) close()  { b.w.do(b.w.close); b.ok() }
func (b *bench) reopen() { b.w.reopen(); b.ok() }

// TestFinishAfterSync shows that messages are finished by a tick, by a full
// batch, by starvation and by closing, and by nothing else.
func TestFinishAfterSync(t *testing.T) {
	for _, compress := range []bool{false, true} {
		b := newBench(t, func(o *options) { o.maxInFlight, o.gzip = 3, compress })
		b.put("1", "2")
		b.w.flushQuiet()
		b.wantFinished()
		b.tick()
		b.wantFinished("1", "2")
		b.put("3", "4", "5")
		b.wantFinished("1", "2", "3", "4", "5")
		b.w.starved = func() bool { return true }
		b.put("6")
		b.wantFinished("1", "2", "3", "4", "5", "6")
		b.w.starved = func() bool { return false }
		b.put("7")
		b.close()
		b.wantFinished("1", "2", "3", "4", "5", "6", "7")
		name := "out/t.15"
		if compress {
			name = "out/t-000000.15.gz"
		}
		b.want(name, "1\n2\n3\n4\n5\n6\n7\n")
	}
}

// TestPlainIsSeen shows that somebody who watches a plain file need not wait for
// the sync.
func TestPlainIsSeen(t *testing.T) {
	b := newBench(t, nil)
	b.put("1")
	b.w.flushQuiet()
	b.want("out/t.15", "1\n")
	b.wantFinished()
}

// TestQuietTopic is TestPlainIsSeen with the writer's own timer.
func TestQuietTopic(t *testing.T) {
	b := newBench(t, nil)
	b.w.flushTimer = time.AfterFunc(time.Hour, b.w.flushQuiet)
	b.put("1")
	for end := time.Now().Add(tooltest.Patience); b.files()["out/t.15"] != "1\n"; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the line of a quiet topic does not reach the file")
		}
	}
	b.wantFinished()
	b.close()
}

// TestMembers shows that each sync ends a gzip member, and that a file has whole
// members at any time.
func TestMembers(t *testing.T) {
	b := newBench(t, func(o *options) { o.gzip = true })
	b.put("1", "2")
	b.w.flushQuiet()
	b.want("out/t-000000.15.gz", "")
	b.tick()
	b.want("out/t-000000.15.gz", "1\n2\n")
	before := b.raw("out/t-000000.15.gz")
	b.tick() // nothing new: no empty member
	b.put("3")
	b.close()
	after := b.raw("out/t-000000.15.gz")
	r, err := gzip.NewReader(bytes.NewReader(bytes.TrimPrefix(after, before)))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != "3\n" {
		t.Errorf("the second member has %q, %v", text, err)
	}
}

func (b *bench) raw(name string) []byte {
	b.t.Helper()
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(b.o.outputDir), name))
	if err != nil {
		b.t.Fatal(err)
	}
	return raw
}

// TestLargeMember shows that a member beyond what is held in memory is right.
func TestLargeMember(t *testing.T) {
	b := newBench(t, func(o *options) { o.gzip, o.gzipLevel = true, 1 })
	random := make([]byte, 3<<20) // hardly compressible
	state := uint64(1)
	for i := range random {
		state = state*6364136223846793005 + 1442695040888963407
		random[i] = byte(state >> 56)
	}
	body := strings.ReplaceAll(string(random), "\n", " ")
	b.put(body, "end")
	b.close()
	b.want("out/t-000000.15.gz", body+"\nend\n")
}

// TestRotation shows rotation by name, by interval and by size.
func TestRotation(t *testing.T) {
	b := newBench(t, nil)
	b.put("1")
	b.clock = b.clock.Add(time.Hour)
	b.put("2")
	b.wantFinished("1")
	b.close()
	b.want("out/t.15", "1\n", "out/t.16", "2\n")

	b = newBench(t, func(o *options) { o.rotateInterval = time.Minute })
	b.put("1")
	b.clock = b.clock.Add(time.Minute)
	b.put("2") // not yet longer than the interval
	b.clock = b.clock.Add(time.Nanosecond)
	b.put("3")
	b.close()
	b.want("out/t-000000.15", "1\n2\n", "out/t-000001.15", "3\n")

	b = newBench(t, func(o *options) { o.rotateSize = 4 })
	b.put("1", "2") // four bytes: not yet bigger
	b.put("3", "4")
	b.close()
	b.want("out/t-000000.15", "1\n2\n3\n", "out/t-000001.15", "4\n")

	b = newBench(t, func(o *options) { o.rotateSize, o.gzip = 4, true }) // uncompressed bytes count
	b.put("1", "2", "3", "4")
	b.close()
	b.want("out/t-000000.15.gz", "1\n2\n3\n", "out/t-000001.15.gz", "4\n")
}

// TestQuietRotation shows what a tick without messages does.
func TestQuietRotation(t *testing.T) {
	b := newBench(t, func(o *options) { o.gzip = true })
	b.tick()
	b.clock = b.clock.Add(time.Hour)
	b.tick()
	b.want("out/t-000000.15.gz", "", "out/t-000000.16.gz", "")
	if len(b.raw("out/t-000000.15.gz")) == 0 {
		t.Error("the empty file is no gzip file")
	}

	b = newBench(t, func(o *options) { o.skipEmptyFiles = true; inWorkDir(o) })
	b.tick()
	b.want()
	b.put("1")
	b.clock = b.clock.Add(time.Hour)
	b.tick()
	b.want("out/t-000000.15", "1\n")
	b.put("2") // upstream writes to the closed file here
	b.close()
	b.want("out/t-000000.15", "1\n", "out/t-000000.16", "2\n")
}

// TestHangUp shows that HUP closes the file and the next message opens another.
func TestHangUp(t *testing.T) {
	b := newBench(t, inWorkDir)
	b.reopen() // nothing open yet
	b.put("1")
	b.want("work/t-000000.15", "") // buffered
	b.reopen()
	b.wantFinished("1")
	b.want("out/t-000000.15", "1\n")
	b.reopen()
	b.put("2")
	b.close()
	b.want("out/t-000000.15", "1\n", "out/t-000001.15", "2\n")

	b = newBench(t, nil) // plain, without a number: logrotate has renamed it
	b.put("1")
	if err := os.Rename(filepath.Join(b.o.outputDir, "t.15"), filepath.Join(b.o.outputDir, "t.15.1")); err != nil {
		t.Fatal(err)
	}
	b.put("2")
	b.reopen()
	b.put("3")
	b.close()
	b.want("out/t.15.1", "1\n2\n", "out/t.15", "3\n")
}

func (b *bench) given(name, text string) {
	b.t.Helper()
	path := filepath.Join(filepath.Dir(b.o.outputDir), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o770); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o660); err != nil {
		b.t.Fatal(err)
	}
}

// TestExisting shows that nothing is overwritten, and what is appended to.
func TestExisting(t *testing.T) {
	b := newBench(t, nil)
	b.given("out/t.15", "old\n")
	b.put("1")
	b.close()
	b.want("out/t.15", "old\n1\n")

	b = newBench(t, nil) // a line torn by a power failure
	b.given("out/t.15", "old\nto")
	b.put("1")
	b.close()
	b.want("out/t.15", "old\nto\n1\n")

	b = newBench(t, func(o *options) { o.rotateInterval = time.Hour })
	b.given("out/t-000000.15", "old\n")
	b.put("1")
	b.close()
	b.want("out/t-000000.15", "old\n", "out/t-000001.15", "1\n")

	b = newBench(t, func(o *options) { o.rotateSize = 4 })
	b.given("out/t-000000.15", "too large\n")
	b.given("out/t-000001.15", "a\n")
	b.put("1", "2")
	b.close()
	b.want("out/t-000000.15", "too large\n", "out/t-000001.15", "a\n1\n2\n")

	b = newBench(t, inWorkDir)
	b.given("out/t-000000.15", "old\n")
	b.given("work/t-000001.15", "left by a killed process\n")
	b.put("1")
	b.given("out/t-000001.15", "came meanwhile\n")
	b.close()
	b.want("out/t-000000.15", "old\n", "out/t-000001.15", "came meanwhile\n", "out/t-000002.15", "left by a killed process\n1\n")
	b.put("2")
	b.close()
	if got := b.files()["out/t-000003.15"]; got != "2\n" {
		t.Errorf("the file after that has %q", got)
	}
}

// TestMoveCutShort shows what becomes of a file that was linked into the output
// directory when the process was killed.
func TestMoveCutShort(t *testing.T) {
	b := newBench(t, inWorkDir)
	b.given("work/t-000000.15", "old\n")
	if err := os.MkdirAll(b.o.outputDir, 0o770); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(b.o.workDir, "t-000000.15"), filepath.Join(b.o.outputDir, "t-000000.15")); err != nil {
		t.Fatal(err)
	}
	b.put("1")
	b.close()
	b.want("out/t-000000.15", "old\n", "out/t-000001.15", "1\n")
}

// TestSubdirectories shows directories in a format, and a work directory that is
// not written in its shortest form.
func TestSubdirectories(t *testing.T) {
	b := newBench(t, func(o *options) {
		inWorkDir(o)
		o.workDir = filepath.Dir(o.workDir) + "/./work/"
		o.sources.NSQDs, o.topics = []string{"x"}, []string{"t"}
		o.connectTimeout, o.requestTimeout, o.topicRefresh = 1, 1, 1
		o.filenameFormat = "<TOPIC>/<DATETIME>/f<REV>"
		if err := o.check(); err != nil {
			t.Fatal(err)
		}
	})
	b.put("1")
	b.want("work/t/15/f-000000", "")
	b.close()
	b.want("out/t/15/f-000000", "1\n")
}

// TestFailure shows that after an error what is not on disk goes back, and that
// nothing is written any more.
func TestFailure(t *testing.T) {
	b := newBench(t, nil)
	b.put("1", "2")
	b.w.out.file.Close() // every write fails from here on
	b.w.do(b.w.tick)
	if err := <-b.failC; !errors.Is(err, os.ErrClosed) {
		t.Errorf("error %v", err)
	}
	b.put("3")
	b.tick()
	b.wantFinished()
	if want := []string{"1", "2", "3"}; !slices.Equal(b.requeued, want) {
		t.Errorf("requeued %q, want %q", b.requeued, want)
	}

	b = newBench(t, nil)
	b.given("out", "a file where the directory should be")
	m := nsq.NewMessage(nsq.MessageID{}, []byte("1"))
	m.Delegate = b
	if err := b.w.HandleMessage(m); err != nil {
		t.Fatal(err)
	}
	if err := <-b.failC; err == nil {
		t.Error("no error")
	}
	if want := []string{"1"}; !slices.Equal(b.requeued, want) {
		t.Errorf("requeued %q, want %q", b.requeued, want)
	}
}
