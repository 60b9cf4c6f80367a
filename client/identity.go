package client

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// maxListed bounds what is gathered of a list's pages.
const maxListed = 100_000

// all gathers the pages of a list.
func all[T any](page func(token string) (items []T, next string, err error)) ([]T, error) {
	var out []T
	for token := ""; ; {
		items, next, err := page(token)
		out = append(out, items...)
		if err != nil || next == "" || len(out) >= maxListed {
			return out, err
		}
		token = next
	}
}

// each translates messages.
func each[M, T any](list []*M, one func(*M) T) []T {
	out := make([]T, len(list))
	for i, m := range list {
		out[i] = one(m)
	}
	return out
}

// Orgs lists the orgs that the caller is in, to an administrator of the
// platform all.
func (c *Client) Orgs(ctx context.Context) ([]nimbus.Org, error) {
	return all(func(token string) ([]nimbus.Org, string, error) {
		answer, err := call(ctx, c.orgs.ListOrgs, &nimbusv1.ListOrgsRequest{PageSize: nimbus.MaxPageSize, PageToken: token})
		return each(answer.GetOrgs(), wire.ToOrg), answer.GetNextPageToken(), err
	})
}

// CreateOrg makes an org; repositories of owners come into it. Codes: invalid,
// forbidden, conflict.
func (c *Client) CreateOrg(ctx context.Context, name string, owners []string) (nimbus.Org, error) {
	answer, err := call(ctx, c.orgs.CreateOrg, &nimbusv1.CreateOrgRequest{Name: name, Owners: owners})
	return wire.ToOrg(answer.GetOrg()), err
}

// SetOrgOwners says which GitHub owners' repositories come into an org, in
// place of those before. Codes: invalid, forbidden, not_found, conflict.
func (c *Client) SetOrgOwners(ctx context.Context, org string, owners []string) (nimbus.Org, error) {
	answer, err := call(ctx, c.orgs.SetOrgOwners, &nimbusv1.SetOrgOwnersRequest{Org: org, Owners: owners})
	return wire.ToOrg(answer.GetOrg()), err
}

// DeleteOrg deletes an org without history. Codes: forbidden, not_found, conflict.
func (c *Client) DeleteOrg(ctx context.Context, org string) error {
	_, err := call(ctx, c.orgs.DeleteOrg, &nimbusv1.DeleteOrgRequest{Org: org})
	return err
}

// Repos lists the repositories of the org.
func (c *Client) Repos(ctx context.Context) ([]nimbus.Repo, error) {
	return all(func(token string) ([]nimbus.Repo, string, error) {
		answer, err := call(ctx, c.orgs.ListRepos, &nimbusv1.ListReposRequest{PageSize: nimbus.MaxPageSize, PageToken: token})
		return each(answer.GetRepos(), wire.ToRepo), answer.GetNextPageToken(), err
	})
}

// MoveRepo gives a repository's jobs to come to another org. Codes: forbidden,
// not_found.
func (c *Client) MoveRepo(ctx context.Context, repo, toOrg string) (nimbus.Repo, error) {
	answer, err := call(ctx, c.orgs.MoveRepo, &nimbusv1.MoveRepoRequest{Repo: repo, ToOrg: toOrg})
	return wire.ToRepo(answer.GetRepo()), err
}

// Users lists all users. Codes: forbidden.
func (c *Client) Users(ctx context.Context) ([]nimbus.User, error) {
	return all(func(token string) ([]nimbus.User, string, error) {
		answer, err := call(ctx, c.users.ListUsers, &nimbusv1.ListUsersRequest{PageSize: nimbus.MaxPageSize, PageToken: token})
		return each(answer.GetUsers(), wire.ToUser), answer.GetNextPageToken(), err
	})
}

// CreateUser makes a user. Codes: invalid, forbidden, conflict.
func (c *Client) CreateUser(ctx context.Context, email, name string, platform bool) (nimbus.User, error) {
	answer, err := call(ctx, c.users.CreateUser, &nimbusv1.CreateUserRequest{Email: email, Name: name, PlatformAdmin: platform})
	return wire.ToUser(answer.GetUser()), err
}

// SetPlatformAdmin lets a user administer the platform, or no longer. Codes:
// forbidden, not_found, conflict.
func (c *Client) SetPlatformAdmin(ctx context.Context, user string, on bool) (nimbus.User, error) {
	answer, err := call(ctx, c.users.SetPlatformAdmin, &nimbusv1.SetPlatformAdminRequest{User: user, PlatformAdmin: on})
	return wire.ToUser(answer.GetUser()), err
}

