package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/identity"
)

// GitHub is the App through which GitHub is connected.
type GitHub struct {
	AppID      int64  `json:"app_id"`
	PrivateKey []byte `json:"private_key"` // PEM
	// WebhookSecrets verify deliveries; more than one while one is rotated.
	WebhookSecrets [][]byte `json:"webhook_secrets"`
	URL            string   `json:"url"` // of the API; "" for api.github.com
}

// connect makes the App that makes calls, and the handler that takes deliveries.
func (g *GitHub) connect(
	process func(context.Context, nimbus.Delivery, *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error), log *slog.Logger,
) (*forge.App, http.Handler, error) {
	app, err := forge.NewApp(forge.AppConfig{AppID: g.AppID, PrivateKey: g.PrivateKey, BaseURL: g.URL})
	if err != nil {
		return nil, nil, err
	}
	webhook := forge.NewWebhook(forge.WebhookConfig{Secrets: func() [][]byte { return g.WebhookSecrets }, Process: process, Log: log})
	return app, webhook, nil
}

// githubSecret is the name under which the App is kept.
const githubSecret = "github-app"

// keepGitHub seals the App that is to be connected, or opens the one that was
// connected before. The master key is made with the data directory.
func (s *Server) keepGitHub(ctx context.Context) (*GitHub, error) {
	keyring, err := identity.OpenKeyring(s.masterKey)
	if err != nil {
		return nil, err
	}
	secrets := identity.Secrets{Store: s.store, Keyring: keyring}
	if g := s.cfg.GitHub; g != nil {
		raw, err := json.Marshal(g)
		if err != nil {
			return nil, fmt.Errorf("encode: %w", err)
		}
		return g, secrets.Put(ctx, nimbus.DefaultOrgID, githubSecret, raw)
	}
	raw, err := secrets.Get(ctx, nimbus.DefaultOrgID, githubSecret)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var g GitHub
	if err := json.Unmarshal(raw, &g); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return &g, nil
}
