package block

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/zsqio/zsq/internal/invariant"

	"golang.org/x/sys/unix"
)

// ChunkSize is the number of bytes in an ordinary chunk.
const ChunkSize = 256 << 10

// MaxLen is the length in bytes of the longest message an Arena stores.
const MaxLen = 1 << 30

const (
	regionSize      = 2 << 20 // one huge page on amd64 and arm64
	chunksPerRegion = regionSize / ChunkSize
	spanSize        = 32 << 20 // address space asked of the system at a time

	// smallRegions regions come before the first huge page: a daemon with
	// little to keep should not be charged 2 MB for its first message.
	smallRegions = 4

	// keepFree bytes of free chunks stay mapped in, however little is in use;
	// keepBig is the same for free big chunks, of all sizes together.
	keepFree = 8 << 20
	keepBig  = 4 << 20

	pageBits = 10
	pageLen  = 1 << pageBits
	pages    = 2048 // times pageLen chunks of ChunkSize: 512 GB

	// openBias is what an open chunk's count carries for its arena, which
	// thereby needs no atomic to hand out a reference. It exceeds any number
	// of references that 256 KB can have (each takes a Ref of memory).
	openBias = 1 << 40

	mangled = 0xCC // fills freed chunks under invariant.Enabled
)

// Ref names one stored message. It is sixteen bytes without pointers, and owns
// nothing by itself: whoever passes one on says whether a reference goes along.
// The zero Ref names no message; its bytes are empty and it cannot be released.
type Ref struct {
	Chunk uint32 // the chunk's number in its pool, from 1
	Off   uint32 // where the message starts in the chunk, in bytes; a multiple of 8
	Len   uint32 // the message's length in bytes
	Aux   uint32 // the holder's own (attempts, flags); this package leaves it 0
}

// slot is what the pool knows of one chunk. It fills a cache line, so that a
// count that changes does not slow down the readers of a neighbour.
//
// A chunk is free (on a list), open (an arena fills it: count = openBias -
// what the arena has handed out + references) or closed (count = references).
type slot struct {
	mem   []byte       // the chunk; set before its number is known to anybody, then constant
	count atomic.Int64 // see above; whoever brings it to 0 frees the chunk
	live  atomic.Int64 // references, kept under invariant.Enabled only

	next, prev uint32 // neighbours on the free list; guarded by Pool.mu
	home       uint32 // ordinary chunk: index of its region; big chunk: its class
	big        bool   // has a mapping of its own

	mark atomic.Uint64 // of its first message; see Pool.SetMark
}

// Does not build when a slot outgrows its line. Sound: Sizeof looks at the type only.
const _ = uint(64 - unsafe.Sizeof(slot{}))

type page [pageLen]slot

// region is 2 MB from which chunks are carved, with consecutive numbers.
type region struct {
	mem   []byte
	first uint32 // number of its first chunk
	free  int    // its chunks on the free list
}

// A Pool owns the memory of all messages in a process.
//
// Free chunks are used again last in, first out, so that a busy pool stays in
// cache. When more than max(8 MB, half of what is in use) lies free, regions
// that are wholly free give their memory back, one for each chunk released.
// (Considered and left: giving back single chunks. That splits huge pages, and
// the kernel neither frees the pieces soon nor makes them whole again.) A region
// with one pinned chunk stays, so resident memory never exceeds the highest use
// there has been, but may exceed the present one.
//
// A message longer than a quarter of a chunk gets a chunk of its own, the next
// power of two long; of these at most 4 MB stay mapped in when free.
type Pool struct {
	dir    [pages]atomic.Pointer[page] // by number >> pageBits; entries are set once
	used   atomic.Int64                // bytes of chunks not free
	next   atomic.Uint32               // the first number not yet given; written under mu
	mark   atomic.Uint64
	budget int64

	mu      sync.Mutex
	head    uint32 // free list of ordinary chunks whose memory is mapped in
	free    int64  // bytes on that list
	regions []region
	whole   int      // regions whose chunks are all on that list
	cold    []uint32 // regions given back
	span    []byte   // address space not yet carved
	bigWarm [32][]uint32
	bigCold [32][]uint32
	bigFree int64 // bytes in bigWarm
	shed    bool  // what is wholly free is given back at once
}

// NewPool returns an empty pool. Budget will tell budgetBytes, the bytes of chunks
// that its users mean to stay within; 0 or less means no limit. A
// pool has no Close: it lives as long as the process.
func NewPool(budgetBytes int64) *Pool {
	p := &Pool{budget: max(budgetBytes, 0)}
	p.dir[0].Store(new(page))
	p.next.Store(1)
	return p
}

// Bytes returns the message that r names. The slice aliases the chunk: it is
// valid while the caller, or someone on its behalf, holds a reference, and a
// message that others can see must not be written.
func (p *Pool) Bytes(r Ref) []byte {
	s := p.slot(r.Chunk)
	if invariant.Enabled {
		invariant.Check(r.Len == 0 || s.live.Load() > 0, "block: reading chunk %d, which has no references", r.Chunk)
	}
	end := int(r.Off) + int(r.Len)
	return s.mem[r.Off:end:end]
}

