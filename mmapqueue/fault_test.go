package mmapqueue_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// long says that the short tests are to take the time of the long ones.
var long = os.Getenv("ZSQ_LONG") != ""

// stride returns how far apart the places are that an exhaustive test looks at.
func stride(short int) int {
	if long {
		return 1
	}
	return short
}

// image is one segment of 200 records, its cursor file, and where each record
// lies.
type image struct {
	segment, cursors []byte
	name             string
	want             []mmapqueue.Record
	ends             []int64 // of each record
}

// images returns the same 200 records as a crash leaves them and as a stop does.
func images(t *testing.T) []image {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	b := mustOpen(t, dir, mmapqueue.Options{SegmentBytesMin: 20 << 10, SyncEvery: -1, SyncTimeout: -1})
	ch := mustCursor(t, b, "ch").ID()
	want := publish(1, 200)
	for i := range want {
		want[i].Body = want[i].Body[:min(len(want[i].Body), 3+i%31)]
		if i%4 == 0 {
			want[i].Kind, want[i].To = mmapqueue.KindSome, []uint32{ch, 7, 8}[:1+i%3]
		}
	}
	img := image{want: want}
	must(t, b.Append(want))
	img.ends = mmapqueue.RecordEnds(b)
	open := img
	open.load(t, dir)
	must(t, b.Close())
	img.load(t, dir)
	return []image{open, img}
}

func (img *image) load(t *testing.T, dir string) {
	t.Helper()
	var err error
	img.name = filepath.Base(segments(t, dir)[0])
	img.segment, err = os.ReadFile(filepath.Join(dir, img.name))
	must(t, err)
	img.cursors, err = os.ReadFile(filepath.Join(dir, "cursors"))
	must(t, err)
}

// check opens a log that holds bytes in place of the segment, and demands every
// record for which lost says false, and no record that nobody wrote.
func (img *image) check(t *testing.T, what string, bytes []byte, lost func(i int) bool) {
	t.Helper()
	o := small
	o.FS = memoryFS{
		"log/" + img.name: &memoryFile{slices.Clone(bytes)},
		"log/cursors":     &memoryFile{slices.Clone(img.cursors)},
	}
	b := mustOpen(t, "log", o)
	c := mustCursor(t, b, "ch")
	depth := c.Depth()
	next, wrong := 0, 0
	n, err := c.Read(1000, func(r *mmapqueue.Record) {
		for next < len(img.want) && img.want[next].ID < r.ID {
			if !lost(next) {
				t.Errorf("%s: record %d of 200 is lost and was not touched", what, next)
			}
			next++
		}
		if next == len(img.want) || !same(*r, img.want[next]) {
			wrong++
		}
		next++
	})
	for ; next < len(img.want); next++ {
		if !lost(next) {
			t.Errorf("%s: record %d of 200 is lost and was not touched", what, next)
		}
	}
	if wrong > 0 || c.Depth() != 0 || int64(n) > depth {
		t.Errorf("%s: %d records that nobody wrote, %d of %d read, depth %d, %v", what, wrong, n, depth, c.Depth(), err)
	}
	must(t, b.Remove())
	if t.Failed() {
		t.FailNow()
	}
}

// TestEveryCut shows that a log cut anywhere, or zero from there on, loses the
// records behind the cut and no other. TestLongEveryCut leaves no byte out.
func TestEveryCut(t *testing.T) { everyCut(t, stride(167)) }

func everyCut(t *testing.T, step int) {
	inShards(t, images(t), func(t *testing.T, img image, shard, shards int) (n int) {
		end := int(img.ends[len(img.ends)-1]) + 200
		for cut := shard * step; cut < min(end, len(img.segment)); cut += shards * step {
			behind := func(i int) bool { return img.ends[i] > int64(cut) }
			if cut < 64 {
				behind = func(int) bool { return true } // no header: no salt, and no file to speak of
			}
			img.check(t, fmt.Sprintf("cut at %d", cut), img.segment[:cut], behind)
			zeroed := slices.Clone(img.segment)
			clear(zeroed[cut:])
			img.check(t, fmt.Sprintf("zero from %d", cut), zeroed, behind)
			n += 2
		}
		return n
	})
}

