package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// accountService implements nimbusv1connect.ServiceAccountServiceHandler.
type accountService struct{ api *api }

func (s accountService) CreateServiceAccount(ctx context.Context, r *connect.Request[nimbusv1.CreateServiceAccountRequest]) (*connect.Response[nimbusv1.CreateServiceAccountResponse], error) {
	a, err := s.api.Identity.CreateAccount(ctx, callerOf(ctx).Principal, r.Msg.GetName(), nimbus.Role(r.Msg.GetRole()))
	return reply(&nimbusv1.CreateServiceAccountResponse{Account: wire.ServiceAccount(a)}, err)
}

func (s accountService) ListServiceAccounts(ctx context.Context, r *connect.Request[nimbusv1.ListServiceAccountsRequest]) (*connect.Response[nimbusv1.ListServiceAccountsResponse], error) {
	accounts, next, err := s.api.Identity.Accounts(ctx, callerOf(ctx).Principal, pageOf(r.Msg))
	return reply(&nimbusv1.ListServiceAccountsResponse{Accounts: messages(accounts, wire.ServiceAccount), NextPageToken: next}, err)
}

func (s accountService) DeleteServiceAccount(ctx context.Context, r *connect.Request[nimbusv1.DeleteServiceAccountRequest]) (*connect.Response[nimbusv1.DeleteServiceAccountResponse], error) {
	return reply(&nimbusv1.DeleteServiceAccountResponse{}, s.api.Identity.DeleteAccount(ctx, callerOf(ctx).Principal, r.Msg.GetAccountId()))
}

// tokenService implements nimbusv1connect.TokenServiceHandler.
type tokenService struct{ api *api }

func (s tokenService) CreateToken(ctx context.Context, r *connect.Request[nimbusv1.CreateTokenRequest]) (*connect.Response[nimbusv1.CreateTokenResponse], error) {
	secret, t, err := s.api.Identity.CreateToken(ctx, callerOf(ctx).Principal, nimbus.NewToken{
		Name: r.Msg.GetName(), AccountID: r.Msg.GetAccountId(), User: r.Msg.GetUser(), Platform: r.Msg.GetPlatform(), Role: nimbus.Role(r.Msg.GetRole()),
		Scopes: wire.ToScopes(r.Msg.GetScopes()), ValidFor: r.Msg.GetValidFor().AsDuration(),
	})
	return reply(&nimbusv1.CreateTokenResponse{Secret: secret, Token: wire.Token(t)}, err)
}

func (s tokenService) ListTokens(ctx context.Context, r *connect.Request[nimbusv1.ListTokensRequest]) (*connect.Response[nimbusv1.ListTokensResponse], error) {
	tokens, next, err := s.api.Identity.ListTokens(ctx, callerOf(ctx).Principal, r.Msg.GetPlatform(), pageOf(r.Msg))
	return reply(&nimbusv1.ListTokensResponse{Tokens: messages(tokens, wire.Token), NextPageToken: next}, err)
}

func (s tokenService) RevokeToken(ctx context.Context, r *connect.Request[nimbusv1.RevokeTokenRequest]) (*connect.Response[nimbusv1.RevokeTokenResponse], error) {
	return reply(&nimbusv1.RevokeTokenResponse{}, s.api.Identity.RevokeToken(ctx, callerOf(ctx).Principal, r.Msg.GetTokenId(), r.Msg.GetKeepTokenId()))
}
