package ring_test

import (
	"slices"
	"testing"

	"github.com/zsqio/zsq/ring"
)

// The steps of a push and a pop: view, claim, publish or read. The tests below
// put two or three actors' steps in an order of their choice, on one goroutine.

// A publishes after B, who claimed later: the consumer waits for neither, and
// then gets both in the order of their claims.
func TestLatePublisherHidesFollowers(t *testing.T) {
	r, _ := newRing[int](10, 4)
	a := r.ViewTail(1)
	claimTail(t, r, a)
	b := r.ViewTail(2)
	claimTail(t, r, b)
	b.Publish([]int{2, 3})
	dst := make([]int, 10)
	if n := r.TryPop(dst); n != 0 || r.Len() != 3 {
		t.Fatalf("popped %v, Len %d; want none of 3", dst[:n], r.Len())
	}
	a.Publish([]int{1})
	if n := r.TryPop(dst); !slices.Equal(dst[:n], []int{1, 2, 3}) {
		t.Fatalf("popped %v", dst[:n])
	}
}

// A and B see the last free slot; one of them gets it.
func TestTwoProducersForTheLastSlot(t *testing.T) {
	r, _ := newRing[int](3, 4)
	r.TryPush([]int{1, 2})
	a, b := r.ViewTail(5), r.ViewTail(5)
	if a.Len() != 1 || b.Len() != 1 {
		t.Fatalf("views of %d and %d slots, want 1", a.Len(), b.Len())
	}
	claimTail(t, r, b)
	if r.ClaimTail(a) {
		t.Fatal("both claimed the last slot")
	}
	if n := r.ViewTail(1).Len(); n != 0 {
		t.Fatalf("%d slots in view of a full ring", n)
	}
}

// A and B see the same value; one of them gets it.
func TestTwoConsumersForTheLastValue(t *testing.T) {
	r, _ := newRing[int](3, 4)
	r.TryPush([]int{1})
	a, b := r.ViewHead(5), r.ViewHead(5)
	claimHead(t, r, a)
	if r.ClaimHead(b) {
		t.Fatal("both claimed the value")
	}
}

// A consumer that has claimed and not read keeps its block from being recycled,
// however far the others go on.
func TestBlockOutlivesItsSlowestReader(t *testing.T) {
	r, pool := newRing[int](1000, 8)
	src := make([]int, 200)
	for i := range src {
		src[i] = i
	}
	r.TryPush(src[:10])
	slow := r.ViewHead(5)
	claimHead(t, r, slow)
	r.TryPush(src[10:])
	dst := make([]int, 1000)
	if n := r.TryPop(dst); !slices.Equal(dst[:n], src[5:]) {
		t.Fatalf("popped %v", dst[:n])
	}
	if r.TryPush(src[:120]); r.Blocks() != 2 || pool.Free() != 1 {
		t.Fatalf("%d blocks linked and %d free, want 2 and 1", r.Blocks(), pool.Free())
	}
	r.Read(slow, dst[:5])
	if !slices.Equal(dst[:5], src[:5]) || pool.Free() != 2 {
		t.Fatalf("slow reader got %v, %d blocks free", dst[:5], pool.Free())
	}
}

// Trim while a consumer has claimed and not read: the ring lets go of the block
// at once, the pool gets it when the reader is done.
func TestTrimUnderAReader(t *testing.T) {
	r, pool := newRing[int](1000, 8)
	r.TryPush([]int{1, 2, 3})
	slow := r.ViewHead(3)
	claimHead(t, r, slow)
	if !r.Trim() || r.Blocks() != 0 || pool.Free() != 0 {
		t.Fatalf("%d blocks linked and %d free, want none", r.Blocks(), pool.Free())
	}
	r.TryPush([]int{4})
	dst := make([]int, 3)
	r.Read(slow, dst)
	if !slices.Equal(dst, []int{1, 2, 3}) || pool.Free() != 1 {
		t.Fatalf("got %v, %d blocks free", dst, pool.Free())
	}
}

