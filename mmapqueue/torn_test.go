package mmapqueue_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// TestLostPageAndFinish has the power take a page out of the middle of an open
// segment, and somebody who kept books elsewhere finish what stood there: none of
// it counts, and what is left is read to its end.
func TestLostPageAndFinish(t *testing.T) {
	o := small
	o.SegmentBytesMin, o.SegmentBytesMax = 64<<10, 64<<10
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, o)
	c := mustCursor(t, b, "c")
	recs := publish(1, 900) // two segments and the beginning of a third
	for at := 0; at < len(recs); at += 30 {
		must(t, b.Append(recs[at:at+30]))
	}
	crashed := clone(t, dir)
	got := read(t, c, len(recs))
	must(t, b.Remove())
	paths := segments(t, crashed)
	if len(paths) < 2 {
		t.Fatalf("%d segments, want several", len(paths))
	}
	// The first one without its seal, and without a page.
	image, err := os.ReadFile(paths[0])
	must(t, err)
	image = image[:len(image)-60]
	clear(image[8192 : 8192+4096])
	must(t, os.WriteFile(paths[0], image, 0o600))

	b = mustOpen(t, crashed, o)
	defer b.Remove()
	c = mustCursor(t, b, "c")
	whole := c.Depth()
	if whole >= 900 || whole < 800 {
		t.Fatalf("depth %d of 900 records, a page of which is gone", whole)
	}
	must(t, c.FinishAgain(sequences(got[50:200]))) // the page, and what is around it
	want := c.Depth()
	n, last := 0, uint64(0)
	for {
		part := read(t, c, 7)
		if len(part) == 0 {
			break
		}
		n += len(part)
		last = part[len(part)-1].ID
	}
	if int64(n) != want || last != 900 {
		t.Errorf("depth %d at the start (%d before Finish), %d read, the last was %d", want, whole, n, last)
	}
	if u := c.Unfinished(); u != int64(n) {
		t.Errorf("%d unfinished, want %d", u, n)
	}
}

// A tornLog is a log that lives several lives on disks that lose their power, and
// what its users know of it.
type tornLog struct {
	t       *testing.T
	rng     *rand.Rand
	seed    uint64
	root    string
	disk    *faultfs.Disk
	o       mmapqueue.Options
	b       *mmapqueue.Backlog
	all     map[uint64]mmapqueue.Record // ever written
	nextID  int
	cursors map[string]*tornCursor
	exact   bool // no damage is left that only a reader finds
	life    int
	trace   []string

	torn, inexact int // starts with damage, and those that could not know all of it
}

type tornCursor struct {
	unread map[uint64]int     // by id; twice after a crash between the two halves of Renew
	out    []mmapqueue.Record // read and not finished
	done   []uint64           // finished since the last sync, as a journal would know
	owed   map[uint64]bool    // synced, and not finished then
	young  bool               // made in this life, without PowerSafe: a cut may have it unmade
}

func (l *tornLog) fatal(format string, args ...any) {
	l.t.Helper()
	for _, s := range l.trace {
		l.t.Logf("%.200s", s)
	}
	l.t.Fatalf("seed %d, life %d: %s", l.seed, l.life, fmt.Sprintf(format, args...))
}

func (l *tornLog) note(format string, args ...any) {
	l.trace = append(l.trace, fmt.Sprintf(format, args...))
}

func newTornLog(t *testing.T, seed uint64) *tornLog {
	l := &tornLog{
		t: t, rng: rand.New(rand.NewPCG(seed, 21)), seed: seed, disk: faultfs.New(), root: t.TempDir(),
		all: map[uint64]mmapqueue.Record{}, nextID: 1, cursors: map[string]*tornCursor{}, exact: true,
	}
	l.o = small
	l.o.SegmentBytesMax = 16 << 10
	if seed%4 < 2 {
		l.o.SegmentBytesMin, l.o.SegmentBytesMax = 256<<10, 256<<10 // what a cut finds has no seal
	}
	l.o.PowerSafe = seed%2 == 0
	l.o.FS = l.disk
	l.b = mustOpen(t, l.dir(), l.o)
	return l
}

func (l *tornLog) dir() string { return filepath.Join(l.root, "log") }

func (l *tornLog) names() []string { return slices.Sorted(maps.Keys(l.cursors)) }

