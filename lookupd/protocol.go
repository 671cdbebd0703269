package lookupd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/zsqio/zsq/internal/wire"
)

const (
	// magic is what a client sends first: the version of the protocol.
	magic = "  V1"
	// lineMax bounds a command's line in bytes, its end included. The longest
	// that means anything has some 150.
	lineMax = 2048
	// bodyMax bounds the JSON of IDENTIFY in bytes. nsqd sends some 200.
	bodyMax = 64 << 10
)

// A clientError is the client's fault: sent as it is, and the end of the
// connection. Every error of this protocol is fatal.
type clientError struct {
	text  string
	cause error // for the log; may be nil
}

// Error returns what the client is told.
func (e *clientError) Error() string { return e.text }

// Unwrap returns the cause.
func (e *clientError) Unwrap() error { return e.cause }

func badCommand(code, format string, args ...any) *clientError {
	return &clientError{text: code + " " + fmt.Sprintf(format, args...)}
}

var errLineTooLong = badCommand("E_INVALID", "command line longer than %d bytes", lineMax)

// handshake reads the version of the protocol and reports whether it is ours.
// The client has been told if not.
func (c *conn) handshake() bool {
	c.s.log.printf(LogInfo, "TCP: new client(%s)", c.addr)
	c.deadline()
	var word [len(magic)]byte
	if _, err := io.ReadFull(c.r, word[:]); err != nil {
		c.s.log.printf(LogError, "failed to read protocol version - %s", err)
		return false
	}
	c.s.log.printf(LogInfo, "CLIENT(%s): desired protocol magic '%s'", c.addr, word[:])
	if string(word[:]) != magic {
		c.s.log.printf(LogError, "client(%s) bad protocol magic '%s'", c.addr, word[:])
		c.refuse("E_BAD_PROTOCOL")
		return false
	}
	return true
}

// serve carries out commands until either side ends the connection; the error
// says why.
//
//	"  V1"  ( command "\n" [ int32 size | JSON ] )*      to us
//	( int32 size | text )*                               from us, one a command
func (c *conn) serve() error {
	for {
		line, err := c.readLine()
		if err != nil {
			return err
		}
		answer, err := c.command(strings.Split(strings.TrimSpace(line), " "))
		if err != nil {
			return err
		}
		if err := c.answer(answer); err != nil {
			return err
		}
	}
}

// command carries out one command. It does not keep params.
func (c *conn) command(params []string) (answer []byte, err error) {
	c.s.metrics.command(params[0])
	switch params[0] {
	case "PING":
		return c.cmdPing()
	case "IDENTIFY":
		return c.cmdIdentify()
	case "REGISTER":
		return c.cmdRegister(params)
	case "UNREGISTER":
		return c.cmdUnregister(params)
	}
	return nil, badCommand("E_INVALID", "invalid command %s", params[0])
}

var okAnswer = []byte("OK")

func (c *conn) cmdPing() ([]byte, error) {
	if c.producer != nil {
		silence := c.s.registry.ping(c.producer, c.s.now())
		c.s.log.printf(LogInfo, "CLIENT(%s): pinged (last ping %s)", c.addr, silence)
	}
	return okAnswer, nil
}

func (c *conn) cmdIdentify() ([]byte, error) {
	if c.producer != nil {
		return nil, badCommand("E_INVALID", "cannot IDENTIFY again")
	}
	body, err := c.readBody()
	if err != nil {
		return nil, err
	}
	var p peer
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, &clientError{"E_BAD_BODY IDENTIFY failed to decode JSON body", err}
	}
	if p.BroadcastAddress == "" || p.TCPPort == 0 || p.HTTPPort == 0 || p.Version == "" {
		return nil, badCommand("E_BAD_BODY", "IDENTIFY missing fields")
	}
	c.producer = newProducer(p, c.addr, c.s.now())
	c.s.registry.add(c.producer)
	c.s.log.printf(LogInfo, "CLIENT(%s): IDENTIFY Address:%s TCP:%d HTTP:%d Version:%s",
		c.addr, p.BroadcastAddress, p.TCPPort, p.HTTPPort, p.Version)
	c.s.log.printf(LogInfo, "DB: client(%s) REGISTER category:%s key:%s subkey:%s", c.addr, "client", "", "")
	return c.s.greeting, nil
}

// greeting is the answer to IDENTIFY, from which nsqd learns where to ask for
// channels.
type greeting struct {
	BroadcastAddress string `json:"broadcast_address"`
	Hostname         string `json:"hostname"`
	HTTPPort         int    `json:"http_port"`
	TCPPort          int    `json:"tcp_port"`
	Version          string `json:"version"`
}

