// Package nsq is a client library for zsq and NSQ: a [Producer] publishes to an
// nsqd, a [Consumer] subscribes to a topic's channel on many of them.
//
// Its exported surface is that of github.com/nsqio/go-nsq v1.1.0, so that a
// program moves here by changing one import line; what is new is only added
// beside it (contexts, [FailoverProducer], slog). MIGRATING.md lists what
// behaves differently.
//
//	import nsq "github.com/zsqio/zsq/client"
//
// # The road of a message
//
//	Publish ──► Conn's outbox ──► one write per flush ──► nsqd
//	nsqd ──► one read ──► frames decoded in the read buffer ──► inbox ──► handler
//	handler ──► Message.Finish ──► Conn's outbox ──► one write per flush
//
// Every connection has two goroutines. The reader never writes to the socket
// and never waits for the writer: what it has to say goes to the outbox. The
// writer never reads. So neither can hold the other up, whatever the server does.
//
// A message's body belongs to the program that receives it. It is never reused,
// and may be kept for as long as one likes; bodies that arrived together may
// share an allocation of up to 8 KiB.
//
// # Limits
//
// A connection's outbox holds about 256 KiB before publishers wait, a producer
// holds 16,384 publishes that are not completed, and a frame is read in steps
// that grow with what has arrived, never with what its header promises.
package nsq
