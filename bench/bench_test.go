//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// A quantile is the smallest value that a share of q does not exceed.
func TestQuantile(t *testing.T) {
	f := func(v []int64, q float64, want int64) {
		t.Helper()
		if got := quantile(v, q); got != want {
			t.Errorf("quantile(%d values, %g) = %d, want %d", len(v), q, got, want)
		}
	}
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(i + 1)
	}
	f(hundred, 0.5, 50)
	f(hundred, 0.99, 99)
	f(hundred, 0.999, 100)
	f(hundred, 0, 1)
	f(hundred, 1, 100)
	f([]int64{7}, 0.99, 7)
}

func TestMedian(t *testing.T) {
	f := func(want float64, v ...float64) {
		t.Helper()
		before := slices.Clone(v)
		if got := median(v); got != want {
			t.Errorf("median(%v) = %g, want %g", v, got, want)
		}
		if !slices.Equal(v, before) {
			t.Errorf("median changed its argument from %v to %v", before, v)
		}
	}
	f(3, 3)
	f(2, 3, 1, 2)
	f(2.5, 4, 1, 2, 3)
	if !math.IsNaN(median(nil)) {
		t.Error("median of nothing is a number")
	}
}

// Ratios are taken within a repetition, and one that failed on either side is
// left out.
func TestPairedRatios(t *testing.T) {
	r := result{Sides: map[string][]figure{
		zsq:      {{BrokerCPU: 1}, {BrokerCPU: 2}, {BrokerCPU: 1, Error: "lost one"}},
		upstream: {{BrokerCPU: 10}, {BrokerCPU: 40}, {BrokerCPU: 9}},
	}}
	got := r.values(cpuRatio)
	if want := []float64{10, 20}; !slices.Equal(got, want) {
		t.Errorf("ratios %v, want %v", got, want)
	}
}

// What a variant adds is taken within a repetition too.
func TestAdded(t *testing.T) {
	r := result{cell: cell{variants: modes()}, Sides: map[string][]figure{
		"memory":  {{BrokerCPU: 1, P99: 2}, {BrokerCPU: 2}, {BrokerCPU: 1}},
		"process": {{BrokerCPU: 1.5, P99: 3}, {BrokerCPU: 1.75}, {BrokerCPU: 9, Error: "lost one"}},
	}}
	if got, want := r.values(cpuAdded), []float64{0.5, -0.25}; !slices.Equal(got, want) {
		t.Errorf("added %v, want %v", got, want)
	}
	if got, want := r.values(p99Times), []float64{1.5}; !slices.Equal(got, want) {
		t.Errorf("times %v, want %v", got, want)
	}
	r.cell.variants = nil
	if got := r.values(cpuAdded); len(got) > 0 {
		t.Errorf("without variants %v was added", got)
	}
}

// A topic beside a flood is compared with itself before, and variants of one row with
// each other, by throughput too.
func TestGrown(t *testing.T) {
	r := result{Sides: map[string][]figure{zsq: {{Before: 2, P99: 3}, {Before: 1, P99: 9, Error: "lost one"}}}}
	if got, want := r.values(p99Grown), []float64{1.5}; !slices.Equal(got, want) {
		t.Errorf("grown %v, want %v", got, want)
	}
	r = result{cell: cell{variants: []variant{{name: "1"}, {name: "100"}}}, Sides: map[string][]figure{
		"1": {{Rate: 10}, {Rate: 20}}, "100": {{Rate: 7}, {Rate: 5}},
	}}
	if got, want := r.values(rateTimes), []float64{0.7, 0.25}; !slices.Equal(got, want) {
		t.Errorf("times %v, want %v", got, want)
	}
}

// A row of our own variants runs all of them, unless another side alone is asked for.
func TestSidesOf(t *testing.T) {
	f := func(only string, c cell, want ...string) {
		t.Helper()
		s := session{options: options{only: only}, sides: []string{zsq, upstream}}
		if only != "" {
			s.sides = []string{only}
		}
		if got := s.sidesOf(c); !slices.Equal(got, want) {
			t.Errorf("-only=%s: %v, want %v", only, got, want)
		}
	}
	f("", cell{}, zsq, upstream)
	f(upstream, cell{}, upstream)
	f("", cell{variants: modes()}, "memory", "process")
	f(zsq, cell{variants: modes()}, "memory", "process")
	f(upstream, cell{variants: alone()})
}