// Retain adds n references to a chunk. The caller holds one already.
func (p *Pool) Retain(chunk uint32, n int64) {
	s := p.slot(chunk)
	if invariant.Enabled {
		live := s.live.Add(n)
		invariant.Check(n >= 0 && live > n, "block: retaining chunk %d by %d without a reference, live %d", chunk, n, live-n)
	}
	s.count.Add(n)
}

// Release gives up n references to a chunk. With the last one the chunk is free,
// and slices into it are no longer valid. Giving up more than there are panics
// where it can be seen; under invariant.Enabled that is always.
func (p *Pool) Release(chunk uint32, n int64) {
	s := p.slot(chunk)
	if invariant.Enabled {
		live := s.live.Add(-n)
		invariant.Check(n >= 0 && live >= 0, "block: releasing chunk %d by %d, live %d", chunk, n, live+n)
	}
	if n == 0 {
		return
	}
	p.settle(chunk, s, -n)
}

// Used returns the bytes of all chunks handed out, full or not.
func (p *Pool) Used() int64 { return p.used.Load() }

// Budget returns the limit given to NewPool in bytes, 0 for none. What to do when
// Used comes near it is the caller's policy.
func (p *Pool) Budget() int64 { return p.budget }

// SetMark sets what a chunk is marked with when it gets its first message from
// now on. Marks ascend; a chunk's tells that nothing in it is older.
func (p *Pool) SetMark(mark uint64) { p.mark.Store(mark) }

// MarkOf returns the mark of a chunk, to which the caller holds a reference.
func (p *Pool) MarkOf(chunk uint32) uint64 { return p.slot(chunk).mark.Load() }

// OldestMark returns a mark that is not above that of any message to which there
// is a reference, but for those of arenas without marks. It looks at every chunk.
func (p *Pool) OldestMark() uint64 {
	oldest := p.mark.Load() // first: what is opened meanwhile has this one or a later one
	for c := uint32(1); c < p.next.Load(); c++ {
		if s := p.slot(c); s.count.Load() != 0 {
			oldest = min(oldest, s.mark.Load())
		}
	}
	return oldest
}

// Live returns the number of references outstanding, so that a test can end with
// a look for leaks. It counts under invariant.Enabled only, and is 0 otherwise;
// while others use the pool it is approximate.
func (p *Pool) Live() int64 {
	var n int64
	for c := range p.next.Load() {
		n += p.slot(c).live.Load()
	}
	return n
}

func (p *Pool) slot(chunk uint32) *slot {
	return &p.dir[chunk>>pageBits].Load()[chunk%pageLen]
}

// settle adds delta to the count of a chunk, and frees the chunk if that makes
// it 0.
func (p *Pool) settle(chunk uint32, s *slot, delta int64) {
	switch count := s.count.Add(delta); {
	case count == 0:
		p.put(chunk, s)
	case count < 0:
		// Checked in every build: the chunk has been given to someone else, who
		// would send our bytes to a client.
		panic(fmt.Sprintf("BUG: block: count of chunk %d is %d", chunk, count))
	}
}

// Shed has memory that becomes free from now on given back to the system at once: for
// a process that stops, and copies what it has to where the system needs memory for it.
func (p *Pool) Shed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shed = true
}

// get returns an ordinary chunk that belongs to the caller. Its count is 0.
func (p *Pool) get(mark uint64) (uint32, *slot) {
	p.used.Add(ChunkSize)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head == 0 {
		p.addRegion()
	}
	chunk := p.head
	s := p.slot(chunk)
	p.unlink(chunk, s)
	s.mark.Store(mark)
	return chunk, s
}

// getBig returns a big chunk of at least n bytes that belongs to the caller.
func (p *Pool) getBig(n int, mark uint64) (uint32, *slot) {
	class := bits.Len(uint(n - 1))
	p.used.Add(1 << class)
	p.mu.Lock()
	defer p.mu.Unlock()
	list := &p.bigWarm[class]
	if len(*list) == 0 {
		list = &p.bigCold[class]
	} else {
		p.bigFree -= 1 << class
	}
	if n := len(*list); n > 0 {
		chunk := (*list)[n-1]
		*list = (*list)[:n-1]
		s := p.slot(chunk)
		s.mark.Store(mark)
		return chunk, s
	}
	chunk := p.number(1)
	s := p.slot(chunk)
	s.mem, s.home, s.big = reserve(1<<class), uint32(class), true
	s.mark.Store(mark)
	return chunk, s
}

// put takes back a chunk to which nobody refers.
func (p *Pool) put(chunk uint32, s *slot) {
	if invariant.Enabled {
		invariant.Check(s.live.Load() == 0, "block: freeing chunk %d, live %d", chunk, s.live.Load())
		mangle(s.mem)
	}
	used := p.used.Add(-int64(len(s.mem)))
	if s.big {
		p.putBig(chunk, s)
		return
	}
	p.mu.Lock()
	p.link(chunk, s)
	cool, mem := p.pickWhole(used)
	p.mu.Unlock()
	if mem == nil {
		return
	}
	// The region is on no list now, so that the system call needs no lock.
	giveBack(mem)
	p.mu.Lock()
	p.cold = append(p.cold, cool)
	p.mu.Unlock()
}

