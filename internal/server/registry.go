package server

import (
	"context"
	"fmt"
	"net/http"

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
	handler, err := distribution.New(distribution.Config{Registry: s.registry, Identity: s.identity, Key: secret, Log: s.cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	s.services = append(s.services, s.registry)
	return func(stranger func(*http.Request) error) http.Handler {
		handler.Stranger = stranger
		return handler
	}, nil
}

// imagesOf is the registry as the door takes it: a nil pointer would be one.
func (s *Server) imagesOf() httpapi.Images {
	if s.registry == nil {
		return nil
	}
	return s.registry
}
