// Package netloop runs event loops: it knows bytes and connections, and nothing
// of what they mean.
//
// A connection belongs to one loop for life; its Handler is called on that
// loop's goroutine only, so neither side needs a lock. What to watch is told to
// gnet's netpoll; waiting, reading, writing, accepting and pausing are ours, because
// gnet's own loop yields too often, and its connections can neither stop reading nor
// say when they drained.
//
//	accept.go   a goroutine per listener ──► adopt ──► a loop, round robin
//	poll.go     which descriptors are ready
//	loop.go     event ──► read.go: Traffic ──► end of round: Timer, Round, flush
//	out.go      what a round wrote leaves in one write(2)
//	timer.go    one timerfd per loop; a loop with nothing due does not wake
//
// # Rounds
//
// System calls that can wait are done once per round. A round is what one look at
// the kernel brought: all connections that were ready, then the handler's Round,
// then one write for each connection that has output. A busy loop so has long
// rounds, and an idle one answers at once. Beside busy connections, light.go sees to
// it that those which send and take little need not wait for long rounds.
//
// # Memory
//
// All connections of a loop share one read buffer. Bytes that a handler could
// not use yet are kept in a pooled buffer of the connection, which is given
// back as soon as it is empty; the same holds for output. An idle connection
// holds its Conn and nothing else. Input grows with what has arrived, never
// with what was announced; output is bounded by a handler that asks Full before
// each message.
package netloop