// readBody reads the size and the body behind IDENTIFY. Memory is taken as
// bytes arrive, not as they are announced.
func (c *conn) readBody() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, &clientError{"E_BAD_BODY IDENTIFY failed to read body size", err}
	}
	size := int32(binary.BigEndian.Uint32(head[:]))
	switch {
	case size < 0:
		return nil, badCommand("E_BAD_BODY", "IDENTIFY invalid body size %d", size)
	case size > bodyMax:
		return nil, badCommand("E_BAD_BODY", "IDENTIFY body too big %d > %d", size, bodyMax)
	}
	body, err := io.ReadAll(io.LimitReader(c.r, int64(size)))
	if err == nil && len(body) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, &clientError{"E_BAD_BODY IDENTIFY failed to read body", err}
	}
	return body, nil
}

func (c *conn) cmdRegister(params []string) ([]byte, error) {
	topic, channel, err := c.names(params)
	if err != nil {
		return nil, err
	}
	added, err := c.s.registry.register(c.producer, topic, channel)
	if err != nil {
		return nil, &clientError{"E_INVALID REGISTER " + err.Error(), err}
	}
	for _, r := range added {
		c.s.log.printf(LogInfo, "DB: client(%s) REGISTER category:%s key:%s subkey:%s", c.addr, r.category(), r.topic, r.channel)
	}
	return okAnswer, nil
}

func (c *conn) cmdUnregister(params []string) ([]byte, error) {
	topic, channel, err := c.names(params)
	if err != nil {
		return nil, err
	}
	if channel != "" {
		if c.s.registry.unregisterChannel(c.producer, topic, channel) {
			c.logUnregister(registration{topic, channel})
		}
		return okAnswer, nil
	}
	for _, r := range c.s.registry.unregisterTopic(c.producer, topic) {
		if r.channel != "" {
			c.s.log.printf(LogWarn, "client(%s) unexpected UNREGISTER category:%s key:%s subkey:%s", c.addr, r.category(), r.topic, r.channel)
			continue
		}
		c.logUnregister(r)
	}
	return okAnswer, nil
}

func (c *conn) logUnregister(r registration) {
	c.s.log.printf(LogInfo, "DB: client(%s) UNREGISTER category:%s key:%s subkey:%s", c.addr, r.category(), r.topic, r.channel)
}

func (r registration) category() string {
	if r.channel == "" {
		return "topic"
	}
	return "channel"
}

// names checks the state of the connection and takes the topic and the channel,
// which may be empty, from the parameters. More parameters are ignored.
func (c *conn) names(params []string) (topic, channel string, err error) {
	verb := params[0]
	if c.producer == nil {
		return "", "", badCommand("E_INVALID", "client must IDENTIFY")
	}
	if len(params) < 2 {
		return "", "", badCommand("E_INVALID", "%s insufficient number of params", verb)
	}
	if topic = params[1]; !wire.ValidName(topic) {
		return "", "", badCommand("E_BAD_TOPIC", "%s topic name '%s' is not valid", verb, topic)
	}
	if len(params) > 2 {
		channel = params[2]
	}
	if channel != "" && !wire.ValidName(channel) {
		return "", "", badCommand("E_BAD_CHANNEL", "%s channel name '%s' is not valid", verb, channel)
	}
	// The registry keeps names; the line they stand in should not stay for them.
	return strings.Clone(topic), strings.Clone(channel), nil
}

// conclude takes the producer out of the registry and says goodbye: the log
// lines and, if the error is the client's, the error.
func (c *conn) conclude(err error) {
	var theirs *clientError
	if errors.As(err, &theirs) {
		cause := ""
		if theirs.cause != nil {
			cause = " - " + theirs.cause.Error()
		}
		c.s.log.printf(LogError, "[%s] - %s%s", c.addr, theirs.text, cause)
	}
	c.s.log.printf(LogInfo, "PROTOCOL(V1): [%s] exiting ioloop", c.addr)
	if c.producer != nil {
		removed := c.s.registry.remove(c.producer)
		if c.s.log.enabled(LogInfo) {
			c.logUnregisterAll(removed)
		}
	}
	switch {
	case theirs != nil:
		c.refuse(theirs.text)
	case errors.Is(err, io.EOF):
		c.s.log.printf(LogInfo, "client(%s) - EOF", c.addr)
	default:
		c.s.log.printf(LogError, "client(%s) - %s", c.addr, err)
	}
}

func (c *conn) logUnregisterAll(removed []registration) {
	c.s.log.printf(LogInfo, "DB: client(%s) UNREGISTER category:%s key:%s subkey:%s", c.addr, "client", "", "")
	for _, r := range removed {
		c.logUnregister(r)
	}
}

// deadline gives the client its time for the next command, all of it: a client
// that sends a byte now and then gains nothing.
func (c *conn) deadline() {
	limit := c.s.opts.ReapTimeout
	if c.producer != nil {
		limit = c.s.opts.IdleTimeout
	}
	_ = c.c.SetDeadline(time.Now().Add(limit)) // of a closed connection: the next read says so
}
