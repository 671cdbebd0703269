package httpapi

import (
	"errors"
	"net/http"
	"net/url"
)

// topicArg reads the topic argument without looking at its shape.
func (a *api) topicArg(r *http.Request) (string, url.Values, *apiError) {
	q, err := a.query(r)
	if err != nil {
		return "", nil, err
	}
	if !q.Has("topic") {
		return "", nil, errMissingTopic
	}
	return q.Get("topic"), q, nil
}

// channelArgs reads and checks both names. The word for a bad topic differs
// from the one of the topic endpoints.
func (a *api) channelArgs(r *http.Request) (topic, channel string, err *apiError) {
	topic, q, err := a.topicArg(r)
	switch {
	case err != nil:
		return "", "", err
	case !a.ValidTopicName(topic):
		return "", "", errInvalidArgTopic
	case !q.Has("channel"):
		return "", "", errMissingChannel
	case !a.ValidChannelName(q.Get("channel")):
		return "", "", errInvalidChannel
	}
	return topic, q.Get("channel"), nil
}

// done turns a broker's answer into ours; what has no word of its own is
// logged and internal.
func (a *api) done(r *http.Request, err error) (any, *apiError) {
	switch {
	case err == nil:
		return nil, nil
	case errors.Is(err, ErrTopicNotFound):
		return nil, errTopicNotFound
	case errors.Is(err, ErrChannelNotFound):
		return nil, errChannelNotFound
	case errors.Is(err, ErrInvalidMode):
		return nil, errInvalidMode
	case errors.Is(err, ErrEphemeral):
		return nil, errInvalidTopic
	case errors.Is(err, ErrTooManyTopics):
		return nil, errTooManyTopics
	case errors.Is(err, ErrTooManyChannels):
		return nil, errTooManyChannels
	default:
		a.Logf(LevelError, "failure in %s - %s", r.URL.Path, err)
		return nil, errInternal
	}
}

func (a *api) topicCreate(r *http.Request) (any, *apiError) {
	topic, _, err := a.topicArg(r)
	if err != nil {
		return nil, err
	}
	if !a.ValidTopicName(topic) {
		return nil, errInvalidTopic
	}
	return a.done(r, a.Broker.CreateTopic(topic))
}

// topicDelete does not look at the name's shape: a bad one is not found.
func (a *api) topicDelete(r *http.Request) (any, *apiError) {
	topic, _, err := a.topicArg(r)
	if err != nil {
		return nil, err
	}
	return a.done(r, a.Broker.DeleteTopic(topic))
}

func (a *api) topicEmpty(r *http.Request) (any, *apiError) {
	topic, _, err := a.topicArg(r)
	if err != nil {
		return nil, err
	}
	if !a.ValidTopicName(topic) {
		return nil, errInvalidTopic
	}
	return a.done(r, a.Broker.EmptyTopic(topic))
}

// topicPause does not look at the name's shape either.
func (a *api) topicPause(paused bool) func(*http.Request) (any, *apiError) {
	return func(r *http.Request) (any, *apiError) {
		topic, _, err := a.topicArg(r)
		if err != nil {
			return nil, err
		}
		return a.done(r, a.Broker.PauseTopic(topic, paused))
	}
}

// topicDurability is ours alone.
func (a *api) topicDurability(r *http.Request) (any, *apiError) {
	topic, q, err := a.topicArg(r)
	switch {
	case err != nil:
		return nil, err
	case !a.ValidTopicName(topic):
		return nil, errInvalidTopic
	case !q.Has("mode"):
		return nil, errMissingMode
	}
	return a.done(r, a.Broker.SetDurability(topic, q.Get("mode")))
}

// channelCreate is the one channel endpoint that makes something, but it makes
// no topic.
func (a *api) channelCreate(r *http.Request) (any, *apiError) {
	return a.channelOp(a.Broker.CreateChannel)(r)
}

func (a *api) channelOp(op func(topic, channel string) error) func(*http.Request) (any, *apiError) {
	return func(r *http.Request) (any, *apiError) {
		topic, channel, err := a.channelArgs(r)
		if err != nil {
			return nil, err
		}
		return a.done(r, op(topic, channel))
	}
}

func (a *api) pauseChannel(paused bool) func(topic, channel string) error {
	return func(topic, channel string) error { return a.Broker.PauseChannel(topic, channel, paused) }
}
