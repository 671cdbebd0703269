// Package transport holds the stock Go client to every transport that IDENTIFY
// can agree on: TLS, snappy and deflate, alone and together, as producer and as
// consumer. Like its parent it tests this repository's nsqd, or the binary that
// ZSQ_NSQD names, and passes on upstream's too.
package transport
