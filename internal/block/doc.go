// Package block keeps message bytes outside the Go heap.
//
// A million queued messages in Go memory cost the garbage collector a walk over
// a million objects. Here they are bytes in anonymous mappings, named by a Ref
// of sixteen bytes without pointers, so that a collection sees none of them.
//
//	Pool ── 2 MB regions ── 256 KB chunks ──► Arena (one goroutine) ──► Ref
//	  ▲                                                                  │
//	  └───────────── the chunk's last reference goes ◄──── Drops ◄───────┘
//
// Messages are not freed one by one. A chunk counts the references to all of
// its messages together, and goes back to the pool when the last of them is
// gone. References are given up through Drops, which touches each chunk once a
// round. The price is pinning: one old message keeps its whole chunk. Holders
// that keep a message for long copy it out.
//
// Who may call what: a Pool belongs to everybody; an Arena and a Drops belong to
// one goroutine each (or are guarded by their owner's mutex). A Ref may go to
// another goroutine by anything that synchronises, together with the reference
// it stands for. Whoever writes the bytes does so before that.
//
// The package enforces no budget. It says what is in use of one (Pool.Used), and
// the callers stop reading, spill to disk or refuse.
//
// Addresses are never given back to the system, only the memory behind them
// (MADV_DONTNEED). So a chunk's number means the same bytes for the life of the
// process: reading a message takes no lock, and a slice kept too long sees wrong
// bytes but never faults and never reaches into somebody else's mapping.
package block
