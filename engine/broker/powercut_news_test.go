package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/faultfs"
	"github.com/zsqio/zsq/mmapqueue"
)

// newsBook is a topic as its users were told it is.
type newsBook struct {
	paused   bool
	held     int // messages that the topic keeps, for want of a channel
	channels map[string]*newsChannel
}

type newsChannel struct {
	paused bool
	depth  int
}

// newsCut is a broker in disk mode whose topics come and go on a disk that forgets.
type newsCut struct {
	*world
	disk  *faultfs.Disk
	root  string
	prod  *producer
	books map[string]*newsBook
}

func (n *newsCut) options(dir string, disk mmapqueue.FS) Options {
	return Options{
		Shards: 1, MemQueueSize: []int{1, 8, 1000}[n.seed%3], DataPath: dir, MaxMsgTimeout: int64(time.Hour),
		Durability: DurabilityDisk, Waker: n.world, Wall: func() int64 { return n.now + wallOffset },
		Log:     mmapqueue.Options{FS: disk, SegmentBytesMin: 4 << 10, SegmentBytesMax: 32 << 10, SyncEvery: -1, SyncTimeout: -1},
		Journal: mmapqueue.JournalOptions{FS: disk, SegmentBytes: 16 << 10}, JournalBudget: 64 << 10,
	}
}

func newNewsCut(t *testing.T, seed uint64, faults faultfs.Faults) *newsCut {
	t.Helper()
	n := &newsCut{disk: faultfs.New(), root: t.TempDir(), books: map[string]*newsBook{}}
	n.disk.Set(faults)
	n.world = &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 17)), now: int64(time.Hour), woken: make([]bool, 1), calls: make([][]func(), 1)}
	dir := filepath.Join(n.root, "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n.b = New(n.options(dir, n.disk), 1)
	n.b.shards[0].Start(n.now, n.now+wallOffset, func(uint32) {})
	n.open(nil)
	n.prod = n.producer(0)
	return n
}

// step does one thing to a topic, waits for the answer and books it.
func (n *newsCut) step() {
	topic, channel := fmt.Sprint("t", n.rng.IntN(3)), fmt.Sprint("c", n.rng.IntN(2))
	book := n.books[topic]
	do := func(what string, f func() error) {
		n.t.Helper()
		n.blocking(what, func() {
			err := f()
			if err == nil {
				err = n.b.Settle()
			}
			if err != nil {
				n.t.Errorf("%s: %v", what, err)
			}
		})
	}
	t := n.b.Find([]byte(topic))
	if book == nil {
		do("birth", func() error { _, err := n.b.Topic(topic); return err })
		n.books[topic] = &newsBook{channels: map[string]*newsChannel{}}
		return
	}
	ch := book.channels[channel]
	switch what := n.rng.IntN(20); {
	case what == 0:
		do("death of a topic", func() error { return n.b.DeleteTopic(topic) })
		delete(n.books, topic)
	case what < 3:
		book.paused = !book.paused
		do("pause of a topic", func() error { t.SetPaused(book.paused); return nil })
		n.settle("pumped", n.quiet)
	case what == 3:
		n.save()
	case what == 4:
		n.blocking("sweep", func() { n.b.Sweep(n.now, true); n.b.Sweep(n.now+agedNs, true) })
	case what < 10:
		k := 1 + n.rng.IntN(12)
		n.round(0, func(s *Shard) { n.prod.publish(s, t, k, 0) })
		n.settle("published", func() bool { return !n.prod.owed && n.quiet() })
		if book.held += k; !book.paused {
			book.pump()
		}
	case ch == nil:
		do("birth of a channel", func() error { _, err := t.Channel(channel); return err })
		n.settle("pumped", n.quiet)
		book.channels[channel] = &newsChannel{}
	case what < 12:
		do("death of a channel", func() error { return n.b.DeleteChannel(topic, channel) })
		delete(book.channels, channel)
	case what < 15:
		ch.paused = !ch.paused
		do("pause of a channel", func() error { t.Find(channel).SetPaused(ch.paused); return nil })
	default:
		do("empty", t.Find(channel).Empty)
		ch.depth = 0
	}
	if book := n.books[topic]; book != nil && !book.paused {
		book.pump()
	}
}

// pump gives what the topic keeps to its channels.
func (k *newsBook) pump() {
	if len(k.channels) == 0 {
		return
	}
	for _, c := range k.channels {
		c.depth += k.held
	}
	k.held = 0
}

// spell says of all topics what there is.
func spell(books map[string]*newsBook) (lines []string) {
	for name, k := range books {
		line := fmt.Sprintf("%s paused=%t holds %d:", name, k.paused, k.held)
		var channels []string
		for channel, c := range k.channels {
			channels = append(channels, fmt.Sprintf(" %s paused=%t has %d", channel, c.paused, c.depth))
		}
		slices.Sort(channels)
		lines = append(lines, line+fmt.Sprint(channels))
	}
	slices.Sort(lines)
	return lines
}

