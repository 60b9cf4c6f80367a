package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// maxMemberships bounds the orgs that one user is known to be in. Who has to do
// with more administers the platform.
const maxMemberships = 200

// CreateUser implements identity.Store.
func (s *Store) CreateUser(ctx context.Context, u nimbus.User, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.UserByIDOrEmail(ctx, u.Email)
		if err := free(err, "there is a user %s", u.Email); err != nil {
			return err
		}
		if err := t.insertUser(ctx, u); err != nil {
			return err
		}
		return t.told(ctx, e)
	})
}

func (t *tx) insertUser(ctx context.Context, u nimbus.User) error {
	return t.InsertUser(ctx, gen.InsertUserParams{ID: u.ID, Email: u.Email, Name: u.Name, PlatformAdmin: u.Platform, CreatedAt: micros(t.now)})
}

// User implements identity.Store.
func (s *Store) User(ctx context.Context, idOrEmail string) (u nimbus.User, err error) {
	err = s.read(ctx, func(t *tx) error {
		u, err = t.user(ctx, idOrEmail)
		if errors.Is(err, sql.ErrNoRows) {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such user").WithHint("`nimbus users` lists them")
		}
		return err
	})
	return u, err
}

func (t *tx) user(ctx context.Context, idOrEmail string) (nimbus.User, error) {
	row, err := t.UserByIDOrEmail(ctx, idOrEmail)
	if err != nil {
		return nimbus.User{}, err
	}
	return t.withOrgs(ctx, row)
}

func (t *tx) withOrgs(ctx context.Context, row gen.User) (nimbus.User, error) {
	u := nimbus.User{ID: row.ID, Email: row.Email, Name: row.Name, Platform: row.PlatformAdmin, CreatedAt: fromMicros(row.CreatedAt)}
	rows, err := t.MembershipsOf(ctx, gen.MembershipsOfParams{UserID: row.ID, Limit: maxMemberships})
	for _, m := range rows {
		u.Orgs = append(u.Orgs, membership(gen.MembershipRow(m)))
	}
	return u, err
}

func membership(m gen.MembershipRow) nimbus.Membership {
	return nimbus.Membership{OrgID: m.OrgID, OrgName: m.OrgName, UserID: m.UserID, Email: m.Email, Name: m.Name,
		Role: nimbus.Role(m.Role), JoinedAt: fromMicros(m.CreatedAt)}
}

// Users implements identity.Store.
func (s *Store) Users(ctx context.Context, page nimbus.PageRequest) (users []nimbus.User, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.UsersPage(ctx, gen.UsersPageParams{ID: page.Token, Limit: int32(page.Size + 1)})
		if err != nil {
			return err
		}
		for _, row := range rows {
			u, err := t.withOrgs(ctx, row)
			if err != nil {
				return err
			}
			users = append(users, u)
		}
		return nil
	})
	return users, err
}

// SetPlatformAdmin implements identity.Store.
func (s *Store) SetPlatformAdmin(ctx context.Context, userID string, on bool, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.SetPlatformAdmin(ctx, gen.SetPlatformAdminParams{ID: userID, PlatformAdmin: on})
		if err := changed(n, err, "user"); err != nil {
			return err
		}
		if !on {
			if err := t.platformStays(ctx, "", userID); err != nil {
				return err
			}
		}
		if err := t.told(ctx, e); err != nil {
			return err
		}
		return t.revoke(ctx, userID)
	})
}

// changed is not_found when a statement changed nothing.
func changed(rows int64, err error, what string) error {
	if err == nil && rows == 0 {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such %s", what)
	}
	return err
}

// RemoveUser implements identity.Store.
func (s *Store) RemoveUser(ctx context.Context, userID string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.RemoveUser(ctx, gen.RemoveUserParams{ID: userID, RemovedAt: micros(t.now)})
		if err := changed(n, err, "user"); err != nil {
			return err
		}
		if err := t.platformStays(ctx, "", userID); err != nil {
			return err
		}
		if err := t.DropMemberships(ctx, userID); err != nil {
			return err
		}
		return t.endSubject(ctx, userID, e)
	})
}

// endSubject revokes all tokens of a user, a service account or a host, and
// what was made with them.
func (t *tx) endSubject(ctx context.Context, subject string, e nimbus.AuditEvent) error {
	if err := t.RevokeTokensOf(ctx, gen.RevokeTokensOfParams{Subject: subject, RevokedAt: micros(t.now)}); err != nil {
		return err
	}
	ended, err := t.revokeOrphans(ctx)
	if err != nil {
		return err
	}
	if err := t.told(ctx, e); err != nil {
		return err
	}
	return t.revoke(ctx, append(ended, subject)...)
}

