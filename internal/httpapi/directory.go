package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Directory keeps orgs, people, programs and their tokens. What is of an org
// takes it from the principal, who is bound to it.
type Directory interface {
	// Org finds an org by its id or name. Codes: not_found.
	Org(ctx context.Context, idOrName string) (nimbus.Org, error)
	// OrgOf is the org that a thing is of, by its id or name, also an org's own;
	// "" for what is of none. It is for the ledger, never for an answer.
	OrgOf(ctx context.Context, thing string) (string, error)
	Orgs(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.Org, string, error)
	CreateOrg(ctx context.Context, p nimbus.Principal, name string, owners []string) (nimbus.Org, error)
	SetOwners(ctx context.Context, p nimbus.Principal, org string, owners []string) (nimbus.Org, error)
	DeleteOrg(ctx context.Context, p nimbus.Principal, org string) error
	Repos(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.Repo, string, error)
	MoveRepo(ctx context.Context, p nimbus.Principal, repo, toOrg string) (nimbus.Repo, error)

	CreateUser(ctx context.Context, p nimbus.Principal, email, name string, platform bool) (nimbus.User, error)
	Users(ctx context.Context, page nimbus.PageRequest) ([]nimbus.User, string, error)
	SetPlatformAdmin(ctx context.Context, p nimbus.Principal, user string, on bool) (nimbus.User, error)
	RemoveUser(ctx context.Context, p nimbus.Principal, user string) error
	Members(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.Membership, string, error)
	SetMember(ctx context.Context, p nimbus.Principal, email, name string, role nimbus.Role) (nimbus.Membership, error)
	RemoveMember(ctx context.Context, p nimbus.Principal, userID string) error

	CreateAccount(ctx context.Context, p nimbus.Principal, name string, role nimbus.Role) (nimbus.ServiceAccount, error)
	Accounts(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.ServiceAccount, string, error)
	DeleteAccount(ctx context.Context, p nimbus.Principal, accountID string) error

	CreateToken(ctx context.Context, p nimbus.Principal, t nimbus.NewToken) (secret string, _ nimbus.Token, err error)
	ListTokens(ctx context.Context, p nimbus.Principal, platform bool, page nimbus.PageRequest) ([]nimbus.Token, string, error)
	RevokeToken(ctx context.Context, p nimbus.Principal, tokenID, keep string) error
}

// paging is a request for a page of a list.
type paging interface {
	GetPageSize() int32
	GetPageToken() string
}

func pageOf(r paging) nimbus.PageRequest {
	return nimbus.PageRequest{Size: int(r.GetPageSize()), Token: r.GetPageToken()}
}

// messages translates a list.
func messages[A, M any](list []A, one func(A) *M) []*M {
	out := make([]*M, len(list))
	for i, v := range list {
		out[i] = one(v)
	}
	return out
}

