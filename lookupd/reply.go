package lookupd

import (
	"net/http"
	"strconv"
	"sync"
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
	errInvalidTopic     = &apiError{400, "INVALID_ARG_TOPIC"}
	errMissingChannel   = &apiError{400, "MISSING_ARG_CHANNEL"}
	errInvalidChannel   = &apiError{400, "INVALID_ARG_CHANNEL"}
	errMissingNode      = &apiError{400, "MISSING_ARG_NODE"}
	errTopicNotFound    = &apiError{404, "TOPIC_NOT_FOUND"}
	errChannelNotFound  = &apiError{404, "CHANNEL_NOT_FOUND"}
	errTooMany          = &apiError{503, "TOO_MANY_REGISTRATIONS"}
)

// chunkSize is how many bytes are written at once, and how many a client must
// read before the next deadline.
const chunkSize = 64 << 10

// chunks are buffers in which bodies are put together. With them an answer of
// megabytes, such as /nodes of a large cluster, takes no more memory than this
// while it is written.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// responseWriter remembers the status for the log and keeps a client that does
// not read from holding a goroutine for ever.
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
func (w *responseWriter) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// deadline gives the client one stall from now to take what is written next.
func (w *responseWriter) deadline() {
	// A writer that has no deadlines, as in tests, is fine without.
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.stall))
}

func (w *responseWriter) noDeadlines() {
	c := http.NewResponseController(w.ResponseWriter)
	_ = c.SetReadDeadline(time.Time{})  // as in deadline
	_ = c.SetWriteDeadline(time.Time{}) // as in deadline
}

// v1 sets the header by which go-nsq knows that a reply is not wrapped as it
// was before 1.0.
func (w *responseWriter) v1() http.Header {
	h := w.Header()
	h["X-Nsq-Content-Type"] = v1Type
	return h
}

var (
	v1Type   = []string{"nsq; version=1.0"}
	jsonType = []string{"application/json; charset=utf-8"}
)

// empty answers 200 with nothing to say.
func (w *responseWriter) empty() {
	w.v1()
	w.WriteHeader(http.StatusOK)
}

// fail answers with an error.
func (w *responseWriter) fail(e *apiError) {
	w.json(e.code, `{"message":"`+e.text+`"}`)
}

// json answers with a short text of JSON.
func (w *responseWriter) json(code int, text string) {
	h := w.v1()
	h["Content-Type"] = jsonType
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // a reader that has gone needs no answer
}

// jsonSized starts an answer of JSON with a body of size bytes, which the
// caller writes to the body and ends with close.
func (w *responseWriter) jsonSized(size int) *body {
	h := w.v1()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(size)}
	w.WriteHeader(http.StatusOK)
	return newBody(w)
}

// jsonStream is jsonSized for a body of unknown size.
func (w *responseWriter) jsonStream() *body {
	h := w.v1()
	h["Content-Type"] = jsonType
	w.WriteHeader(http.StatusOK)
	return newBody(w)
}

// A body gathers pieces and writes them chunk by chunk. After an error it
// swallows the rest: the reader has gone.
type body struct {
	w   *responseWriter
	buf *[chunkSize]byte
	n   int
	err error
}

func newBody(w *responseWriter) *body {
	return &body{w: w, buf: chunks.Get().(*[chunkSize]byte)}
}

// write appends a piece, which it copies.
func (b *body) write(p []byte) {
	for len(p) > 0 && b.err == nil {
		n := copy(b.buf[b.n:], p)
		b.n += n
		p = p[n:]
		if b.n == chunkSize {
			b.flush()
		}
	}
}

func (b *body) writeString(s string) { b.write([]byte(s)) }

// writeList appends pieces with commas between them.
func (b *body) writeList(list [][]byte) {
	for i, p := range list {
		if i > 0 {
			b.write(comma)
		}
		b.write(p)
	}
}

var comma = []byte{','}

func (b *body) flush() {
	b.w.deadline()
	_, b.err = b.w.Write(b.buf[:b.n])
	b.n = 0
}

// close writes what is left. The body must not be used afterwards.
func (b *body) close() {
	if b.n > 0 && b.err == nil {
		b.flush()
	}
	chunks.Put(b.buf)
}
