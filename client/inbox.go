package nsq

import "sync"

// An inbox holds the messages that a consumer has received until a handler takes
// them. How many those are is for the ready counts to bound; a server that sends
// more than it may has to wait once there are inboxMax of them, since put waits,
// and so its connection is not read.
type inbox struct {
	mu     sync.Mutex
	some   sync.Cond // told of messages, and of the end
	room   sync.Cond
	ring   []*Message
	head   uint // next to take; positions only grow
	tail   uint // next to put
	takers int  // grows before the first message only
	idle   int  // takers that wait
	full   int  // putters that wait
	closed bool
}

const inboxMax = 64 << 10

func (b *inbox) init() {
	b.some.L, b.room.L = &b.mu, &b.mu
}

// join announces a taker.
func (b *inbox) join() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takers++
}

func (b *inbox) len() int { return int(b.tail - b.head) }

// put adds messages in order. After close it drops them.
func (b *inbox) put(messages []*Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.len() >= inboxMax && !b.closed {
		b.full++
		b.room.Wait()
		b.full--
	}
	if b.closed {
		return
	}
	for need := b.len() + len(messages); need > len(b.ring); {
		grown := make([]*Message, max(64, 2*len(b.ring)))
		for i := range b.tail - b.head {
			grown[i] = *b.slot(b.head + i)
		}
		b.tail, b.head, b.ring = b.tail-b.head, 0, grown
	}
	for _, m := range messages {
		*b.slot(b.tail) = m
		b.tail++
	}
	for range min(b.idle, len(messages)) {
		b.some.Signal()
	}
}

func (b *inbox) slot(position uint) **Message {
	return &b.ring[position&uint(len(b.ring)-1)]
}

// take waits for messages and fills into with as many as there are: all that fit if
// the taker is the only one, else one, so that none waits behind another taker's.
// It returns none when the inbox is closed and empty.
func (b *inbox) take(into []*Message) []*Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.len() == 0 && !b.closed {
		b.idle++
		b.some.Wait()
		b.idle--
	}
	n := min(len(into), b.len())
	if b.takers > 1 {
		n = min(n, 1)
	}
	for i := range n {
		slot := b.slot(b.head)
		into[i], *slot = *slot, nil
		b.head++
	}
	if b.full > 0 && b.len() < inboxMax/2 {
		b.room.Broadcast()
	}
	return into[:n]
}

// close ends all waiting. What is there can still be taken.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.some.Broadcast()
	b.room.Broadcast()
}
