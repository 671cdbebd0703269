package broker

// table maps the ids of one subscriber's messages in flight to slab entries:
// open addressing, linear probing, deletion by shifting back. The zero value is
// an empty table that holds no memory; an idle subscriber costs nothing.
//
// An id is never 0: its top bit is set.
type table struct {
	keys  []uint64
	vals  []uint32
	count int
	shift uint8
}

const tableSizeMin = 16

func (t *table) home(id uint64) int { return int(id * 0x9E3779B97F4A7C15 >> t.shift) }

// get returns the entry of id, 0 when there is none.
func (t *table) get(id uint64) uint32 {
	if t.count == 0 || id == 0 {
		return 0
	}
	mask := len(t.keys) - 1
	for i := t.home(id); ; i = (i + 1) & mask {
		switch t.keys[i] {
		case id:
			return t.vals[i]
		case 0:
			return 0
		}
	}
}

// put stores id, which must not be there.
func (t *table) put(id uint64, entry uint32) {
	if t.count*2 >= len(t.keys) {
		t.resize(max(tableSizeMin, 2*len(t.keys)))
	}
	mask := len(t.keys) - 1
	i := t.home(id)
	for t.keys[i] != 0 {
		i = (i + 1) & mask
	}
	t.keys[i], t.vals[i] = id, entry
	t.count++
}

// remove takes id out and returns its entry, 0 when there is none.
func (t *table) remove(id uint64) uint32 {
	if t.count == 0 || id == 0 {
		return 0
	}
	mask := len(t.keys) - 1
	i := t.home(id)
	for t.keys[i] != id {
		if t.keys[i] == 0 {
			return 0
		}
		i = (i + 1) & mask
	}
	found := t.vals[i]
	t.count--
	for j := i; ; {
		j = (j + 1) & mask
		if t.keys[j] == 0 {
			break
		}
		// The key at j may move to the gap at i unless its home lies
		// cyclically in (i, j].
		if h := t.home(t.keys[j]); (j-h)&mask >= (j-i)&mask {
			t.keys[i], t.vals[i] = t.keys[j], t.vals[j]
			i = j
		}
	}
	t.keys[i] = 0
	return found
}

// each calls f for every entry; f must not change the table.
func (t *table) each(f func(id uint64, entry uint32)) {
	for i, id := range t.keys {
		if id != 0 {
			f(id, t.vals[i])
		}
	}
}

// reset forgets everything and gives the memory back.
func (t *table) reset() { *t = table{} }

func (t *table) resize(size int) {
	keys, vals := t.keys, t.vals
	t.keys, t.vals = make([]uint64, size), make([]uint32, size)
	t.shift = 64
	for s := size; s > 1; s >>= 1 {
		t.shift--
	}
	mask := size - 1
	for i, id := range keys {
		if id == 0 {
			continue
		}
		j := t.home(id)
		for t.keys[j] != 0 {
			j = (j + 1) & mask
		}
		t.keys[j], t.vals[j] = id, vals[i]
	}
}
