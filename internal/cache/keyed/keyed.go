// Package keyed speaks the cache as clients know it that put a content under a
// URL and get it from there: any HTTP client, ccache, sccache, Bazel, Gradle,
// Turborepo and Nx. What is kept, and who may see it, is package cache's business.
package keyed

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// Service is what is asked of the cache itself: *cache.Service, whose methods
// say what they promise.
type Service interface {
	Get(ctx context.Context, c cache.Caller, key, version string) (cache.Entry, bool, error)
	Open(ctx context.Context, e cache.Entry, offset, n int64) (cache.Content, error)
	Save(ctx context.Context, c cache.Caller, what cache.Saving, r io.Reader) (e cache.Entry, kept bool, err error)
	Delete(ctx context.Context, c cache.Caller, key, version string, match func(id int64) bool) error
}

// Config is what a handler needs.
type Config struct {
	Cache Service // required
	// Caller says who sends a request, by a token in it; required. It is asked again
	// while a content comes, and once it came. Codes: unauthenticated.
	Caller func(ctx context.Context, token string) (cache.Caller, error)
	// Idle is how long a client may send nothing, or take less than a MiB, before it
	// is hung up on; Whole how long one transfer may take. Default: 1 min and 2 h.
	Idle, Whole time.Duration
	// Anew is how often is asked during a transfer whether its sender still may.
	// Default: 1 min.
	Anew time.Duration
	Log  *slog.Logger // required
}

// Prefix is how all paths begin; the id of an org and a key follow.
const Prefix = "/cache/"

// Handler answers what is below Prefix.
type Handler struct {
	cfg    Config
	bounds transfer.Bounds
}

// New returns a handler.
func New(cfg Config) *Handler {
	cfg.Anew = cmp.Or(cfg.Anew, time.Minute)
	return &Handler{cfg, transfer.Bounds{Idle: cmp.Or(cfg.Idle, time.Minute), Whole: cmp.Or(cfg.Whole, 2*time.Hour)}}
}

// ServeHTTP implements http.Handler, for who shows a token of the cache's own.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, func(ctx context.Context) (cache.Caller, error) {
		token, ok := Token(r.Header)
		if !ok {
			return cache.Caller{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the request has no token").
				WithHint("send what is in NIMBUS_CACHE_TOKEN as a bearer token, or as the password of any user")
		}
		return h.cfg.Caller(ctx, token)
	})
}

// As answers somebody who is known already. still says whether that one may go on,
// and is asked as Config.Caller is. Codes: unauthenticated, forbidden.
func (h *Handler) As(c cache.Caller, still func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		known := false
		h.serve(w, r, func(ctx context.Context) (cache.Caller, error) {
			if !known {
				known = true
				return c, nil
			}
			return c, still(ctx)
		})
	})
}

// Token is what a request shows: a bearer token, or a password of whatever user,
// which is all that many clients can send.
func Token(header http.Header) (token string, ok bool) {
	if scheme, rest, found := strings.Cut(header.Get("Authorization"), " "); found && strings.EqualFold(scheme, "Bearer") { // RFC 9110, section 11.1
		return strings.TrimLeft(rest, " "), true
	}
	_, password, ok := (&http.Request{Header: header}).BasicAuth()
	return password, ok && password != ""
}

// call is one request, once it is known who sends it and what for.
type call struct {
	*Handler

	w http.ResponseWriter
	r *http.Request
	c cache.Caller
	// still says whether who sends it may go on.
	still func(context.Context) error
	thing
}

// asking says who sends a request.
type asking func(ctx context.Context) (cache.Caller, error)

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, who asking) {
	h.bounds.InTime(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := who(r.Context())
		if err == nil {
			err = h.answer(w, r, c, who)
		}
		if err != nil {
			h.Refuse(w, r, err)
		}
	})).ServeHTTP(w, r)
}

// still asks again whether that one may.
func (who asking) still(ctx context.Context) error {
	_, err := who(ctx)
	return err
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request, c cache.Caller, who asking) error {
	org, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, Prefix), "/")
	if org != c.OrgID {
		return nimbus.Errorf(nimbus.CodeForbidden, "the token is not of this org").WithHint("the path is %s%s/KEY", Prefix, c.OrgID)
	}
	if rest, ok := strings.CutPrefix(path, turboPath); ok {
		if done, err := h.turbo(w, r, rest); done || err != nil {
			return err
		}
	}
	if strings.HasSuffix(path, "/") || path == "" {
		return folder(w, r)
	}
	what, err := thingAt(path)
	if err != nil {
		return err
	}
	k := call{h, w, r, c, who.still, what}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return k.get()
	case http.MethodPut:
		return k.put()
	case http.MethodDelete:
		return k.remove()
	case propfind:
		return k.find()
	}
	w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
	return nimbus.Errorf(nimbus.CodeUnsupported, "%.20s means nothing here", r.Method)
}

