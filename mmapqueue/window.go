package mmapqueue

import (
	"encoding/binary"
	"math/bits"
)

// window is the set of sequences that a cursor is done with: all below floor,
// and those above it whose bit is set.
//
//	       low             floor
//	────────┼───────────────┼──────────────────────────────►
//	  done  │ 1 1 1 1 1 1 1 │ 0 1 1 0 0 1 …  0 beyond words
//	        └ words[head], bit 0
//
// Invariant: floor is not in the set; low is a multiple of 64 and
// low <= floor < low+64 whenever there are words.
//
// A bit a record is what remembering costs; a window that only moves on
// allocates nothing.
type window struct {
	floor uint64
	low   uint64
	words []uint64
	head  int // words in front of low, waiting to be reused
}

// end returns a sequence above all that are in the set.
func (w *window) end() uint64 {
	if len(w.words) == w.head {
		return w.floor
	}
	return w.low + 64*uint64(len(w.words)-w.head)
}

// has reports whether sequence is in the set.
func (w *window) has(sequence uint64) bool {
	if sequence < w.floor {
		return true
	}
	i := w.head + int(sequence/64-w.low/64)
	return i < len(w.words) && w.words[i]>>(sequence%64)&1 != 0
}

// add puts sequence into the set and reports whether it is new there.
func (w *window) add(sequence uint64) bool {
	if w.has(sequence) {
		return false
	}
	w.words[w.index(sequence)] |= 1 << (sequence % 64)
	if sequence == w.floor {
		w.raise()
	}
	return true
}

// addRange puts every sequence in [from, to) into the set.
func (w *window) addRange(from, to uint64) {
	from = max(from, w.floor)
	if from >= to {
		return
	}
	if from == w.floor && to >= w.end() {
		w.reset(to)
		return
	}
	last := w.index(to - 1)
	first := w.index(from)
	for i := first; i <= last; i++ {
		mask := ^uint64(0)
		if i == first {
			mask &= ^uint64(0) << (from % 64)
		}
		if i == last {
			mask &= ^uint64(0) >> (63 - (to-1)%64)
		}
		w.words[i] |= mask
	}
	if from == w.floor {
		w.raise()
	}
}

// index returns the place of the word that holds sequence, which is not below
// floor. It makes the word when there is none.
func (w *window) index(sequence uint64) int {
	if len(w.words) == w.head {
		w.words, w.head, w.low = w.words[:0], 0, w.floor&^63
		w.words = append(w.words, 1<<(w.floor%64)-1)
	}
	i := w.head + int(sequence/64-w.low/64)
	if i < len(w.words) {
		return i
	}
	// Space in front is used before more is asked for, once it is the larger half.
	if w.head > len(w.words)-w.head {
		w.words = append(w.words[:0], w.words[w.head:]...)
		i -= w.head
		w.head = 0
	}
	for len(w.words) <= i {
		w.words = append(w.words, 0)
	}
	return i
}

// raise moves floor to the first sequence that is not in the set.
func (w *window) raise() {
	for w.head < len(w.words) {
		if missing := ^w.words[w.head]; missing != 0 {
			w.floor = w.low + uint64(bits.TrailingZeros64(missing))
			return
		}
		w.head++
		w.low += 64
		w.floor = w.low
	}
	w.words, w.head = w.words[:0], 0
}

// reset makes the set of all sequences below floor.
func (w *window) reset(floor uint64) {
	const keepMax = 1 << 10 // words: a window that was wide gives its memory back
	w.floor, w.head = floor, 0
	w.words = w.words[:0]
	if cap(w.words) > keepMax {
		w.words = nil
	}
}

// clone appends to buf the n words that begin with the one of sequence, which
// is not below low; words that the window does not have are zero.
func (w *window) clone(buf []uint64, sequence uint64, n int) []uint64 {
	i := len(w.words)
	if w.head < len(w.words) {
		i = min(i, w.head+int(sequence/64-w.low/64))
	}
	words := w.words[i:]
	words = words[:min(n, len(words))]
	buf = append(buf, words...)
	for range n - len(words) {
		buf = append(buf, 0)
	}
	return buf
}

// A window is kept in runs, so that one old message in front of millions that
// are finished costs little: a run is a count of words that are all ones, a
// count of words given as they are, both uvarints, and those words.
func (w *window) encode(buf []byte) []byte {
	words := w.words[w.head:]
	buf = binary.LittleEndian.AppendUint64(buf, w.floor)
	for len(words) > 0 {
		ones := 0
		for ones < len(words) && words[ones] == ^uint64(0) {
			ones++
		}
		plain := ones
		for plain < len(words) && words[plain] != ^uint64(0) {
			plain++
		}
		buf = binary.AppendUvarint(buf, uint64(ones))
		buf = binary.AppendUvarint(buf, uint64(plain-ones))
		for _, word := range words[ones:plain] {
			buf = binary.LittleEndian.AppendUint64(buf, word)
		}
		words = words[plain:]
	}
	return buf
}

// decode fills the window from what encode wrote and reports whether buf, all
// of it, was that. wordsMax bounds what a hostile file may ask for.
func (w *window) decode(buf []byte) bool {
	const wordsMax = 1 << 28
	if len(buf) < 8 {
		return false
	}
	w.floor = binary.LittleEndian.Uint64(buf)
	w.low, w.words, w.head = w.floor&^63, nil, 0
	for buf = buf[8:]; len(buf) > 0; {
		ones, n := binary.Uvarint(buf)
		plain, m := binary.Uvarint(buf[max(n, 0):])
		if n <= 0 || m <= 0 || ones > wordsMax || plain > uint64(len(buf)-n-m)/8 || uint64(len(w.words))+ones > wordsMax {
			return false
		}
		buf = buf[n+m:]
		for range ones {
			w.words = append(w.words, ^uint64(0))
		}
		for range plain {
			w.words = append(w.words, binary.LittleEndian.Uint64(buf))
			buf = buf[8:]
		}
	}
	if len(w.words) > 0 {
		w.words[0] |= 1<<(w.floor%64) - 1
		w.raise()
	}
	return true
}