// cut takes the power away, for a moment that only the disk sees, and returns what
// a broker that starts then says of its topics, if that is not what was answered.
func (n *newsCut) cut(number int) (wrong string) {
	image := filepath.Join(n.root, fmt.Sprint("cut ", number))
	if err := n.disk.PowerCut(n.rng, n.root, image); err != nil {
		n.fatal("%v", err)
	}
	dir := filepath.Join(image, "data")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.fatal("%v", err)
	}
	o := &newsCut{world: &world{t: n.t, seed: n.seed, rng: n.rng, now: n.now, woken: make([]bool, 1), calls: make([][]func(), 1)}}
	o.b = New(o.options(dir, unsynced{mmapqueue.OS}), n.b.ids.next.Load())
	o.b.shards[0].Start(o.now, o.now+wallOffset, func(uint32) {})
	o.open(n.saved)
	o.settle("recovered", o.quiet)
	got := map[string]*newsBook{}
	for _, t := range o.b.Topics() {
		k := &newsBook{paused: t.Paused(), channels: map[string]*newsChannel{}}
		k.held = len(o.heldBy(t.hold(), nil))
		for _, c := range t.Channels() {
			k.channels[c.name] = &newsChannel{c.Paused(), len(o.heldBy(c.q, c))}
		}
		got[t.name] = k
	}
	if got, want := spell(got), spell(n.books); !slices.Equal(got, want) {
		wrong = fmt.Sprintf("seed %d, cut %d:\n%q, want\n%q", n.seed, number, got, want)
	}
	if err := o.b.Close(); err != nil {
		n.fatal("close: %v", err)
	}
	if err := os.RemoveAll(image); err != nil {
		n.fatal("%v", err)
	}
	return wrong
}

func newsCuts(t *testing.T, seed uint64, cuts int, faults faultfs.Faults) (wrong string) {
	t.Helper()
	n := newNewsCut(t, seed, faults)
	for number := 0; number < cuts && wrong == ""; number++ {
		for range 1 + n.rng.IntN(25) {
			n.step()
		}
		wrong = n.cut(number)
	}
	n.disk.Set(faultfs.Faults{})
	if err := n.b.Close(); err != nil {
		n.fatal("close: %v", err)
	}
	return wrong
}

// In disk mode births, deaths, pauses and emptyings of topics and channels survive
// the power from the answer on, and with them all messages that were accepted since.
// TestLongPowerCutsNews cuts it often.
func TestPowerCutsNews(t *testing.T) { manyNewsCuts(t, 0, 3, 8) }

// With these seeds a cut has brought back what a channel had inherited, or a topic had
// let go, under its old name in the backlog.
func TestPowerCutsNames(t *testing.T) {
	for _, seed := range []uint64{11, 20, 21} {
		if wrong := newsCuts(t, seed, 5, faultfs.Faults{}); wrong != "" {
			t.Error(wrong)
		}
	}
}

func manyNewsCuts(t *testing.T, first, seeds uint64, cuts int) {
	for seed := first; seed < first+seeds; seed++ {
		if wrong := newsCuts(t, seed, cuts, faultfs.Faults{}); wrong != "" {
			t.Fatal(wrong)
		}
	}
	if found := newsCuts(t, first, 20*cuts, faultfs.Faults{LieDatasync: true}); found == "" {
		t.Error("a Datasync that does nothing was not found")
	}
}

// answers is a Publisher that only waits.
type answers struct{ err error }

func (a *answers) Accepted(err error) { a.err = errors.Join(a.err, err) }

// The answer to a channel's birth waits until what it has inherited has its name in the
// backlog, and nothing is handed out before: else a cut would give it to a channel that
// was born later as well.
func TestBirthAwaitsTheName(t *testing.T) {
	n := newNewsCut(t, 3, faultfs.Faults{})
	topic, err := n.b.Topic("t")
	if err != nil {
		t.Fatal(err)
	}
	n.round(0, func(s *Shard) { n.prod.publish(s, topic, 20, 0) })
	n.settle("published", func() bool { return !n.prod.owed && n.quiet() })
	release := make(chan struct{})
	topic.writer.submit(job{run: func(*mmapqueue.Backlog) { <-release }})
	var a answers
	pub := Publisher{Waiter: &a}
	n.round(0, func(s *Shard) {
		for _, name := range []string{"a", "b"} {
			c, err := topic.Channel(name)
			if err != nil {
				t.Error(err)
				return
			}
			s.AwaitBirth(&pub, c)
		}
	})
	n.books["t"] = &newsBook{channels: map[string]*newsChannel{"a": {depth: 20}, "b": {}}}
	to := n.consumer(topic.Find("a"), 0, 10, func(*consumer, uint64, uint16) {})
	if err := n.b.Settle(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		n.round(0, nil)
	}
	if n.drain(); len(to.hold) > 0 {
		t.Errorf("%d messages were handed out", len(to.hold))
	}
	if pub.Pending() == 0 {
		t.Errorf("answered; %s", n.cut(0))
	}
	close(release)
	n.settle("answered", func() bool { return pub.Pending() == 0 && n.quiet() })
	n.settle("handed out", func() bool { n.drain(); return len(to.hold) == 10 && n.quiet() })
	if wrong := n.cut(1); wrong != "" || a.err != nil {
		t.Error(wrong, a.err)
	}
	if err := n.b.Close(); err != nil {
		t.Fatal(err)
	}
}
