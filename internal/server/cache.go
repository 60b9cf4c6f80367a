package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
	"github.com/nimbus-ci/nimbus/internal/cache/keyed"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/telemetry"
)

const (
	// cacheSecret is what the keys of tokens and URLs are derived from.
	cacheSecret = "cache"
	// sharedSecretBytes is how long secrets are that replicas share.
	sharedSecretBytes = 32
	// ownScope is the scope of an org's own jobs.
	ownScope = cache.OwnScope
	// clocks is how far clocks may be apart, and lateEnd how long after its time a
	// job may be until it has ended.
	clocks  = time.Minute
	lateEnd = 10 * time.Minute
)

// jobCache is what jobs save for later ones, and how they reach it.
type jobCache struct {
	http.Handler

	keyed     *keyed.Handler
	keys      *actions.Keys
	bound     boundJobs
	runs      *runs
	books     cacheBooks
	log       *slog.Logger
	service   *cache.Service
	artifacts bool
}

// openCache opens the cache where there is a place for what it keeps.
func (s *Server) openCache(ctx context.Context, secrets identity.Secrets) error {
	if s.saved == nil {
		return nil
	}
	secret, err := secretOf(ctx, secrets, cacheSecret)
	if err != nil {
		return fmt.Errorf("open the cache: %w", err)
	}
	keys, err := actions.NewKeys(secret)
	if err != nil {
		return err
	}
	service := cache.New(cache.Config{Store: s.store, Blobs: s.saved, Limits: s.cfg.Cache, Lead: s.leadCache, Log: s.cfg.Log})
	// Jobs reach it through their host, each by another name of its gateway.
	cfg := actions.Config{Cache: service, Keys: keys, TrustHost: true, Admit: s.admitToCache, Log: s.cfg.Log}
	if s.cfg.Artifacts {
		cfg.Artifacts = service
	}
	handler, err := actions.New(cfg)
	if err != nil {
		return err
	}
	byKey := keyed.New(keyed.Config{Cache: service, Caller: s.callerOf(keys), Log: s.cfg.Log})
	mux := http.NewServeMux()
	mux.Handle("/", handler)
	mux.Handle(keyed.Prefix, byKey)
	s.cache = &jobCache{
		Handler: mux, keyed: byKey, keys: keys, service: service, bound: s.scheduler, runs: s.runs, books: s.store, log: s.cfg.Log, artifacts: s.cfg.Artifacts,
	}
	s.services = append(s.services, service)
	s.metrics.ReadCaches(s.cacheUses(service), s.cfg.Log)
	return nil
}

// secretOf is a secret that all replicas share, made by the first.
func secretOf(ctx context.Context, secrets identity.Secrets, name string) ([]byte, error) {
	secret, err := secrets.Get(ctx, "", name)
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return secret, err
	}
	made := make([]byte, sharedSecretBytes)
	rand.Read(made)
	if err := secrets.Create(ctx, "", name, made); err != nil && nimbus.ErrorCode(err) != nimbus.CodeConflict {
		return nil, err
	}
	return secrets.Get(ctx, "", name) // another replica's, if that was first
}

// callerOf says which job shows a token.
func (s *Server) callerOf(keys *actions.Keys) func(context.Context, string) (cache.Caller, error) {
	return func(ctx context.Context, token string) (cache.Caller, error) {
		g, err := keys.Verify(token, time.Now())
		if err != nil {
			return cache.Caller{}, err
		}
		return g.Caller, s.admitToCache(ctx, g.Caller)
	}
}

// As implements httpapi.Cache. Who may run jobs of an org shares what these share.
func (c *jobCache) As(p nimbus.Principal, saves bool, still func(context.Context) error) http.Handler {
	caller := cache.Caller{OrgID: p.OrgID, Read: []string{ownScope}}
	if saves {
		caller.Write = ownScope
	}
	return c.keyed.As(caller, still)
}

// Refuse implements httpapi.Cache.
func (c *jobCache) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	c.keyed.Refuse(w, r, err)
}

// admitToCache lets the token of a job in for as long as the job runs.
func (s *Server) admitToCache(ctx context.Context, c cache.Caller) error {
	job, err := s.scheduler.Job(ctx, c.OrgID, c.JobID)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound || err == nil && job.State == nimbus.StateFinished {
		return nimbus.Errorf(nimbus.CodeUnauthenticated, "the job has ended, and with it its way to the cache")
	}
	if err != nil || job.Source != nimbus.SourceGitHub {
		return err
	}
	on, err := s.store.GitHubJobsCached(ctx, c.OrgID)
	if err == nil && !on {
		err = nimbus.Errorf(nimbus.CodeUnauthenticated, "the org has its jobs of GitHub's use GitHub's own cache")
	}
	return err
}

// Token implements httpapi.Cache. GitHub's jobs get none here: which one a runner
// has is proved later, and what GitHubToken is for.
func (c *jobCache) Token(a nimbus.Assignment) (string, error) {
	if a.Source == nimbus.SourceGitHub {
		return "", nil
	}
	now := time.Now()
	run := ""
	if c.artifacts { // a job of its own is a run of its own
		run = a.JobID
	}
	token, err := c.keys.Mint(actions.Grant{RunID: run,
		Caller:    cache.Caller{OrgID: a.OrgID, JobID: a.JobID, Write: ownScope, Read: []string{ownScope}},
		NotBefore: now.Add(-clocks), ExpiresAt: now.Add(a.Timeout + lateEnd),
	})
	if err != nil {
		return "", fmt.Errorf("make a token for the cache: %w", err)
	}
	return token, nil
}

// cacheUses is what orgs use of the cache, for metrics.
func (s *Server) cacheUses(service *cache.Service) telemetry.Caches {
	return func(ctx context.Context, most int) ([]telemetry.CacheUse, error) {
		names, orgs, err := s.store.NamedCacheUsage(ctx, most)
		if err != nil {
			return nil, fmt.Errorf("read what caches are used for: %w", err)
		}
		uses := make([]telemetry.CacheUse, len(orgs))
		for i, u := range orgs {
			u = service.WithUsual(u)
			uses[i] = telemetry.CacheUse{Org: names[i], Bytes: u.Bytes, Entries: u.Entries, Quota: u.Quota, Hits: u.Hits, Misses: u.Misses,
				BytesIn: u.BytesIn, BytesOut: u.BytesOut, Evicted: u.Evicted, EvictedBytes: u.EvictedBytes, Refused: u.Refused}
		}
		return uses, nil
	}
}

// caches is the cache as people look at it.
func (s *Server) caches() httpapi.Caches {
	if s.cache == nil {
		return nil
	}
	return s.cache.service.Desk()
}

// cacheHandler is the cache as the door takes it: a nil pointer would be one.
func (s *Server) cacheHandler() httpapi.Cache {
	if s.cache == nil {
		return nil
	}
	return s.cache
}

// Wishes implements httpapi.Cache. The host shows the URL of each, which is good
// for that one entry.
func (c *jobCache) Wishes(ctx context.Context, hostID string, warmed []nimbus.CacheWarmed) ([]nimbus.CacheWish, error) {
	wishes, err := c.service.Wishes(ctx, hostID, warmed)
	for i := range wishes {
		w := &wishes[i]
		w.Path = c.keys.DownloadPath(w.OrgID, w.EntryID, time.Now().Add(wishFor))
	}
	return wishes, err
}

// wishFor is how long a host may begin to fetch what it is asked for; it is told
// again with a new URL.
const wishFor = time.Hour
