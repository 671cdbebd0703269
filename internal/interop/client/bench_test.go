package client

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	upstream "github.com/nsqio/go-nsq"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/interop/daemon"
)

// The benchmarks run our client and go-nsq against the same daemon, which is a
// process of its own, and report the CPU time of this one, the client's, per
// message:
//
//	go -C internal/interop test ./client -run '^$' -bench . -count 6
//
// Read cpu-µs/msg; ns/op depends on what else the machine does.

const (
	benchSize  = 200
	benchBatch = 100
	benchTopic = "bench#ephemeral"
)

// cpu is the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured runs f, which does b.N times what takes messages each.
func measured(b *testing.B, messages int, f func()) {
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	f()
	used := cpu() - before
	b.StopTimer()
	b.ReportMetric(float64(used.Nanoseconds())/1000/float64(b.N)/float64(messages), "cpu-µs/msg")
}

// A publisher is a producer of either client.
type publisher struct {
	publish func(body []byte) error
	multi   func(bodies [][]byte) error
	async   func(count int, body []byte) // all of them, to the last result
	stop    func()
}

func ours(b *testing.B, addr string) publisher {
	p, err := nsq.NewProducer(addr, nsq.NewConfig())
	if err != nil {
		b.Fatal(err)
	}
	p.SetLogger(nil, nsq.LogLevelError)
	return publisher{
		publish: func(body []byte) error { return p.Publish(benchTopic, body) },
		multi:   func(bodies [][]byte) error { return p.MultiPublish(benchTopic, bodies) },
		stop:    p.Stop,
		async: func(count int, body []byte) {
			done := make(chan *nsq.ProducerTransaction, 1000)
			go func() {
				for range count {
					if err := p.PublishAsync(benchTopic, body, done); err != nil {
						panic(err)
					}
				}
			}()
			for range count {
				if tx := <-done; tx.Error != nil {
					panic(tx.Error)
				}
			}
		},
	}
}

func theirs(b *testing.B, addr string) publisher {
	p, err := upstream.NewProducer(addr, upstream.NewConfig())
	if err != nil {
		b.Fatal(err)
	}
	p.SetLogger(nil, upstream.LogLevelError)
	return publisher{
		publish: func(body []byte) error { return p.Publish(benchTopic, body) },
		multi:   func(bodies [][]byte) error { return p.MultiPublish(benchTopic, bodies) },
		stop:    p.Stop,
		async: func(count int, body []byte) {
			done := make(chan *upstream.ProducerTransaction, 1000)
			go func() {
				for range count {
					if err := p.PublishAsync(benchTopic, body, done); err != nil {
						panic(err)
					}
				}
			}()
			for range count {
				if tx := <-done; tx.Error != nil {
					panic(tx.Error)
				}
			}
		},
	}
}

// pair runs a benchmark with both clients against one daemon.
func pair(b *testing.B, f func(b *testing.B, p publisher)) {
	d := daemon.Start(b, daemon.Zsq)
	for _, c := range []struct {
		name string
		make func(*testing.B, string) publisher
	}{{"zsq", ours}, {"go-nsq", theirs}} {
		b.Run(c.name, func(b *testing.B) {
			p := c.make(b, d.TCP)
			defer p.stop()
			if err := p.publish([]byte("connect")); err != nil {
				b.Fatal(err)
			}
			f(b, p)
		})
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, goroutines := range []int{1, 64} {
		b.Run(fmt.Sprint("goroutines=", goroutines), func(b *testing.B) {
			pair(b, func(b *testing.B, p publisher) {
				body := make([]byte, benchSize)
				measured(b, 1, func() {
					var left atomic.Int64
					left.Store(int64(b.N))
					var work sync.WaitGroup
					for range goroutines {
						work.Go(func() {
							for left.Add(-1) >= 0 {
								if err := p.publish(body); err != nil {
									panic(err)
								}
							}
						})
					}
					work.Wait()
				})
			})
		})
	}
}

func BenchmarkPublishAsync(b *testing.B) {
	pair(b, func(b *testing.B, p publisher) {
		body := make([]byte, benchSize)
		measured(b, 1, func() { p.async(b.N, body) })
	})
}

func BenchmarkMultiPublish(b *testing.B) {
	pair(b, func(b *testing.B, p publisher) {
		bodies := make([][]byte, benchBatch)
		for i := range bodies {
			bodies[i] = make([]byte, benchSize)
		}
		measured(b, benchBatch, func() {
			for range b.N {
				if err := p.multi(bodies); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// BenchmarkConsume consumes and finishes what waits in a channel.
func BenchmarkConsume(b *testing.B) {
	const inFlight = 1000
	for _, handlers := range []int{1, 8} {
		for _, client := range []string{"zsq", "go-nsq"} {
			b.Run(fmt.Sprintf("handlers=%d/%s", handlers, client), func(b *testing.B) {
				d := daemon.Start(b, daemon.Zsq, "--mem-queue-size=10000000")
				d.Post(b, "/topic/create?topic=t")
				d.Post(b, "/channel/create?topic=t&channel=ch")
				fill(b, d.TCP, b.N)
				var got atomic.Int64
				all := make(chan struct{})
				count := func() {
					if got.Add(1) == int64(b.N) {
						close(all)
					}
				}
				if client == "zsq" {
					cfg := nsq.NewConfig()
					cfg.MaxInFlight = inFlight
					r, err := nsq.NewConsumer("t", "ch", cfg)
					if err != nil {
						b.Fatal(err)
					}
					r.SetLogger(nil, nsq.LogLevelError)
					r.AddConcurrentHandlers(nsq.HandlerFunc(func(*nsq.Message) error { count(); return nil }), handlers)
					measured(b, 1, func() {
						if err := r.ConnectToNSQD(d.TCP); err != nil {
							b.Fatal(err)
						}
						<-all
						r.Stop()
						<-r.StopChan
					})
				} else {
					cfg := upstream.NewConfig()
					cfg.MaxInFlight = inFlight
					r, err := upstream.NewConsumer("t", "ch", cfg)
					if err != nil {
						b.Fatal(err)
					}
					r.SetLogger(nil, upstream.LogLevelError)
					r.AddConcurrentHandlers(upstream.HandlerFunc(func(*upstream.Message) error { count(); return nil }), handlers)
					measured(b, 1, func() {
						if err := r.ConnectToNSQD(d.TCP); err != nil {
							b.Fatal(err)
						}
						<-all
						r.Stop()
						<-r.StopChan
					})
				}
				if ch := d.Channel(b, "t", "ch"); ch.Depth+ch.InFlightCount > 0 {
					b.Fatalf("%+v is left", ch)
				}
			})
		}
	}
}

// fill publishes count messages.
func fill(b *testing.B, addr string, count int) {
	b.Helper()
	p, err := nsq.NewProducer(addr, nsq.NewConfig())
	if err != nil {
		b.Fatal(err)
	}
	p.SetLogger(nil, nsq.LogLevelError)
	defer p.Stop()
	for count > 0 {
		batch := make([][]byte, min(count, 1000))
		for i := range batch {
			batch[i] = make([]byte, benchSize)
		}
		if err := p.MultiPublish("t", batch); err != nil {
			b.Fatal(err)
		}
		count -= len(batch)
	}
}
