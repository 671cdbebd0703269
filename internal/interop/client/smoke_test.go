package client

import (
	"testing"
	"time"
	"fmt"
	"os"

	nsq "github.com/zsqio/zsq/client"
)

func TestSmoke(t *testing.T) {
	addr := os.Getenv("ADDR")
	p, err := nsq.NewProducer(addr, nsq.NewConfig())
	if err != nil { t.Fatal(err) }
	for i := range 100 {
		if err := p.Publish("smoke", fmt.Appendf(nil, "m%d", i)); err != nil { t.Fatal(err) }
	}
	done := make(chan *nsq.ProducerTransaction, 10)
	go func() { for i := range 100 {
		if err := p.PublishAsync("smoke", fmt.Appendf(nil, "a%d", i), done, i); err != nil { t.Error(err) }
	} }()
	for range 100 { if tx := <-done; tx.Error != nil { t.Fatal(tx.Error) } }
	cfg := nsq.NewConfig()
	cfg.MaxInFlight = 10
	c, err := nsq.NewConsumer("smoke", "ch", cfg)
	if err != nil { t.Fatal(err) }
	got := make(chan string, 1000)
	c.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error { got <- string(m.Body); return nil }))
	if err := c.ConnectToNSQD(addr); err != nil { t.Fatal(err) }
	for range 200 { select { case <-got: case <-time.After(5*time.Second): t.Fatal("none") } }
	c.Stop()
	<-c.StopChan
	p.Stop()
	t.Logf("%+v", c.Stats())
}