// step does one thing that a log's users do.
func (l *tornLog) step() {
	t, rng, b := l.t, l.rng, l.b
	name := []string{"a", "b", "c"}[rng.IntN(3)]
	k := l.cursors[name]
	if k == nil {
		if rng.IntN(4) == 0 || len(l.cursors) == 0 {
			l.note("make %s", name)
			c := mustCursor(t, b, name)
			l.cursors[name] = &tornCursor{unread: map[uint64]int{}, owed: map[uint64]bool{}, young: !l.o.PowerSafe}
			if d := c.Depth(); d != 0 {
				l.fatal("a new cursor has depth %d", d)
			}
		}
		return
	}
	c := mustCursor(t, b, name)
	switch op := rng.IntN(32); {
	case op < 10:
		recs := publish(l.nextID, 1+rng.IntN(30))
		l.nextID += len(recs)
		for i := range recs {
			r := &recs[i]
			switch to := rng.IntN(6); {
			case to < 2:
				r.Kind, r.Cursor = mmapqueue.KindPut, c.ID()
				k.unread[r.ID]++
			case to < 4:
				forSome(t, rng, b, r, l.names(), func(to string) { l.cursors[to].unread[r.ID]++ })
			default:
				for _, o := range l.cursors {
					o.unread[r.ID]++
				}
			}
			l.all[r.ID] = *r
		}
		l.note("append %d, ids from %d", len(recs), recs[0].ID)
		must(t, b.Append(recs))
	case op < 17:
		n := rng.IntN(60)
		got, err := l.read(c, n)
		l.note("%s reads %d of %d: %v", name, len(got), n, ids(got))
		if err != nil {
			l.fatal("read: %v", err)
		}
		if len(got) < n && l.left(k) != len(got) {
			l.fatal("%s has read %d of %d records, and there is no more", name, len(got), l.left(k))
		}
		for _, r := range got {
			if k.unread[r.ID] == 0 {
				l.fatal("%s reads %d again, or it was not its own", name, r.ID)
			}
			if k.unread[r.ID]--; k.unread[r.ID] == 0 {
				delete(k.unread, r.ID)
			}
			k.out = append(k.out, r)
		}
	case op < 23:
		var done []uint64
		k.out = slices.DeleteFunc(k.out, func(r mmapqueue.Record) bool {
			if r.ID%23 == 0 && rng.IntN(20) > 0 || rng.IntN(5) == 0 {
				return false
			}
			done = append(done, r.Sequence)
			return true
		})
		l.note("%s finishes %v", name, done)
		c.Finish(done)
		k.done = append(k.done, done...)
	case op < 25:
		l.note("%s renews", name)
		_, err := c.Renew()
		must(t, err)
	case op < 27:
		l.note("sync")
		must(t, b.Sync())
		for _, k := range l.cursors {
			k.done, k.owed = nil, map[uint64]bool{}
			for id := range k.unread {
				k.owed[id] = true
			}
			for _, r := range k.out {
				k.owed[r.ID] = true
			}
		}
	case op == 27:
		b.Trim()
	case op == 28 && rng.IntN(6) == 0:
		l.note("%s is emptied", name)
		c.Empty()
		clear(k.unread)
		clear(k.owed)
	case op == 29 && rng.IntN(10) == 0:
		l.note("%s is deleted", name)
		must(t, c.Delete())
		delete(l.cursors, name)
	}
	for name, k := range l.cursors {
		c := mustCursor(t, l.b, name)
		d, u := c.Depth(), c.Unfinished()
		if int(d) < l.left(k) || l.exact && int(d) != l.left(k) || u != int64(len(k.out)) {
			l.fatal("cursor %s has depth %d, %d unfinished, want %d, %d", name, d, u, l.left(k), len(k.out))
		}
	}
}

func (l *tornLog) left(k *tornCursor) (n int) {
	for _, times := range k.unread {
		n += times
	}
	return n
}

func (l *tornLog) read(c *mmapqueue.Cursor, n int) (got []mmapqueue.Record, err error) {
	_, err = c.Read(n, func(r *mmapqueue.Record) {
		want, ok := l.all[r.ID]
		if r.Kind != want.Kind { // renewed
			want.Kind, want.Cursor = r.Kind, r.Cursor
		}
		if !ok || !same(*r, want) {
			l.fatal("record %d was never written so", r.ID)
		}
		got = append(got, *r)
	})
	return got, err
}

// die ends a life: with the power, with the process, or well; and perhaps with damage.
func (l *tornLog) die() {
	t, rng := l.t, l.rng
	next := filepath.Join(t.TempDir(), "next")
	must(t, os.MkdirAll(next, 0o755))
	how := rng.IntN(8)
	switch how {
	case 0:
		must(t, l.b.Close())
		must(t, os.Remove(next))
		must(t, os.Rename(l.root, next))
	case 1:
		cloneTo(t, next, l.root)
		must(t, l.b.Remove())
	default:
		must(t, l.disk.PowerCut(rng, l.root, next))
		must(t, l.b.Remove())
	}
	l.root = next
	flips := 0
	if how == 7 {
		flips = 1 + rng.IntN(8)
		l.spoil(flips)
	}
	disk, err := faultfs.Found(next)
	must(t, err)
	l.disk, l.o.FS = disk, disk
	l.trace = nil
	l.note("life %d ends (%d), %d flips", l.life, how, flips)
	l.life++

	known := map[string][]uint64{}
	for _, name := range l.names() {
		if k := l.cursors[name]; how != 0 {
			known[name] = k.done[:rng.IntN(len(k.done)+1)]
			if rng.IntN(2) == 0 {
				known[name] = k.done
			}
		}
	}
	l.born(known, how == 0, flips == 0)
}

