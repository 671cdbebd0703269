package ring

// lineSize is the distance at which two words do not share a cache line. Server
// parts of this architecture move memory in pairs of 64-byte lines.
const lineSize = 128

// cacheLine keeps its neighbours on different cache lines.
type cacheLine [lineSize]byte
