package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// apiError is an error as the client sees it: a status and the one word that
// tools match.
type apiError struct {
	code int
	text string
}

// The errors of the API.
var (
	errNotFound         = &apiError{404, "NOT_FOUND"}
	errMethodNotAllowed = &apiError{405, "METHOD_NOT_ALLOWED"}
	errInternal         = &apiError{500, "INTERNAL_ERROR"}
	errInvalidRequest   = &apiError{400, "INVALID_REQUEST"}
	errMissingTopic     = &apiError{400, "MISSING_ARG_TOPIC"}
	errInvalidTopic     = &apiError{400, "INVALID_TOPIC"}
	errInvalidArgTopic  = &apiError{400, "INVALID_ARG_TOPIC"}
	errMissingMode      = &apiError{400, "MISSING_ARG_MODE"}
	errInvalidMode      = &apiError{400, "INVALID_ARG_MODE"}
	errMissingChannel   = &apiError{400, "MISSING_ARG_CHANNEL"}
	errInvalidChannel   = &apiError{400, "INVALID_ARG_CHANNEL"}
	errTopicNotFound    = &apiError{404, "TOPIC_NOT_FOUND"}
	errChannelNotFound  = &apiError{404, "CHANNEL_NOT_FOUND"}
	errMsgTooBig        = &apiError{413, "MSG_TOO_BIG"}
	errMsgEmpty         = &apiError{400, "MSG_EMPTY"}
	errBodyTooBig       = &apiError{413, "BODY_TOO_BIG"}
	errBadBody          = &apiError{413, "BAD_BODY"}
	errBadMessage       = &apiError{413, "BAD_MESSAGE"}
	errInvalidDefer     = &apiError{400, "INVALID_DEFER"}
	errTooManyTopics    = &apiError{403, "TOO_MANY_TOPICS"}
	errTooManyChannels  = &apiError{403, "TOO_MANY_CHANNELS"}
	errOutOfMemory      = &apiError{503, "OUT_OF_MEMORY"}
	errExiting          = &apiError{503, "EXITING"}
	errInvalidOption    = &apiError{400, "INVALID_OPTION"}
	errInvalidValue     = &apiError{400, "INVALID_VALUE"}
	errValueSize        = &apiError{413, "INVALID_VALUE"}
)

const jsonType = "application/json; charset=utf-8"

// chunk is how much is written, in bytes, before the reader must have moved.
const chunk = 64 << 10

// responseWriter remembers the status for the log and keeps a client from
// holding a goroutine for ever: each body read and each chunk written gets a
// deadline of its own, so that slow is fine and stopped is not.
type responseWriter struct {
	http.ResponseWriter
	code  int // status sent; 0 before
	stall time.Duration
}

// Unwrap lets http.ResponseController through, pprof needs it.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader sends the status line and headers.
func (w *responseWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write sends part of the body.
func (w *responseWriter) Write(b []byte) (n int, err error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	for {
		part := b[n:min(len(b), n+chunk)]
		w.deadlines(false, true)
		m, err := w.ResponseWriter.Write(part)
		n += m
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

// start gives a request with a body the first deadline. A handler that leaves
// the body unread leaves this deadline too: net/http then reads the rest.
func (w *responseWriter) start(r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody {
		// The last answer's deadline would end a long profile.
		w.deadlines(false, true)
		return
	}
	w.deadlines(true, true)
	r.Body = &bodyReader{body: r.Body, w: w}
}

// deadlines moves the chosen deadlines to one stall from now.
func (w *responseWriter) deadlines(read, write bool) {
	if w.stall <= 0 {
		return
	}
	// A writer that has no deadlines, as in tests, is fine without.
	c := http.NewResponseController(w.ResponseWriter)
	t := time.Now().Add(w.stall)
	if read {
		_ = c.SetReadDeadline(t)
	}
	if write {
		_ = c.SetWriteDeadline(t)
	}
}

// v1 answers in the style of all but the oldest endpoints: err if there is
// one, else body, which is nil, a string, a []byte or something for JSON.
func (w *responseWriter) v1(body any, err *apiError) {
	h := w.Header()
	h.Set("X-NSQ-Content-Type", "nsq; version=1.0")
	code := http.StatusOK
	if err != nil {
		code = err.code
		body = struct {
			Message string `json:"message"`
		}{err.text}
	}
	var b []byte
	switch v := body.(type) {
	case nil:
	case string:
		b = []byte(v)
	case []byte:
		b = v
	default:
		j, jerr := json.Marshal(v)
		if jerr != nil {
			panic(jerr)
		}
		b = j
		h.Set("Content-Type", jsonType)
	}
	w.WriteHeader(code)
	if len(b) > 0 {
		_, _ = w.Write(b) // a reader that has gone needs no answer
	}
}

// text answers without the V1 header.
func (w *responseWriter) text(code int, s string) {
	w.WriteHeader(code)
	_, _ = w.Write([]byte(s))
}

// refusePlain tells a plain HTTP client where HTTPS is. The spaces are
// upstream's.
func (w *responseWriter) refusePlain(port int) {
	h := w.Header()
	h.Set("X-NSQ-Content-Type", "nsq; version=1.0")
	h.Set("Content-Type", jsonType)
	w.text(http.StatusForbidden, fmt.Sprintf(`{"message": "TLS_REQUIRED", "https_port": %d}`, port))
}
