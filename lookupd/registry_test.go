package lookupd

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// model is the registry as upstream thinks of it: rows of category, key and
// subkey, each with its producers. It is slow and obvious.
type model struct {
	rows map[row]map[*producer]time.Time // when tombstoned; zero: never
	seen map[*producer]time.Time
}

type row struct{ category, key, subkey string }

func (m *model) add(p *producer, r row) {
	m.create(r)
	if _, ok := m.rows[r][p]; !ok {
		m.rows[r][p] = time.Time{}
	}
}

func (m *model) create(r row) {
	if m.rows[r] == nil {
		m.rows[r] = map[*producer]time.Time{}
	}
}

// leave removes p from the rows that match, and ephemeral rows that are left
// without producers thereby, a topic's with its channels.
func (m *model) leave(p *producer, match func(row) bool) {
	for r, producers := range m.rows {
		if _, has := producers[p]; !has || !match(r) {
			continue
		}
		delete(producers, p)
		if len(producers) > 0 {
			continue
		}
		switch {
		case r.category == "channel" && strings.HasSuffix(r.subkey, "#ephemeral"):
			delete(m.rows, r)
		case r.category == "topic" && strings.HasSuffix(r.key, "#ephemeral"):
			m.delete(func(x row) bool { return x.key == r.key })
		}
	}
}

func (m *model) delete(match func(row) bool) {
	maps.DeleteFunc(m.rows, func(r row, _ map[*producer]time.Time) bool { return match(r) })
}

func (m *model) find(category, key string) (subkeys []string) {
	for r := range m.rows {
		if r.category == category && r.key == key {
			subkeys = append(subkeys, r.subkey)
		}
	}
	slices.Sort(subkeys)
	return subkeys
}

const (
	modelInactive  = 20 * time.Second
	modelTombstone = 8 * time.Second
)

func (m *model) active(p *producer, now time.Time) bool { return now.Sub(m.seen[p]) <= modelInactive }

func dead(at, now time.Time) bool { return !at.IsZero() && now.Sub(at) < modelTombstone }

// lookup returns the ids of a topic's producers to be shown; ok is false if
// there is no topic.
func (m *model) lookup(topic string, now time.Time) (ids []string, ok bool) {
	producers, ok := m.rows[row{"topic", topic, ""}]
	for p, at := range producers {
		if m.active(p, now) && !dead(at, now) {
			ids = append(ids, p.id)
		}
	}
	slices.Sort(ids)
	return ids, ok
}

// nodes returns for each producer to be shown the topics and tombstones.
func (m *model) nodes(now time.Time) map[string]string {
	list := map[string]string{}
	for p := range m.rows[row{"client", "", ""}] {
		if !m.active(p, now) {
			continue
		}
		var topics []string
		for r, producers := range m.rows {
			if at, ok := producers[p]; ok && r.category == "topic" {
				topics = append(topics, fmt.Sprint(r.key, dead(at, now)))
			}
		}
		slices.Sort(topics)
		list[p.id] = fmt.Sprint(topics)
	}
	return list
}

// debug returns the rows that have producers.
func (m *model) debug() map[string]map[string]bool {
	list := map[string]map[string]bool{}
	for r, producers := range m.rows {
		if len(producers) == 0 {
			continue
		}
		entries := map[string]bool{}
		for p, at := range producers {
			entries[p.id] = !at.IsZero()
		}
		list[r.category+":"+r.key+":"+r.subkey] = entries
	}
	return list
}

// world runs the registry and its model side by side.
type world struct {
	*testing.T
	r    *registry
	m    *model
	now  time.Time
	all  []*producer
	next int // number of the next producer
	did  []string
}

var (
	modelTopics   = []string{"a", "b", "c#ephemeral"}
	modelChannels = []string{"x", "y", "z#ephemeral"}
)

func newWorld(t *testing.T) *world {
	o := NewOptions()
	o.InactiveProducerTimeout, o.TombstoneLifetime = modelInactive, modelTombstone
	return &world{
		T: t, r: newRegistry(o), now: time.Unix(1_700_000_000, 0),
		m: &model{rows: map[row]map[*producer]time.Time{}, seen: map[*producer]time.Time{}},
	}
}

func (w *world) join() {
	n := w.next
	w.next++
	// Two connections of one node now and then.
	p := newProducer(peer{BroadcastAddress: fmt.Sprint("host", n%5), TCPPort: 1, HTTPPort: 7, Version: "v"}, fmt.Sprint("1.2.3.4:", n), w.now)
	w.all = append(w.all, p)
	w.r.add(p)
	w.m.add(p, row{"client", "", ""})
	w.m.seen[p] = w.now
}

