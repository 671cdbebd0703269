package tool

import nsq "github.com/zsqio/zsq/client"

// NewConsumer returns a consumer that logs to the tool's standard error. It is
// not connected yet.
func (p *Process) NewConsumer(topic, channel string, config *nsq.Config) (*nsq.Consumer, error) {
	c, err := nsq.NewConsumer(topic, channel, config)
	if err != nil {
		return nil, err
	}
	c.SetLogger(p.Log, nsq.LogLevelInfo)
	return c, nil
}

// Connect connects c to the sources. An nsqd that cannot be reached is an error;
// an nsqlookupd that cannot is logged by the client and asked again.
func (s *Sources) Connect(c *nsq.Consumer) error {
	if err := c.ConnectToNSQDs(s.NSQDs); err != nil {
		return err
	}
	return c.ConnectToNSQLookupds(s.Lookupds)
}

// StopConsumers stops all consumers and returns when the last has answered what
// it holds and closed its connections.
func StopConsumers(consumers []*nsq.Consumer) {
	for _, c := range consumers {
		c.Stop()
	}
	for _, c := range consumers {
		<-c.StopChan
	}
}
