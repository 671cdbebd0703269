package survival

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A span is a part of a file.
type span struct{ from, to int64 }

// What the tests here keep: messages of one channel.
const (
	damageCount = 20_000
	damageSize  = 120
)

// recordHeader is what stands in front of a body in a record, see mmapqueue.
const recordHeader = 56

// untouched returns the keys of messages whose records are none of the damaged
// parts of the files; before holds the files as they were.
func untouched(t *testing.T, keys []uint64, before map[string][]byte, damage map[string][]span) (intact map[uint64]bool) {
	t.Helper()
	intact = map[uint64]bool{}
	for _, key := range keys {
		intact[key] = true
	}
	for path, parts := range damage {
		b := before[path]
		for at := 0; at+damageSize <= len(b); at += 8 { // where records begin, and bodies
			key := binary.BigEndian.Uint64(b[at:])
			if !intact[key] || !bytes.Equal(b[at:at+damageSize], body(key, damageSize)) {
				continue
			}
			record := span{int64(at - recordHeader), int64(at + damageSize)}
			if slices.ContainsFunc(parts, func(p span) bool { return p.from < record.to && record.from < p.to }) {
				delete(intact, key)
			}
		}
	}
	return intact
}

// holding returns those of the files that hold any of the messages. One that does not
// may go from under a live daemon at any moment, and may have gone.
func holding(t *testing.T, paths []string, keys []uint64) (needed []string) {
	t.Helper()
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(t, err)
		if whole := map[string][]span{path: {{0, int64(len(b))}}}; len(untouched(t, keys, map[string][]byte{path: b}, whole)) < len(keys) {
			needed = append(needed, path)
		}
	}
	return needed
}

// A harm is something that happens to files, between two runs or under a daemon's
// hands: at no moment is there more amiss than what it returns, the damaged parts of
// files that hold records.
type harm func(t *testing.T, rng *rand.Rand, paths []string) map[string][]span

// overwrite puts b in the place of what a file has at an offset.
func overwrite(t *testing.T, path string, b []byte, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(b, offset)
	must(t, err)
	must(t, f.Close())
}

// flip changes n random bytes.
func flip(n int) harm {
	return func(t *testing.T, rng *rand.Rand, paths []string) map[string][]span {
		damage, all := map[string][]span{}, read(t, paths)
		for range n {
			path := paths[rng.IntN(len(paths))]
			b := all[path]
			at := rng.IntN(len(bytes.TrimRight(b, "\x00")))
			b[at] ^= byte(1 + rng.IntN(255))
			overwrite(t, path, b[at:at+1], int64(at))
			damage[path] = append(damage[path], span{int64(at), int64(at) + 1})
		}
		return damage
	}
}

// zeroTail fills the last part of the last file that has records with zeros.
func zeroTail(t *testing.T, rng *rand.Rand, paths []string) map[string][]span {
	path := paths[len(paths)-1]
	b, err := os.ReadFile(path)
	must(t, err)
	used := len(bytes.TrimRight(b, "\x00"))
	at := used/2 + rng.IntN(used/2)
	clear(b[at:])
	overwrite(t, path, b[at:], int64(at))
	return map[string][]span{path: {{int64(at), int64(len(b))}}}
}

// cut makes a file shorter.
func cut(t *testing.T, rng *rand.Rand, paths []string) map[string][]span {
	path := paths[rng.IntN(len(paths))]
	b, err := os.ReadFile(path)
	must(t, err)
	used := len(bytes.TrimRight(b, "\x00"))
	at := int64(used/4 + rng.IntN(used/2))
	must(t, os.Truncate(path, at))
	return map[string][]span{path: {{at, int64(len(b))}}}
}

// remove deletes a file.
func remove(t *testing.T, rng *rand.Rand, paths []string) map[string][]span {
	path := paths[rng.IntN(len(paths))]
	stat, err := os.Stat(path)
	must(t, err)
	must(t, os.Remove(path))
	return map[string][]span{path: {{0, stat.Size()}}}
}

// replace puts a file of another kind in the place of one.
func replace(t *testing.T, rng *rand.Rand, paths []string) map[string][]span {
	path := paths[rng.IntN(len(paths))]
	stat, err := os.Stat(path)
	must(t, err)
	foreign := make([]byte, stat.Size())
	for i := range foreign {
		foreign[i] = byte(rng.Uint32())
	}
	overwrite(t, path, foreign, 0)
	return map[string][]span{path: {{0, stat.Size()}}}
}

