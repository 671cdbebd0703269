package broker

import "errors"

// What callers decide by.
var (
	// ErrExiting says that the topic or channel is being deleted or closed.
	ErrExiting = errors.New("exiting")
	// ErrNotInFlight says that nobody holds the message: it timed out, was
	// finished, or never was.
	ErrNotInFlight = errors.New("ID not in flight")
	// ErrNotOwner says that another subscriber holds the message.
	ErrNotOwner = errors.New("client does not own message")
	// ErrTopicNotFound and ErrChannelNotFound say so.
	ErrTopicNotFound   = errors.New("topic not found")
	ErrChannelNotFound = errors.New("channel not found")
	// ErrTooManyTopics and ErrTooManyChannels say that Options allow no more.
	ErrTooManyTopics   = errors.New("topics exceed limit")
	ErrTooManyChannels = errors.New("channels of the topic exceed limit")
	// ErrTooManyConsumers says that the channel's consumer limit is reached.
	ErrTooManyConsumers = errors.New("consumers exceed limit")
	// ErrEphemeral says that the topic is never more than in memory.
	ErrEphemeral = errors.New("topic is ephemeral")
)
