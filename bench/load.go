//go:build linux

package main

import (
	"cmp"
	"fmt"
	"strconv"
)

// A load says what the generator does to one broker.
type load struct {
	name                 string // topics are called so, with a number; "": bench
	producers, consumers int
	topics               int // producers go round them, consumers are dealt out over them
	channels             int // of each topic; consumers are dealt out over them
	body                 int // bytes of a message body
	batch                int // messages of a frame: 1 is PUB, more is MPUB
	window               int // unanswered messages of a producer
	outstanding          int // messages published and not yet finished, in all; 0: no limit
	rate                 int // messages per second, open loop; 0: closed loop
	requeue              bool
	tls, snappy, deflate bool   // what connections ask for in IDENTIFY
	deferred             bool   // DPUB, by deferMin to deferMax; stamps are due times
	timeoutMs            int    // not 0: the consumers' message time-out; each message is left to it once
	stamp                bool   // bodies carry their publish time, latencies are kept
	stampOK              bool   // latencies from a PUB to its OK are kept
	own                  bool   // producer i publishes to topic i alone
	made                 bool   // channels are there before the first message
	stalled              int    // more subscribers, of topic 0, that never read
	messagesMax          uint64 // publish no more than this
}

// maxed is the number of messages at which a run without its own limit ends.
const maxed = 64 << 20

// withDefaults fills in what most rows have in common.
func (l load) withDefaults() load {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.topics, 1)
	set(&l.channels, 1)
	set(&l.body, 200)
	set(&l.batch, 1)
	set(&l.window, 1000)
	if l.consumers > 0 && !l.deferred && l.timeoutMs == 0 {
		set(&l.outstanding, 20000)
	}
	if l.messagesMax == 0 {
		l.messagesMax = maxed
	}
	return l
}

// topic names the topics, all alike in length.
func (l load) topic(i int) string {
	return fmt.Sprintf("%s_%0*d", cmp.Or(l.name, "bench"), max(3, len(strconv.Itoa(l.topics-1))), i%l.topics)
}

func (l load) channel(i int) string { return fmt.Sprintf("ch_%03d", i%l.channels) }
