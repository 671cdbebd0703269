package nsq

import "time"

// MessageDelegate takes the answers to a message. Tests of handlers set their
// own.
type MessageDelegate interface {
	// OnFinish is called by the Finish that answers the message.
	OnFinish(*Message)

	// OnRequeue is called by the Requeue that answers the message.
	OnRequeue(m *Message, delay time.Duration, backoff bool)

	// OnTouch is called by each Touch of a message that is not answered.
	OnTouch(*Message)
}

// ConnDelegate is told of what happens on a Conn. OnResponse, OnError, OnMessage
// and OnHeartbeat come from the goroutine that reads and must not wait for more
// of the same connection's input. The callbacks of answers come from the
// goroutine that answers, one at a time.
type ConnDelegate interface {
	// OnResponse is called for each response frame that is not a heartbeat.
	// The bytes are valid during the call.
	OnResponse(*Conn, []byte)

	// OnError is called for each error frame. The bytes are valid during the call.
	OnError(*Conn, []byte)

	// OnMessage is called for each message.
	OnMessage(*Conn, *Message)

	// OnMessageFinished is called before a message's FIN is written.
	OnMessageFinished(*Conn, *Message)

	// OnMessageRequeued is called before a message's REQ is written.
	OnMessageRequeued(*Conn, *Message)

	// OnBackoff is called when a message was requeued with backoff.
	OnBackoff(*Conn)

	// OnContinue is called when a message was requeued without backoff.
	OnContinue(*Conn)

	// OnResume is called when a message was finished.
	OnResume(*Conn)

	// OnIOError is called when reading or writing failed. The connection is lost.
	OnIOError(*Conn, error)

	// OnHeartbeat is called for each heartbeat.
	OnHeartbeat(*Conn)

	// OnClose is called once, when the connection is closed and its goroutines
	// have ended.
	OnClose(*Conn)
}

// messageDelegate hands a message's answers to the connection it came by.
type messageDelegate struct {
	c *Conn
}

func (d *messageDelegate) OnFinish(m *Message) { d.c.finish(m) }

func (d *messageDelegate) OnRequeue(m *Message, delay time.Duration, backoff bool) {
	d.c.requeue(m, delay, backoff)
}

func (d *messageDelegate) OnTouch(m *Message) { d.c.touch(m) }
