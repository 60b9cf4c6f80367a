package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Org makes the message of an org.
func Org(o nimbus.Org) *nimbusv1.Org {
	return &nimbusv1.Org{Id: o.ID, Name: o.Name, CreatedAt: Time(o.CreatedAt), Owners: o.Owners}
}

// ToOrg reads an org.
func ToOrg(m *nimbusv1.Org) nimbus.Org {
	return nimbus.Org{ID: m.GetId(), Name: m.GetName(), CreatedAt: ToTime(m.GetCreatedAt()), Owners: m.GetOwners()}
}

// Repo makes the message of a repository.
func Repo(r nimbus.Repo) *nimbusv1.Repo {
	return &nimbusv1.Repo{Id: r.ID, OrgId: r.OrgID, Name: r.Name, CreatedAt: Time(r.CreatedAt)}
}

// ToRepo reads a repository.
func ToRepo(m *nimbusv1.Repo) nimbus.Repo {
	return nimbus.Repo{ID: m.GetId(), OrgID: m.GetOrgId(), Name: m.GetName(), CreatedAt: ToTime(m.GetCreatedAt())}
}

// User makes the message of a user.
func User(u nimbus.User) *nimbusv1.User {
	return &nimbusv1.User{Id: u.ID, Email: u.Email, Name: u.Name, PlatformAdmin: u.Platform, CreatedAt: Time(u.CreatedAt),
		Memberships: each(u.Orgs, Member)}
}

// ToUser reads a user.
func ToUser(m *nimbusv1.User) nimbus.User {
	return nimbus.User{ID: m.GetId(), Email: m.GetEmail(), Name: m.GetName(), Platform: m.GetPlatformAdmin(),
		CreatedAt: ToTime(m.GetCreatedAt()), Orgs: each(m.GetMemberships(), ToMember)}
}

// Member makes the message of a membership.
func Member(m nimbus.Membership) *nimbusv1.Member {
	return &nimbusv1.Member{OrgId: m.OrgID, OrgName: m.OrgName, UserId: m.UserID, Email: m.Email, Name: m.Name, Role: string(m.Role),
		JoinedAt: Time(m.JoinedAt)}
}

// ToMember reads a membership.
func ToMember(m *nimbusv1.Member) nimbus.Membership {
	return nimbus.Membership{OrgID: m.GetOrgId(), OrgName: m.GetOrgName(), UserID: m.GetUserId(), Email: m.GetEmail(), Name: m.GetName(),
		Role: nimbus.Role(m.GetRole()), JoinedAt: ToTime(m.GetJoinedAt())}
}

// ServiceAccount makes the message of a service account.
func ServiceAccount(a nimbus.ServiceAccount) *nimbusv1.ServiceAccount {
	return &nimbusv1.ServiceAccount{Id: a.ID, OrgId: a.OrgID, Name: a.Name, Role: string(a.Role), CreatedAt: Time(a.CreatedAt), CreatedBy: a.CreatedBy}
}

// ToServiceAccount reads a service account.
func ToServiceAccount(m *nimbusv1.ServiceAccount) nimbus.ServiceAccount {
	return nimbus.ServiceAccount{ID: m.GetId(), OrgID: m.GetOrgId(), Name: m.GetName(), Role: nimbus.Role(m.GetRole()),
		CreatedAt: ToTime(m.GetCreatedAt()), CreatedBy: m.GetCreatedBy()}
}

// Token makes the message of what is known of a token.
func Token(t nimbus.Token) *nimbusv1.Token {
	return &nimbusv1.Token{
		Id: t.ID, Kind: string(t.Kind), OrgId: t.OrgID, Subject: t.Subject, Name: t.Name, Role: string(t.Role), Scopes: Scopes(t.Scopes),
		CreatedBy: t.CreatedBy, CreatedAt: Time(t.CreatedAt), ExpiresAt: Time(t.ExpiresAt), LastUsedAt: Time(t.LastUsedAt), RevokedAt: Time(t.RevokedAt),
		Parent: t.Parent,
	}
}

// ToToken reads what is known of a token.
func ToToken(m *nimbusv1.Token) nimbus.Token {
	return nimbus.Token{
		ID: m.GetId(), Kind: nimbus.PrincipalKind(m.GetKind()), OrgID: m.GetOrgId(), Subject: m.GetSubject(), Name: m.GetName(),
		Role: nimbus.Role(m.GetRole()), Scopes: ToScopes(m.GetScopes()), CreatedBy: m.GetCreatedBy(), CreatedAt: ToTime(m.GetCreatedAt()),
		ExpiresAt: ToTime(m.GetExpiresAt()), LastUsedAt: ToTime(m.GetLastUsedAt()), RevokedAt: ToTime(m.GetRevokedAt()),
		Parent: m.GetParent(),
	}
}

// Scopes makes words of scopes.
func Scopes(scopes []nimbus.Scope) []string {
	return each(scopes, func(s nimbus.Scope) string { return string(s) })
}

// ToScopes reads scopes, whether they are some or not.
func ToScopes(words []string) []nimbus.Scope {
	return each(words, func(s string) nimbus.Scope { return nimbus.Scope(s) })
}

// each translates a list.
func each[A, B any](list []A, one func(A) B) []B {
	if list == nil {
		return nil
	}
	out := make([]B, len(list))
	for i, v := range list {
		out[i] = one(v)
	}
	return out
}