// step does one random thing to both.
func (w *world) step(rnd *rand.Rand) {
	topic, ch := modelTopics[rnd.IntN(3)], modelChannels[rnd.IntN(3)]
	bare := rnd.IntN(3) == 0
	if len(w.all) == 0 {
		w.join()
	}
	i := rnd.IntN(len(w.all))
	p := w.all[i]
	note := func(format string, args ...any) { w.did = append(w.did, fmt.Sprintf(format, args...)) }
	switch n := rnd.IntN(100); {
	case n < 5 && len(w.all) < 6:
		note("join %d", w.next)
		w.join()
	case n < 8:
		note("%s leaves", p.id)
		w.r.remove(p)
		w.m.leave(p, func(row) bool { return true })
		w.all = slices.Delete(w.all, i, i+1)
	case n < 50:
		if bare {
			ch = ""
		}
		note("%s REGISTER %s %s", p.id, topic, ch)
		if _, err := w.r.register(p, topic, ch); err != nil {
			w.Fatal(err)
		}
		w.m.add(p, row{"topic", topic, ""})
		if ch != "" {
			w.m.add(p, row{"channel", topic, ch})
		}
	case n < 62 && bare:
		note("%s UNREGISTER %s", p.id, topic)
		w.r.unregisterTopic(p, topic)
		w.m.leave(p, func(r row) bool { return r.key == topic })
	case n < 62:
		note("%s UNREGISTER %s %s", p.id, topic, ch)
		w.r.unregisterChannel(p, topic, ch)
		w.m.leave(p, func(r row) bool { return r == row{"channel", topic, ch} })
	case n < 66:
		note("create %s", topic)
		_ = w.r.createTopic(topic) // there is room
		w.m.create(row{"topic", topic, ""})
	case n < 70:
		note("create %s %s", topic, ch)
		_ = w.r.createChannel(topic, ch) // there is room
		w.m.create(row{"topic", topic, ""})
		w.m.create(row{"channel", topic, ch})
	case n < 72:
		note("delete %s", topic)
		w.r.deleteTopic(topic)
		w.m.delete(func(r row) bool { return r.key == topic })
	case n < 75:
		note("delete %s %s", topic, ch)
		w.r.deleteChannel(topic, ch)
		w.m.delete(func(r row) bool { return r == row{"channel", topic, ch} })
	case n < 80:
		node := p.BroadcastAddress + ":7"
		note("tombstone %s %s", topic, node)
		w.r.tombstone(topic, node, w.now)
		for q := range w.m.rows[row{"topic", topic, ""}] {
			if q.BroadcastAddress == p.BroadcastAddress {
				w.m.rows[row{"topic", topic, ""}][q] = w.now
			}
		}
	case n < 90:
		note("%s PING", p.id)
		w.r.ping(p, w.now)
		w.m.seen[p] = w.now
	default:
		// Whole seconds, so that limits are met exactly.
		d := time.Duration(rnd.IntN(9)) * time.Second
		note("%s pass", d)
		w.now = w.now.Add(d)
	}
}

// ids takes the ids out of producers' JSON and checks that it is JSON.
func (w *world) ids(list [][]byte) (ids []string) {
	for _, b := range list {
		var p peer
		if err := json.Unmarshal(b, &p); err != nil {
			w.Fatalf("%s: %v", b, err)
		}
		ids = append(ids, p.RemoteAddress)
	}
	slices.Sort(ids)
	return ids
}

