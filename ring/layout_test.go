package ring

import "unsafe"

// Compile-time checks: each fails to build when its constant goes negative.
const (
	_ = uint(unsafe.Offsetof(Ring[int]{}.tail) - unsafe.Offsetof(Ring[int]{}.mu) - lineSize)
	_ = uint(unsafe.Offsetof(Ring[int]{}.head) - unsafe.Offsetof(Ring[int]{}.headSeen) - lineSize)
	_ = uint(unsafe.Sizeof(Ring[int]{}) - unsafe.Offsetof(Ring[int]{}.headBlock) - lineSize)
	_ = uint(unsafe.Offsetof(block[int]{}.done) - unsafe.Offsetof(block[int]{}.ready) - lineSize)
	_ = uint(unsafe.Offsetof(block[int]{}.slots) - unsafe.Offsetof(block[int]{}.done) - lineSize)
)
