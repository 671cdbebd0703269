package client

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// TestFailover publishes through three daemons of which one after the other goes
// away and comes back.
func TestFailover(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		failover(t, kind, 500*time.Millisecond, 3*time.Second, 2000)
	})
}

// failover publishes rate messages a second for a time, while every so often one
// of three daemons is stopped and brought back with its data. No publish fails,
// each completes once, and all that was acknowledged arrives. Our daemons run in
// process mode and are killed; upstream's would lose what they keep in memory then,
// and are stopped.
func failover(t *testing.T, kind string, every, length time.Duration, rate int) {
	t.Helper()
	var daemons []*daemon.Daemon
	var addrs []string
	var flags []string
	end := func(d *daemon.Daemon) { _ = d.Signal(t, syscall.SIGTERM) } // upstream may not listen to signals yet
	if kind == kindZsq {
		flags = []string{"--durability=process"}
		end = func(d *daemon.Daemon) { d.Kill() }
	}
	for range 3 {
		d := start(t, kind, flags...)
		d.Create(t, "over", "ch")
		daemons, addrs = append(daemons, d), append(addrs, d.TCP)
	}
	p, err := nsq.NewFailoverProducer(addrs, calm())
	must(t, err)
	p.SetLogger(nil, nsq.LogLevelError)
	t.Cleanup(p.Stop)

	total := int(length.Seconds() * float64(rate))
	completed := make([]atomic.Uint32, total)
	var errors atomic.Int32
	done := make(chan *nsq.ProducerTransaction, 1000)
	var work sync.WaitGroup
	stop := make(chan bool)
	work.Go(func() {
		for i := range total {
			tx := <-done
			if tx.Error != nil && errors.Add(1) < 10 {
				t.Errorf("publish %v: %v", tx.Args[0], tx.Error)
			}
			if completed[tx.Args[0].(int)].Add(1) > 1 {
				t.Errorf("publish %v completes again", tx.Args[0])
			}
			if i == total-1 {
				close(stop)
			}
		}
	})
	work.Go(func() {
		begin := time.Now()
		for i := range total {
			if ahead := time.Duration(i)*time.Second/time.Duration(rate) - time.Since(begin); ahead > time.Millisecond {
				time.Sleep(ahead) // keeps the rate
			}
			if err := p.PublishAsync("over", binary.BigEndian.AppendUint32(nil, uint32(i)), done, i); err != nil {
				t.Errorf("publish %d: %v", i, err)
				return
			}
		}
	})
	rounds := 0
	for tick := time.NewTicker(every); ; rounds++ {
		select {
		case <-tick.C:
			d := daemons[rounds%len(daemons)]
			end(d)
			d.Restart(t)
			continue
		case <-stop:
			tick.Stop()
		case <-time.After(length + patience):
			t.Fatal("the publishes do not complete")
		}
		break
	}
	work.Wait()
	t.Logf("%d messages, %d daemons restarted", total, rounds)

	seen := make([]atomic.Uint32, total)
	var distinct atomic.Int64
	cfg := calm()
	cfg.MaxInFlight = 3000
	r := newConsumer(t, "over", cfg, 1, func(m *nsq.Message) error {
		if seen[binary.BigEndian.Uint32(m.Body)].Add(1) == 1 {
			distinct.Add(1)
		}
		return nil
	})
	must(t, r.ConnectToNSQDs(addrs))
	for last := int64(-1); distinct.Load() < int64(total); {
		eventually(t, "more messages come", func() bool { return distinct.Load() > last })
		last = distinct.Load()
	}
	t.Logf("%d arrived more than once", int64(r.Stats().MessagesReceived)-int64(total))
}
