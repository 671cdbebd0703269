package nsq

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"time"
)

// Command is one command of the protocol. A nil Body writes no size, an empty one
// writes the size zero.
type Command struct {
	Name   []byte
	Params [][]byte
	Body   []byte
}

// String returns name and parameters, without the body.
func (c *Command) String() string {
	return string(c.appendLine(nil))
}

// WriteTo writes the whole command with one call of w.Write.
func (c *Command) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c.appendTo(make([]byte, 0, c.size())))
	return int64(n), err
}

// size is how many bytes the command has.
func (c *Command) size() int {
	n := len(c.Name) + 1
	for _, p := range c.Params {
		n += 1 + len(p)
	}
	if c.Body != nil {
		n += 4 + len(c.Body)
	}
	return n
}

func (c *Command) appendLine(b []byte) []byte {
	b = append(b, c.Name...)
	for _, p := range c.Params {
		b = append(append(b, ' '), p...)
	}
	return b
}

func (c *Command) appendTo(b []byte) []byte {
	b = append(c.appendLine(b), '\n')
	if c.Body != nil {
		b = binary.BigEndian.AppendUint32(b, uint32(len(c.Body)))
		b = append(b, c.Body...)
	}
	return b
}

// command makes a Command of strings.
func command(body []byte, name string, params ...string) *Command {
	c := &Command{Name: []byte(name), Body: body}
	for _, p := range params {
		c.Params = append(c.Params, []byte(p))
	}
	return c
}

// Identify says who the client is and what it would like; js goes out as JSON.
func Identify(js map[string]interface{}) (*Command, error) {
	body, err := json.Marshal(js)
	if err != nil {
		return nil, err
	}
	return command(body, "IDENTIFY"), nil
}

// Auth sends a secret to a server that asked for one.
func Auth(secret string) (*Command, error) {
	return command([]byte(secret), "AUTH"), nil
}

// Register adds a topic, or a topic's channel if that is not empty, to what the
// connected nsqd has told an nsqlookupd.
func Register(topic string, channel string) *Command {
	return registration("REGISTER", topic, channel)
}

// UnRegister takes back what Register said.
func UnRegister(topic string, channel string) *Command {
	return registration("UNREGISTER", topic, channel)
}

func registration(name, topic, channel string) *Command {
	if channel == "" {
		return command(nil, name, topic)
	}
	return command(nil, name, topic, channel)
}

// Ping keeps a connection to an nsqlookupd alive.
func Ping() *Command {
	return command(nil, "PING")
}

// Publish publishes one message. It aliases body.
func Publish(topic string, body []byte) *Command {
	return command(body, "PUB", topic)
}

// DeferredPublish publishes one message that is delivered after delay, in steps
// of a millisecond. It aliases body.
func DeferredPublish(topic string, delay time.Duration, body []byte) *Command {
	return command(body, "DPUB", topic, milliseconds(delay))
}

// MultiPublish publishes several messages, all or none. It copies the bodies and
// fails if they do not fit into one command, which holds less than 4 GiB.
func MultiPublish(topic string, bodies [][]byte) (*Command, error) {
	n := batchSize(bodies)
	if n > math.MaxUint32 {
		return nil, errBatchSize
	}
	return command(appendBatch(make([]byte, 0, n), bodies), "MPUB", topic), nil
}

// Subscribe asks for the messages of a topic's channel.
func Subscribe(topic string, channel string) *Command {
	return command(nil, "SUB", topic, channel)
}

// Ready says how many messages the client can have in flight.
func Ready(count int) *Command {
	return command(nil, "RDY", strconv.Itoa(count))
}

// Finish says that a message is done with.
func Finish(id MessageID) *Command {
	return command(nil, "FIN", string(id[:]))
}

// Requeue gives a message back, to be delivered again after delay, in steps of a
// millisecond.
func Requeue(id MessageID, delay time.Duration) *Command {
	return command(nil, "REQ", string(id[:]), milliseconds(delay))
}

// Touch asks for a whole message timeout from now on.
func Touch(id MessageID) *Command {
	return command(nil, "TOUCH", string(id[:]))
}

// StartClose asks the server to send no more messages.
func StartClose() *Command {
	return command(nil, "CLS")
}

// Nop does nothing. It is also the answer to a heartbeat.
func Nop() *Command {
	return command(nil, "NOP")
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(int64(d/time.Millisecond), 10)
}

// The commands of the hot path are appended to a buffer without a Command between.

var errBatchSize = errors.New("messages do not fit into one MPUB")

// batchSize is how many bytes an MPUB's body has: a count, and each message
// after its size.
func batchSize(bodies [][]byte) int64 {
	n := int64(4)
	for _, body := range bodies {
		n += 4 + int64(len(body))
	}
	return n
}

func appendBatch(b []byte, bodies [][]byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(bodies)))
	for _, body := range bodies {
		b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
		b = append(b, body...)
	}
	return b
}

func appendPub(b []byte, topic string, body []byte) []byte {
	b = append(append(append(b, "PUB "...), topic...), '\n')
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

func appendDpub(b []byte, topic string, delay time.Duration, body []byte) []byte {
	b = append(append(append(b, "DPUB "...), topic...), ' ')
	b = append(strconv.AppendInt(b, int64(delay/time.Millisecond), 10), '\n')
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

func appendMpub(b []byte, topic string, bodies [][]byte) []byte {
	b = append(append(append(b, "MPUB "...), topic...), '\n')
	b = binary.BigEndian.AppendUint32(b, uint32(batchSize(bodies)))
	return appendBatch(b, bodies)
}

func appendFin(b []byte, id *MessageID) []byte {
	return append(append(append(b, "FIN "...), id[:]...), '\n')
}

func appendReq(b []byte, id *MessageID, delay time.Duration) []byte {
	b = append(append(append(b, "REQ "...), id[:]...), ' ')
	return append(strconv.AppendInt(b, int64(delay/time.Millisecond), 10), '\n')
}

func appendTouch(b []byte, id *MessageID) []byte {
	return append(append(append(b, "TOUCH "...), id[:]...), '\n')
}

func appendRdy(b []byte, count int64) []byte {
	return append(strconv.AppendInt(append(b, "RDY "...), count, 10), '\n')
}

var okText, closeWaitText, heartbeatText = []byte("OK"), []byte("CLOSE_WAIT"), []byte("_heartbeat_")

func isHeartbeat(b []byte) bool { return bytes.Equal(b, heartbeatText) }
