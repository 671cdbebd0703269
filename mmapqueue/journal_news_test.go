package mmapqueue_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zsqio/zsq/mmapqueue"
)

// newsJournal writes a journal with news of topics t and u, and messages.
func newsJournal(t *testing.T, dir string) {
	j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{SegmentBytes: 16 << 10})
	j.Start()
	q, dead, emptied := j.NewQueue("t", "c"), j.NewQueue("u", "d"), j.NewQueue("v", "e")
	submit := func(f func(b *mmapqueue.JournalBatch)) {
		b := j.Batch()
		f(b)
		j.Submit(b, nil)
	}
	news := func(n mmapqueue.News) { submit(func(b *mmapqueue.JournalBatch) { b.News(n) }) }
	publish := func(q *mmapqueue.JournalQueue, id uint64) {
		submit(func(b *mmapqueue.JournalBatch) {
			b.Use(q.Alone())
			b.Message(q.Alone(), id, 1, 0, 0, []byte("body"))
		})
	}
	news(mmapqueue.News{Kind: mmapqueue.Birth, Topic: "t", Value: 7})
	news(mmapqueue.News{Kind: mmapqueue.Birth, Topic: "t", Channel: "c"})
	news(mmapqueue.News{Kind: mmapqueue.Birth, Topic: "t", Channel: "gone"})
	news(mmapqueue.News{Kind: mmapqueue.Paused, Topic: "t", Channel: "c"})
	news(mmapqueue.News{Kind: mmapqueue.Durability, Topic: "t", Value: 2})
	publish(q, 1)
	news(mmapqueue.News{Kind: mmapqueue.Death, Topic: "t", Channel: "gone"})
	news(mmapqueue.News{Kind: mmapqueue.Birth, Topic: "u", Value: 8})
	publish(dead, 2)
	news(mmapqueue.News{Kind: mmapqueue.Death, Topic: "u"})
	publish(dead, 3) // on its way when the topic died
	publish(emptied, 4)
	publish(emptied, 5)
	submit(func(b *mmapqueue.JournalBatch) { b.EmptyQueue(emptied) })
	publish(emptied, 6)
	news(mmapqueue.News{Kind: mmapqueue.Paused, Topic: "v"}) // born long ago
	must(t, j.Close())
}

// newsOf spells what a journal tells.
func newsOf(r *mmapqueue.Recovered) (facts []string) {
	paused := func(p *bool) string {
		if p == nil {
			return "paused: not known"
		}
		return fmt.Sprintf("paused: %t", *p)
	}
	for name, n := range r.Topics {
		durability := ""
		if n.Durability != nil {
			durability = fmt.Sprintf(", durability %d", *n.Durability)
		}
		facts = append(facts, fmt.Sprintf("%s: whole %t, dead %t, value %d, %s%s", name, n.Whole, n.Dead, n.Value, paused(n.Paused), durability))
		for channel, c := range n.Channels {
			facts = append(facts, fmt.Sprintf("%s/%s: dead %t, %s", name, channel, c.Dead, paused(c.Paused)))
		}
	}
	for _, q := range r.Queues {
		for _, m := range q.Messages {
			facts = append(facts, fmt.Sprintf("%s/%s: message %d", q.Topic, q.Channel, m.ID))
		}
	}
	slices.Sort(facts)
	return facts
}

// What became of topics and channels is read back, and a death or an emptying takes
// the messages along. A damaged byte costs what its record told of one topic.
func TestJournalNews(t *testing.T) {
	dir := t.TempDir()
	newsJournal(t, dir)
	_, r := mustJournal(t, dir, mmapqueue.JournalOptions{})
	want := []string{
		"t/c: dead false, paused: true",
		"t/c: message 1",
		"t/gone: dead true, paused: not known",
		"t: whole true, dead false, value 7, paused: false, durability 2",
		"u: whole true, dead true, value 8, paused: not known",
		"v/e: message 6",
		"v: whole false, dead false, value 0, paused: true",
	}
	want[4] = strings.Replace(want[4], "value 8", "value 0", 1) // a death has none
	if got := newsOf(r); !slices.Equal(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	files, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	image, err := os.ReadFile(files[0])
	must(t, err)
	var shown strings.Builder
	must(t, mmapqueue.Dump(&shown, files[0], mmapqueue.DumpOptions{BodyMax: 10}))
	for _, line := range []string{`topic "t", channel "c", paused`, `topic "u" died`, "9 × news", "1 × empty", "6 × message"} {
		if !strings.Contains(shown.String(), line) {
			t.Errorf("the dump lacks %q:\n%s", line, shown.String())
		}
	}
	harmed := 0
	for at := 4096; at < 8192; at += 5 {
		if image[at] == 0 {
			continue // space, or all of it would be tried
		}
		broken := t.TempDir()
		bad := slices.Clone(image)
		bad[at] ^= 1 << (at % 8)
		must(t, os.WriteFile(filepath.Join(broken, filepath.Base(files[0])), bad, 0o600))
		_, r := mustJournal(t, broken, mmapqueue.JournalOptions{})
		topics := map[string]bool{}
		for _, facts := range [][2][]string{{newsOf(r), want}, {want, newsOf(r)}} {
			for _, fact := range facts[0] {
				if !slices.Contains(facts[1], fact) {
					topics[fact[:1]] = true
				}
			}
		}
		if len(topics) > 1 {
			t.Errorf("a bit of byte %d changes what is known of topics %v: %s", at, topics, newsOf(r))
		}
		harmed += len(topics)
	}
	if harmed == 0 {
		t.Error("no damage changed anything")
	}
}

// What a queue was called when a message was submitted is what the journal says of it,
// however late that is written: a channel's death does not take along what a later
// channel of that name has inherited.
func TestJournalNamesInOrder(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustJournal(t, dir, mmapqueue.JournalOptions{})
	held := j.NewQueue("t", "")
	submit := func(f func(b *mmapqueue.JournalBatch)) {
		b := j.Batch()
		f(b)
		j.Submit(b, nil)
	}
	news := func(kind mmapqueue.NewsKind) {
		submit(func(b *mmapqueue.JournalBatch) { b.News(mmapqueue.News{Kind: kind, Topic: "t", Channel: "c"}) })
	}
	submit(func(b *mmapqueue.JournalBatch) {
		b.Use(held.Alone())
		b.Message(held.Alone(), 1, 1, 0, 0, []byte("body"))
	})
	news(mmapqueue.Birth)
	news(mmapqueue.Death)
	submit(func(b *mmapqueue.JournalBatch) {
		b.Rename(held, "c")
		b.Define(held.Alone())
	})
	news(mmapqueue.Birth)
	j.Start() // the writer comes to it only now
	must(t, j.Close())
	j, found := mustJournal(t, dir, mmapqueue.JournalOptions{})
	if len(found.Queues) != 1 || found.Queues[0].Channel != "c" || len(found.Queues[0].Messages) != 1 {
		t.Fatalf("found %+v, want one message of channel c", found.Queues)
	}
	must(t, j.Close())
}
