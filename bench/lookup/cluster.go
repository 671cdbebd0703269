//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A cluster is the producers, registered.
type cluster struct {
	links    []*link
	topics   int
	channels int
}

// A link is one producer's connection.
type link struct {
	net.Conn
	r *bufio.Reader
}

func topicName(i int) string   { return fmt.Sprintf("topic-%03d", i) }
func channelName(i int) string { return fmt.Sprintf("channel-%d", i) }

// register connects all producers and gives each every topic and channel.
func register(ctx context.Context, addr string, o *options) (*cluster, error) {
	c := &cluster{topics: o.topics, channels: o.channels}
	var all strings.Builder
	for t := range o.topics {
		for ch := range o.channels {
			fmt.Fprintf(&all, "REGISTER %s %s\n", topicName(t), channelName(ch))
		}
	}
	for i := range o.producers {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		l := &link{conn, bufio.NewReader(conn)}
		c.links = append(c.links, l)
		body := fmt.Sprintf(`{"broadcast_address":"node-%04d.cluster.example","hostname":"node-%04d","tcp_port":4150,"http_port":4151,"version":"1.3.0"}`, i, i)
		head := "  V1IDENTIFY\n" + string(binary.BigEndian.AppendUint32(nil, uint32(len(body))))
		go io.WriteString(l, head+body+all.String()) // what goes wrong, the answers show
		for range 1 + o.topics*o.channels {
			if err := l.answer(); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// answer reads one answer and expects that it is no error.
func (l *link) answer() error {
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return err
	}
	text := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(l.r, text); err != nil {
		return err
	}
	if strings.HasPrefix(string(text), "E_") {
		return fmt.Errorf("%s", text)
	}
	return nil
}

func (c *cluster) close() {
	for _, l := range c.links {
		l.Close()
	}
}

// changers is how many goroutines share the changes, so that they come at their
// rate although each waits for its answer.
const changers = 32

// change makes rate changes a second until ctx ends and returns how many there
// were. A round takes one topic from one producer and gives it back, then one of
// its channels; after it all is as it was.
func (c *cluster) change(ctx context.Context, rate int) (int, error) {
	var count atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, changers)
	n := min(changers, len(c.links))
	for first := range n {
		// A link is one goroutine's alone.
		var links []*link
		for i := first; i < len(c.links); i += n {
			links = append(links, c.links[i])
		}
		wg.Go(func() { // ends with ctx
			if err := c.changeSome(ctx, links, first, time.Second*time.Duration(n)/time.Duration(rate), &count); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return int(count.Load()), <-errs
}

func (c *cluster) changeSome(ctx context.Context, links []*link, first int, pace time.Duration, count *atomic.Int64) error {
	due := time.Now()
	for round := first; ; round++ {
		l, topic := links[round%len(links)], topicName(round*7%c.topics)
		commands := []string{"UNREGISTER " + topic}
		for ch := range c.channels {
			commands = append(commands, "REGISTER "+topic+" "+channelName(ch))
		}
		last := " " + topic + " " + channelName(round%c.channels)
		commands = append(commands, "UNREGISTER"+last, "REGISTER"+last)
		for _, command := range commands {
			due = due.Add(pace)
			if ctx.Err() == nil { // a round is finished, but not in its time
				time.Sleep(time.Until(due))
			}
			if _, err := io.WriteString(l, command+"\n"); err != nil {
				return err
			}
			if err := l.answer(); err != nil {
				return fmt.Errorf("%s: %w", command, err)
			}
			count.Add(1)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}
