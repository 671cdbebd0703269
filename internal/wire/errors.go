package wire

import (
	"fmt"
	"strconv"
)

// Error is an error that a client is told of. Its text on the wire is Code,
// a space and Desc, byte for byte what nsqd sends, because deployed clients
// match on it. Errors are shared and must not be changed by who gets one.
type Error struct {
	Code  string // one of the E_ codes of the protocol
	Desc  string // empty for E_BAD_PROTOCOL only, which is sent without a space
	Fatal bool   // the connection is closed after the error frame
	Cause error  // for our log only; may be nil
}

// Error returns the text that goes to the client.
func (e *Error) Error() string {
	if e.Desc == "" {
		return e.Code
	}
	return e.Code + " " + e.Desc
}

// Unwrap returns the cause, which the client is not told of.
func (e *Error) Unwrap() error { return e.Cause }

// WithCause returns a copy of e that carries cause for the log.
func (e *Error) WithCause(cause error) *Error {
	c := *e
	c.Cause = cause
	return &c
}

// The codes of the protocol. All errors are fatal except those of FIN, REQ
// and TOUCH.
const (
	codeBadProtocol    = "E_BAD_PROTOCOL"
	codeInvalid        = "E_INVALID"
	codeBadBody        = "E_BAD_BODY"
	codeBadTopic       = "E_BAD_TOPIC"
	codeBadChannel     = "E_BAD_CHANNEL"
	codeBadMessage     = "E_BAD_MESSAGE"
	codeIdentifyFailed = "E_IDENTIFY_FAILED"
	codeAuthFirst      = "E_AUTH_FIRST"
	codeAuthFailed     = "E_AUTH_FAILED"
	codeAuthDisabled   = "E_AUTH_DISABLED"
	codeAuthError      = "E_AUTH_ERROR"
	codeUnauthorized   = "E_UNAUTHORIZED"
	codeSubFailed      = "E_SUB_FAILED"
	codePubFailed      = "E_PUB_FAILED"
	codeMpubFailed     = "E_MPUB_FAILED"
	codeDpubFailed     = "E_DPUB_FAILED"
	codeFinFailed      = "E_FIN_FAILED"
	codeReqFailed      = "E_REQ_FAILED"
	codeTouchFailed    = "E_TOUCH_FAILED"
)

// Reasons for FinFailed, ReqFailed and TouchFailed; ReasonExiting is also the
// reason of a SUB or REQ while the daemon or the topic goes away.
const (
	ReasonNotInFlight     = "ID not in flight"
	ReasonNotOwner        = "client does not own message"
	ReasonAlreadyDeferred = "ID already deferred"
	ReasonExiting         = "exiting"
)

// Errors without arguments, one value each for the life of the process.
var (
	ErrBadProtocol = &Error{Code: codeBadProtocol, Fatal: true}

	ErrIdentifySizeUnreadable   = fatal(codeBadBody, "IDENTIFY failed to read body size")
	ErrIdentifyBodyUnreadable   = fatal(codeBadBody, "IDENTIFY failed to read body")
	ErrIdentifyJSON             = fatal(codeBadBody, "IDENTIFY failed to decode JSON body")
	ErrIdentifyBothCompressions = fatal(codeIdentifyFailed, "cannot enable both deflate and snappy compression")

	ErrAuthParams         = fatal(codeInvalid, "AUTH invalid number of parameters")
	ErrAuthSizeUnreadable = fatal(codeBadBody, "AUTH failed to read body size")
	ErrAuthBodyUnreadable = fatal(codeBadBody, "AUTH failed to read body")
	ErrAuthAlreadySet     = fatal(codeInvalid, "AUTH already set")
	ErrAuthDisabled       = fatal(codeAuthDisabled, "AUTH disabled")
	ErrAuthFailed         = fatal(codeAuthFailed, "AUTH failed")
	ErrAuthNone           = fatal(codeUnauthorized, "AUTH no authorizations found")

	ErrSubNoHeartbeats = fatal(codeInvalid, "cannot SUB with heartbeats disabled")
	ErrSubParams       = fatal(codeInvalid, "SUB insufficient number of parameters")
	ErrSubDeleted      = fatal(codeSubFailed, "SUB failed to deleted topic/channel")

	ErrPubParams          = fatal(codeInvalid, "PUB insufficient number of parameters")
	ErrPubSizeUnreadable  = fatal(codeBadMessage, "PUB failed to read message body size")
	ErrPubBodyUnreadable  = fatal(codeBadMessage, "PUB failed to read message body")
	ErrDpubParams         = fatal(codeInvalid, "DPUB insufficient number of parameters")
	ErrDpubSizeUnreadable = fatal(codeBadMessage, "DPUB failed to read message body size")
	ErrDpubBodyUnreadable = fatal(codeBadMessage, "DPUB failed to read message body")

	ErrMpubParams            = fatal(codeInvalid, "MPUB insufficient number of parameters")
	ErrMpubSizeUnreadable    = fatal(codeBadBody, "MPUB failed to read body size")
	ErrMpubCountUnreadable   = fatal(codeBadBody, "MPUB failed to read message count")
	ErrMpubMessageUnreadable = fatal(codeBadMessage, "MPUB failed to read message body")

	ErrFinParams   = fatal(codeInvalid, "FIN insufficient number of params")
	ErrReqParams   = fatal(codeInvalid, "REQ insufficient number of params")
	ErrTouchParams = fatal(codeInvalid, "TOUCH insufficient number of params")
	ErrMessageID   = fatal(codeInvalid, "invalid message ID")
)

