package engine

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/internal/wire"
)

// noWaker is a broker's, whose loops do not run.
type noWaker struct{}

func (noWaker) Wake(int)       {}
func (noWaker) Do(int, func()) {}

// FuzzMetadata starts on a nsqd.dat of any content: nothing panics, names that are none are
// passed over, and a file that is not understood is kept.
func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"topics":[{"name":"a","paused":true,"channels":[{"name":"c","paused":false},{"name":"d#ephemeral","paused":true}]},{"name":"b","channels":[]}],"version":"1.3.0"}`))
	f.Add([]byte(`{"topics":[{"name":"a","channels":null},{"name":"a","paused":true},{"name":"no such name"}]}`))
	f.Add([]byte(`{"topics":`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "nsqd.dat")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		e := &Engine{log: newLogger(io.Discard, "", LogText, LogError)}
		b := broker.New(broker.Options{Shards: 1, MemQueueSize: 10, DataPath: dir, Wall: func() int64 { return 1 }, Waker: noWaker{}}, 1)
		if err := newMetadata(path, e).load(b); err != nil {
			t.Fatal(err)
		}
		_, missing := os.Stat(path)
		if _, err := os.Stat(path + ".bad"); (err == nil) != (missing != nil) {
			t.Fatalf("the file: %v, what was kept of it: %v", missing, err)
		}
		for _, topic := range b.Topics() {
			names := []string{topic.Name()}
			for _, c := range topic.Channels() {
				names = append(names, c.Name())
			}
			if slices.ContainsFunc(names, func(name string) bool { return !wire.ValidName(name) }) {
				t.Fatalf("topic with names %q", names)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