func TestAnonymous(t *testing.T) {
	const rollup = "55d0c000-7ffd000 ---p 00000000 00:00 0   [rollup]\n" +
		"Rss:               12345 kB\nAnonymous:          2048 kB\nAnonHugePages:         4 kB\n"
	if got, err := anonymousIn([]byte(rollup)); got != 2<<20 || err != nil {
		t.Errorf("anonymous memory %d, %v; want %d", got, err, 2<<20)
	}
	if got, err := anonymousIn([]byte("Rss: 1 kB\n")); err == nil {
		t.Errorf("without its line: %d", got)
	}
}

// A producer's frames are all of one size, however many topics there are.
func TestTopicNames(t *testing.T) {
	f := func(topics int, first, last string) {
		t.Helper()
		l := load{topics: topics}
		if a, b := l.topic(0), l.topic(topics-1); a != first || b != last {
			t.Errorf("%d topics: %s to %s, want %s to %s", topics, a, b, first, last)
		}
	}
	f(1, "bench_000", "bench_000")
	f(1000, "bench_000", "bench_999")
	f(10000, "bench_0000", "bench_9999")
}

func TestJudge(t *testing.T) {
	f := func(a aim, v float64, want string) {
		t.Helper()
		if got := a.judge(v); got != want {
			t.Errorf("%+v at %g: %s, want %s", a, v, got, want)
		}
	}
	f(least(cpuRatio, 15, 30), 30, "goal")
	f(least(cpuRatio, 15, 30), 15, "floor")
	f(least(cpuRatio, 15, 30), 14.9, "MISS")
	f(least(rateHere, 0, 5e6), 1, "below goal")
	f(most(p99, 1, 0.5), 0.5, "goal")
	f(most(p99, 1, 0.5), 0.6, "floor")
	f(most(p99, 1, 0.5), 1.1, "MISS")
}

// Every row of the list can be named, alone or with its siblings.
func TestPick(t *testing.T) {
	all := cells(sizes{idleConns: 10, backlog: 10, queued: 10, topics: 10})
	for _, c := range all {
		if got, err := pick(all, []string{c.name}); err != nil || len(got) == 0 {
			t.Errorf("pick(%q): %d cells, %v", c.name, len(got), err)
		}
	}
	if got, err := pick(all, []string{"11", "3"}); err != nil || len(got) != 4 || got[3].name != "3" {
		t.Errorf("pick(11, 3): %d cells, %v", len(got), err)
	}
	if got, err := pick(all, nil); err != nil || len(got) != len(all)-3 {
		t.Errorf("without names: %d cells of %d, %v", len(got), len(all), err)
	}
	if _, err := pick(all, []string{"99"}); err == nil {
		t.Error("row 99 was found")
	}
}

// messageFrame is what a broker sends for one of our messages.
func messageFrame(seq uint64, attempts uint16, body int) []byte {
	b := make([]byte, bodyAt+body)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	binary.BigEndian.PutUint32(b[4:], typeMessage)
	binary.BigEndian.PutUint16(b[attemptsAt:], attempts)
	copy(b[idAt:], "0123456789abcdef")
	binary.LittleEndian.PutUint64(b[bodyAt:], seq)
	return b
}

func responseFrame(text string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(text)))
	return append(append(b, 0, 0, 0, typeResponse), text...)
}

func testGenerator(published uint64) *generator {
	l := load{requeue: true}.withDefaults()
	return &generator{load: l, next: published, seen: [][]uint64{make([]uint64, 2)}}
}