// inShards runs f for each image in several shards side by side. f returns how many
// logs it has opened.
func inShards(t *testing.T, images []image, f func(t *testing.T, img image, shard, shards int) int) {
	const shards = 4
	var opened atomic.Int64
	t.Cleanup(func() { t.Logf("%d logs opened", opened.Load()) })
	for k, img := range images {
		for shard := range shards {
			t.Run(fmt.Sprintf("image=%d,shard=%d", k, shard), func(t *testing.T) {
				t.Parallel()
				opened.Add(int64(f(t, img, shard, shards)))
			})
		}
	}
}

// TestEveryFlip shows that a flipped bit costs at most the record it is in.
// TestLongEveryFlip leaves no bit out.
func TestEveryFlip(t *testing.T) { everyFlip(t, stride(1501)) }

func everyFlip(t *testing.T, step int) {
	inShards(t, images(t), func(t *testing.T, img image, shard, shards int) (n int) {
		end := int(img.ends[len(img.ends)-1])
		bad := slices.Clone(img.segment)
		f := func(bit int) {
			t.Helper()
			at := int64(bit / 8)
			bad[at] ^= 1 << (bit % 8)
			img.check(t, fmt.Sprintf("bit %d of byte %d", bit%8, at), bad, func(i int) bool {
				return at < img.ends[i] && (i == 0 || at >= img.ends[i-1])
			})
			bad[at] ^= 1 << (bit % 8)
			n++
		}
		for bit := shard * step; bit < 8*end; bit += shards * step {
			f(bit)
		}
		step := 1 + step/100 // a footer, or space
		for bit := 8*end + shard*step; bit < 8*min(end+200, len(bad)); bit += shards * step {
			f(bit)
		}
		return n
	})
}

// TestSixteenBytes shows that random bytes changed all over a backlog of many
// segments cost the records they hit only.
func TestSixteenBytes(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 4))
		dir := filepath.Join(t.TempDir(), "log")
		o := mmapqueue.Options{SegmentBytesMin: 16 << 10, SegmentBytesMax: 256 << 10, SyncEvery: -1, SyncTimeout: -1}
		b := mustOpen(t, dir, o)
		mustCursor(t, b, "ch")
		want := publish(1, 20000)
		for at := 0; at < len(want); at += 100 {
			must(t, b.Append(want[at:at+100]))
		}
		if seed%2 == 0 {
			must(t, b.Close())
		} else { // as a crash leaves it
			crashed := clone(t, dir)
			must(t, b.Remove())
			dir = crashed
		}
		paths := segments(t, dir)
		for range 16 {
			path := paths[rng.IntN(len(paths))]
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			stat, err := f.Stat()
			must(t, err)
			at := rng.Int64N(stat.Size())
			var old [1]byte
			_, err = f.ReadAt(old[:], at)
			must(t, err)
			_, err = f.WriteAt([]byte{old[0] ^ byte(1+rng.IntN(255))}, at)
			must(t, err)
			must(t, f.Close())
		}
		b = mustOpen(t, dir, o)
		got := drain(t, mustCursor(t, b, "ch"), len(want))
		for _, r := range got {
			if r.ID == 0 || r.ID > uint64(len(want)) || !same(r, want[r.ID-1]) {
				t.Fatalf("seed %d: invented %+v", seed, r)
			}
		}
		if len(got) < len(want)-16 || len(got) < len(want) && b.Damaged() == 0 {
			t.Fatalf("seed %d: %d of %d records, %d places damaged", seed, len(got), len(want), b.Damaged())
		}
		must(t, b.Remove())
	}
}

// promise is what a power cut must leave: what was synced and not finished, in
// one or another state of what came after.
type promise struct {
	owed     map[uint64]mmapqueue.Record // by id: synced, not finished to this moment
	finished map[uint64]bool             // and synced: may come again only if the cursor file is gone
	all      map[uint64]mmapqueue.Record
}

