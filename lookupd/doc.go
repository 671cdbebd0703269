// Package lookupd is the discovery daemon: producers (nsqd nodes) say over TCP
// which topics and channels they have, consumers and tools ask over HTTP where
// a topic is. Protocol, HTTP API, log lines and defaults are nsqlookupd's; what
// we do otherwise is listed in docs/nsqlookupd.md.
//
// A registration goes one way:
//
//	bytes      conn.go       one goroutine a connection; a deadline and a limit on each command
//	   │
//	command    protocol.go   IDENTIFY, REGISTER, UNREGISTER, PING: checks, then one call
//	   │
//	change     registry.go   topic → producers and producer → topics, under one lock; drops the views it touches
//	   │
//	view       view.go       what readers see of a topic or a producer: built by the first who asks, then shared
//	   │
//	answer     endpoints.go  a body glued together from JSON that was rendered when its producer said IDENTIFY
//
// Reading never walks what it does not show: /lookup costs what its answer has
// producers, /nodes renders again only the nodes that have changed.
//
// Time comes in as an argument (now, nanoseconds): the Server reads a clock that
// starts at the wall's and then never jumps, so that a step of the wall clock
// hides nobody.
package lookupd
