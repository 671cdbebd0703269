// Package wire is the NSQ TCP protocol V2 as pure functions on bytes. It does
// no I/O, reads no clock and keeps no state besides what the caller hands in;
// the server and the client library both use it.
//
// # From client to server
//
// After the four bytes of Magic a client sends commands:
//
//	NAME [SP param]* [CR] LF                          all commands
//	int32 size | body                                 then IDENTIFY AUTH PUB DPUB
//	int32 size | int32 count | (int32 size | body)*   then MPUB
//
// The server takes a command apart in three steps, because nsqd looks at the
// state of the connection before the parameters and, for MPUB, at the
// authorization between parameters and body; the first check that fails is
// the error that the client sees:
//
//	n, s := c.ParseLine(b)            names the command, finds its end
//	(state, TLS and heartbeat checks of the caller)
//	err := c.CheckParams(lim)         names, numbers, message ids
//	(MPUB: authorization)
//	m, s, err := c.ParseBody(b[n:])   size checks as early as bytes arrive
//
// A [Command] aliases the bytes it was parsed from. Nothing is copied and, on
// the roads that matter (PUB, MPUB, FIN, RDY), nothing is allocated. A
// Command is meant to be used again for the next command.
//
// # From server to client
//
//	int32 size | int32 type | payload     size counts type and payload
//
// with type 0 for responses, 1 for errors and 2 for messages; the layout of
// a message frame is drawn in message.go.
//
// # One difference from nsqd
//
// nsqd range-checks the size in front of an MPUB batch and then ignores it,
// so that a batch may grow past every limit. Here a batch that runs past
// its announced size is refused; a batch that is shorter is accepted as nsqd
// does, and the next command starts right after its last message.
package wire
