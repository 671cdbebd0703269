// Package netloop runs event loops: it knows bytes and connections, and nothing
// of what they mean.
//
// A connection belongs to one loop for life; its Handler is called on that
// loop's goroutine only, so neither side needs a lock. Readiness comes from
// gnet's netpoll; reading, writing, accepting and pausing are ours, because
// gnet's own connections can neither stop reading nor say when they drained.
//
//	accept.go   a goroutine per listener ──► adopt ──► a loop, round robin
//	loop.go     event ──► read.go: Traffic ──► end of round: Timer, Round, flush
//	out.go      what a round wrote leaves in one write(2), or one writev(2)
//	timer.go    one timerfd per loop; a loop with nothing due does not wake
//
// # Rounds
//
// System calls that can wait are done once per round. netpoll has no hook at
// the end of a batch of events, so the first event of a round signals the
// loop's own eventfd. The kernel keeps ready descriptors in arrival order;
// that signal therefore comes back behind the connections which were ready
// with it, and ends the round. A round that saw at most one event suggests an
// idle loop, where the signal would only add latency: the next rounds end right
// after their event, and every sixteenth of them is a full one again, to notice
// when the loop has become busy.
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
