package identity

import (
	"context"
	"net/mail"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// paged reads one page of a list whose order is that of ids.
func paged[T any](page nimbus.PageRequest, list func(nimbus.PageRequest) ([]T, error), id func(T) string) (items []T, next string, err error) {
	page = page.Bounded()
	if len(page.Token) > maxNameBytes {
		return nil, "", nimbus.Errorf(nimbus.CodeInvalid, "the page token is not one of ours")
	}
	items, err = list(page)
	if len(items) > page.Size {
		items = items[:page.Size]
		next = id(items[page.Size-1])
	}
	return items, next, err
}

// Org finds an org by its id or name. Codes: not_found.
func (s *Service) Org(ctx context.Context, idOrName string) (nimbus.Org, error) {
	return s.store.Org(ctx, idOrName)
}

// OrgOf is the org that a thing is of: a job, an attempt, a repository, a service
// account, a token, the org itself; orgs and repositories also by their names. ""
// is of what is of none, or is not there. It is for the record: who asks for a
// thing of another org isn't told.
func (s *Service) OrgOf(ctx context.Context, thing string) (string, error) {
	if len(thing) > maxThing {
		return "", nil
	}
	return s.store.OrgOf(ctx, thing)
}

// maxThing bounds ids, and names of repositories.
const maxThing = 300

// CreateOrg makes an org. Repositories of its owners come into it when their
// first job does. Codes: invalid, conflict.
func (s *Service) CreateOrg(ctx context.Context, p nimbus.Principal, name string, owners []string) (nimbus.Org, error) {
	if err := nimbus.CheckOrgName(name); err != nil {
		return nimbus.Org{}, err
	}
	owners, err := checkOwners(owners)
	if err != nil {
		return nimbus.Org{}, err
	}
	o := nimbus.Org{ID: nimbus.NewID(nimbus.PrefixOrg, s.clock.Now()), Name: name, Owners: owners}
	if err := s.store.CreateOrg(ctx, o, done(p, "org.create", o.ID, "name", name, "owners", strings.Join(owners, " "))); err != nil {
		return nimbus.Org{}, err
	}
	return s.store.Org(ctx, o.ID)
}

// Orgs lists the caller's orgs, to an administrator of the platform all.
func (s *Service) Orgs(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.Org, string, error) {
	if p.Platform {
		return paged(page, func(page nimbus.PageRequest) ([]nimbus.Org, error) { return s.store.Orgs(ctx, page) }, func(o nimbus.Org) string { return o.ID })
	}
	var orgs []nimbus.Org
	for _, m := range p.Orgs {
		o, err := s.store.Org(ctx, m.OrgID)
		if err != nil {
			return nil, "", err
		}
		orgs = append(orgs, o)
	}
	return orgs, "", nil
}

// SetOwners says which GitHub owners' repositories come into an org, in place
// of those before. Codes: invalid, not_found, conflict.
func (s *Service) SetOwners(ctx context.Context, p nimbus.Principal, org string, owners []string) (nimbus.Org, error) {
	owners, err := checkOwners(owners)
	if err != nil {
		return nimbus.Org{}, err
	}
	o, err := s.store.Org(ctx, org)
	if err != nil {
		return nimbus.Org{}, err
	}
	o.Owners = owners
	return o, s.store.SetOwners(ctx, o.ID, owners, done(p, "org.owners", o.ID, "owners", strings.Join(owners, " ")))
}

// DeleteOrg deletes an org that never had a job or a repository. Codes:
// not_found, conflict.
func (s *Service) DeleteOrg(ctx context.Context, p nimbus.Principal, org string) error {
	o, err := s.store.Org(ctx, org)
	if err != nil {
		return err
	}
	if o.ID == nimbus.DefaultOrgID {
		return nimbus.Errorf(nimbus.CodeConflict, "the default org stays")
	}
	return s.forget(ctx, s.store.DeleteOrg(ctx, o.ID, done(p, "org.delete", o.ID, "name", o.Name)))
}

// maxOwners bounds the owners of an org.
const maxOwners = 50

// checkOwners brings names of GitHub owners into the form that they are
// compared in.
func checkOwners(owners []string) ([]string, error) {
	if len(owners) > maxOwners {
		return nil, nimbus.Errorf(nimbus.CodeTooLarge, "an org has at most %d owners", maxOwners)
	}
	out := make([]string, len(owners))
	for i, owner := range owners {
		out[i] = strings.ToLower(owner)
		if owner == "" || len(owner) > 100 || strings.Trim(out[i], "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is not the name of a GitHub owner", owner)
		}
	}
	return out, nil
}

// Repos lists the repositories of the org that the caller acts in.
func (s *Service) Repos(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.Repo, string, error) {
	return paged(page, func(page nimbus.PageRequest) ([]nimbus.Repo, error) { return s.store.Repos(ctx, p.OrgID, page) },
		func(r nimbus.Repo) string { return r.ID })
}

// MoveRepo gives a repository's jobs to come to another org. Codes: not_found.
func (s *Service) MoveRepo(ctx context.Context, p nimbus.Principal, repo, toOrg string) (nimbus.Repo, error) {
	o, err := s.store.Org(ctx, toOrg)
	if err != nil {
		return nimbus.Repo{}, err
	}
	return s.store.MoveRepo(ctx, strings.ToLower(repo), o.ID, done(p, "repo.move", "", "to", o.ID))
}

