package httpapi

import (
	"net/http"
	"runtime/debug"
	"time"
)

// policy lets pages load what comes from here and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func stack() string { return string(debug.Stack()) }

// guard is around every request: it keeps one that panics from taking others
// along, sets the headers that browsers obey, and tells what was asked.
func (a *api) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		defer func() {
			if what := recover(); what != nil && what != http.ErrAbortHandler { //nolint:errorlint // a panic's value, as net/http compares it
				a.Log.ErrorContext(r.Context(), "panic in a request", "path", r.URL.Path, "panic", what, "stack", stack())
				panic(http.ErrAbortHandler)
			}
			// The query may hold a login code: the path alone is told.
			a.Log.DebugContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "took", time.Since(started))
		}()
		next.ServeHTTP(w, r)
	})
}

func noWebhook(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "no GitHub App is connected: see docs/github.md", http.StatusNotFound)
}
