package block

const (
	dropSlots = 64   // hints to entries, by chunk number
	dropsKept = 1024 // entries kept from one round to the next
)

type drop struct {
	chunk uint32
	n     int64
}

// Drops gathers the references that one goroutine gives up in a round, so that
// each chunk's shared counter is touched once and not for each message. The
// zero value is ready to use; it holds its references until Flush.
type Drops struct {
	last    drop // messages end in about the order in which they came: mostly the same chunk
	entries []drop
	hint    [dropSlots]uint32 // index of an entry; may be stale, so the entry is looked at
}

// Add notes that one reference to chunk is given up. The chunk stays valid until
// Flush.
func (d *Drops) Add(chunk uint32) {
	if d.last.chunk == chunk {
		d.last.n++
		return
	}
	d.turn(chunk)
}

// Flush gives up what Add has noted.
func (d *Drops) Flush(p *Pool) {
	if d.last.n == 0 {
		return
	}
	entries := d.entries
	last := d.last
	d.last, d.entries = drop{}, d.entries[:0]
	if cap(entries) > dropsKept {
		d.entries = nil
	}
	for _, e := range entries {
		p.Release(e.chunk, e.n)
	}
	p.Release(last.chunk, last.n)
}

// turn puts the last chunk among the entries and makes chunk the last one. Two
// chunks with the same hint can have several entries each; that is harmless. It is
// kept out of Add, so that Add can be inlined.
//
//go:noinline
func (d *Drops) turn(chunk uint32) {
	if d.last.n > 0 {
		hint := &d.hint[d.last.chunk%dropSlots]
		if i := int(*hint); i < len(d.entries) && d.entries[i].chunk == d.last.chunk {
			d.entries[i].n += d.last.n
		} else {
			*hint = uint32(len(d.entries))
			d.entries = append(d.entries, d.last)
		}
	}
	d.last = drop{chunk: chunk, n: 1}
}
