// Package tools holds our command line tools against upstream's: the same
// command lines, the same messages, and what comes out compared, files byte for
// byte and tables by columns. The broker is cmd/nsqd, or the binary that
// ZSQ_NSQD names; the tests have to pass with upstream's too.
//
// BenchmarkToFile says how many messages nsq_to_file handles in a second of CPU,
// ours and upstream's in turn:
//
//	go -C internal/interop test -run '^$' -bench ToFile ./tools
package tools