func fatal(code, desc string) *Error { return &Error{Code: code, Desc: desc, Fatal: true} }

func fatalf(code, format string, args ...any) *Error {
	return fatal(code, fmt.Sprintf(format, args...))
}

// InvalidCommand is the answer to a name that is no command. The name may be
// empty; the text then ends in a space.
func InvalidCommand(name []byte) *Error {
	return fatal(codeInvalid, "invalid command "+string(name))
}

// WrongState is the answer to op in a state of the connection that forbids it.
func WrongState(op Op) *Error {
	return fatal(codeInvalid, "cannot "+op.String()+" in current state")
}

// TLSRequired is the answer to every command but IDENTIFY, known or not, on a
// plain connection where TLS is demanded.
func TLSRequired(name []byte) *Error {
	return fatal(codeInvalid, "cannot "+string(name)+" in current state (TLS required)")
}

// IdentifyFailed says that the response to an IDENTIFY or an upgrade after it
// failed. It is one of the errors that tell the client the cause.
func IdentifyFailed(cause error) *Error {
	return fatal(codeIdentifyFailed, "IDENTIFY failed "+cause.Error()).WithCause(cause)
}

// AuthError says that the response to an AUTH could not be written.
func AuthError(cause error) *Error {
	return fatal(codeAuthError, "AUTH error "+cause.Error()).WithCause(cause)
}

// AuthFirst is the answer to op before a successful AUTH.
func AuthFirst(op Op) *Error {
	return fatal(codeAuthFirst, "AUTH required before "+op.String())
}

// Unauthorized is the answer to an op that the client's authorizations do not
// cover. Publishes have an empty channel.
func Unauthorized(op Op, topic, channel string) *Error {
	return fatalf(codeUnauthorized, "AUTH failed for %s on %q %q", op, topic, channel)
}

// SubFailed says that a channel did not take a subscriber.
func SubFailed(reason string) *Error {
	return fatal(codeSubFailed, "SUB failed "+reason)
}

// TooManyConsumers is [SubFailed] for a channel at its limit of consumers.
func TooManyConsumers(topic, channel string, limit int) *Error {
	return SubFailed("consumers for " + topic + ":" + channel + " exceeds limit of " + strconv.Itoa(limit))
}

// PublishFailed says that a PUB, MPUB or DPUB could not be queued. The client
// is told the cause.
func PublishFailed(op Op, cause error) *Error {
	code := codePubFailed
	switch op {
	case OpMpub:
		code = codeMpubFailed
	case OpDpub:
		code = codeDpubFailed
	}
	return fatal(code, op.String()+" failed "+cause.Error()).WithCause(cause)
}

// NoMemory says that the rest of op, of which some has come, cannot be kept. It is
// one of the errors that tell the client the cause.
func NoMemory(op Op, cause error) *Error {
	switch op {
	case OpPub, OpMpub, OpDpub:
		return PublishFailed(op, cause)
	case OpIdentify:
		return IdentifyFailed(cause)
	case OpAuth:
		return AuthError(cause)
	case OpSub:
		return SubFailed(cause.Error()).WithCause(cause)
	}
	return fatal(codeInvalid, cause.Error()).WithCause(cause)
}

// FinFailed says why a FIN had no effect. It is not fatal. The id is the text
// that the client sent, which is copied.
func FinFailed(id []byte, reason string) *Error {
	return &Error{Code: codeFinFailed, Desc: "FIN " + string(id) + " failed " + reason}
}

// ReqFailed says why a REQ had no effect. It is not fatal. The id is the text
// that the client sent, which is copied.
func ReqFailed(id []byte, reason string) *Error {
	return &Error{Code: codeReqFailed, Desc: "REQ " + string(id) + " failed " + reason}
}

// TouchFailed says why a TOUCH had no effect. It is not fatal. The id is the
// text that the client sent, which is copied.
func TouchFailed(id []byte, reason string) *Error {
	return &Error{Code: codeTouchFailed, Desc: "TOUCH " + string(id) + " failed " + reason}
}

// badTopic is the answer to a topic name that is not valid. MPUB repeats the
// code in its text, as nsqd does.
func badTopic(op Op, name []byte) *Error {
	repeat := ""
	if op == OpMpub {
		repeat = codeBadTopic + " "
	}
	return fatalf(codeBadTopic, "%s%s topic name %q is not valid", repeat, op, name)
}

func badChannel(op Op, name []byte) *Error {
	return fatalf(codeBadChannel, "%s channel name %q is not valid", op, name)
}

// badBodySize is the answer to the announced body size of IDENTIFY, AUTH or
// MPUB, of which the caller knows that it is out of range.
func badBodySize(op Op, size int32, sizeMax int64) *Error {
	if size > 0 {
		return fatalf(codeBadBody, "%s body too big %d > %d", op, size, sizeMax)
	}
	return fatalf(codeBadBody, "%s invalid body size %d", op, size)
}

// badMessageSize is badBodySize for PUB and DPUB.
func badMessageSize(op Op, size int32, sizeMax int64) *Error {
	if size > 0 {
		return fatalf(codeBadMessage, "%s message too big %d > %d", op, size, sizeMax)
	}
	return fatalf(codeBadMessage, "%s invalid message body size %d", op, size)
}