// spoil flips bits of the log's files.
func (l *tornLog) spoil(flips int) {
	entries, err := os.ReadDir(l.dir())
	if err != nil {
		return
	}
	for range flips {
		path := filepath.Join(l.dir(), entries[l.rng.IntN(len(entries))].Name())
		if filepath.Base(path) == "cursors" && l.rng.IntN(3) > 0 {
			continue
		}
		b, err := os.ReadFile(path)
		must(l.t, err)
		if len(b) > 0 {
			b[l.rng.IntN(len(b))] ^= 1 << l.rng.IntN(8)
		}
		must(l.t, os.WriteFile(path, b, 0o600))
	}
}

// open opens the log in dir as its users do: they know of some records that these are
// finished.
func (l *tornLog) open(dir string, o mmapqueue.Options, known map[string][]uint64) *mmapqueue.Backlog {
	b := mustOpen(l.t, dir, o)
	for name, done := range known {
		if slices.Contains(b.Names(), name) {
			must(l.t, mustCursor(l.t, b, name).FinishAgain(done))
		}
	}
	return b
}

// born begins a life: what a start says of it is compared with what is read.
func (l *tornLog) born(known map[string][]uint64, well, sound bool) {
	t := l.t
	copied := clone(t, l.dir())
	places := map[mmapqueue.CorruptError]bool{} // that are damaged
	o := small
	o.Logf = func(format string, args ...any) {
		l.note(format, args...)
		for _, arg := range args {
			if e, ok := arg.(*mmapqueue.CorruptError); ok {
				places[mmapqueue.CorruptError{Segment: e.Segment, Offset: e.Offset}] = true
			}
		}
	}
	b := l.open(copied, o, known)
	before := len(places)
	was := l.cursors
	l.cursors = map[string]*tornCursor{}
	depths := map[string]int64{}
	for _, name := range b.Names() {
		c := mustCursor(t, b, name)
		depths[name] = c.Depth()
		if u := c.Unfinished(); u != 0 {
			l.fatal("cursor %s has %d unfinished at a start", name, u)
		}
		k := &tornCursor{unread: map[uint64]int{}, owed: map[uint64]bool{}}
		l.cursors[name] = k
		for {
			got, err := l.read(c, 1+l.rng.IntN(50))
			if err != nil {
				l.fatal("read: %v", err)
			}
			for _, r := range got {
				k.unread[r.ID]++
				if slices.Contains(known[name], r.Sequence) {
					l.fatal("cursor %s reads %d, which was finished", name, r.ID)
				}
			}
			if len(got) == 0 {
				break
			}
		}
		if d, u, n := c.Depth(), c.Unfinished(), l.left(k); d != 0 || u != int64(n) {
			l.fatal("cursor %s has depth %d and %d unfinished behind %d records", name, d, u, n)
		}
	}
	l.exact = len(places) == before // a reader meets what the start has met again
	switch {
	case !l.exact:
		l.inexact++
	case before > 0:
		l.torn++
	}
	for name, k := range l.cursors {
		if n := int64(l.left(k)); n > depths[name] || l.exact && n != depths[name] {
			l.fatal("cursor %s promised %d records and read %d; %d damaged places, %d of them found by a start",
				name, depths[name], n, len(places), before)
		}
		if o := was[name]; o != nil && sound && !o.young {
			finished := map[uint64]bool{}
			for id := range o.owed {
				finished[id] = true
			}
			for id := range o.unread {
				delete(finished, id)
			}
			for _, r := range o.out {
				delete(finished, r.ID)
			}
			for id := range o.owed {
				if !finished[id] && k.unread[id] == 0 {
					l.fatal("cursor %s: record %d was synced and is lost", name, id)
				}
			}
		}
	}
	if well {
		for name, o := range was {
			k := l.cursors[name]
			for _, r := range o.out {
				o.unread[r.ID]++
			}
			if l.left(o) > 0 && (k == nil || !maps.Equal(k.unread, o.unread)) && l.exact {
				l.fatal("cursor %s does not read after a stop what it had before", name)
			}
		}
	}
	must(t, b.Remove())
	l.b = l.open(l.dir(), l.o, known)
	for name, depth := range depths {
		if d := mustCursor(t, l.b, name).Depth(); d != depth {
			l.fatal("cursor %s: depth %d, and %d in a copy", name, d, depth)
		}
	}
}

// TestTornLives shows that Depth is what Read hands out, through one life of a log
// after another: exactly, or where only a reader can find the damage not less.
// TestLongTornLives lives more of them.
func TestTornLives(t *testing.T) { tornLives(t, 0, 4) }

func tornLives(t *testing.T, first, seeds uint64) {
	const lives = 8
	torn, inexact := 0, 0
	for seed := first; seed < first+seeds; seed++ {
		l := newTornLog(t, seed)
		for range lives {
			for range 30 + l.rng.IntN(90) {
				l.step()
			}
			l.die()
		}
		must(t, l.b.Remove())
		torn, inexact = torn+l.torn, inexact+l.inexact
	}
	t.Logf("%d starts: %d with damage, %d more with some that only a reader finds", lives*seeds, torn, inexact)
	if torn*20 < int(lives*seeds) {
		t.Errorf("of %d starts %d have found damage", lives*seeds, torn)
	}
}