// A producer's view from before a Trim cannot claim, although the tail has come
// to rest where it was and the block serves another ring.
func TestTrimOutdatesAProducersView(t *testing.T) {
	r, pool := newRing[int](1000, 8)
	r.TryPush([]int{1})
	r.TryPop(make([]int, 1))
	old := r.ViewTail(1)
	if !r.Trim() {
		t.Fatal("Trim of a drained ring answers false")
	}
	var other ring.Ring[int]
	other.Init(1000, pool)
	other.TryPush([]int{7})
	if r.ClaimTail(old) {
		t.Fatal("claimed in a block that the ring has given back")
	}
	r.TryPush([]int{2})
	if r.ClaimTail(old) {
		t.Fatal("claimed in a block that the ring has left")
	}
}

// A consumer loads head and its block; the ring is trimmed, and the block gets a
// value at that very offset on behalf of another ring. The consumer, who sees it
// ready, must not claim it.
func TestTrimOutdatesAConsumersView(t *testing.T) {
	r, pool := newRing[int](1000, 8)
	r.TryPush([]int{1})
	r.TryPop(make([]int, 1))
	old := r.HalfViewHead()
	if !r.Trim() {
		t.Fatal("Trim of a drained ring answers false")
	}
	var other ring.Ring[int]
	other.Init(1000, pool)
	other.TryPush([]int{7, 8})
	if r.ClaimHead(old) {
		t.Fatal("claimed another ring's value")
	}
}

// The ABA case: a consumer's view is of a value that another has popped since;
// the block has been recycled, linked again by the same ring, and has a value
// ready at the same offset.
func TestRecycledBlockOutdatesAConsumersView(t *testing.T) {
	r, pool := newRing[int](1000, 1)
	r.TryPush([]int{1})
	old := r.ViewHead(1)
	dst := make([]int, 100)
	for round := range 3 {
		r.TryPop(dst[:1])
		if round == 1 {
			r.TryPush(make([]int, 63)) // leave the block by its end this time
			r.TryPop(dst[:63])
		}
		if !r.Trim() || pool.Free() != 1 {
			t.Fatal("the block has not been recycled")
		}
		r.TryPush([]int{2})
		if r.ClaimHead(old) {
			t.Fatalf("round %d: claimed a value of another time", round)
		}
	}
}

// Every order of the steps of several actors, from places where a block or the
// positions end, must keep each producer's order, lose and invent nothing, stay
// within the limit and give every block back.
func TestAllInterleavings(t *testing.T) {
	produce := func(batches ...[]int) newActor {
		return func(w *world) func() bool { return w.producer(batches) }
	}
	consume := func(wants ...int) newActor {
		return func(w *world) func() bool { return w.consumer(wants) }
	}
	trim := func(w *world) func() bool {
		return func() bool { w.r.Trim(); return false }
	}
	f := func(limit, used int, actors ...newActor) {
		t.Helper()
		const most = 200_000
		var schedule []int
		for n := range most {
			next, complaint := play(limit, used, actors, schedule)
			if complaint != "" {
				t.Fatalf("limit %d after %d values, order of steps %v: %s", limit, used, schedule, complaint)
			}
			if next == nil {
				t.Logf("limit %d after %d values: %d orders", limit, used, n+1)
				return
			}
			schedule = next
		}
		t.Fatalf("more than %d orders", most)
	}
	one, two := []int{1}, []int{101}
	for _, used := range []int{0, 1, 62, 63, 64} {
		f(10, used, produce(one, []int{2, 3}), consume(1, 3))
		f(2, used, produce(one, []int{2, 3}), consume(2, 2))
		f(10, used, produce(one), produce(two), consume(2))
		f(1, used, produce(one), produce(two), consume(1))
		f(10, used, produce([]int{1, 2}), consume(1), consume(2))
		f(10, used, produce([]int{1, 2}), consume(2), trim, trim)
		f(10, used, produce(one), produce(two), trim)
		f(3, used, produce([]int{1, 2}, []int{3}), consume(2, 2), trim)
	}
}

// stock is the number of blocks that exist in each run.
const stock = 6

// world is one run of a set of actors.
type world struct {
	r      *ring.Ring[int]
	pushed [][]int // by producer, as far as claimed
	popped []*pop  // by order of claims
}

// pop is one claim at the head; read fills it.
type pop struct{ got []int }

// newActor returns a function that makes the actor's next step and reports
// whether it has more.
type newActor func(w *world) func() bool

