package httpapi

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/zsqio/zsq/internal/wire"
)

// pub is POST /pub: the body is one message. Sizes are checked before names,
// and a bad defer still leaves the topic created.
func (a *api) pub(r *http.Request) (any, *apiError) {
	if r.ContentLength > a.Limits.MaxMsgSize {
		return nil, errMsgTooBig
	}
	buf, err := a.readBody(r, a.Limits.MaxMsgSize)
	defer a.doneBody(buf)
	switch {
	case err != nil:
		return nil, bodyError(err)
	case int64(buf.Len()) > a.Limits.MaxMsgSize:
		return nil, errMsgTooBig
	case buf.Len() == 0:
		return nil, errMsgEmpty
	}
	topic, q, aerr := a.publishTopic(r)
	if aerr != nil {
		return nil, aerr
	}
	var deferBy time.Duration
	if q.Has("defer") {
		ms, err := strconv.ParseInt(q.Get("defer"), 10, 64)
		// Compared in milliseconds, so that no multiplication wraps.
		if err != nil || ms < 0 || ms > a.Limits.MaxReqTimeout.Milliseconds() {
			return nil, errInvalidDefer
		}
		deferBy = time.Duration(ms) * time.Millisecond
	}
	return a.publish(topic, [][]byte{buf.B}, deferBy)
}

// mpub is POST /mpub: the body is one message a line, or with binary set a
// batch as MPUB has it. A body without lines is no error.
func (a *api) mpub(r *http.Request) (any, *apiError) {
	limit := a.Limits.MaxBodySize
	if r.ContentLength > limit {
		return nil, errBodyTooBig
	}
	topic, q, aerr := a.publishTopic(r)
	if aerr != nil {
		return nil, aerr
	}
	buf, err := a.readBody(r, limit)
	defer a.doneBody(buf)

	var bodies [][]byte
	switch {
	case errors.Is(err, errMemory):
		return nil, errOutOfMemory
	case a.isBinary(r, q):
		if int64(buf.Len()) > limit {
			return nil, errBodyTooBig // upstream takes chunked bodies of any size
		}
		// What a broken body still held is judged as a batch.
		bodies, aerr = splitBatch(buf.B, a.Limits)
	case err != nil:
		return nil, errInternal
	default:
		bodies, aerr = splitLines(buf.B, a.Limits)
	}
	if aerr != nil {
		return nil, aerr
	}
	if len(bodies) == 0 {
		return "OK", nil
	}
	return a.publish(topic, bodies, 0)
}

// publishTopic checks the topic's name and makes sure that it exists.
func (a *api) publishTopic(r *http.Request) (string, url.Values, *apiError) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", nil, errInvalidRequest
	}
	if !q.Has("topic") {
		return "", nil, errMissingTopic
	}
	topic := q.Get("topic")
	if !a.ValidTopicName(topic) {
		return "", nil, errInvalidTopic
	}
	if !a.Broker.HasTopic(topic) {
		if err := a.Broker.CreateTopic(topic); err != nil {
			a.Logf(LevelError, "failed to create topic %s - %s", topic, err)
			if errors.Is(err, ErrTooManyTopics) {
				return "", nil, errTooManyTopics
			}
			return "", nil, errExiting
		}
	}
	return topic, q, nil
}

// publish hands the messages over. The word EXITING also stands for disk
// errors; what really happened is in the log.
func (a *api) publish(topic string, bodies [][]byte, deferBy time.Duration) (any, *apiError) {
	if err := a.Broker.Publish(topic, bodies, deferBy); err != nil {
		a.Logf(LevelError, "failed to publish to topic %s - %s", topic, err)
		return nil, errExiting
	}
	return "OK", nil
}

// isBinary reads the binary parameter: any word that does not say no says yes.
func (a *api) isBinary(r *http.Request, q url.Values) bool {
	if !q.Has("binary") {
		return false
	}
	switch word := q.Get("binary"); word {
	case "true", "1":
		return true
	case "false", "0":
		return false
	default:
		a.Logf(LevelWarn, "%s: binary=%q is taken for true", r.URL.Path, word)
		return true
	}
}

// splitLines cuts b at line feeds, leaving empty lines out. The messages alias
// b. b is longer than MaxBodySize only if the body was.
func splitLines(b []byte, l Limits) ([][]byte, *apiError) {
	var bodies [][]byte
	for rest := b; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte{'\n'})
		rest = after
		// Like upstream's reader, which meets the end of what it may read
		// before it looks at the line that ends there.
		if int64(len(b)) > l.MaxBodySize && len(rest) == 0 {
			return nil, errBodyTooBig
		}
		if int64(len(line)) > l.MaxMsgSize {
			return nil, errMsgTooBig
		}
		if len(line) > 0 {
			bodies = append(bodies, line)
		}
	}
	return bodies, nil
}

// splitBatch takes a batch apart, whose messages alias b. What follows the last one
// is ignored.
func splitBatch(b []byte, l Limits) ([][]byte, *apiError) {
	batch, err := wire.ParseBatch(b, &wire.Limits{MaxMsgSize: l.MaxMsgSize, MaxBodySize: l.MaxBodySize})
	if err != nil {
		if err.Code == "E_"+errBadBody.text {
			return nil, errBadBody
		}
		return nil, errBadMessage
	}
	bodies := make([][]byte, 0, batch.Count())
	for body, ok := batch.Next(); ok; body, ok = batch.Next() {
		bodies = append(bodies, body)
	}
	return bodies, nil
}

// query reads a request that carries its arguments in the URL. A body is read
// and ignored, up to a bound.
func (a *api) query(r *http.Request) (url.Values, *apiError) {
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, a.Limits.MaxBodySize)); err != nil {
			return nil, errInvalidRequest
		}
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errInvalidRequest
	}
	return q, nil
}
