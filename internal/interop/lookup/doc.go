// Package lookup tests zsq's nsqlookupd over real sockets: side by side with
// upstream's, and in a cluster with nsqd nodes, go-nsq consumers, nsqadmin and
// nsq_stat. It has no code besides tests.
//
// ZSQ_NSQLOOKUPD names another binary to test instead of ours; the differential
// tests then show what it does differently. ZSQ_NSQD names the nsqd of the cluster
// tests, upstream's by default.
package lookup
