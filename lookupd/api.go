package lookupd

import (
	"log"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strings"
	"time"

	"github.com/zsqio/zsq/internal/route"
)

// api is the HTTP side of a server.
type api struct {
	s      *Server
	routes map[string]methods
}

// methods are the handlers of one path.
type methods map[string]endpoint

// An endpoint answers one request.
type endpoint func(w *responseWriter, r *http.Request)

func newAPI(s *Server) *api {
	a := &api{s: s}
	a.routes = a.table()
	return a
}

// table is every path of the API.
func (a *api) table() map[string]methods {
	get := func(e endpoint) methods { return methods{http.MethodGet: e} }
	post := func(e endpoint) methods { return methods{http.MethodPost: e} }
	t := map[string]methods{
		"/ping":     get(ping),
		"/info":     get(info),
		"/topics":   get(a.topics),
		"/channels": get(a.channels),
		"/lookup":   get(a.lookup),
		"/nodes":    get(a.nodes),
		"/debug":    get(a.debug),
		"/metrics":  get(plain(a.s.metrics.handler().ServeHTTP)),

		"/topic/create":    post(a.topicCreate),
		"/topic/delete":    post(a.topicDelete),
		"/topic/tombstone": post(a.topicTombstone),
		"/channel/create":  post(a.channelCreate),
		"/channel/delete":  post(a.channelDelete),

		"/debug/pprof":         get(plain(pprof.Index)),
		"/debug/pprof/cmdline": get(plain(pprof.Cmdline)),
		"/debug/pprof/profile": get(plain(pprof.Profile)),
		"/debug/pprof/symbol":  {http.MethodGet: plain(pprof.Symbol), http.MethodPost: plain(pprof.Symbol)},
	}
	for _, name := range []string{"heap", "goroutine", "block", "threadcreate"} {
		t["/debug/pprof/"+name] = get(plain(pprof.Handler(name).ServeHTTP))
	}
	return t
}

// plain runs a handler that is not ours and may take as long as its client asked.
func plain(h http.HandlerFunc) endpoint {
	return func(w *responseWriter, r *http.Request) {
		w.noDeadlines()
		h(w, r)
	}
}

// ServeHTTP answers one request.
func (a *api) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	w := &responseWriter{ResponseWriter: rw, stall: a.s.opts.ReapTimeout}
	w.deadline()
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			a.s.log.printf(LogError, "panic in HTTP handler - %v\n%s", v, debug.Stack())
			if w.code == 0 {
				w.fail(errInternal)
			}
		}
		if a.s.log.enabled(LogInfo) {
			a.s.log.printf(LogInfo, "%d %s %s (%s) %s", w.code, r.Method, r.URL.RequestURI(), r.RemoteAddr, time.Since(start))
		}
	}()
	a.route(w, r)
	if c := a.s.metrics.requests[r.URL.Path]; c != nil {
		c.Inc()
	}
}

// route finds the endpoint, in this order: the path as it is; the path spelled
// another way, which is a redirect; OPTIONS; the wrong method; nothing.
func (a *api) route(w *responseWriter, r *http.Request) {
	m := a.routes[r.URL.Path]
	if e := m[r.Method]; e != nil {
		e(w, r)
		return
	}
	serves := func(p string) bool { return a.routes[p][r.Method] != nil }
	if p := route.Canonical(r.Method, r.URL.Path, strings.ToLower, serves); p != "" {
		route.Redirect(w, r, p)
		return
	}
	if m == nil {
		w.fail(errNotFound)
		return
	}
	w.Header().Set("Allow", route.Allow(m))
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	w.fail(errMethodNotAllowed)
}

func newWarnLog(l *logger) *log.Logger { return log.New(warnings{l}, "", 0) }