// compare holds everything the registry shows against the model.
func (w *world) compare() {
	w.Helper()
	same := func(what string, got, want any) {
		w.Helper()
		if !reflect.DeepEqual(got, want) {
			w.Fatalf("%s: got %v, want %v, after\n%s", what, got, want, strings.Join(w.did, "\n"))
		}
	}
	var topics []string
	for _, name := range modelTopics {
		v := w.r.lookup(name, w.now)
		ids, ok := w.m.lookup(name, w.now)
		same("there is "+name, v != nil, ok)
		if !ok {
			continue
		}
		topics = append(topics, name)
		same("producers of "+name, w.ids(v.visible), ids)
		same("channels of "+name, string(v.channels), string(appendNames(nil, w.m.find("channel", name))))
	}
	same("topics", string(w.r.topicNames()), string(appendNames(nil, topics)))

	nodes := map[string]string{}
	for _, b := range w.r.nodes(w.now) {
		var n struct {
			ID         string `json:"remote_address"`
			Tombstones []bool
			Topics     []string
		}
		if err := json.Unmarshal(b, &n); err != nil || len(n.Topics) != len(n.Tombstones) {
			w.Fatalf("%s: %v", b, err)
		}
		for i := range n.Topics {
			n.Topics[i] += fmt.Sprint(n.Tombstones[i])
		}
		nodes[n.ID] = fmt.Sprint(n.Topics)
	}
	same("nodes", nodes, w.m.nodes(w.now))

	debug := map[string]map[string]bool{}
	a := &api{s: &Server{registry: w.r}}
	for _, key := range w.r.debugKeys() {
		for _, e := range a.debugEntries(key) {
			if debug[key] == nil {
				debug[key] = map[string]bool{}
			}
			debug[key][e.ID] = e.Tombstoned
		}
	}
	same("debug", debug, w.m.debug())
	if err := w.r.check(); err != nil {
		w.Fatalf("%v, after\n%s", err, strings.Join(w.did, "\n"))
	}
}

// check returns what is wrong with the registry's own books, nil if nothing is.
func (r *registry) check() error {
	keys := 0
	for name, t := range r.topics {
		keys += 1 + len(t.channels)
		having := map[*channel]int{}
		for i, rec := range t.records {
			if rec.topic != t || rec.producer.records[t] != rec {
				return fmt.Errorf("topic %s: record %d is not its producer's", name, i)
			}
			for _, ch := range rec.channels {
				if t.channels[ch.name] != ch {
					return fmt.Errorf("topic %s: a record has the lost channel %s", name, ch.name)
				}
				having[ch]++
			}
		}
		for _, ch := range t.channels {
			if having[ch] != ch.producers {
				return fmt.Errorf("channel %s: %d producers, counted as %d", ch.name, having[ch], ch.producers)
			}
		}
	}
	if keys != r.keys {
		return fmt.Errorf("%d topics and channels, counted as %d", keys, r.keys)
	}
	for _, p := range r.producers {
		keys := 0
		for t, rec := range p.records {
			if r.topics[t.name] != t || rec.topic != t {
				return fmt.Errorf("producer %s has the lost topic %s", p.id, t.name)
			}
			keys += 1 + len(rec.channels)
		}
		if keys != p.keys {
			return fmt.Errorf("producer %s has %d registrations, counted as %d", p.id, keys, p.keys)
		}
	}
	return nil
}

// TestAgainstModel does random things to a registry and looks at all of it
// after each, so that a view that was not dropped shows.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(40) {
		w := newWorld(t)
		w.did = append(w.did, fmt.Sprint("seed ", seed))
		rnd := rand.New(rand.NewPCG(seed, 5))
		for range 120 {
			w.step(rnd)
			w.compare()
		}
	}
}