// RemoveUser takes a user out of all orgs. Codes: forbidden, not_found, conflict.
func (c *Client) RemoveUser(ctx context.Context, user string) error {
	_, err := call(ctx, c.users.RemoveUser, &nimbusv1.RemoveUserRequest{User: user})
	return err
}

// Members lists who has a role in the org.
func (c *Client) Members(ctx context.Context) ([]nimbus.Membership, error) {
	return all(func(token string) ([]nimbus.Membership, string, error) {
		answer, err := call(ctx, c.members.ListMembers, &nimbusv1.ListMembersRequest{PageSize: nimbus.MaxPageSize, PageToken: token})
		return each(answer.GetMembers(), wire.ToMember), answer.GetNextPageToken(), err
	})
}

// SetMember gives a user a role in the org, and makes the user where there is
// none of that address. Codes: invalid, forbidden.
func (c *Client) SetMember(ctx context.Context, email, name string, role nimbus.Role) (nimbus.Membership, error) {
	answer, err := call(ctx, c.members.SetMember, &nimbusv1.SetMemberRequest{Email: email, Name: name, Role: string(role)})
	return wire.ToMember(answer.GetMember()), err
}

// RemoveMember takes a user out of the org. Codes: forbidden, not_found.
func (c *Client) RemoveMember(ctx context.Context, userID string) error {
	_, err := call(ctx, c.members.RemoveMember, &nimbusv1.RemoveMemberRequest{UserId: userID})
	return err
}

// ServiceAccounts lists the service accounts of the org. Codes: forbidden.
func (c *Client) ServiceAccounts(ctx context.Context) ([]nimbus.ServiceAccount, error) {
	return all(func(token string) ([]nimbus.ServiceAccount, string, error) {
		answer, err := call(ctx, c.accounts.ListServiceAccounts, &nimbusv1.ListServiceAccountsRequest{PageSize: nimbus.MaxPageSize, PageToken: token})
		return each(answer.GetAccounts(), wire.ToServiceAccount), answer.GetNextPageToken(), err
	})
}

// CreateServiceAccount makes a service account of the org. Codes: invalid,
// forbidden, conflict.
func (c *Client) CreateServiceAccount(ctx context.Context, name string, role nimbus.Role) (nimbus.ServiceAccount, error) {
	answer, err := call(ctx, c.accounts.CreateServiceAccount, &nimbusv1.CreateServiceAccountRequest{Name: name, Role: string(role)})
	return wire.ToServiceAccount(answer.GetAccount()), err
}

// DeleteServiceAccount deletes one, and ends its tokens. Codes: forbidden,
// not_found.
func (c *Client) DeleteServiceAccount(ctx context.Context, accountID string) error {
	_, err := call(ctx, c.accounts.DeleteServiceAccount, &nimbusv1.DeleteServiceAccountRequest{AccountId: accountID})
	return err
}

// Tokens lists the caller's own tokens, to an admin of the org all of it; or
// those that administer the platform. Codes: forbidden.
func (c *Client) Tokens(ctx context.Context, platform bool) ([]nimbus.Token, error) {
	return all(func(token string) ([]nimbus.Token, string, error) {
		answer, err := call(ctx, c.tokens.ListTokens, &nimbusv1.ListTokensRequest{PageSize: nimbus.MaxPageSize, PageToken: token, Platform: platform})
		return each(answer.GetTokens(), wire.ToToken), answer.GetNextPageToken(), err
	})
}

// CreateToken makes a token, which is told this once. Codes: invalid,
// forbidden, not_found.
func (c *Client) CreateToken(ctx context.Context, t nimbus.NewToken) (secret string, made nimbus.Token, err error) {
	answer, err := call(ctx, c.tokens.CreateToken, &nimbusv1.CreateTokenRequest{
		Name: t.Name, AccountId: t.AccountID, User: t.User, Platform: t.Platform, Role: string(t.Role), Scopes: wire.Scopes(t.Scopes), ValidFor: durationpb.New(t.ValidFor),
	})
	return answer.GetSecret(), wire.ToToken(answer.GetToken()), err
}

// RevokeToken ends a token and what was made with it, everywhere within 2 s. keep
// is one that was made with it and stays, "" for none. Codes: forbidden,
// not_found, conflict.
func (c *Client) RevokeToken(ctx context.Context, tokenID, keep string) error {
	_, err := call(ctx, c.tokens.RevokeToken, &nimbusv1.RevokeTokenRequest{TokenId: tokenID, KeepTokenId: keep})
	return err
}