// Cut anywhere in two, a stream gives the same answers.
func TestConsumerAtAnySplit(t *testing.T) {
	stream := slices.Concat(messageFrame(0, 2, 200), responseFrame(heartbeat), messageFrame(1, 1, 200), messageFrame(1, 2, 200))
	const id = "0123456789abcdef"
	const want = "FIN " + id + "\n" + nop + "REQ " + id + " 0\n" + "FIN " + id + "\n"
	for cut := range len(stream) + 1 {
		g := testGenerator(2)
		s := &consumer{conn: &conn{g: g}}
		rest, err := s.frames(stream[:cut:cut])
		if err != nil {
			t.Fatal(err)
		}
		rest, err = s.frames(append(bytes.Clone(rest), stream[cut:]...))
		if err != nil || len(rest) > 0 {
			t.Fatalf("cut at %d: %d bytes left, %v", cut, len(rest), err)
		}
		if string(s.out) != want {
			t.Fatalf("cut at %d: answered %q, want %q", cut, s.out, want)
		}
		if err := g.verify(); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

// A message that is lost, doubled, invented or of another size is noticed.
func TestVerifyNotices(t *testing.T) {
	f := func(published uint64, stream []byte, want string) {
		t.Helper()
		g := testGenerator(published)
		s := &consumer{conn: &conn{g: g}}
		_, err := s.frames(stream)
		if err == nil {
			err = g.verify()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	one := messageFrame(0, 2, 200)
	f(2, one, "1 of 2 messages came")
	f(1, slices.Concat(one, one), "came twice")
	f(1, messageFrame(1, 2, 200), "never published")
	f(1, messageFrame(0, 2, 100), "a body of 100 bytes")
	f(1, responseFrame("E_FIN_FAILED"), "E_FIN_FAILED")
	f(1, make([]byte, 64), "out of step")
}

// Answers are counted whatever comes between them and however they are cut.
func TestProducerAnswers(t *testing.T) {
	stream := slices.Concat([]byte(okFrame), responseFrame(heartbeat), []byte(okFrame), []byte(okFrame))
	for cut := range len(stream) + 1 {
		g := testGenerator(3)
		p := &producer{conn: &conn{g: g}, appended: 3, in: make([]byte, 128)}
		if err := p.answers(stream[:cut]); err != nil {
			t.Fatal(err)
		}
		n := copy(p.in[p.carry:], stream[cut:])
		if err := p.answers(p.in[:p.carry+n]); err != nil {
			t.Fatal(err)
		}
		if p.answered != 3 || g.answered != 3 || !p.heartbeat {
			t.Fatalf("cut at %d: %d answers, heartbeat %t", cut, p.answered, p.heartbeat)
		}
	}
}

// One answer in okEvery is timed, from when its own frame was published.
func TestTimedAnswers(t *testing.T) {
	g := testGenerator(0)
	g.base, g.keep = time.Now(), true
	p := &producer{conn: &conn{g: g}, slots: 10, appended: 17, sent: make([]int64, 10), in: make([]byte, 256)}
	const hourNs = int64(time.Hour)
	p.sent[8], p.sent[16%10] = -hourNs, -2*hourNs
	for range 17 {
		if err := p.answers([]byte(okFrame)); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.latencies) != 3 { // frames 0, 8 and 16
		t.Fatalf("%d latencies, want 3", len(g.latencies))
	}
	for i, ns := range g.latencies {
		if hours := int64(i) * hourNs; ns < hours || ns > hours+int64(time.Minute) {
			t.Errorf("answer %d took %d ns, want %d and a little", i*okEvery, ns, hours)
		}
	}
}

// Numbers land at the front of each body, and nowhere else.
func TestPubFrame(t *testing.T) {
	f := func(batch int) {
		t.Helper()
		p := newPubFrame("bench_000", 32, batch, 0)
		for i := range batch {
			body := p.bytes[p.first+i*p.stride:][:32]
			if size := binary.BigEndian.Uint32(p.bytes[p.first+i*p.stride-4:]); size != 32 {
				t.Errorf("batch %d: body %d has size %d", batch, i, size)
			}
			if string(body[:3]) != "abc" {
				t.Errorf("batch %d: body %d begins with %q", batch, i, body[:3])
			}
		}
		if end := p.first + (batch-1)*p.stride + 32; end != len(p.bytes) {
			t.Errorf("batch %d: the last body ends at %d of %d", batch, end, len(p.bytes))
		}
	}
	f(1)
	f(100)
}