// CreateUser makes a user. Codes: invalid, conflict.
func (s *Service) CreateUser(ctx context.Context, p nimbus.Principal, email, name string, platform bool) (nimbus.User, error) {
	u, err := s.newUser(email, name)
	if err != nil {
		return u, err
	}
	u.Platform = platform
	if err := s.store.CreateUser(ctx, u, done(p, "user.create", u.ID, "platform_admin", yes(platform))); err != nil {
		return u, err
	}
	return s.store.User(ctx, u.ID)
}

func (s *Service) newUser(email, name string) (nimbus.User, error) {
	u := nimbus.User{ID: nimbus.NewID(nimbus.PrefixUser, s.clock.Now()), Email: strings.ToLower(email), Name: name}
	if a, err := mail.ParseAddress(email); err != nil || a.Address != email || len(email) > 254 {
		return u, nimbus.Errorf(nimbus.CodeInvalid, "a user needs an address").WithHint("an address looks like ada@example.com")
	}
	if u.Name == "" {
		u.Name = u.Email[:min(len(u.Email), maxNameBytes)]
	}
	return u, checkName("a user", u.Name)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Users lists all users.
func (s *Service) Users(ctx context.Context, page nimbus.PageRequest) ([]nimbus.User, string, error) {
	return paged(page, func(page nimbus.PageRequest) ([]nimbus.User, error) { return s.store.Users(ctx, page) },
		func(u nimbus.User) string { return u.ID })
}

// SetPlatformAdmin lets a user, by id or address, administer the platform, or
// no longer. Codes: not_found.
func (s *Service) SetPlatformAdmin(ctx context.Context, p nimbus.Principal, user string, on bool) (nimbus.User, error) {
	u, err := s.store.User(ctx, strings.ToLower(user))
	if err != nil {
		return u, err
	}
	u.Platform = on
	return u, s.forget(ctx, s.store.SetPlatformAdmin(ctx, u.ID, on, done(p, "user.platform", u.ID, "platform_admin", yes(on))))
}

// RemoveUser takes a user, by id or address, out of all orgs, and ends its
// sessions and tokens. Codes: not_found.
func (s *Service) RemoveUser(ctx context.Context, p nimbus.Principal, user string) error {
	u, err := s.store.User(ctx, strings.ToLower(user))
	if err != nil {
		return err
	}
	return s.forget(ctx, s.store.RemoveUser(ctx, u.ID, done(p, "user.remove", u.ID)))
}

// Members lists the members of the org that the caller acts in.
func (s *Service) Members(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.Membership, string, error) {
	return paged(page, func(page nimbus.PageRequest) ([]nimbus.Membership, error) { return s.store.Members(ctx, p.OrgID, page) },
		func(m nimbus.Membership) string { return m.UserID })
}

// SetMember gives the user with an address a role in the caller's org, and
// makes the user where there is none. Codes: invalid.
func (s *Service) SetMember(ctx context.Context, p nimbus.Principal, email, name string, role nimbus.Role) (nimbus.Membership, error) {
	if err := nimbus.CheckRole(role); err != nil {
		return nimbus.Membership{}, err
	}
	u, err := s.newUser(email, name)
	if err != nil {
		return nimbus.Membership{}, err
	}
	m, err := s.store.SetMember(ctx, p.OrgID, u, role, done(p, "member.set", "", "role", string(role)))
	return m, s.forget(ctx, err)
}

// RemoveMember takes a user out of the caller's org, and ends its tokens there.
// Codes: not_found.
func (s *Service) RemoveMember(ctx context.Context, p nimbus.Principal, userID string) error {
	if err := nimbus.CheckID(nimbus.PrefixUser, userID); err != nil {
		return err
	}
	return s.forget(ctx, s.store.RemoveMember(ctx, p.OrgID, userID, done(p, "member.remove", userID)))
}

// CreateAccount makes a service account of the caller's org. Codes: invalid,
// conflict.
func (s *Service) CreateAccount(ctx context.Context, p nimbus.Principal, name string, role nimbus.Role) (nimbus.ServiceAccount, error) {
	a := nimbus.ServiceAccount{ID: nimbus.NewID(nimbus.PrefixAccount, s.clock.Now()), OrgID: p.OrgID, Name: name, Role: role, CreatedBy: p.Actor()}
	if err := checkName("a service account", name); err != nil {
		return a, err
	}
	if err := nimbus.CheckRole(role); err != nil {
		return a, err
	}
	if err := s.store.CreateAccount(ctx, a, done(p, "account.create", a.ID, "name", name, "role", string(role))); err != nil {
		return a, err
	}
	return s.store.Account(ctx, a.OrgID, a.ID)
}

// Accounts lists the service accounts of the caller's org.
func (s *Service) Accounts(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.ServiceAccount, string, error) {
	return paged(page, func(page nimbus.PageRequest) ([]nimbus.ServiceAccount, error) {
		return s.store.Accounts(ctx, p.OrgID, page)
	},
		func(a nimbus.ServiceAccount) string { return a.ID })
}

// DeleteAccount deletes a service account, and ends its tokens. Codes: not_found.
func (s *Service) DeleteAccount(ctx context.Context, p nimbus.Principal, accountID string) error {
	if err := nimbus.CheckID(nimbus.PrefixAccount, accountID); err != nil {
		return err
	}
	return s.forget(ctx, s.store.DeleteAccount(ctx, p.OrgID, accountID, done(p, "account.delete", accountID)))
}
