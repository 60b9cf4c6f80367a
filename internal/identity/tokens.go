package identity

import (
	"context"
	"slices"
	"strings"
	"unicode"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of names that people give.
const maxNameBytes = 100

// checkName bounds what a person calls something.
func checkName(what, name string) error {
	if name == "" || len(name) > maxNameBytes || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nimbus.Errorf(nimbus.CodeInvalid, "%s needs a name of up to %d printable bytes", what, maxNameBytes)
	}
	return nil
}

// CreateToken makes a token that does no more than its maker may, and returns
// it this once: the caller's own, a service account's, a member's, or one that
// administers the platform. It ends with the token that it was made with. Codes:
// invalid, forbidden, not_found.
func (s *Service) CreateToken(ctx context.Context, p nimbus.Principal, t nimbus.NewToken) (secret string, _ nimbus.Token, err error) {
	r, err := s.newToken(ctx, p, t)
	if err != nil {
		return "", nimbus.Token{}, err
	}
	r.CreatedBy, r.Name, r.Parent = p.Actor(), t.Name, p.Maker()
	e := done(p, "token.create", "", "kind", string(r.Kind), "subject", r.Subject, "name", r.Name, "role", string(r.Role),
		"scopes", nimbus.JoinScopes(r.Scopes), "with", p.TokenID)
	e.OrgID = r.OrgID
	secret, err = s.issue(ctx, r, e)
	if err != nil {
		return "", nimbus.Token{}, err
	}
	b, err := s.store.Bearer(ctx, hash(secret))
	return secret, nimbus.Token{
		ID: b.ID, Kind: nimbus.PrincipalKind(b.Kind), OrgID: b.OrgID, Subject: b.Subject, Name: b.Name, Role: b.Role, Scopes: b.Scopes,
		CreatedBy: b.CreatedBy, CreatedAt: b.CreatedAt, ExpiresAt: b.ExpiresAt, Parent: b.Parent,
	}, err
}

// newToken decides what a new token may do.
func (s *Service) newToken(ctx context.Context, p nimbus.Principal, t nimbus.NewToken) (Record, error) {
	r := Record{OrgID: p.OrgID, Role: t.Role, ValidFor: t.ValidFor}
	if err := checkNew(t); err != nil {
		return r, err
	}
	if r.ValidFor == 0 {
		r.ValidFor = nimbus.DefaultTokenFor
	}
	var err error
	if r.Scopes, err = scopesOf(p, t.Scopes); err != nil {
		return r, err
	}
	switch {
	case t.Platform:
		if !p.Platform {
			return r, nimbus.Errorf(nimbus.CodeForbidden, "this takes an administrator of the platform")
		}
		r.Kind, r.OrgID, r.Subject, r.Role = KindAdmin, "", p.Subject, ""
		return r, nil
	case t.User != "":
		return s.membersToken(ctx, p, t, r)
	case t.AccountID != "" && t.AccountID != p.Subject:
		if !p.Role.Includes(nimbus.RoleAdmin) {
			return r, nimbus.Errorf(nimbus.CodeForbidden, "an admin of the org makes tokens of service accounts")
		}
		a, err := s.store.Account(ctx, p.OrgID, t.AccountID)
		if err != nil {
			return r, err
		}
		r.Kind, r.Subject = KindAccount, a.ID
		if r.Role == "" {
			r.Role = a.Role
		}
		return r, nil
	case !slices.ContainsFunc(p.Orgs, func(m nimbus.Membership) bool { return m.OrgID == p.OrgID }):
		return r, nimbus.Errorf(nimbus.CodeForbidden, "an administrator of the platform has no role of its own in this org").
			WithHint("make a token of a member (nimbus users token), of a service account (--account), or one that administers the platform (--platform)")
	}
	r.Kind, r.Subject = KindUser, p.Subject
	if p.Kind == nimbus.PrincipalAccount {
		r.Kind = KindAccount
	}
	if r.Role == "" {
		r.Role = p.Role
	}
	if !p.Role.Includes(r.Role) {
		return r, nimbus.Errorf(nimbus.CodeForbidden, "a token has at most the role of who makes it, %s", p.Role)
	}
	return r, nil
}

