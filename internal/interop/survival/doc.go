// Package survival tests what nsqd keeps when something fails it: its process, its
// disk, its files. It runs the daemon as an operator does, damages what lies in
// its data path or takes its space away, and holds what it delivers against what
// it acknowledged.
//
// Only our nsqd is tested here: upstream's loses messages in most of these tests.
package survival
