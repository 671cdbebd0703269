package nsq_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	nsq "github.com/zsqio/zsq/client"
)

// nsqdAddr is where a daemon listens; the examples bring a small one of their own.
var nsqdAddr = smallNSQD()

func Example() {
	producer, err := nsq.NewProducer(nsqdAddr, nsq.NewConfig())
	if err != nil {
		panic(err)
	}
	producer.SetLogger(nil, nsq.LogLevelError)
	defer producer.Stop()
	if err := producer.Publish("greetings", []byte("hello")); err != nil {
		panic(err)
	}

	consumer, err := nsq.NewConsumer("greetings", "readers", nsq.NewConfig())
	if err != nil {
		panic(err)
	}
	consumer.SetLogger(nil, nsq.LogLevelError)
	ctx, cancel := context.WithCancel(context.Background())
	consumer.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error {
		fmt.Printf("%s, attempt %d\n", m.Body, m.Attempts)
		cancel()
		return nil // finished; an error would requeue it
	}))
	if err := consumer.ConnectToNSQD(nsqdAddr); err != nil {
		panic(err)
	}
	consumer.Run(ctx) // until ctx ends; then what was received is still handled
	// Output: hello, attempt 1
}

func ExampleProducer_PublishAsync() {
	producer, err := nsq.NewProducer(nsqdAddr, nsq.NewConfig())
	if err != nil {
		panic(err)
	}
	producer.SetLogger(nil, nsq.LogLevelError)
	defer producer.Stop()
	done := make(chan *nsq.ProducerTransaction, 3)
	for i := range 3 {
		if err := producer.PublishAsync("async", fmt.Append(nil, "message ", i), done, i); err != nil {
			panic(err)
		}
	}
	for range 3 {
		tx := <-done // in the order of the publishes
		fmt.Println(tx.Args[0], tx.Error)
	}
	// Output:
	// 0 <nil>
	// 1 <nil>
	// 2 <nil>
}

func ExampleProducer_PublishContext() {
	producer, err := nsq.NewProducer(nsqdAddr, nsq.NewConfig())
	if err != nil {
		panic(err)
	}
	producer.SetLogger(nil, nsq.LogLevelError)
	defer producer.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	fmt.Println(producer.PublishContext(ctx, "patient", []byte("x")))
	// Output: <nil>
}

func ExampleNewFailoverProducer() {
	// Nobody listens at the first address; publishes go to the second.
	producer, err := nsq.NewFailoverProducer([]string{"127.0.0.1:1", nsqdAddr}, nsq.NewConfig())
	if err != nil {
		panic(err)
	}
	producer.SetLogger(nil, nsq.LogLevelError)
	defer producer.Stop()
	for range 4 {
		fmt.Println(producer.Publish("anywhere", []byte("x")))
	}
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// <nil>
}

func ExampleSlogOutput() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelError}))
	producer, err := nsq.NewProducer(nsqdAddr, nsq.NewConfig())
	if err != nil {
		panic(err)
	}
	producer.SetLogger(nsq.SlogOutput{Logger: logger}, nsq.LogLevelInfo)
	defer producer.Stop()
	fmt.Println(producer.Ping())
	// Output: <nil>
}

func ExampleMessage_DisableAutoResponse() {
	later := make(chan *nsq.Message, 100)
	handler := nsq.HandlerFunc(func(m *nsq.Message) error {
		m.DisableAutoResponse()
		later <- m // somebody finishes it, from any goroutine
		return nil
	})
	m := nsq.NewMessage(nsq.MessageID{}, []byte("x"))
	m.Delegate = printer{} // as a test of a handler does
	fmt.Println(handler.HandleMessage(m), m.HasResponded())
	(<-later).Finish()
	fmt.Println(m.HasResponded())
	// Output:
	// <nil> false
	// finished x
	// true
}

type printer struct{}

// OnFinish prints.
func (printer) OnFinish(m *nsq.Message) { fmt.Printf("finished %s\n", m.Body) }

// OnRequeue prints.
func (printer) OnRequeue(m *nsq.Message, delay time.Duration, _ bool) {
	fmt.Printf("requeued %s for %v\n", m.Body, delay)
}

// OnTouch prints.
func (printer) OnTouch(m *nsq.Message) { fmt.Printf("touched %s\n", m.Body) }

// smallNSQD starts a daemon that answers producers and delivers to a consumer of a
// topic what was published to it last. It lives as long as the process.
func smallNSQD() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	last := make(chan map[string][]byte, 1)
	last <- make(map[string][]byte)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go serveSmall(nc, last)
		}
	}()
	return l.Addr().String()
}

func serveSmall(nc net.Conn, last chan map[string][]byte) {
	defer nc.Close()
	r := bufio.NewReader(nc)
	r.Discard(len(nsq.MagicV2))
	topic := ""
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		switch words[0] {
		case "IDENTIFY", "PUB":
			var size uint32
			if binary.Read(r, binary.BigEndian, &size) != nil {
				return
			}
			body := make([]byte, size)
			if _, err := io.ReadFull(r, body); err != nil {
				return
			}
			if words[0] == "IDENTIFY" {
				io.WriteString(nc, frame(nsq.FrameTypeResponse, greeting))
				continue
			}
			topics := <-last
			topics[words[1]] = body
			last <- topics
			io.WriteString(nc, frame(nsq.FrameTypeResponse, "OK"))
		case "SUB":
			topic = words[1]
			io.WriteString(nc, frame(nsq.FrameTypeResponse, "OK"))
		case "RDY":
			topics := <-last
			if body, ok := topics[topic]; ok {
				delete(topics, topic)
				io.WriteString(nc, message(1, 1, string(body)))
			}
			last <- topics
		case "CLS":
			io.WriteString(nc, frame(nsq.FrameTypeResponse, "CLOSE_WAIT"))
		}
	}
}
