// Package route is what the HTTP APIs of the daemons share about paths: which path
// a client may have meant, the redirect to it, and the Allow header. The APIs keep
// their own tables, handlers and words for errors.
package route

import (
	"net/http"
	"path"
	"slices"
	"strings"
)

// Canonical returns the path that p stands for when it has the wrong case, a slash
// too many or too few, or dots in it, and "" when none is served. fold gives a
// clean path its case, most often strings.ToLower; serves says whether a path is
// served with the request's method.
func Canonical(method, p string, fold func(string) string, serves func(path string) bool) string {
	if method == http.MethodConnect || p == "/" {
		return ""
	}
	folded := fold(path.Clean("/" + p))
	for _, c := range []string{folded, folded + "/"} {
		if c != p && serves(c) {
			return c
		}
	}
	return ""
}

// Redirect sends the client to the same URL with another path: for good after a
// GET, and else with the method and the body that it came with.
func Redirect(w http.ResponseWriter, r *http.Request, p string) {
	code := http.StatusTemporaryRedirect
	if r.Method == http.MethodGet {
		code = http.StatusMovedPermanently
	}
	u := *r.URL
	u.Path, u.RawPath = p, ""
	http.Redirect(w, r, u.String(), code)
}

// Allow is the Allow header of a path with these methods, OPTIONS besides, in
// alphabetical order.
func Allow[Handler any](methods map[string]Handler) string {
	list := []string{http.MethodOptions}
	for name := range methods {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
