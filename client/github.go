package client

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// GitHubApps lists the GitHub Apps that are connected. Codes: forbidden.
func (c *Client) GitHubApps(ctx context.Context) ([]nimbus.GitHubApp, error) {
	answer, err := call(ctx, c.github.ListApps, &nimbusv1.ListAppsRequest{})
	var apps []nimbus.GitHubApp
	for _, a := range answer.GetApps() {
		apps = append(apps, wire.ToGitHubApp(a))
	}
	return apps, err
}

// ConnectGitHubApp takes an App that was made by hand, or a new key of one that
// is connected; secret may then be empty. url is that of the API, "" for
// https://api.github.com. Codes: invalid, forbidden, unavailable.
func (c *Client) ConnectGitHubApp(ctx context.Context, appID int64, key, secret []byte, url string) (nimbus.GitHubApp, error) {
	answer, err := call(ctx, c.github.ConnectApp, &nimbusv1.ConnectAppRequest{AppId: appID, PrivateKey: key, WebhookSecret: secret, ApiUrl: url})
	return wire.ToGitHubApp(answer.GetApp()), err
}

// ConvertGitHubManifest ends the making of an App. Codes: invalid, not_found
// for a code that does not work, unavailable.
func (c *Client) ConvertGitHubManifest(ctx context.Context, code, url string) (nimbus.GitHubApp, error) {
	answer, err := call(ctx, c.github.ConvertManifest, &nimbusv1.ConvertManifestRequest{Code: code, ApiUrl: url})
	return wire.ToGitHubApp(answer.GetApp()), err
}

// RotateGitHubSecret gives an App's webhook a new secret, without a delivery
// refused. Codes: not_found, forbidden, unavailable.
func (c *Client) RotateGitHubSecret(ctx context.Context, appID int64) (nimbus.GitHubApp, error) {
	answer, err := call(ctx, c.github.RotateWebhookSecret, &nimbusv1.RotateWebhookSecretRequest{AppId: appID})
	return wire.ToGitHubApp(answer.GetApp()), err
}

// RemoveGitHubApp forgets an App. Codes: not_found, forbidden.
func (c *Client) RemoveGitHubApp(ctx context.Context, appID int64) error {
	_, err := call(ctx, c.github.RemoveApp, &nimbusv1.RemoveAppRequest{AppId: appID})
	return err
}

// GitHubInstallations asks GitHub who has installed the Apps. Codes: forbidden,
// unavailable.
func (c *Client) GitHubInstallations(ctx context.Context) ([]nimbus.GitHubInstallation, error) {
	answer, err := call(ctx, c.github.ListInstallations, &nimbusv1.ListInstallationsRequest{})
	var installations []nimbus.GitHubInstallation
	for _, i := range answer.GetInstallations() {
		installations = append(installations, wire.ToGitHubInstallation(i))
	}
	return installations, err
}

// ExamineGitHub looks for what keeps the Apps from working. Codes: forbidden.
func (c *Client) ExamineGitHub(ctx context.Context) ([]nimbus.GitHubCheck, error) {
	answer, err := call(ctx, c.github.ExamineApps, &nimbusv1.ExamineAppsRequest{})
	var checks []nimbus.GitHubCheck
	for _, m := range answer.GetChecks() {
		checks = append(checks, wire.ToGitHubCheck(m))
	}
	return checks, err
}
