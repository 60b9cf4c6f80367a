package cli

import (
	"time"

	"github.com/nimbus-ci/nimbus"
)

type orgView struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	CreatedAt *time.Time `json:"created_at,omitempty"` // none of the default org: it was always there
	Owners    []string   `json:"owners"`
}

func viewOrg(o nimbus.Org) orgView {
	return orgView{ID: o.ID, Name: o.Name, CreatedAt: happened(o.CreatedAt), Owners: append([]string{}, o.Owners...)}
}

type repoView struct {
	ID        string    `json:"id"`
	OrgID     string    `json:"org_id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
}

func viewRepo(r nimbus.Repo) repoView { return repoView(r) }

type memberView struct {
	UserID   string      `json:"user_id"`
	Email    string      `json:"email"`
	Name     string      `json:"name"`
	OrgID    string      `json:"org_id"`
	OrgName  string      `json:"org_name"`
	Role     nimbus.Role `json:"role"`
	JoinedAt time.Time   `json:"joined_at"`
}

func viewMember(m nimbus.Membership) memberView {
	return memberView{UserID: m.UserID, Email: m.Email, Name: m.Name, OrgID: m.OrgID, OrgName: m.OrgName, Role: m.Role, JoinedAt: m.JoinedAt}
}

type userView struct {
	ID        string       `json:"id"`
	Email     string       `json:"email"`
	Name      string       `json:"name"`
	Platform  bool         `json:"platform_admin"`
	CreatedAt time.Time    `json:"created_at"`
	Orgs      []memberView `json:"memberships"`
}

func viewUser(u nimbus.User) userView {
	return userView{ID: u.ID, Email: u.Email, Name: u.Name, Platform: u.Platform, CreatedAt: u.CreatedAt, Orgs: viewAll(u.Orgs, viewMember)}
}

type accountView struct {
	ID        string      `json:"id"`
	OrgID     string      `json:"org_id"`
	Name      string      `json:"name"`
	Role      nimbus.Role `json:"role"`
	CreatedAt time.Time   `json:"created_at"`
	CreatedBy string      `json:"created_by"`
}

func viewAccount(s nimbus.ServiceAccount) accountView { return accountView(s) }

type tokenView struct {
	ID         string               `json:"id"`
	Kind       nimbus.PrincipalKind `json:"kind"`
	OrgID      string               `json:"org_id,omitempty"`
	Subject    string               `json:"subject"`
	Name       string               `json:"name"`
	Role       nimbus.Role          `json:"role,omitempty"`
	Scopes     []nimbus.Scope       `json:"scopes,omitempty"`
	CreatedBy  string               `json:"created_by"`
	CreatedAt  time.Time            `json:"created_at"`
	ExpiresAt  *time.Time           `json:"expires_at,omitempty"`
	LastUsedAt *time.Time           `json:"last_used_at,omitempty"`
	RevokedAt  *time.Time           `json:"revoked_at,omitempty"`
	Parent     string               `json:"parent,omitempty"`
}

func viewToken(t nimbus.Token) tokenView {
	return tokenView{
		ID: t.ID, Kind: t.Kind, OrgID: t.OrgID, Subject: t.Subject, Name: t.Name, Role: t.Role, Scopes: t.Scopes, CreatedBy: t.CreatedBy,
		CreatedAt: t.CreatedAt, ExpiresAt: happened(t.ExpiresAt), LastUsedAt: happened(t.LastUsedAt), RevokedAt: happened(t.RevokedAt),
		Parent: t.Parent,
	}
}

// happened is a time, nil where there is none.
func happened(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// viewAll views a list; an empty one is [] and not null.
func viewAll[T, V any](list []T, view func(T) V) []V {
	out := make([]V, len(list))
	for i, v := range list {
		out[i] = view(v)
	}
	return out
}
