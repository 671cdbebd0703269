// Package peers tests the daemon against upstream's other daemons: it registers
// with their nsqlookupd and takes channels from it. It has tests only.
//
// Every test passes on upstream's nsqd as well, named by ZSQ_NSQD.
package peers
