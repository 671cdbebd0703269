package httpapi

import (
	"net/http"
	"strings"

	"github.com/zsqio/zsq/internal/route"
)

// handler answers one request; param is the last part of /config/:opt.
type handler func(w *responseWriter, r *http.Request, param string)

// methods are the handlers of one path.
type methods map[string]handler

// configPrefix is the one path with a parameter: any non-empty rest without a
// slash. Its handlers stand in the table under the bare prefix.
const configPrefix = "/config/"

// v1 makes a handler of a function that returns a body or an error.
func v1(f func(r *http.Request) (any, *apiError)) handler {
	return func(w *responseWriter, r *http.Request, _ string) {
		body, err := f(r)
		w.v1(body, err)
	}
}

// table is every path of the API.
func (a *api) table() map[string]methods {
	get := func(h handler) methods { return methods{http.MethodGet: h} }
	post := func(f func(*http.Request) (any, *apiError)) methods { return methods{http.MethodPost: v1(f)} }
	t := map[string]methods{
		"/ping":  get(a.ping),
		"/info":  get(v1(a.info)),
		"/stats": get(v1(a.stats)),

		"/pub":  post(a.pub),
		"/mpub": post(a.mpub),

		"/topic/create":  post(a.topicCreate),
		"/topic/delete":  post(a.topicDelete),
		"/topic/empty":   post(a.topicEmpty),
		"/topic/pause":   post(a.topicPause(true)),
		"/topic/unpause": post(a.topicPause(false)),

		"/topic/durability": post(a.topicDurability),

		"/channel/create":  post(a.channelCreate),
		"/channel/delete":  post(a.channelOp(a.Broker.DeleteChannel)),
		"/channel/empty":   post(a.channelOp(a.Broker.EmptyChannel)),
		"/channel/pause":   post(a.channelOp(a.pauseChannel(true))),
		"/channel/unpause": post(a.channelOp(a.pauseChannel(false))),

		configPrefix: {http.MethodGet: a.configGet, http.MethodPut: a.configPut},
	}
	if a.Metrics != nil {
		t["/metrics"] = get(func(w *responseWriter, r *http.Request, _ string) { a.Metrics.ServeHTTP(w, r) })
	}
	debugRoutes(t)
	return t
}

// find returns the handlers of a path spelled canonically, nil if there are none.
func (a *api) find(p string) (m methods, param string) {
	if rest, ok := strings.CutPrefix(p, configPrefix); ok {
		if rest == "" || strings.Contains(rest, "/") {
			return nil, ""
		}
		return a.routes[configPrefix], rest
	}
	return a.routes[p], ""
}

// route finds the handler, in this order: the path as it is; the path another
// way round, which is a redirect; OPTIONS; the wrong method; nothing.
func (a *api) route(w *responseWriter, r *http.Request) {
	m, param := a.find(r.URL.Path)
	if h := m[r.Method]; h != nil {
		h(w, r, param)
		return
	}
	if p := a.canonical(r.Method, r.URL.Path); p != "" {
		route.Redirect(w, r, p)
		return
	}
	if m == nil {
		w.v1(nil, errNotFound)
		return
	}
	w.Header().Set("Allow", route.Allow(m))
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	w.v1(nil, errMethodNotAllowed)
}

// canonical returns the path that p stands for when it is spelled another way, and
// "" when there is none with this method. An option's name keeps its case.
func (a *api) canonical(method, p string) string {
	fold := func(p string) string {
		if lower := strings.ToLower(p); !strings.HasPrefix(lower, configPrefix) {
			return lower
		}
		return configPrefix + p[len(configPrefix):]
	}
	return route.Canonical(method, p, fold, func(p string) bool {
		m, _ := a.find(p)
		return m[method] != nil
	})
}
