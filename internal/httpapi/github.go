package httpapi

import (
	"context"

	"connectrpc.com/connect"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// gitHubService implements nimbusv1connect.GitHubServiceHandler.
type gitHubService struct{ api *api }

func (s gitHubService) ListApps(ctx context.Context, _ *connect.Request[nimbusv1.ListAppsRequest]) (*connect.Response[nimbusv1.ListAppsResponse], error) {
	apps, err := s.api.GitHub.Apps(ctx)
	out := &nimbusv1.ListAppsResponse{}
	for _, a := range apps {
		out.Apps = append(out.Apps, wire.GitHubApp(a))
	}
	return connect.NewResponse(out), err
}

func (s gitHubService) ConnectApp(ctx context.Context, r *connect.Request[nimbusv1.ConnectAppRequest]) (*connect.Response[nimbusv1.ConnectAppResponse], error) {
	app, err := s.api.GitHub.Connect(ctx, callerOf(ctx).Principal, r.Msg.GetAppId(), r.Msg.GetPrivateKey(), r.Msg.GetWebhookSecret(), r.Msg.GetApiUrl())
	return connect.NewResponse(&nimbusv1.ConnectAppResponse{App: wire.GitHubApp(app)}), err
}

func (s gitHubService) ConvertManifest(ctx context.Context, r *connect.Request[nimbusv1.ConvertManifestRequest]) (*connect.Response[nimbusv1.ConvertManifestResponse], error) {
	app, err := s.api.GitHub.ConvertManifest(ctx, callerOf(ctx).Principal, r.Msg.GetCode(), r.Msg.GetApiUrl())
	return connect.NewResponse(&nimbusv1.ConvertManifestResponse{App: wire.GitHubApp(app)}), err
}

func (s gitHubService) RotateWebhookSecret(ctx context.Context, r *connect.Request[nimbusv1.RotateWebhookSecretRequest]) (*connect.Response[nimbusv1.RotateWebhookSecretResponse], error) {
	app, err := s.api.GitHub.RotateWebhookSecret(ctx, callerOf(ctx).Principal, r.Msg.GetAppId())
	return connect.NewResponse(&nimbusv1.RotateWebhookSecretResponse{App: wire.GitHubApp(app)}), err
}

func (s gitHubService) RemoveApp(ctx context.Context, r *connect.Request[nimbusv1.RemoveAppRequest]) (*connect.Response[nimbusv1.RemoveAppResponse], error) {
	return connect.NewResponse(&nimbusv1.RemoveAppResponse{}), s.api.GitHub.Remove(ctx, callerOf(ctx).Principal, r.Msg.GetAppId())
}

func (s gitHubService) ListInstallations(ctx context.Context, _ *connect.Request[nimbusv1.ListInstallationsRequest]) (*connect.Response[nimbusv1.ListInstallationsResponse], error) {
	installations, err := s.api.GitHub.Installations(ctx)
	out := &nimbusv1.ListInstallationsResponse{}
	for _, i := range installations {
		out.Installations = append(out.Installations, wire.GitHubInstallation(i))
	}
	return connect.NewResponse(out), err
}

func (s gitHubService) ExamineApps(ctx context.Context, _ *connect.Request[nimbusv1.ExamineAppsRequest]) (*connect.Response[nimbusv1.ExamineAppsResponse], error) {
	out := &nimbusv1.ExamineAppsResponse{}
	for _, c := range s.api.GitHub.Examine(ctx) {
		out.Checks = append(out.Checks, wire.GitHubCheck(c))
	}
	return connect.NewResponse(out), nil
}