// SetMember implements identity.Store.
func (s *Store) SetMember(ctx context.Context, orgID string, u nimbus.User, role nimbus.Role, e nimbus.AuditEvent) (m nimbus.Membership, err error) {
	err = s.write(ctx, func(t *tx) error {
		id := u.ID
		known, err := t.UserByIDOrEmail(ctx, u.Email)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			err = t.insertUser(ctx, u)
		case err == nil:
			id = known.ID
		}
		if err != nil {
			return err
		}
		if err := t.PutMember(ctx, gen.PutMemberParams{OrgID: orgID, UserID: id, Role: string(role), CreatedAt: micros(t.now)}); err != nil {
			return err
		}
		row, err := t.Membership(ctx, gen.MembershipParams{OrgID: orgID, UserID: id})
		if err != nil {
			return err
		}
		m, e.Target = membership(row), id
		if err := t.told(ctx, e); err != nil {
			return err
		}
		return t.revoke(ctx, id)
	})
	return m, err
}

// Members implements identity.Store.
func (s *Store) Members(ctx context.Context, orgID string, page nimbus.PageRequest) (members []nimbus.Membership, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.MembersPage(ctx, gen.MembersPageParams{OrgID: orgID, UserID: page.Token, Limit: int32(page.Size + 1)})
		for _, row := range rows {
			members = append(members, membership(gen.MembershipRow(row)))
		}
		return err
	})
	return members, err
}

// RemoveMember implements identity.Store.
func (s *Store) RemoveMember(ctx context.Context, orgID, userID string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.DropMember(ctx, gen.DropMemberParams{OrgID: orgID, UserID: userID})
		if err := changed(n, err, "member"); err != nil {
			return err
		}
		err = t.RevokeMembersTokens(ctx, gen.RevokeMembersTokensParams{Now: micros(t.now), Subject: userID, OrgID: orgID})
		if err != nil {
			return err
		}
		ended, err := t.revokeOrphans(ctx)
		if err != nil {
			return err
		}
		if err := t.told(ctx, e); err != nil {
			return err
		}
		return t.revoke(ctx, append(ended, userID)...)
	})
}

// CreateAccount implements identity.Store.
func (s *Store) CreateAccount(ctx context.Context, a nimbus.ServiceAccount, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		err := t.InsertAccount(ctx, gen.InsertAccountParams{
			ID: a.ID, OrgID: a.OrgID, Name: a.Name, Role: string(a.Role), CreatedAt: micros(t.now), CreatedBy: a.CreatedBy,
		})
		if isUnique(err) {
			return nimbus.Errorf(nimbus.CodeConflict, "there is a service account called %q", a.Name)
		}
		if err != nil {
			return err
		}
		return t.told(ctx, e)
	})
}

// Accounts implements identity.Store.
func (s *Store) Accounts(ctx context.Context, orgID string, page nimbus.PageRequest) (accounts []nimbus.ServiceAccount, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.AccountsPage(ctx, gen.AccountsPageParams{OrgID: orgID, ID: page.Token, Limit: int32(page.Size + 1)})
		for _, r := range rows {
			accounts = append(accounts, nimbus.ServiceAccount{ID: r.ID, OrgID: r.OrgID, Name: r.Name, Role: nimbus.Role(r.Role),
				CreatedAt: fromMicros(r.CreatedAt), CreatedBy: r.CreatedBy})
		}
		return err
	})
	return accounts, err
}

// Account implements identity.Store.
func (s *Store) Account(ctx context.Context, orgID, accountID string) (a nimbus.ServiceAccount, err error) {
	err = s.read(ctx, func(t *tx) error {
		r, err := t.Account(ctx, accountID)
		if errors.Is(err, sql.ErrNoRows) || err == nil && r.OrgID != orgID {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such service account").WithHint("`nimbus service-accounts` lists them")
		}
		a = nimbus.ServiceAccount{ID: r.ID, OrgID: r.OrgID, Name: r.Name, Role: nimbus.Role(r.Role),
			CreatedAt: fromMicros(r.CreatedAt), CreatedBy: r.CreatedBy}
		return err
	})
	return a, err
}

// DeleteAccount implements identity.Store.
func (s *Store) DeleteAccount(ctx context.Context, orgID, accountID string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.DeleteAccount(ctx, gen.DeleteAccountParams{OrgID: orgID, ID: accountID})
		if err := changed(n, err, "service account"); err != nil {
			return err
		}
		return t.endSubject(ctx, accountID, e)
	})
}