// reply is the answer of a call, unless it failed.
func reply[M any](m *M, err error) (*connect.Response[M], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

// orgService implements nimbusv1connect.OrgServiceHandler.
type orgService struct{ api *api }

func (s orgService) CreateOrg(ctx context.Context, r *connect.Request[nimbusv1.CreateOrgRequest]) (*connect.Response[nimbusv1.CreateOrgResponse], error) {
	o, err := s.api.Identity.CreateOrg(ctx, callerOf(ctx).Principal, r.Msg.GetName(), r.Msg.GetOwners())
	return reply(&nimbusv1.CreateOrgResponse{Org: wire.Org(o)}, err)
}

func (s orgService) ListOrgs(ctx context.Context, r *connect.Request[nimbusv1.ListOrgsRequest]) (*connect.Response[nimbusv1.ListOrgsResponse], error) {
	orgs, next, err := s.api.Identity.Orgs(ctx, callerOf(ctx).Principal, pageOf(r.Msg))
	return reply(&nimbusv1.ListOrgsResponse{Orgs: messages(orgs, wire.Org), NextPageToken: next}, err)
}

func (s orgService) SetOrgOwners(ctx context.Context, r *connect.Request[nimbusv1.SetOrgOwnersRequest]) (*connect.Response[nimbusv1.SetOrgOwnersResponse], error) {
	o, err := s.api.Identity.SetOwners(ctx, callerOf(ctx).Principal, r.Msg.GetOrg(), r.Msg.GetOwners())
	return reply(&nimbusv1.SetOrgOwnersResponse{Org: wire.Org(o)}, err)
}

func (s orgService) DeleteOrg(ctx context.Context, r *connect.Request[nimbusv1.DeleteOrgRequest]) (*connect.Response[nimbusv1.DeleteOrgResponse], error) {
	return reply(&nimbusv1.DeleteOrgResponse{}, s.api.Identity.DeleteOrg(ctx, callerOf(ctx).Principal, r.Msg.GetOrg()))
}

func (s orgService) ListRepos(ctx context.Context, r *connect.Request[nimbusv1.ListReposRequest]) (*connect.Response[nimbusv1.ListReposResponse], error) {
	repos, next, err := s.api.Identity.Repos(ctx, callerOf(ctx).Principal, pageOf(r.Msg))
	return reply(&nimbusv1.ListReposResponse{Repos: messages(repos, wire.Repo), NextPageToken: next}, err)
}

func (s orgService) MoveRepo(ctx context.Context, r *connect.Request[nimbusv1.MoveRepoRequest]) (*connect.Response[nimbusv1.MoveRepoResponse], error) {
	moved, err := s.api.Identity.MoveRepo(ctx, callerOf(ctx).Principal, r.Msg.GetRepo(), r.Msg.GetToOrg())
	return reply(&nimbusv1.MoveRepoResponse{Repo: wire.Repo(moved)}, err)
}

// userService implements nimbusv1connect.UserServiceHandler.
type userService struct{ api *api }

func (s userService) CreateUser(ctx context.Context, r *connect.Request[nimbusv1.CreateUserRequest]) (*connect.Response[nimbusv1.CreateUserResponse], error) {
	u, err := s.api.Identity.CreateUser(ctx, callerOf(ctx).Principal, r.Msg.GetEmail(), r.Msg.GetName(), r.Msg.GetPlatformAdmin())
	return reply(&nimbusv1.CreateUserResponse{User: wire.User(u)}, err)
}

func (s userService) ListUsers(ctx context.Context, r *connect.Request[nimbusv1.ListUsersRequest]) (*connect.Response[nimbusv1.ListUsersResponse], error) {
	users, next, err := s.api.Identity.Users(ctx, pageOf(r.Msg))
	return reply(&nimbusv1.ListUsersResponse{Users: messages(users, wire.User), NextPageToken: next}, err)
}

func (s userService) SetPlatformAdmin(ctx context.Context, r *connect.Request[nimbusv1.SetPlatformAdminRequest]) (*connect.Response[nimbusv1.SetPlatformAdminResponse], error) {
	u, err := s.api.Identity.SetPlatformAdmin(ctx, callerOf(ctx).Principal, r.Msg.GetUser(), r.Msg.GetPlatformAdmin())
	return reply(&nimbusv1.SetPlatformAdminResponse{User: wire.User(u)}, err)
}

func (s userService) RemoveUser(ctx context.Context, r *connect.Request[nimbusv1.RemoveUserRequest]) (*connect.Response[nimbusv1.RemoveUserResponse], error) {
	return reply(&nimbusv1.RemoveUserResponse{}, s.api.Identity.RemoveUser(ctx, callerOf(ctx).Principal, r.Msg.GetUser()))
}

// memberService implements nimbusv1connect.MemberServiceHandler.
type memberService struct{ api *api }

func (s memberService) ListMembers(ctx context.Context, r *connect.Request[nimbusv1.ListMembersRequest]) (*connect.Response[nimbusv1.ListMembersResponse], error) {
	members, next, err := s.api.Identity.Members(ctx, callerOf(ctx).Principal, pageOf(r.Msg))
	return reply(&nimbusv1.ListMembersResponse{Members: messages(members, wire.Member), NextPageToken: next}, err)
}

func (s memberService) SetMember(ctx context.Context, r *connect.Request[nimbusv1.SetMemberRequest]) (*connect.Response[nimbusv1.SetMemberResponse], error) {
	m, err := s.api.Identity.SetMember(ctx, callerOf(ctx).Principal, r.Msg.GetEmail(), r.Msg.GetName(), nimbus.Role(r.Msg.GetRole()))
	return reply(&nimbusv1.SetMemberResponse{Member: wire.Member(m)}, err)
}

func (s memberService) RemoveMember(ctx context.Context, r *connect.Request[nimbusv1.RemoveMemberRequest]) (*connect.Response[nimbusv1.RemoveMemberResponse], error) {
	return reply(&nimbusv1.RemoveMemberResponse{}, s.api.Identity.RemoveMember(ctx, callerOf(ctx).Principal, r.Msg.GetUserId()))
}
