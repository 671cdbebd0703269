package httpapi

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

// debugRoutes adds Go's profiler and its switches. Upstream offers these
// profiles and no others.
func debugRoutes(t map[string]methods) {
	get := func(h http.HandlerFunc) methods { return methods{http.MethodGet: plain(h)} }
	t["/debug/pprof/"] = get(pprof.Index)
	t["/debug/pprof/cmdline"] = get(pprof.Cmdline)
	t["/debug/pprof/profile"] = get(pprof.Profile)
	t["/debug/pprof/symbol"] = methods{http.MethodGet: plain(pprof.Symbol), http.MethodPost: plain(pprof.Symbol)}
	for _, name := range []string{"heap", "goroutine", "block", "threadcreate"} {
		t["/debug/pprof/"+name] = get(pprof.Handler(name).ServeHTTP)
	}
	t["/debug/setblockrate"] = methods{http.MethodPut: setBlockRate}
	t["/debug/freememory"] = methods{http.MethodPost: freeMemory}
}

// plain runs a handler of net/http that may take as long as its client asked.
func plain(h http.HandlerFunc) handler {
	return func(w *responseWriter, r *http.Request, _ string) {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Time{})
		h(w, r)
	}
}

// setBlockRate answers 200 on success, where upstream answers 500.
func setBlockRate(w *responseWriter, r *http.Request, _ string) {
	rate, err := strconv.Atoi(r.FormValue("rate"))
	if err != nil {
		w.text(http.StatusBadRequest, fmt.Sprintf("invalid block rate : %s", err))
		return
	}
	runtime.SetBlockProfileRate(rate)
	w.WriteHeader(http.StatusOK)
}

// freeMemory answers 200, where upstream answers 500.
func freeMemory(w *responseWriter, _ *http.Request, _ string) {
	debug.FreeOSMemory()
	w.WriteHeader(http.StatusOK)
}
