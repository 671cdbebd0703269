package block_test

import (
	"testing"

	"github.com/zsqio/zsq/internal/block"
)

// Store and drop 200 B messages: with nothing queued (the chunk is rewound),
// and with a queue that holds some megabytes.
func BenchmarkAllocCopy(b *testing.B) {
	f := func(name string, depth int) {
		b.Run(name, func(b *testing.B) {
			p := block.NewPool(0)
			a := block.NewArena(p)
			var d block.Drops
			body := make([]byte, 200)
			queue := make([]block.Ref, depth)
			for i := range queue {
				queue[i], _ = a.Alloc(len(body))
			}
			b.SetBytes(int64(len(body)))
			i := 0
			for b.Loop() {
				at := &queue[i]
				d.Add(at.Chunk)
				var dst []byte
				*at, dst = a.Alloc(len(body))
				copy(dst, body)
				if i++; i == depth {
					i = 0
				}
				if i%64 == 0 {
					d.Flush(p)
				}
			}
		})
	}
	f("shallow", 64)
	f("deep", 100_000)
}

// Queue 200 B messages on memory fresh from the system; the cost is the kernel's page faults.
func BenchmarkFill(b *testing.B) {
	const n = 500_000
	body := make([]byte, 200)
	p := block.NewPool(0)
	a := block.NewArena(p)
	refs := make([]block.Ref, n)
	var d block.Drops
	for b.Loop() {
		for i := range refs {
			var dst []byte
			refs[i], dst = a.Alloc(len(body))
			copy(dst, body)
		}
		b.StopTimer()
		for _, ref := range refs {
			d.Add(ref.Chunk)
		}
		d.Flush(p) // gives back all but some megabytes
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/msg")
}

var sink byte

func BenchmarkBytes(b *testing.B) {
	p := block.NewPool(0)
	a := block.NewArena(p)
	refs := make([]block.Ref, 1024)
	for i := range refs {
		refs[i], _ = a.Alloc(200)
	}
	i := 0
	var sum byte
	for b.Loop() {
		sum += p.Bytes(refs[i&1023])[0]
		i++
	}
	sink = sum
}

func BenchmarkDropsAdd(b *testing.B) {
	f := func(name string, chunks, run int) {
		b.Run(name, func(b *testing.B) {
			p := block.NewPool(0)
			ids := make([]uint32, chunks)
			for i := range ids {
				a := block.NewArena(p)
				ref, _ := a.Alloc(8)
				a.Close()
				p.Retain(ref.Chunk, 1<<40)
				ids[i] = ref.Chunk
			}
			var seq [256]uint32
			for i := range seq {
				seq[i] = ids[i/run%chunks]
			}
			var d block.Drops
			i := 0
			for b.Loop() {
				d.Add(seq[i%len(seq)])
				if i++; i%len(seq) == 0 {
					d.Flush(p)
				}
			}
		})
	}
	f("same", 1, 1)
	f("runs", 8, 32)
	f("mixed", 8, 1)
}
