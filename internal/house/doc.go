// Package house holds tests of the source tree itself: which package may import
// which, what every package owes its reader, and habits that no compiler checks.
// It has no code of its own.
//
// The tests read the files themselves instead of running tools, so that go test
// knows the files as inputs and never answers from its cache for an older tree.
// Nested modules and testdata directories are not part of the tree.
package house
