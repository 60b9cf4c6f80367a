// Package actions speaks the protocols of GitHub's cache service, so that the
// clients that jobs bring along (@actions/cache, go-actions-cache, BuildKit)
// work unchanged: version 2 is Twirp with an upload as to Azure's blob storage,
// version 1 is REST. What is kept, and who may see it, is package cache's business.
package actions

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// Service is what is asked of the cache itself: *cache.Service, whose methods
// say what they promise. Ids come from signed URLs, or are checked before. All of it may be called concurrently.
type Service interface {
	Reserve(ctx context.Context, c cache.Caller, key, version string, size int64) (cache.Upload, error)
	CheckUpload(ctx context.Context, c cache.Caller, uploadID int64) error
	PutBlock(ctx context.Context, uploadID int64, block string, r io.Reader, size int64) error
	PutRange(ctx context.Context, uploadID, offset int64, r io.Reader, size int64) error
	Blocks(ctx context.Context, uploadID int64) (int64, error)
	Arrange(ctx context.Context, uploadID int64, blocks []string) error
	Commit(ctx context.Context, c cache.Caller, key, version string, size int64) (cache.Entry, error)
	CommitUpload(ctx context.Context, c cache.Caller, uploadID, size int64) (cache.Entry, error)
	Find(ctx context.Context, c cache.Caller, key string, restore []string, version string) (cache.Entry, bool, error)
	Entry(ctx context.Context, entryID int64) (cache.Entry, error)
	Open(ctx context.Context, e cache.Entry, offset, n int64) (cache.Content, error)
	List(ctx context.Context, orgID, repo string, f cache.Filter, page nimbus.PageRequest) ([]cache.Entry, string, error)
}

// Config is what a handler needs.
type Config struct {
	Cache Service // required
	Keys  *Keys   // required: they sign tokens and URLs
	// Artifacts keeps what a run's jobs give each other; nil for no such service.
	Artifacts Artifacts
	// PublicURL is where clients reach this handler, as "https://nimbus.example".
	// It has no path: @actions/cache drops one. Required but with TrustHost.
	PublicURL string
	// TrustHost has URLs begin with the host that a request names, for an address
	// that is reached under several names. What is in front must have checked it.
	TrustHost bool
	// Admit says whether the holder of a token, or of a URL that was made for one, may
	// go on: that its job still runs, and is the one that its runner was given. Of a
	// URL's it gets the org and the job alone. Default: everybody whose token has not
	// expired. Codes: unauthenticated.
	Admit func(ctx context.Context, c cache.Caller) error
	// UploadFor and DownloadFor are how long a URL is valid at most; never longer
	// than the token for which it was made. Default: 6 h and 1 h.
	UploadFor, DownloadFor time.Duration
	// Idle is how long a client may send nothing, or take less than a MiB, before it
	// is hung up on; Whole how long one transfer may take. Default: 1 min and 2 h.
	Idle, Whole time.Duration
	// Anew is how often is asked during an upload whether its job still runs. Default:
	// 1 min.
	Anew  time.Duration
	Clock nimbus.Clock // default: the machine's
	Log   *slog.Logger // default: slog's
}

func (c Config) withDefaults() Config {
	c.UploadFor, c.DownloadFor = cmp.Or(c.UploadFor, 6*time.Hour), cmp.Or(c.DownloadFor, time.Hour)
	c.Idle, c.Whole, c.Anew = cmp.Or(c.Idle, time.Minute), cmp.Or(c.Whole, 2*time.Hour), cmp.Or(c.Anew, time.Minute)
	if c.Clock == nil {
		c.Clock = nimbus.SystemClock{}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Admit == nil {
		c.Admit = func(context.Context, cache.Caller) error { return nil }
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Cache == nil:
		return nimbus.Errorf(nimbus.CodeInvalid, "the Actions cache needs a cache")
	case c.Keys == nil:
		return nimbus.Errorf(nimbus.CodeInvalid, "the Actions cache needs keys")
	case c.TrustHost && c.PublicURL != "":
		return nimbus.Errorf(nimbus.CodeInvalid, "the Actions cache has a public URL and trusts the Host of requests: which of the two?")
	case c.TrustHost:
		return nil
	}
	return checkBase(c.PublicURL)
}

// Paths of the protocols. A blob's has three segments: below two, the SDK of
// Azure's storage can't tell the account from the blob where the host is an address.
const (
	twirpPath  = "/twirp/github.actions.results.api.v1.CacheService/"
	v1Path     = "/_apis/artifactcache/"
	uploadPath = "/_cache/uploads/"
	entryPath  = "/_cache/entries/"
)

// Patterns are the patterns of a mux that lead to the handler. The first three
// take tokens, the others signed URLs. All are at the root of their host.
func Patterns() []string {
	return []string{twirpPath, v1Path, artifactsPath, uploadPath, entryPath, artifactPath}
}

// New returns the handler of all that Patterns names.
func New(cfg Config) (http.Handler, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h := &handler{Config: cfg.withDefaults()}
	mux := http.NewServeMux()
	mux.Handle("POST "+twirpPath+"CreateCacheEntry", twirp(h, createEntry))
	mux.Handle("POST "+twirpPath+"FinalizeCacheEntryUpload", twirp(h, finalizeUpload))
	mux.Handle("POST "+twirpPath+"GetCacheEntryDownloadURL", twirp(h, downloadURL))
	mux.Handle(twirpPath, h.refuse(writeTwirpError))
	mux.Handle("GET "+v1Path+"cache", h.v1(h.v1Find))
	mux.Handle("GET "+v1Path+"caches", h.v1(h.v1List))
	mux.Handle("POST "+v1Path+"caches", h.v1(h.v1Reserve))
	mux.Handle("PATCH "+v1Path+"caches/{id}", h.v1(h.v1Upload))
	mux.Handle("POST "+v1Path+"caches/{id}", h.v1(h.v1Commit))
	mux.Handle(v1Path, h.refuse(writeV1Error))
	mux.Handle("PUT "+uploadPath+"{id}", h.blob(h.put))
	mux.Handle("GET "+entryPath+"{id}", h.blob(h.get)) // and HEAD
	h.serveArtifacts(mux)
	mux.Handle(uploadPath, h.refuse(writeBlobError))
	mux.Handle(entryPath, h.refuse(writeBlobError))
	return h.bounds().InTime(mux), nil
}

type handler struct {
	Config

	lists sync.Map // uploads of which a list of blocks is being read
}

func (h *handler) bounds() transfer.Bounds { return transfer.Bounds{Idle: h.Idle, Whole: h.Whole} }
