//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
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
	all := cells(10, 10)
	for _, c := range all {
		if got, err := pick(all, []string{c.name}); err != nil || len(got) == 0 {
			t.Errorf("pick(%q): %d cells, %v", c.name, len(got), err)
		}
	}
	if got, err := pick(all, []string{"11", "3"}); err != nil || len(got) != 4 || got[3].name != "3" {
		t.Errorf("pick(11, 3): %d cells, %v", len(got), err)
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