func (p *Pool) putBig(chunk uint32, s *slot) {
	size := int64(len(s.mem))
	p.mu.Lock()
	if p.bigFree+size <= keepBig {
		p.bigFree += size
		p.bigWarm[s.home] = append(p.bigWarm[s.home], chunk)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	giveBack(s.mem)
	p.mu.Lock()
	p.bigCold[s.home] = append(p.bigCold[s.home], chunk)
	p.mu.Unlock()
}

// pickWhole takes a wholly free region off the free list if too much lies there,
// and returns its index and memory, which is nil if it took none. It takes the
// youngest: the eldest are the ones without huge pages. REQUIRES: mu.
func (p *Pool) pickWhole(used int64) (uint32, []byte) {
	if p.whole == 0 || !p.shed && p.free <= max(keepFree, used/2) {
		return 0, nil
	}
	for i := len(p.regions) - 1; i >= 0; i-- {
		r := &p.regions[i]
		if r.free < chunksPerRegion {
			continue
		}
		for c := r.first; c < r.first+chunksPerRegion; c++ {
			p.unlink(c, p.slot(c))
		}
		return uint32(i), r.mem
	}
	panic(fmt.Sprintf("BUG: block: %d regions are wholly free, but none was found", p.whole))
}

// addRegion puts the chunks of a region onto the free list: of one that was
// given back if there is one, else of a new one. REQUIRES: mu.
func (p *Pool) addRegion() {
	var index uint32
	if n := len(p.cold); n > 0 {
		index = p.cold[n-1]
		p.cold = p.cold[:n-1]
	} else {
		index = uint32(len(p.regions))
		p.regions = append(p.regions, p.newRegion())
	}
	r := &p.regions[index]
	for c := r.first + chunksPerRegion - 1; c >= r.first; c-- {
		s := p.slot(c)
		s.home = index
		p.link(c, s)
	}
}

// newRegion carves a region and numbers its chunks. REQUIRES: mu.
func (p *Pool) newRegion() region {
	if len(p.span) < regionSize {
		b := reserve(spanSize + regionSize)
		// Sound: the address is only looked at, to start on a huge page's boundary.
		skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (regionSize - 1)
		p.span = b[skip : skip+spanSize]
	}
	r := region{mem: p.span[:regionSize:regionSize], first: p.number(chunksPerRegion)}
	p.span = p.span[regionSize:]
	if len(p.regions) >= smallRegions {
		// Refused where the kernel has no huge pages; then they are small.
		_ = unix.Madvise(r.mem, unix.MADV_HUGEPAGE)
	}
	for i := range uint32(chunksPerRegion) {
		at := i * ChunkSize
		p.slot(r.first + i).mem = r.mem[at : at+ChunkSize : at+ChunkSize]
	}
	return r
}

// number returns the first of n consecutive chunk numbers never used before.
// REQUIRES: mu.
func (p *Pool) number(n uint32) uint32 {
	first := p.next.Load()
	if first+n > pages*pageLen {
		panic(fmt.Sprintf("FATAL: block: more than %d chunks", pages*pageLen))
	}
	for i := first >> pageBits; i <= (first+n-1)>>pageBits; i++ {
		if p.dir[i].Load() == nil {
			p.dir[i].Store(new(page))
		}
	}
	p.next.Store(first + n)
	return first
}

// link puts a chunk in front of the free list. REQUIRES: mu.
func (p *Pool) link(chunk uint32, s *slot) {
	s.next, s.prev = p.head, 0
	if p.head != 0 {
		p.slot(p.head).prev = chunk
	}
	p.head = chunk
	p.free += ChunkSize
	r := &p.regions[s.home]
	if r.free++; r.free == chunksPerRegion {
		p.whole++
	}
}

// unlink takes a chunk off the free list. REQUIRES: mu.
func (p *Pool) unlink(chunk uint32, s *slot) {
	if s.prev != 0 {
		p.slot(s.prev).next = s.next
	} else {
		invariant.Check(p.head == chunk, "block: chunk %d is not on the free list", chunk)
		p.head = s.next
	}
	if s.next != 0 {
		p.slot(s.next).prev = s.prev
	}
	p.free -= ChunkSize
	r := &p.regions[s.home]
	if r.free == chunksPerRegion {
		p.whole--
	}
	r.free--
}

// reserve returns n bytes of zeros that take no memory until they are written.
func reserve(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		panic(fmt.Sprintf("FATAL: block: map %d bytes: %v", n, err))
	}
	return b
}

// giveBack returns the memory behind b to the system; b reads as zeros then.
func giveBack(b []byte) {
	// It is refused for locked memory (mlockall), which stays in use, as its
	// owner wished.
	_ = unix.Madvise(b, unix.MADV_DONTNEED)
}

// mangle makes late readers of b fail loudly.
func mangle(b []byte) {
	for i := range b {
		b[i] = mangled
	}
}
