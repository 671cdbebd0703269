package main

import (
	"log"
	"sync"
	"time"

	nsq "github.com/zsqio/zsq/client"
	"github.com/zsqio/zsq/internal/tool"
)

// resultsMax is how many results of one destination may wait to be looked at.
const resultsMax = 64

// A forwarder publishes messages to destinations and answers each when its
// destination has. It is safe for concurrent use.
//
//	handler ── PublishAsync ──► destination ── results ──► responder ── FIN or REQ
type forwarder struct {
	log    *log.Logger
	filter *filter
	hosts  *tool.HostPool
	status *tool.StatusBoard

	destinations []*destination
	responders   sync.WaitGroup
	doneC        chan struct{} // closed by close
}

// A destination is one nsqd and the results of what was published to it.
type destination struct {
	producer *nsq.Producer
	results  chan *nsq.ProducerTransaction
}

// add adds the destination with index i. Its responder ends with close.
func (f *forwarder) add(i int, p *nsq.Producer) {
	d := &destination{producer: p, results: make(chan *nsq.ProducerTransaction, resultsMax)}
	f.destinations = append(f.destinations, d)
	f.responders.Go(func() {
		for {
			select {
			case t := <-d.results:
				f.respond(i, t)
			case <-f.doneC:
				return
			}
		}
	})
}

// close stops the producers and the responders. Messages whose results are still
// to come are not answered, so it is called when the consumers have stopped.
func (f *forwarder) close() {
	for _, d := range f.destinations {
		d.producer.Stop()
	}
	close(f.doneC)
	f.responders.Wait()
}

// forward publishes m, or finishes it when the filter does not want it. An error
// has the client requeue it, with backoff.
func (f *forwarder) forward(m *nsq.Message, topic string) error {
	body, pass, err := f.filter.apply(m.Body, f.log)
	if err != nil || !pass {
		return err
	}
	i := f.hosts.Pick()
	m.DisableAutoResponse()
	d := f.destinations[i]
	start := time.Now()
	if err := d.producer.PublishAsync(topic, body, d.results, m, start); err != nil {
		f.hosts.Mark(i, time.Since(start), err)
		m.Requeue(-1)
	}
	return nil
}

// respond answers the message of a publish to destination i.
func (f *forwarder) respond(i int, t *nsq.ProducerTransaction) {
	m, start := t.Args[0].(*nsq.Message), t.Args[1].(time.Time)
	took := time.Since(start)
	f.hosts.Mark(i, took, t.Error)
	if t.Error != nil {
		m.Requeue(-1)
		return
	}
	m.Finish()
	f.status.AddOne(i, took)
	f.status.AddAll(took)
}
