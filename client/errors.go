package nsq

import "errors"

// Errors that programs compare with ==; they are returned as they are.
var (
	// ErrNotConnected says that the connection is not there, or was lost
	// before the answer came: a publish may or may not have been stored.
	ErrNotConnected = errors.New("not connected")

	// ErrStopped says that the Producer or Consumer has been stopped.
	ErrStopped = errors.New("stopped")

	// ErrClosing says that the connection is about to close.
	ErrClosing = errors.New("closing")

	// ErrAlreadyConnected says that there is a connection to that address, or
	// that one is being made.
	ErrAlreadyConnected = errors.New("already connected")

	// ErrOverMaxInFlight says that a ready count would pass the consumer's
	// maximum in flight.
	ErrOverMaxInFlight = errors.New("over configure max-inflight")
)

// ErrIdentify says that a connection failed while its features were negotiated.
type ErrIdentify struct {
	Reason string
}

// Error returns the reason after a fixed prefix.
func (e ErrIdentify) Error() string {
	return "failed to IDENTIFY - " + e.Reason
}

// ErrProtocol is an error frame of the server: a code such as E_BAD_TOPIC, a
// space and a description.
type ErrProtocol struct {
	Reason string
}

// Error returns the frame's text.
func (e ErrProtocol) Error() string {
	return e.Reason
}
