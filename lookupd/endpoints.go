package lookupd

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/zsqio/zsq/internal/wire"
)

// wildcard is no name. Upstream takes it for all names where it does not check
// them, and deletes everything.
const wildcard = "*"

func ping(w *responseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
	_, _ = w.Write(okAnswer) // as in json
}

func info(w *responseWriter, _ *http.Request) {
	w.json(http.StatusOK, `{"version":"`+Version+`"}`)
}

// params are a request's parameters: those of its query, the first of each
// name. Bodies are not looked at.
type params url.Values

func parseParams(r *http.Request) (params, *apiError) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errInvalidRequest
	}
	return params(q), nil
}

// take returns a parameter, or missing if there is none of that name; it may be
// empty.
func (p params) take(name string, missing *apiError) (string, *apiError) {
	v := p[name]
	if len(v) == 0 {
		return "", missing
	}
	return v[0], nil
}

// topicParam takes the topic of a request that reads.
func topicParam(r *http.Request) (string, *apiError) {
	p, err := parseParams(r)
	if err != nil {
		return "", err
	}
	return p.take("topic", errMissingTopic)
}

// topicChannelParams takes two names that must be valid.
func topicChannelParams(r *http.Request) (topic, channel string, err *apiError) {
	p, err := parseParams(r)
	if err != nil {
		return "", "", err
	}
	if topic, err = p.take("topic", errMissingTopic); err != nil {
		return "", "", err
	}
	if !wire.ValidName(topic) {
		return "", "", errInvalidTopic
	}
	if channel, err = p.take("channel", errMissingChannel); err != nil {
		return "", "", err
	}
	if !wire.ValidName(channel) {
		return "", "", errInvalidChannel
	}
	return strings.Clone(topic), strings.Clone(channel), nil
}

func (a *api) topics(w *responseWriter, _ *http.Request) {
	const head, tail = `{"topics":`, `}`
	names := a.s.registry.topicNames()
	b := w.jsonSized(len(head) + len(names) + len(tail))
	defer b.close()
	b.writeString(head)
	b.write(names)
	b.writeString(tail)
}

func (a *api) channels(w *responseWriter, r *http.Request) {
	name, err := topicParam(r)
	if err != nil {
		w.fail(err)
		return
	}
	const head, tail = `{"channels":`, `}`
	channels := []byte("[]")
	if v := a.s.registry.lookup(name, a.s.now()); v != nil {
		channels = v.channels
	}
	b := w.jsonSized(len(head) + len(channels) + len(tail))
	defer b.close()
	b.writeString(head)
	b.write(channels)
	b.writeString(tail)
}

func (a *api) lookup(w *responseWriter, r *http.Request) {
	name, err := topicParam(r)
	if err != nil {
		w.fail(err)
		return
	}
	v := a.s.registry.lookup(name, a.s.now())
	if v == nil {
		w.fail(errTopicNotFound)
		return
	}
	const head, middle, tail = `{"channels":`, `,"producers":[`, `]}`
	b := w.jsonSized(len(head) + len(v.channels) + len(middle) + v.size + max(0, len(v.visible)-1) + len(tail))
	defer b.close()
	b.writeString(head)
	b.write(v.channels)
	b.writeString(middle)
	b.writeList(v.visible)
	b.writeString(tail)
}

func (a *api) nodes(w *responseWriter, _ *http.Request) {
	const head, tail = `{"producers":[`, `]}`
	list := a.s.registry.nodes(a.s.now())
	size := len(head) + max(0, len(list)-1) + len(tail)
	for _, n := range list {
		size += len(n)
	}
	b := w.jsonSized(size)
	defer b.close()
	b.writeString(head)
	b.writeList(list)
	b.writeString(tail)
}

// debug shows everything there is, registration by registration: one that
// comes or goes meanwhile may be in the answer or not.
func (a *api) debug(w *responseWriter, _ *http.Request) {
	b := w.jsonStream()
	defer b.close()
	sep := "{"
	for _, key := range a.s.registry.debugKeys() {
		list := a.debugEntries(key)
		if len(list) == 0 {
			continue
		}
		b.writeString(sep + `"` + key + `":`)
		b.write(marshal(list))
		sep = ","
	}
	if sep == "{" {
		b.writeString(sep)
	}
	b.writeString("}")
}

func (a *api) debugEntries(key string) []debugEntry {
	category, names, _ := strings.Cut(key, ":")
	if category == "client" {
		return a.s.registry.debugClients()
	}
	topic, channel, _ := strings.Cut(names, ":")
	return a.s.registry.debugTopic(topic, channel)
}

func (a *api) topicCreate(w *responseWriter, r *http.Request) {
	topic, err := topicParam(r)
	if err == nil && !wire.ValidName(topic) {
		err = errInvalidTopic
	}
	if err != nil {
		w.fail(err)
		return
	}
	a.s.log.printf(LogInfo, "DB: adding topic(%s)", topic)
	a.created(w, a.s.registry.createTopic(strings.Clone(topic)))
}

// created answers a creation.
func (a *api) created(w *responseWriter, err error) {
	if errors.Is(err, errFull) {
		a.s.log.printf(LogWarn, "DB: %s", err)
		w.fail(errTooMany)
		return
	}
	w.empty()
}

func (a *api) topicDelete(w *responseWriter, r *http.Request) {
	topic, err := topicParam(r)
	if err == nil && topic == wildcard {
		err = errInvalidTopic
	}
	if err != nil {
		w.fail(err)
		return
	}
	for _, reg := range a.s.registry.deleteTopic(topic) {
		if reg.channel != "" {
			a.s.log.printf(LogInfo, "DB: removing channel(%s) from topic(%s)", reg.channel, reg.topic)
		} else {
			a.s.log.printf(LogInfo, "DB: removing topic(%s)", reg.topic)
		}
	}
	w.empty()
}

func (a *api) topicTombstone(w *responseWriter, r *http.Request) {
	p, err := parseParams(r)
	var topic, node string
	if err == nil {
		topic, err = p.take("topic", errMissingTopic)
	}
	if err == nil && topic == wildcard {
		err = errInvalidTopic
	}
	if err == nil {
		node, err = p.take("node", errMissingNode)
	}
	if err != nil {
		w.fail(err)
		return
	}
	a.s.log.printf(LogInfo, "DB: setting tombstone for producer@%s of topic(%s)", node, topic)
	a.s.registry.tombstone(topic, node, a.s.now())
	w.empty()
}

func (a *api) channelCreate(w *responseWriter, r *http.Request) {
	topic, channel, err := topicChannelParams(r)
	if err != nil {
		w.fail(err)
		return
	}
	a.s.log.printf(LogInfo, "DB: adding channel(%s) in topic(%s)", channel, topic)
	a.s.log.printf(LogInfo, "DB: adding topic(%s)", topic)
	a.created(w, a.s.registry.createChannel(topic, channel))
}

func (a *api) channelDelete(w *responseWriter, r *http.Request) {
	topic, channel, err := topicChannelParams(r)
	if err != nil {
		w.fail(err)
		return
	}
	if !a.s.registry.deleteChannel(topic, channel) {
		w.fail(errChannelNotFound)
		return
	}
	a.s.log.printf(LogInfo, "DB: removing channel(%s) from topic(%s)", channel, topic)
	w.empty()
}