// TestViewsAreShared shows that nothing is built twice while nothing changes,
// and that a change builds no more than it must.
func TestViewsAreShared(t *testing.T) {
	w := newWorld(t)
	w.join()
	w.join()
	for _, p := range w.all {
		for _, topic := range []string{"a", "b"} {
			if _, err := w.r.register(p, topic, "x"); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, b := w.r.lookup("a", w.now), w.r.lookup("b", w.now)
	nodes := w.r.nodes(w.now)
	w.now = w.now.Add(modelInactive) // at the limit, not past it
	if w.r.lookup("a", w.now) != a {
		t.Error("the view of a is built again although nothing has changed")
	}
	if _, err := w.r.register(w.all[0], "a", "y"); err != nil {
		t.Fatal(err)
	}
	if w.r.lookup("a", w.now) == a {
		t.Error("the view of a does not see its new channel")
	}
	if w.r.lookup("b", w.now) != b {
		t.Error("the view of b is built again for a change of a")
	}
	w.r.unregisterTopic(w.all[0], "b")
	again := w.r.nodes(w.now)
	if &again[0][0] == &nodes[0][0] || &again[1][0] != &nodes[1][0] {
		t.Error("/nodes renders other nodes than the one that has changed")
	}
}

// TestPingAgainstReader shows that a producer is not lost which a reader has
// hidden between the moment a PING is given its time and the moment it counts.
func TestPingAgainstReader(t *testing.T) {
	w := newWorld(t)
	w.join()
	p := w.all[0]
	if _, err := w.r.register(p, "a", ""); err != nil {
		t.Fatal(err)
	}
	pinged := w.now.Add(modelInactive) // just in time
	if v := w.r.lookup("a", pinged.Add(1)); len(v.visible) != 0 {
		t.Error("the producer shows although it is silent for too long")
	}
	w.r.ping(p, pinged)
	for _, now := range []time.Time{pinged, pinged.Add(modelInactive)} {
		if v := w.r.lookup("a", now); len(v.visible) != 1 {
			t.Errorf("%s after its ping the producer is hidden", now.Sub(pinged))
		}
	}
	if v := w.r.lookup("a", pinged.Add(modelInactive+1)); len(v.visible) != 0 {
		t.Error("the producer shows although it is silent again")
	}
}

// TestLimits shows that neither one connection nor all together grow past the
// limits, and that what is there already may be registered again.
func TestLimits(t *testing.T) {
	o := NewOptions()
	o.ClientLimit, o.RegistrationLimit = 3, 5
	r := newRegistry(o)
	now := time.Unix(1_700_000_000, 0)
	p, q := newProducer(peer{}, "p", now), newProducer(peer{}, "q", now)
	r.add(p)
	r.add(q)
	f := func(p *producer, topic, channel string, want error) {
		t.Helper()
		if _, err := r.register(p, topic, channel); err != want {
			t.Errorf("%s registers %s %s: %v, want %v", p.id, topic, channel, err, want)
		}
		if err := r.check(); err != nil {
			t.Fatal(err)
		}
	}
	f(p, "a", "x", nil)
	f(p, "b", "x", errFull) // two more
	f(p, "b", "", nil)
	f(p, "a", "y", errFull)
	f(p, "a", "x", nil) // nothing new
	f(q, "a", "x", nil) // new to q only
	f(q, "a", "y", nil)
	if err := r.createChannel("d", "x"); err != errFull {
		t.Errorf("create channel: %v", err)
	}
	if err := r.createTopic("d"); err != nil {
		t.Errorf("create topic: %v", err)
	}
	if err := r.createTopic("e"); err != errFull {
		t.Errorf("create topic: %v", err)
	}
	if err := r.createChannel("a", "x"); err != nil {
		t.Errorf("create what there is: %v", err)
	}
	r.remove(q)
	f(p, "e", "", errFull)
	r.deleteTopic("a")
	f(p, "e", "", nil)
}

// TestConcurrent lets producers change and readers read at once, and then holds
// what was shared against what is so: a view that outlived a change would show.
// The race detector has its part in it.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	for range 4 {
		w.join()
	}
	var clock atomic.Int64 // seconds
	now := func() time.Time { return w.now.Add(time.Duration(clock.Load()) * time.Second) }
	done := make(chan struct{})
	var changing, reading sync.WaitGroup
	for i, p := range w.all {
		changing.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for range 2000 {
				topic, ch := modelTopics[rnd.IntN(3)], modelChannels[rnd.IntN(3)]
				switch rnd.IntN(6) {
				case 0:
					w.r.unregisterTopic(p, topic)
				case 1:
					w.r.unregisterChannel(p, topic, ch)
				case 2:
					clock.Add(int64(rnd.IntN(30)))
					w.r.ping(p, now())
				case 3:
					w.r.tombstone(topic, p.BroadcastAddress+":7", now())
				default:
					if _, err := w.r.register(p, topic, ch); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 2 {
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for _, topic := range modelTopics {
					w.r.lookup(topic, now())
				}
				w.r.nodes(now())
				w.r.topicNames()
				w.r.debugTopic("a", "x")
			}
		})
	}
	changing.Wait()
	close(done)
	reading.Wait()

	end := now()
	for name, topic := range w.r.topics {
		got, want := w.r.lookup(name, end), w.r.viewTopic(topic, end.UnixNano())
		if string(got.channels) != string(want.channels) || !reflect.DeepEqual(got.visible, want.visible) {
			t.Errorf("topic %s shows %s %q, should show %s %q", name, got.channels, got.visible, want.channels, want.visible)
		}
	}
	for _, got := range w.r.nodes(end) {
		var n peer
		if err := json.Unmarshal(got, &n); err != nil {
			t.Fatal(err)
		}
		for _, p := range w.r.producers {
			if p.id == n.RemoteAddress && string(got) != string(w.r.viewNode(p, end.UnixNano()).json) {
				t.Errorf("node %s shows %s", p.id, got)
			}
		}
	}
	if err := w.r.check(); err != nil {
		t.Fatal(err)
	}
}
