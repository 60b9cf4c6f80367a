// Package distribution is the protocol of OCI registries over the rooms of a
// registry: blobs, uploads, manifests, tags and referrers below /v2/, and the
// tokens with which clients use them.
package distribution

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// Service is what the protocol speaks of. See registry.Service.
type Service interface {
	puller
	// Mirror is who answers for a repository in a mirror, nil for one of the org's
	// own.
	Mirror(ctx context.Context, p registry.Place, look bool) (*registry.Mirrored, error)
	NewUpload(p registry.Place) string
	Upload(ctx context.Context, p registry.Place, id string) (registry.Upload, error)
	Append(ctx context.Context, p registry.Place, id string, c registry.Chunk) (registry.Upload, error)
	Finish(ctx context.Context, p registry.Place, id string, c registry.Chunk, digest registry.Digest) error
	Cancel(ctx context.Context, p registry.Place, id string) error
	PutBlob(ctx context.Context, p registry.Place, c registry.Chunk, digest registry.Digest) error
	Mount(ctx context.Context, from, to registry.Place, digest registry.Digest) error
	RemoveBlob(ctx context.Context, p registry.Place, digest registry.Digest) error
	AwaitManifest(ctx context.Context, p registry.Place) (leave func(), err error)
	PutManifest(ctx context.Context, p registry.Place, m registry.Manifest, tags []string) error
	RemoveManifest(ctx context.Context, who nimbus.Principal, p registry.Place, reference string) error
	MayPush(ctx context.Context, p registry.Place, orgName string, w registry.Work) error
	Repos(ctx context.Context, orgID string, page nimbus.PageRequest) ([]nimbus.ImageRepo, string, error)
}

// puller is what images are pulled from: the registry itself, or one of its mirrors.
type puller interface {
	Blob(ctx context.Context, p registry.Place, digest registry.Digest) (registry.Blob, error)
	Open(ctx context.Context, p registry.Place, b registry.Blob, offset, n int64) (registry.Content, error)
	Manifest(ctx context.Context, p registry.Place, reference string) (registry.Manifest, error)
	Pulled(p registry.Place, digest registry.Digest)
	Tags(ctx context.Context, p registry.Place, after string, most int) (tags []string, more bool, err error)
	Referrers(ctx context.Context, p registry.Place, subject registry.Digest, artifactType string, after registry.Digest) ([]registry.Manifest, registry.Digest, error)
}

// Identity knows who calls, and which orgs there are.
type Identity interface {
	Authenticate(ctx context.Context, token string) (nimbus.Principal, error)
	Org(ctx context.Context, idOrName string) (nimbus.Org, error)
	Orgs(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.Org, string, error)
}

// Config is what a handler needs.
type Config struct {
	Registry Service  // required
	Identity Identity // required
	// Work says what the attempt of a job works on. Required.
	Work func(ctx context.Context, orgID, attemptID string) (registry.Work, error)
	// Key is a secret that all replicas have; it seals tokens. 32 bytes.
	Key []byte
	// Stranger counts a request of somebody who has not said who he is, or not
	// rightly; an error is the answer to it. Default: nobody counts.
	Stranger func(r *http.Request) error
	// Bounds are how long a client may send nothing, or take less than a MiB, and how
	// long one transfer may take. Default: 1 min, 6 h.
	Bounds transfer.Bounds
	Clock  nimbus.Clock // default: the machine's
	Log    *slog.Logger // required
}

// Prefix is the path below which all of it is.
const Prefix = "/v2/"

// Handler answers what is below Prefix.
type Handler struct {
	Config

	seal    *sealer
	callers *callers
}

// New returns the handler.
func New(cfg Config) (*Handler, error) {
	cfg.Bounds.Idle, cfg.Bounds.Whole = cmp.Or(cfg.Bounds.Idle, time.Minute), cmp.Or(cfg.Bounds.Whole, 6*time.Hour)
	if cfg.Clock == nil {
		cfg.Clock = nimbus.SystemClock{}
	}
	if cfg.Stranger == nil {
		cfg.Stranger = func(*http.Request) error { return nil }
	}
	seal, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	return &Handler{Config: cfg, seal: seal, callers: newCallers()}, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	path := strings.TrimPrefix(r.URL.Path, Prefix)
	var err error
	switch path {
	case "":
		err = h.root(w, r)
	case "token":
		err = h.token(w, r)
	case "_catalog":
		err = h.catalog(w, r)
	default:
		err = h.below(w, r, path)
	}
	if err != nil {
		h.refuse(w, r, err)
	}
}

