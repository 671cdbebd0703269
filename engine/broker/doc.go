// Package broker holds topics, channels and the life of a message. It knows no
// sockets and no clock: the event loops call it with the time, and it answers
// through the small interfaces Sink, Waker and Waiter.
//
// A message goes one way:
//
//	Shard.Publish ──► the round's batch of its topic
//	     EndRound ──► queue of every channel: memory ring, or, when that is
//	                  full, the topic's backlog on disk (package mmapqueue)
//	      deliver ──► in flight: a subscriber's table and the shard's wheel
//	       Finish ──► gone          Requeue, time-out ──► the queue's tail
//
// Ownership. A Shard belongs to one event loop, and with it the in-flight
// tables, the timing wheel, the deferred messages and the batches in hand: no
// locks there. Topics, channels and their rings are shared. What a topic's
// publishers need is one immutable view behind an atomic pointer; creating and
// deleting things takes the broker's mutex, never a publish or a delivery.
//
// Each message that a channel has taken is in exactly one place:
//
//	taken = ring + outstanding + in hand + in flight + deferred + gone
//
// where outstanding counts what was handed to the backlog and has not come
// back. Shard.Check and Channel.Places state it in code; the seeded tests look
// after every step.
//
// In the process and disk modes a message stands in the daemon's journal too, until
// it is finished or stands in the backlog, and its OK waits for the journal's
// writer: see journal.go for what is written when, journal_queue.go for who is told
// what became of it, trim.go for what lets old segments go, and recover.go for a start
// after a crash. In every mode the journal has what becomes of topics and channels
// (news.go). A message may be delivered before its commit; when that fails, its
// publisher is told so and it may come all the same.
//
// The disk is touched by the journal's writer and two kinds of helper goroutine only:
// one writer per topic with something to write, one refiller per channel that lags.
// Both end when they have nothing left to do.
package broker
