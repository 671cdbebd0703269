//go:build !arm64

package ring

// lineSize is the distance at which two words do not share a cache line.
const lineSize = 64

// cacheLine keeps its neighbours on different cache lines.
type cacheLine [lineSize]byte