// membersToken is one of a member of the org, who is no service account.
func (s *Service) membersToken(ctx context.Context, p nimbus.Principal, t nimbus.NewToken, r Record) (Record, error) {
	if !p.Platform {
		return r, nimbus.Errorf(nimbus.CodeForbidden, "an administrator of the platform makes tokens of others")
	}
	u, err := s.store.User(ctx, t.User)
	if err != nil {
		return r, err
	}
	i := slices.IndexFunc(u.Orgs, func(m nimbus.Membership) bool { return m.OrgID == p.OrgID })
	if i < 0 {
		return r, nimbus.Errorf(nimbus.CodeNotFound, "%s is no member of this org", u.Email).WithHint("nimbus users add")
	}
	r.Kind, r.Subject = KindUser, u.ID
	if r.Role == "" {
		r.Role = u.Orgs[i].Role
	}
	return r, nil
}

func checkNew(t nimbus.NewToken) error {
	if err := checkName("a token", t.Name); err != nil {
		return err
	}
	switch {
	case t.ValidFor < 0 || t.ValidFor > nimbus.MaxTokenFor:
		return nimbus.Errorf(nimbus.CodeInvalid, "a token is valid for at most %d days", int(nimbus.MaxTokenFor.Hours()/24))
	case t.User != "" && t.AccountID != "":
		return nimbus.Errorf(nimbus.CodeInvalid, "a token is of a user or of a service account")
	case t.Platform && (t.AccountID != "" || t.User != "" || t.Role != ""):
		return nimbus.Errorf(nimbus.CodeInvalid, "a token that administers the platform has no role in an org, and is of nobody but who makes it").
			WithHint("scopes narrow it")
	case t.Role != "":
		return nimbus.CheckRole(t.Role)
	}
	return nil
}

// scopesOf are the scopes of a new token: some of its maker's.
func scopesOf(p nimbus.Principal, asked []nimbus.Scope) ([]nimbus.Scope, error) {
	if err := nimbus.CheckScopes(asked); err != nil {
		return nil, err
	}
	if len(asked) == 0 {
		return p.Scopes, nil
	}
	asked = slices.Clone(asked)
	slices.Sort(asked)
	asked = slices.Compact(asked)
	for _, scope := range asked {
		if !p.May(scope) {
			return nil, nimbus.Errorf(nimbus.CodeForbidden, "a token has at most the scopes of who makes it: %s is none", scope)
		}
	}
	return asked, nil
}

// ListTokens lists the caller's own tokens in the org, to an admin of it all of
// them; or the platform's. Codes: forbidden.
func (s *Service) ListTokens(ctx context.Context, p nimbus.Principal, platform bool, page nimbus.PageRequest) ([]nimbus.Token, string, error) {
	orgID, subject := p.OrgID, ownOnly(p)
	if platform {
		if !p.Platform {
			return nil, "", nimbus.Errorf(nimbus.CodeForbidden, "this takes an administrator of the platform")
		}
		orgID, subject = "", ""
	}
	return paged(page, func(page nimbus.PageRequest) ([]nimbus.Token, error) {
		return s.store.ListTokens(ctx, orgID, subject, page)
	},
		func(t nimbus.Token) string { return t.ID })
}

// ownOnly is whose tokens the caller may see and end: "" for all of the org.
func ownOnly(p nimbus.Principal) string {
	if p.Role.Includes(nimbus.RoleAdmin) {
		return ""
	}
	return p.Subject
}

// RevokeToken ends a token that the caller sees in a list, and all that was
// made with it. Here they work no longer at once, elsewhere within staleAfter.
// keep is one made with it that takes its place, "" for none: how who
// administers the platform replaces a token. Codes: forbidden, not_found,
// conflict.
func (s *Service) RevokeToken(ctx context.Context, p nimbus.Principal, tokenID, keep string) error {
	if err := nimbus.CheckID(nimbus.PrefixToken, tokenID); err != nil {
		return err
	}
	if keep != "" {
		if err := nimbus.CheckID(nimbus.PrefixToken, keep); err != nil {
			return err
		}
		if !p.Platform {
			return nimbus.Errorf(nimbus.CodeForbidden, "that a token outlives the one that it was made with takes an administrator of the platform")
		}
	}
	err := s.store.RevokeToken(ctx, p.OrgID, ownOnly(p), tokenID, keep, done(p, "token.revoke", tokenID))
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound && p.Platform {
		e := done(p, "token.revoke", tokenID)
		e.OrgID = ""
		err = s.store.RevokeToken(ctx, "", "", tokenID, keep, e)
	}
	return s.forget(ctx, err)
}
