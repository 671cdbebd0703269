package httpapi

import (
	"errors"
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

// bodyStep is how much a body grows, in bytes, before it is counted: most are
// never.
const bodyStep = 64 << 10

// errMemory says that bodies have used up Limits.MaxBodies.
var errMemory = errors.New("too many bytes in bodies")

// readBody reads the body into a pooled buffer, at most limit+1 bytes of it, so
// that a longer one shows. The caller gives the buffer to doneBody, also after
// an error.
func (a *api) readBody(r *http.Request, limit int64) (*bytebufferpool.ByteBuffer, error) {
	buf := bytebufferpool.Get()
	body := io.LimitReader(r.Body, limit+1)
	for {
		n, err := buf.ReadFrom(io.LimitReader(body, bodyStep))
		if n < bodyStep {
			return buf, err
		}
		used := a.bodies.Add(bodyStep)
		if err == nil && a.Limits.MaxBodies > 0 && used > a.Limits.MaxBodies {
			err = errMemory
		}
		if err != nil {
			return buf, err
		}
	}
}

// doneBody takes back what readBody gave.
func (a *api) doneBody(buf *bytebufferpool.ByteBuffer) {
	// As many whole steps as were counted: each is behind a full read.
	a.bodies.Add(-int64(buf.Len() / bodyStep * bodyStep))
	bytebufferpool.Put(buf)
}

// bodyError is what a client is told whose body could not be read.
func bodyError(err error) *apiError {
	if errors.Is(err, errMemory) {
		return errOutOfMemory
	}
	return errInternal
}