// root tells that this is a registry, to those who may use it.
func (h *Handler) root(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.caller(r); err != nil {
		return err
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return &methodError{methods: map[string]method{http.MethodGet: {}, http.MethodHead: {}}}
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// call is a request for something of a repository.
type call struct {
	*Handler

	w      http.ResponseWriter
	r      *http.Request
	caller *caller
	place  registry.Place
	from   puller             // what it is pulled from
	mirror *registry.Mirrored // which is that, nil where it is none
	name   string             // of the repository, with its org
	what   string             // the digest, tag or upload
}

// route is a kind of thing, and what can be done with it.
type route struct {
	words []string // that stand between the name and what is asked for
	ends  bool     // nothing more stands behind them
	by    map[string]method
}

// method is what answers, and which right it takes.
type method struct {
	takes  right
	answer func(*call) error
}

// routes are looked through in order: of two that fit, the one with more words is
// first.
func routes() []route {
	return []route{
		{words: []string{"blobs", "uploads"}, ends: true, by: map[string]method{http.MethodPost: {push, (*call).beginUpload}}},
		{words: []string{"blobs", "uploads"}, by: map[string]method{
			http.MethodPatch: {push, (*call).appendUpload}, http.MethodPut: {push, (*call).finishUpload},
			http.MethodGet: {push, (*call).tellUpload}, http.MethodHead: {push, (*call).tellUpload}, http.MethodDelete: {push, (*call).cancelUpload},
		}},
		{words: []string{"tags", "list"}, ends: true, by: map[string]method{http.MethodGet: {pull, (*call).listTags}, http.MethodHead: {pull, (*call).listTags}}},
		{words: []string{"blobs"}, by: map[string]method{
			http.MethodGet: {pull, (*call).getBlob}, http.MethodHead: {pull, (*call).getBlob}, http.MethodDelete: {remove, (*call).deleteBlob},
		}},
		{words: []string{"manifests"}, by: map[string]method{
			http.MethodGet: {pull, (*call).getManifest}, http.MethodHead: {pull, (*call).getManifest},
			http.MethodPut: {push, (*call).putManifest}, http.MethodDelete: {remove, (*call).deleteManifest},
		}},
		{words: []string{"referrers"}, by: map[string]method{http.MethodGet: {pull, (*call).listReferrers}, http.MethodHead: {pull, (*call).listReferrers}}},
	}
}

// allRoutes never change.
//
//nolint:gochecknoglobals // a table
var allRoutes = routes()

// find takes a path apart. Names of repositories may hold any of the words, so it
// is read from its end.
func find(path string) (to route, name, what string, ok bool) {
	words := strings.Split(path, "/")
	for _, to := range allRoutes {
		rest, what := words, ""
		switch {
		case to.ends && len(rest) > 0 && rest[len(rest)-1] == "":
			rest = rest[:len(rest)-1]
		case !to.ends:
			if len(rest) == 0 || rest[len(rest)-1] == "" {
				continue
			}
			what, rest = rest[len(rest)-1], rest[:len(rest)-1]
		}
		at := len(rest) - len(to.words)
		if at > 0 && slices.Equal(rest[at:], to.words) {
			return to, strings.Join(rest[:at], "/"), what, true
		}
	}
	return route{}, "", "", false
}

func (h *Handler) below(w http.ResponseWriter, r *http.Request, path string) error {
	to, name, what, ok := find(path)
	if !ok {
		if _, err := h.caller(r); err != nil {
			return err
		}
		return registry.Refuse(registry.NameUnknown, nimbus.CodeNotFound, "there is nothing at %.200q", r.URL.Path)
	}
	by, ok := to.by[r.Method]
	if !ok {
		if _, err := h.caller(r); err != nil {
			return err
		}
		return &methodError{methods: to.by}
	}
	who, place, err := h.permit(r, name, by.takes)
	if err != nil {
		return err
	}
	c := &call{Handler: h, w: w, r: r, caller: who, place: place, from: h.Registry, name: name, what: what}
	if c.mirror, err = h.Registry.Mirror(r.Context(), place, r.Method == http.MethodHead); err != nil {
		return fmt.Errorf("look for a mirror: %w", err)
	}
	if c.mirror != nil {
		if by.takes != pull {
			return c.mirror.NoPush()
		}
		c.from = c.mirror
	}
	return by.answer(c)
}

// stale tells who pulls from a mirror that what he gets may be old.
func (c *call) stale() {
	if c.mirror != nil && c.mirror.Stale() {
		c.w.Header().Set("Warning", `110 - "Response is Stale"`)
	}
}
