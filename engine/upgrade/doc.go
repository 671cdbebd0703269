// Package upgrade turns the bytes of a connection into those of the protocol
// and back, once IDENTIFY has agreed on TLS or compression. It knows neither
// sockets nor loops: a filter is fed with bytes and answers with bytes.
//
//	socket ──► TLS.Decode ──► Snappy.Decode or Deflate.Decode ──► commands
//	socket ◄── TLS.Encode ◄── Snappy.Encode or Deflate.Encode ◄── frames
//
// A filter belongs to its connection's loop and never waits. Decode is given
// what has arrived, down to a single byte, and a place for plain bytes; it stops
// when that is full, so a small input that stands for a huge output is expanded
// only as fast as the output is used. That is what keeps a decompression bomb
// from growing anything.
//
// None of the libraries below can be fed piecewise in the same way:
//
//   - crypto/tls blocks while it shakes hands, and a handshake costs about a
//     millisecond of CPU. It runs on a goroutine of its own, over a connection
//     in memory, and ends there (Handshake). Afterwards crypto/tls takes an
//     error that calls itself temporary for "not yet" and goes on later where it
//     stopped; the loop drives it from then on. Tests feed it byte by byte,
//     because no documentation promises that.
//   - The snappy framing format is read by our own code, which is little: chunks
//     say their length. Only their contents are the library's.
//   - An inflater cannot be stopped in mid-block. It runs as a coroutine
//     (iter.Pull) that the loop resumes with each piece of input and that comes
//     back when it is hungry or its place is full: no scheduler, no second
//     thread, no lock, and the same order of events in every run. A goroutine
//     behind a pipe would move deflate's CPU off the loop, but takes two
//     hand-overs for each piece and needs a bound on what lies in between; Step
//     bounds what one connection costs a round instead.
package upgrade
