package block

import "io/fs"

const (
	KeepFree   = keepFree
	KeepBig    = keepBig
	RegionSize = regionSize
	MaxShared  = maxShared
	Mangled    = mangled
)

// DefaultBudgetOf is DefaultBudget on the file tree given.
func DefaultBudgetOf(root fs.FS) int64 { return defaultBudget(root) }

// Free returns the bytes of free memory that the pool keeps, and how much it has
// given back.
func (p *Pool) Free() (kept, back int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for class, list := range p.bigCold {
		back += int64(len(list)) << class
	}
	return p.free + p.bigFree, back + int64(len(p.cold))*regionSize
}

// Check verifies what the pool's lists promise each other.
func (p *Pool) Check(fail func(format string, args ...any)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var prev uint32
	free := make(map[uint32]int)
	n := int64(0)
	for c := p.head; c != 0; c = p.slot(c).next {
		s := p.slot(c)
		if s.prev != prev {
			fail("chunk %d: prev %d, want %d", c, s.prev, prev)
		}
		if s.count.Load() != 0 {
			fail("chunk %d is free with count %d", c, s.count.Load())
		}
		free[s.home]++
		n += ChunkSize
		prev = c
	}
	if n != p.free {
		fail("free list holds %d bytes, counted %d", n, p.free)
	}
	whole := 0
	mapped := int64(0)
	for i, r := range p.regions {
		if r.free != free[uint32(i)] {
			fail("region %d: %d chunks on the free list, counted %d", i, free[uint32(i)], r.free)
		}
		if r.free == chunksPerRegion {
			whole++
		}
		mapped += regionSize
	}
	if whole != p.whole {
		fail("%d regions are whole, counted %d", whole, p.whole)
	}
	for c := range p.next.Load() {
		if s := p.slot(c); s.big {
			mapped += int64(len(s.mem))
		}
	}
	back := int64(len(p.cold)) * regionSize
	for class, list := range p.bigCold {
		back += int64(len(list)) << class
	}
	if got := p.used.Load() + p.free + p.bigFree + back; got != mapped {
		fail("used %d + free %d + big %d + given back %d = %d, mapped %d", p.used.Load(), p.free, p.bigFree, back, got, mapped)
	}
}