// powerCuts runs a random workload on a disk, cuts its power at random moments,
// and returns what a start then finds wrong. faults are planted in the disk.
func powerCuts(t *testing.T, seed uint64, cuts int, faults faultfs.Faults) (wrong []string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 5))
	root := t.TempDir()
	dir := filepath.Join(root, "log")
	disk := faultfs.New()
	disk.Set(faults)
	o := small
	o.SegmentBytesMax = 16 << 10 // several pages
	o.FS = disk
	b := mustOpen(t, dir, o)
	names := []string{"a", "b"}
	now := map[string]*promise{}
	synced := map[string]map[uint64]mmapqueue.Record{}
	out := map[string][]mmapqueue.Record{}
	for _, name := range names {
		mustCursor(t, b, name)
		now[name] = &promise{owed: map[uint64]mmapqueue.Record{}, all: map[uint64]mmapqueue.Record{}, finished: map[uint64]bool{}}
		synced[name] = map[uint64]mmapqueue.Record{}
	}
	nextID := 1
	for cut := 0; cut < cuts; {
		name := names[rng.IntN(2)]
		p, c := now[name], mustCursor(t, b, name)
		switch op := rng.IntN(12); {
		case op < 4:
			recs := publish(nextID, 1+rng.IntN(30))
			nextID += len(recs)
			for i := range recs {
				if rng.IntN(3) == 0 {
					recs[i].Kind, recs[i].Cursor = mmapqueue.KindPut, c.ID()
					p.all[recs[i].ID], p.owed[recs[i].ID] = recs[i], recs[i]
					continue
				}
				for _, p := range now {
					p.all[recs[i].ID], p.owed[recs[i].ID] = recs[i], recs[i]
				}
			}
			must(t, b.Append(recs))
		case op < 6:
			out[name] = append(out[name], read(t, c, rng.IntN(40))...)
		case op < 8:
			n := rng.IntN(len(out[name]) + 1)
			done := out[name][:n]
			c.Finish(sequences(done))
			for _, r := range done {
				delete(p.owed, r.ID)
			}
			out[name] = out[name][n:]
		case op == 8:
			must(t, b.Sync())
			for name, p := range now {
				synced[name] = map[uint64]mmapqueue.Record{}
				for id, r := range p.owed {
					synced[name][id] = r
				}
			}
		case op == 9 && rng.IntN(4) == 0:
			b.Trim()
		default:
			cut++
			image := filepath.Join(root, fmt.Sprint("cut ", cut))
			must(t, disk.PowerCut(rng, root, image))
			wrong = append(wrong, afterCut(t, filepath.Join(image, "log"), now, synced)...)
			must(t, os.RemoveAll(image))
		}
	}
	must(t, b.Remove())
	return wrong
}

func afterCut(t *testing.T, dir string, now map[string]*promise, synced map[string]map[uint64]mmapqueue.Record) (wrong []string) {
	t.Helper()
	o := small
	b, err := mmapqueue.Open(dir, o)
	if err != nil {
		return []string{fmt.Sprint("a start is refused: ", err)}
	}
	defer b.Remove()
	for name, p := range now {
		c := mustCursor(t, b, name)
		got := map[uint64]bool{}
		for _, r := range drain(t, c, 1<<20) {
			if w, ok := p.all[r.ID]; !ok || !same(r, w) {
				wrong = append(wrong, fmt.Sprintf("cursor %q: record %d was never written so", name, r.ID))
			}
			if got[r.ID] {
				wrong = append(wrong, fmt.Sprintf("cursor %q: record %d twice", name, r.ID))
			}
			got[r.ID] = true
		}
		for id := range synced[name] {
			if _, owed := p.owed[id]; owed && !got[id] {
				wrong = append(wrong, fmt.Sprintf("cursor %q: record %d was synced and is lost", name, id))
			}
		}
		if d := c.Depth(); d != 0 {
			wrong = append(wrong, fmt.Sprintf("cursor %q: depth %d with nothing to read", name, d))
		}
	}
	return wrong
}

// TestPowerCut shows that what was synced and not finished survives the power,
// whatever the disk kept of the rest.
func TestPowerCut(t *testing.T) { manyPowerCuts(t, 6) }

func manyPowerCuts(t *testing.T, seeds uint64) {
	for seed := range seeds {
		if wrong := powerCuts(t, seed, 10, faultfs.Faults{}); len(wrong) > 0 {
			t.Fatalf("seed %d: %d things wrong, first: %s", seed, len(wrong), wrong[0])
		}
	}
}

// TestPlantedFaults shows that the harness finds a disk that lies: a sync that
// does nothing, a directory that is not synced, a write that is dropped.
func TestPlantedFaults(t *testing.T) {
	f := func(what string, faults faultfs.Faults) {
		t.Helper()
		for seed := range uint64(12) {
			if len(powerCuts(t, seed, 6, faults)) > 0 {
				return
			}
		}
		t.Errorf("%s was not found", what)
	}
	f("a Datasync that does nothing", faultfs.Faults{LieDatasync: true})
	f("a SyncDir that does nothing", faultfs.Faults{LieSyncDir: true})
	f("a dropped write", faultfs.Faults{SkipWrite: 9})
}
