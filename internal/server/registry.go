package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/registry/distribution"
)

// registrySecret is what the keys of the registry's tokens and uploads are derived
// from.
const registrySecret = "registry"

// openRegistry opens the registry where there is a place for what it keeps, and
// returns what makes its handler; nil for none.
func (s *Server) openRegistry(ctx context.Context, secrets identity.Secrets) (func(func(*http.Request) error) http.Handler, error) {
	if s.images == nil {
		return nil, nil
	}
	secret, err := secretOf(ctx, secrets, registrySecret)
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	s.registry = registry.New(registry.Config{Store: s.store, Blobs: s.images, Key: secret, Limits: s.cfg.Registry, Lead: s.leadImage, Log: s.cfg.Log,
		Secrets: secrets, Inside: s.cfg.MirrorInside, Mirrors: s.metrics})
	handler, err := distribution.New(distribution.Config{Registry: s.registry, Identity: s.identity, Work: s.workOf, Key: secret, Log: s.cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	s.services = append(s.services, s.registry)
	return func(stranger func(*http.Request) error) http.Handler {
		handler.Stranger = stranger
		return handler
	}, nil
}

// workOf says what the attempt of a job works on. The head of a run of a fork's is
// another repository, whatever began it: what it brings in others can have written.
func (s *Server) workOf(ctx context.Context, orgID, attemptID string) (registry.Work, error) {
	jobID, err := s.store.JobOfAttempt(ctx, orgID, attemptID)
	if err != nil {
		return registry.Work{}, fmt.Errorf("look up the job of an attempt: %w", err)
	}
	job, err := s.scheduler.Job(ctx, orgID, jobID)
	if err != nil {
		return registry.Work{}, fmt.Errorf("look up a job: %w", err)
	}
	if job.Source != nimbus.SourceGitHub {
		return registry.Work{}, nil
	}
	origin, err := s.runs.origin(ctx, job)
	if err != nil {
		return registry.Work{}, fmt.Errorf("learn what the run of job %s came from: %w", job.ID, err)
	}
	return workOf(job.Repo, origin), nil
}

func workOf(repo string, o nimbus.RunOrigin) registry.Work {
	w := registry.Work{Repo: repo}
	switch {
	case !nimbus.ValidRepo(repo):
		w.Stranger = "it is not of a repository at GitHub"
	case o.HeadRepo == "":
		w.Stranger = "GitHub does not tell whose commit it runs"
	case o.HeadRepo != strings.ToLower(repo):
		w.Stranger = "its run came from " + o.HeadRepo
	}
	return w
}

// imagesOf is the registry as the door takes it: a nil pointer would be one.
func (s *Server) imagesOf() httpapi.Images {
	if s.registry == nil {
		return nil
	}
	return s.registry
}
