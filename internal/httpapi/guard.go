package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// policy lets pages load what comes from here and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func stack() string { return string(debug.Stack()) }

// guard is around every request: it keeps one that panics from taking others
// along, bounds the time of its body, sets the headers that browsers obey, and
// tells what was asked under an id.
func (a *api) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started, id := time.Now(), rand.Text()[:requestIDLength]
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set(requestHeader, id)
		answer := &answerWriter{ResponseWriter: w}
		a.Observer.Asked()
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
		if r.Body != nil && r.Body != http.NoBody && !a.keepsTime(r.URL.Path) {
			r.Body = &steadyBody{ReadCloser: r.Body, rc: http.NewResponseController(w), started: started}
		}
		defer func() {
			a.Observer.Answered(procedureOf(r), codeOf(answer), time.Since(started))
			// The query may hold a login code: the path alone is told.
			a.Log.DebugContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path,
				"status", answer.status, "took", time.Since(started))
		}()
		defer func() {
			what := recover()
			if what == nil {
				return
			}
			if what == http.ErrAbortHandler { //nolint:errorlint // a panic's value, as net/http compares it
				panic(what)
			}
			err := a.judge(r.Context(), r.URL.Path, fmt.Errorf("panic: %v\n%s", what, stack()))
			if answer.status != 0 {
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			wire.WriteHTTPError(answer, err)
		}()
		next.ServeHTTP(answer, r)
	})
}

// procedureOf is what was asked for, of the few things that can be: a procedure
// of the table, or the pattern of a route. A path is whatever a stranger likes.
func procedureOf(r *http.Request) string {
	if _, known := access[r.URL.Path]; known {
		return r.URL.Path
	}
	if r.Pattern == "" {
		return "other"
	}
	return r.Pattern
}

// codeOf is our code of an answer, or the class of its status where it has none.
func codeOf(w *answerWriter) string {
	switch code := w.Header().Get(wire.CodeHeader); {
	case code != "":
		return code
	case w.status == 0:
		return "none" // the caller was gone
	case w.status < http.StatusBadRequest:
		return "ok"
	}
	return strconv.Itoa(w.status/100) + "xx"
}

// requestHeader tells the caller the id under which a request is logged.
const (
	requestHeader   = "Nimbus-Request"
	requestIDLength = 12 // characters of base32: no two within any log's length
)

type requestKey struct{}

// RequestID is the id of the request that a context is of, "" for none. The
// answer carries it in a header, and what is logged of it has it.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// answerWriter knows what was answered.
type answerWriter struct {
	http.ResponseWriter
	status int // 0 until there is an answer
}

// WriteHeader implements http.ResponseWriter.
func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *answerWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom has files go to the connection without coming through here.
func (w *answerWriter) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return io.Copy(w.ResponseWriter, r) //nolint:wrapcheck // a writer's error is its caller's to wrap
}

// Unwrap lets http.ResponseController reach the connection.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// How long a body may take: bodyGrace, and one second more for each slowBody
// bytes of it that came. A slower one is given up, so that no caller holds a
// connection for ever by trickling.
const (
	bodyGrace = 30 * time.Second
	slowBody  = 64 << 10
)

// keepsTime tells whether a path is the cache's, which has bounds of its own for
// transfers: they may be slower, as long as they go on.
func (a *api) keepsTime(path string) bool {
	return a.Cache != nil && slices.ContainsFunc([]string{cacheTwirp, cacheArtifacts, cacheV1, cacheBlobs, keyedPath}, func(p string) bool { return strings.HasPrefix(path, p) })
}

// steadyBody is a body that must keep coming.
type steadyBody struct {
	io.ReadCloser
	rc      *http.ResponseController
	started time.Time
	n       int64
}

// Read implements io.Reader. The deadline goes when the body has ended: left
// behind, it would end what waits long for its answer.
func (b *steadyBody) Read(p []byte) (int, error) {
	due := b.started.Add(bodyGrace + time.Duration(b.n/slowBody)*time.Second)
	_ = b.rc.SetReadDeadline(due) // writers without connections have none
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	if errors.Is(err, io.EOF) {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

func noCache(w http.ResponseWriter, _ *http.Request) {
	wire.WriteHTTPError(w, nimbus.Errorf(nimbus.CodeNotFound, "there is no cache here").WithHint("see docs/cache.md"))
}

// errNoRegistry is the answer where there is no place for images.
var errNoRegistry = nimbus.Errorf(nimbus.CodeNotFound, "there is no registry here").WithHint("see docs/registry.md")

func noRegistry(w http.ResponseWriter, _ *http.Request) { wire.WriteHTTPError(w, errNoRegistry) }

func noWebhook(w http.ResponseWriter, _ *http.Request) {
	wire.WriteHTTPError(w, nimbus.Errorf(nimbus.CodeNotFound, "no GitHub App is connected").WithHint("see docs/github.md"))
}
