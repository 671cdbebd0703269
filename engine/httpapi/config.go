package httpapi

import (
	"errors"
	"net/http"
)

// configGet is GET /config/:opt.
func (a *api) configGet(w *responseWriter, _ *http.Request, name string) {
	w.v1(a.option(name))
}

// configPut is PUT /config/:opt: the body is the new value, the answer the
// value as GET shows it. Sizes are checked before the name.
func (a *api) configPut(w *responseWriter, r *http.Request, name string) {
	buf, err := a.readBody(r, a.Limits.MaxMsgSize)
	defer a.doneBody(buf)
	switch {
	case err != nil:
		w.v1(nil, bodyError(err))
		return
	case buf.Len() == 0 || int64(buf.Len()) > a.Limits.MaxMsgSize:
		w.v1(nil, errValueSize)
		return
	}
	err = ErrInvalidOption
	if a.SetOption != nil {
		err = a.SetOption(name, buf.B)
	}
	switch {
	case errors.Is(err, ErrInvalidOption):
		w.v1(nil, errInvalidOption)
	case err != nil:
		w.v1(nil, errInvalidValue)
	default:
		w.v1(a.option(name))
	}
}

// option returns a setting: strings as they are, all else for JSON.
func (a *api) option(name string) (any, *apiError) {
	if a.Option == nil {
		return nil, errInvalidOption
	}
	v, ok := a.Option(name)
	if !ok {
		return nil, errInvalidOption
	}
	return v, nil
}
