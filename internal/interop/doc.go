// Package interop tests a broker with clients that we did not write: the stock
// Go client, upstream's command line tools and upstream's benchmark programs,
// all over real loopback sockets.
//
// It is a module of its own, so that upstream never appears in the broker's
// go.mod. The tests build cmd/nsqd from the repository they stand in. Set
// ZSQ_NSQD to the path of another binary to test that one instead: every test
// here has to pass on upstream's nsqd too, which is how the tests themselves
// are judged.
//
//	go -C internal/interop build -o "$PWD/bin/upstream-nsqd" github.com/nsqio/nsq/apps/nsqd
//	ZSQ_NSQD="$PWD/bin/upstream-nsqd" go -C internal/interop test ./...
package interop
