package httpapi

import (
	"io"
	"net/http"
	"time"

	"github.com/valyala/bytebufferpool"
)

// bodyReader reads a request's body with a fresh deadline before each read.
type bodyReader struct {
	body io.ReadCloser
	w    *responseWriter
}

// Read reads some of the body.
func (b *bodyReader) Read(p []byte) (int, error) {
	b.w.deadlines(true, false)
	n, err := b.body.Read(p)
	if err == io.EOF && b.w.stall > 0 {
		// From here on net/http watches the connection for its end; a deadline
		// would look like one and cancel the request.
		_ = http.NewResponseController(b.w.ResponseWriter).SetReadDeadline(time.Time{})
	}
	return n, err
}

// Close closes the body.
func (b *bodyReader) Close() error { return b.body.Close() }

// readBody reads the body into a pooled buffer, at most limit+1 bytes of it, so
// that a longer one shows. The caller puts the buffer back, also after an error.
func readBody(r *http.Request, limit int64) (*bytebufferpool.ByteBuffer, error) {
	buf := bytebufferpool.Get()
	_, err := buf.ReadFrom(io.LimitReader(r.Body, limit+1))
	return buf, err
}