// harms are what happens to files with records, and whether what is lost must be in
// the log and in /stats, whichever file it is: after a crash, the end of a log cannot be told
// from a log that is shorter.
var harms = map[string]struct {
	do   harm
	told bool
}{
	"16 bytes flipped": {flip(16), true},
	"replaced":         {replace, true},
	"tail zeroed":      {zeroTail, false},
	"cut":              {cut, false},
	"removed":          {remove, false},
}

// harmNames are in one order, so that a seed is one run.
var harmNames = slices.Sorted(maps.Keys(harms))

// check starts a daemon over a damaged data path: every intact message comes,
// none comes that nobody wrote, and what is lost is logged with its file if told
// says so. again says that what was finished may come.
func check(t *testing.T, dir string, keys []uint64, intact map[uint64]bool, told, again bool, flags ...string) {
	t.Helper()
	d := run(t, dir, flags...)
	if text := d.ping(t); text != "OK" {
		t.Errorf("/ping: %s", text)
	}
	d.harmed(t, keys, intact, told, again)
	d.Stop(t)
}

// harmed consumes what a daemon delivers of damaged files, as check does.
func (d nsqd) harmed(t *testing.T, keys []uint64, intact map[uint64]bool, told, again bool) {
	t.Helper()
	got := d.consume(t, "t", "c", 2*damageCount, damageSize)
	lost := 0
	for _, key := range keys {
		switch n := got[key]; {
		case n == 0 && intact[key]:
			t.Fatalf("message %d was intact and is lost, of %d that are to come", key, len(intact))
		case n == 0:
			lost++
		case n > 1 && !again:
			t.Errorf("message %d came %d times", key, n)
		}
		delete(got, key)
	}
	if len(got) > 0 && !again {
		t.Errorf("%d messages came again that had been finished", len(got))
	}
	t.Logf("%d messages, %d damaged, %d lost", len(keys), len(keys)-len(intact), lost)
	if told && lost > 0 {
		eventually(t, fmt.Sprintf("/stats tells of %d lost messages", lost), func() bool { return d.damage(t).Places > 0 })
		eventually(t, fmt.Sprintf("the log says where %d messages are lost", lost), func() bool { // it never waits for its reader
			log := d.Log.String()
			return strings.Contains(log, "offset ") && (strings.Contains(log, ".seg") || strings.Contains(log, "journal"))
		})
	}
	found := d.damage(t)
	t.Logf("counted: %+v", found)
	if len(intact) == len(keys) && found.Records > 0 {
		t.Errorf("no record was damaged, and /stats counts %+v", found)
	}
	d.publish(t, "t", 1<<40, 10, damageSize) // it works on
	if got := d.consume(t, "t", "c", 10, damageSize); len(got) != 10 {
		t.Errorf("%d of 10 messages came that were published afterwards", len(got))
	}
}

// damage returns what /stats counts as damaged on disk.
func (d nsqd) damage(t *testing.T) (found struct{ Places, Records int64 }) {
	t.Helper()
	resp, err := http.Get("http://" + d.HTTP + "/stats?format=json&include_clients=false&include_mem=false")
	must(t, err)
	defer resp.Body.Close()
	var stats struct {
		Damage *struct{ Places, Records int64 }
	}
	must(t, json.NewDecoder(resp.Body).Decode(&stats))
	if stats.Damage != nil {
		found = *stats.Damage
	}
	return found
}

func keysFrom(first, n int) (keys []uint64) {
	for key := first; key < first+n; key++ {
		keys = append(keys, uint64(key))
	}
	return keys
}

// read returns the contents of files.
func read(t *testing.T, paths []string) map[string][]byte {
	t.Helper()
	before := map[string][]byte{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		must(t, err)
		before[path] = b
	}
	return before
}