func (w *world) producer(batches [][]int) func() bool {
	id := len(w.pushed)
	w.pushed = append(w.pushed, nil)
	var view ring.Span[int]
	step := 0
	return func() bool {
		switch step {
		case 0:
			if view = w.r.ViewTail(len(batches[0])); view.Len() == 0 {
				return false // full: give up
			}
			step = 1
		case 1:
			step = 0 // look again, unless
			if w.r.ClaimTail(view) {
				w.pushed[id] = append(w.pushed[id], batches[0][:view.Len()]...)
				step = 2
			}
		case 2:
			view.Publish(batches[0][:view.Len()])
			batches = append([][]int{batches[0][view.Len():]}, batches[1:]...)
			if len(batches[0]) == 0 {
				batches = batches[1:]
			}
			step = 0
		}
		return len(batches) > 0
	}
}

func (w *world) consumer(wants []int) func() bool {
	var view ring.Span[int]
	var mine *pop
	step := 0
	return func() bool {
		switch step {
		case 0:
			if view = w.r.ViewHead(wants[0]); view.Len() == 0 {
				wants = wants[1:]
				return len(wants) > 0
			}
			step = 1
		case 1:
			step = 0
			if w.r.ClaimHead(view) {
				mine = &pop{make([]int, view.Len())}
				w.popped = append(w.popped, mine)
				step = 2
			}
		case 2:
			w.r.Read(view, mine.got)
			wants = wants[1:]
			step = 0
		}
		return len(wants) > 0
	}
}

// play runs the actors in the given order of steps and then, when it is used
// up, always the first that has more to do. It returns the next order to try,
// nil after the last, or what went wrong.
func play(limit, used int, actors []newActor, schedule []int) (next []int, complaint string) {
	r, pool := newRing[int](limit, stock)
	pool.Stock()
	r.StartAt(ring.WrapNumber)
	for range used {
		r.TryPush([]int{-1})
		r.TryPop(make([]int, 1))
	}
	w := &world{r: r}
	running := make([]func() bool, 0, len(actors))
	for _, a := range actors {
		running = append(running, a(w))
	}
	var chosen, options []int
	for len(running) > 0 {
		i := 0
		if len(chosen) < len(schedule) {
			i = schedule[len(chosen)]
		}
		chosen, options = append(chosen, i), append(options, len(running))
		if !running[i]() {
			running = slices.Delete(running, i, i+1)
		}
		if n := r.Claimed(); n < 0 || n > limit {
			return nil, "outside the limit"
		}
	}
	if complaint := w.judge(pool); complaint != "" {
		return nil, complaint
	}
	for i := len(chosen) - 1; i >= 0; i-- {
		if chosen[i]+1 < options[i] {
			return append(chosen[:i:i], chosen[i]+1), ""
		}
	}
	return nil, ""
}

// judge drains the ring and says what is wrong with the run.
func (w *world) judge(pool *ring.Pool[int]) string {
	var got []int
	for _, p := range w.popped {
		got = append(got, p.got...)
	}
	rest := make([]int, 100)
	got = append(got, rest[:w.r.TryPop(rest)]...)
	total := 0
	for _, want := range w.pushed {
		total += len(want)
		var of []int
		for _, v := range got {
			if slices.Contains(want, v) {
				of = append(of, v)
			}
		}
		if !slices.Equal(of, want) {
			return "a producer's values arrived in another order or number"
		}
	}
	if len(got) != total {
		return "values were invented"
	}
	if !w.r.Trim() || w.r.Len() != 0 || w.r.Blocks() != 0 {
		return "the drained ring holds on to a block"
	}
	if pool.Free() != stock {
		return "a block was lost"
	}
	return ""
}

func claimTail(t *testing.T, r *ring.Ring[int], s ring.Span[int]) {
	t.Helper()
	if s.Len() == 0 || !r.ClaimTail(s) {
		t.Fatalf("cannot claim %d slots at the tail", s.Len())
	}
}

func claimHead(t *testing.T, r *ring.Ring[int], s ring.Span[int]) {
	t.Helper()
	if s.Len() == 0 || !r.ClaimHead(s) {
		t.Fatalf("cannot claim %d values at the head", s.Len())
	}
}
