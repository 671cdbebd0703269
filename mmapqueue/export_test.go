package mmapqueue

// Held returns how many descriptors and mappings b holds.
func (b *Backlog) Held() (files, mappings int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.segments {
		if s.mapping != nil {
			mappings++
		}
	}
	files = len(b.unsynced)
	if b.open != nil {
		files++
	}
	return files, mappings
}

// Dir returns the directory of b.
func (b *Backlog) Dir() string { return b.dir }

// Window opens the window to tests.
type Window struct{ w window }

// NewWindow returns the window of all sequences below floor.
func NewWindow(floor uint64) *Window { return &Window{window{floor: floor}} }

func (w *Window) Floor() uint64            { return w.w.floor }
func (w *Window) Has(sequence uint64) bool { return w.w.has(sequence) }
func (w *Window) Add(sequence uint64) bool { return w.w.add(sequence) }
func (w *Window) AddRange(from, to uint64) { w.w.addRange(from, to) }
func (w *Window) Encode() []byte           { return w.w.encode(nil) }
func (w *Window) Decode(b []byte) bool     { return w.w.decode(b) }
func (w *Window) Words() int               { return len(w.w.words) - w.w.head }

// RecordEnds returns where the records of b's open segment end, those that are no
// messages left out.
func RecordEnds(b *Backlog) (ends []int64) {
	s := b.open
	m, err := b.o.FS.Map(s.path, s.end)
	if err != nil {
		panic(err)
	}
	defer m.Unmap()
	var r Record
	for offset := int64(segmentStart); offset < s.end; {
		size, _ := decode(m[offset:], &r, offset, s.salt)
		offset += size
		if r.Cursor != nameOf {
			ends = append(ends, offset)
		}
	}
	return ends
}

// Recycling returns o with segments written again from their first size on.
func Recycling(o Options) Options {
	o.spareMin = 1
	return o
}

// TimerRan does what the timer does after its sync, and reports whether the log
// was at rest.
func (b *Backlog) TimerRan() bool {
	if !b.rests() {
		return false
	}
	b.Trim()
	return true
}

// Slot returns how many files were made in this run and are being made, if there were
// none before it. The writer must have nothing to do.
func (j *Journal) Slot() uint64 { return j.slot }

// Spares returns how many segments wait to be used.
func (j *Journal) Spares() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.spares)
}