// TestDamagedBacklog damages the files of 20,000 messages that overflowed, as a
// stop and as a crash leave them.
func TestDamagedBacklog(t *testing.T) {
	flags := []string{"--mem-queue-size=0", "--durability=process"}
	clean, crashed := t.TempDir(), t.TempDir()
	for _, dir := range []string{clean, crashed} {
		d := run(t, dir, flags...)
		d.Create(t, "t", "c")
		d.publish(t, "t", 0, damageCount+5000, damageSize)
		d.consume(t, "t", "c", 5000, damageSize)
		if dir == clean {
			d.Stop(t)
		} else {
			d.Kill()
		}
	}
	keys := keysFrom(5000, damageCount)
	seed := uint64(0)
	for _, from := range []string{clean, crashed} {
		state := map[string]string{clean: "after a stop", crashed: "after a crash"}[from]
		for _, name := range harmNames {
			h := harms[name]
			seed++
			t.Run(name+" "+state, func(t *testing.T) {
				dir := copyOf(t, from)
				// What a crash leaves of those that are done with is luck, and harms nobody.
				paths := holding(t, files(t, dir, "*.seg"), keys)
				before := read(t, paths)
				// After a crash some are in the journal as well, which is whole.
				intact := untouched(t, keys, before, h.do(t, random(seed), paths))
				check(t, dir, keys, intact, h.told || state == "after a stop", false, flags...)
			})
		}
	}
	for name, h := range map[string]func(path string) error{
		"garbled": func(path string) error { return os.WriteFile(path, []byte("\x00\x01garbage"), 0o600) },
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"removed": os.Remove,
	} {
		for _, what := range []string{"nsqd.dat", "cursors", "ids"} {
			t.Run(what+" "+name, func(t *testing.T) {
				dir := copyOf(t, clean)
				for _, path := range files(t, dir, what) {
					must(t, h(path))
				}
				intact := untouched(t, keys, nil, nil)
				// Without cursors nobody knows what was finished.
				check(t, dir, keys, intact, true, what == "cursors", flags...)
				if kept := files(t, dir, what+".bad"); name == "garbled" && len(kept) == 0 {
					t.Errorf("the damaged %s was not kept", what)
				}
			})
		}
	}
}

// TestDamagedJournal damages the journal of 20,000 messages that a crash found in
// memory.
func TestDamagedJournal(t *testing.T) {
	flags := []string{"--mem-queue-size=100000", "--durability=process"}
	crashed := t.TempDir()
	d := run(t, crashed, flags...)
	d.Create(t, "t", "c")
	d.publish(t, "t", 0, damageCount, damageSize)
	d.Kill()
	keys := keysFrom(0, damageCount)
	seed := uint64(100)
	for _, name := range harmNames {
		h := harms[name]
		seed++
		t.Run(name, func(t *testing.T) {
			dir := copyOf(t, crashed)
			// There may be a file for the messages to come as well.
			paths := holding(t, files(t, filepath.Join(dir, "zsq", "journal"), "*.journal"), keys)
			before := read(t, paths)
			intact := untouched(t, keys, before, h.do(t, random(seed), paths))
			check(t, dir, keys, intact, h.told, false, flags...)
		})
	}
}

// TestForeignDirectories lays copies of a topic's directory beside it, and others with odd
// names: only the topic's own counts, and nobody hears of the rest.
func TestForeignDirectories(t *testing.T) {
	const n = 500
	dir := t.TempDir()
	flags := []string{"--mem-queue-size=0"}
	d := run(t, dir, flags...)
	d.Create(t, "t", "c")
	d.publish(t, "t", 0, n, damageSize)
	d.Stop(t)
	own, err := filepath.Glob(filepath.Join(dir, "zsq", "t@*"))
	must(t, err)
	if len(own) != 1 {
		t.Fatalf("the topic has the directories %q", own)
	}
	number := strings.TrimPrefix(filepath.Base(own[0]), "t@")
	for _, name := range []string{"t@" + number + ".bak", "t@zz", "t@", "@" + number, "no name@" + number, "t@x@" + number, "lost+found"} {
		must(t, os.CopyFS(filepath.Join(dir, "zsq", name), os.DirFS(own[0])))
	}
	d = run(t, dir, flags...)
	got := d.consume(t, "t", "c", 2*n, damageSize)
	if len(got) != n {
		t.Errorf("%d of %d messages came", len(got), n)
	}
	d.Stop(t)
	d = run(t, dir, flags...)
	if got := d.consume(t, "t", "c", 2*n, damageSize); len(got) > 0 {
		t.Errorf("%d messages came again", len(got))
	}
	resp, err := http.Get("http://" + d.HTTP + "/stats?format=json&include_clients=false&include_mem=false")
	must(t, err)
	defer resp.Body.Close()
	var stats struct {
		Topics []struct {
			TopicName string `json:"topic_name"`
		}
	}
	must(t, json.NewDecoder(resp.Body).Decode(&stats))
	if len(stats.Topics) != 1 {
		t.Errorf("topics: %+v", stats.Topics)
	}
	d.Stop(t)
}
