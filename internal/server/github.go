package server

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
)

// GitHub is the App through which GitHub is connected.
type GitHub struct {
	AppID      int64
	PrivateKey []byte // PEM
	// WebhookSecrets verify deliveries; more than one while one is rotated.
	WebhookSecrets [][]byte
	URL            string // of the API; "" for api.github.com
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