// get sends a content, or a part of it.
func (k call) get() error {
	if len(k.c.Read) == 0 {
		return nimbus.Errorf(nimbus.CodeForbidden, "cache read denied: this token may not read")
	}
	entry, ok, err := k.cfg.Cache.Get(k.r.Context(), k.c, k.key, k.version)
	if err != nil {
		return fmt.Errorf("look for a key: %w", err)
	}
	if !ok {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such entry in the cache")
	}
	tag := tagOf(entry)
	k.headers(entry, tag)
	if done := k.conditional(tag); done {
		return nil
	}
	part, partial, err := transfer.Wanted(k.r.Header, entry.Size, tag)
	if err != nil {
		return k.unsatisfiable(entry.Size, err)
	}
	return k.send(entry, part, partial)
}

func (k call) send(entry cache.Entry, part transfer.Span, partial bool) error {
	header := k.w.Header()
	header.Set("Content-Length", fmt.Sprint(part.N))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		header.Set("Content-Range", part.ContentRange(entry.Size))
	}
	if k.r.Method == http.MethodHead {
		k.w.WriteHeader(status)
		return nil
	}
	content, err := k.cfg.Cache.Open(k.r.Context(), entry, part.Offset, part.N)
	if isAway(err) {
		return k.without(http.StatusNotFound, err)
	}
	if err != nil {
		return fmt.Errorf("open an entry: %w", err)
	}
	defer content.Close()
	k.w.WriteHeader(status)
	if n, err := content.WriteTo(k.bounds.Downstream(k.w)); err != nil || n != part.N {
		k.cfg.Log.DebugContext(k.r.Context(), "a download broke off", "entry", entry.ID, "bytes", n, "error", err)
		panic(http.ErrAbortHandler) // the status is out: only a connection that breaks tells it
	}
	return nil
}

// headers say of a content what it is. Whoever saved it chose the bytes, and the
// host may be that of the web app: a browser keeps them and does not show them.
func (k call) headers(entry cache.Entry, tag string) {
	header := k.w.Header()
	transfer.TellEntry(header, transfer.Entry{OrgID: entry.OrgID, ID: entry.ID, Size: entry.Size})
	header.Set("ETag", tag)
	header.Set("Last-Modified", entry.CreatedAt.UTC().Format(http.TimeFormat))
	header.Set("Accept-Ranges", "bytes")
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Disposition", "attachment")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	header.Set("Cache-Control", "private, no-transform")
	if k.tell != nil {
		k.tell(header, entry.Meta)
	}
}

// put takes a content.
func (k call) put() error {
	if k.r.Header.Get("Content-Range") != "" {
		return nimbus.Errorf(nimbus.CodeInvalid, "a content is put whole, and not in ranges") // RFC 9110, section 14.5
	}
	what := cache.Saving{Key: k.key, Version: k.version, Size: k.r.ContentLength, Again: k.again, SHA256: k.sha256, Still: k.still}
	if k.r.Header.Get("If-None-Match") == "*" && what.Again == cache.AgainReplaces {
		what.Again = cache.AgainRefused
	}
	if err := k.matching(&what); err != nil {
		return err
	}
	if k.note != nil {
		var err error
		if what.Meta, err = k.note(k.r.Header); err != nil {
			return err
		}
	}
	body := k.bounds.Upstream(k.w, k.r, k.r.ContentLength)
	body.Asks(k.cfg.Anew, func() error { return k.still(k.r.Context()) })
	entry, kept, err := k.cfg.Cache.Save(k.r.Context(), k.c, what, body)
	if isAway(err) {
		return k.without(http.StatusFailedDependency, body.Linger(err))
	}
	if err != nil {
		return body.Linger(fmt.Errorf("put a content: %w", err))
	}
	header := k.w.Header()
	header.Set("ETag", tagOf(entry))
	if !kept { // else the bytes that came may be others
		transfer.TellEntry(header, transfer.Entry{OrgID: entry.OrgID, ID: entry.ID, Size: entry.Size, Digest: entry.Digest})
	}
	if k.stored != nil {
		k.stored(k.w)
		return nil
	}
	header.Set("Content-Length", "0")
	k.w.WriteHeader(http.StatusCreated)
	return nil
}

// matching has a PUT take the place of what its client has seen alone: what GET
// answers with, which may be of another branch's where the caller's has none.
func (k call) matching(what *cache.Saving) error {
	match := k.r.Header.Get("If-Match")
	if match == "" {
		return nil
	}
	var seen int64
	if len(k.c.Read) > 0 {
		e, ok, err := k.cfg.Cache.Get(k.r.Context(), k.c, k.key, k.version)
		if err != nil {
			return fmt.Errorf("look for a key: %w", err)
		}
		if ok {
			seen = e.ID
		}
	}
	what.Match = func(id int64) bool {
		id = cmp.Or(id, seen)
		return id != 0 && lists(match, tagOf(cache.Entry{ID: id}))
	}
	return nil
}

// remove removes what the caller may write.
func (k call) remove() error {
	var match func(int64) bool
	if tags := k.r.Header.Get("If-Match"); tags != "" {
		match = func(id int64) bool { return lists(tags, tagOf(cache.Entry{ID: id})) }
	}
	if err := k.cfg.Cache.Delete(k.r.Context(), k.c, k.key, k.version, match); err != nil {
		return fmt.Errorf("remove an entry: %w", err)
	}
	k.w.WriteHeader(http.StatusNoContent)
	return nil
}
