package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// CreateOrg implements identity.Store.
func (s *Store) CreateOrg(ctx context.Context, o nimbus.Org, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.OrgByIDOrName(ctx, o.Name)
		if err := free(err, "there is an org called %q", o.Name); err != nil {
			return err
		}
		if err := t.InsertOrg(ctx, gen.InsertOrgParams{ID: o.ID, Name: o.Name, CreatedAt: micros(t.now)}); err != nil {
			return err
		}
		if err := t.addOwners(ctx, o.ID, o.Owners); err != nil {
			return err
		}
		return t.told(ctx, e)
	})
}

// free is a conflict unless a query found nothing.
func free(found error, format string, args ...any) error {
	if found == nil {
		return nimbus.Errorf(nimbus.CodeConflict, format, args...)
	}
	if errors.Is(found, sql.ErrNoRows) {
		return nil
	}
	return found
}

func (t *tx) addOwners(ctx context.Context, orgID string, owners []string) error {
	for _, owner := range owners {
		_, err := t.OrgOfOwner(ctx, owner)
		if err := free(err, "the owner %q is of an org already", owner); err != nil {
			return err
		}
		if err := t.InsertOwner(ctx, gen.InsertOwnerParams{Name: owner, OrgID: orgID, CreatedAt: micros(t.now)}); err != nil {
			return err
		}
	}
	return nil
}

// Org implements identity.Store.
func (s *Store) Org(ctx context.Context, idOrName string) (o nimbus.Org, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.OrgByIDOrName(ctx, idOrName)
		if errors.Is(err, sql.ErrNoRows) {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such org").WithHint("`nimbus orgs` lists yours")
		}
		if err != nil {
			return err
		}
		o, err = t.org(ctx, row)
		return err
	})
	return o, err
}

func (t *tx) org(ctx context.Context, row gen.Org) (nimbus.Org, error) {
	owners, err := t.OwnersOf(ctx, row.ID)
	return nimbus.Org{ID: row.ID, Name: row.Name, CreatedAt: fromMicros(row.CreatedAt), Owners: owners}, err
}

// Orgs implements identity.Store.
func (s *Store) Orgs(ctx context.Context, page nimbus.PageRequest) (orgs []nimbus.Org, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.OrgsPage(ctx, gen.OrgsPageParams{ID: page.Token, Limit: int32(page.Size + 1)})
		if err != nil {
			return err
		}
		for _, row := range rows {
			o, err := t.org(ctx, row)
			if err != nil {
				return err
			}
			orgs = append(orgs, o)
		}
		return nil
	})
	return orgs, err
}

// OrgOf implements identity.Store.
func (s *Store) OrgOf(ctx context.Context, thing string) (orgID string, err error) {
	err = s.read(ctx, func(t *tx) error {
		orgID, err = t.OrgOf(ctx, plain(thing))
		return err
	})
	return orgID, err
}

// SetOwners implements identity.Store.
func (s *Store) SetOwners(ctx context.Context, orgID string, owners []string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.DropOwners(ctx, orgID); err != nil {
			return err
		}
		if err := t.addOwners(ctx, orgID, owners); err != nil {
			return err
		}
		return t.told(ctx, e)
	})
}

// DeleteOrg implements identity.Store.
func (s *Store) DeleteOrg(ctx context.Context, orgID string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		used, err := t.OrgHasHistory(ctx, orgID)
		if err != nil {
			return err
		}
		if used {
			return nimbus.Errorf(nimbus.CodeConflict, "the org has jobs or repositories, and their history stays").
				WithHint("`nimbus repos move` gives its repositories to another org")
		}
		drops := []func(context.Context, string) error{
			t.DropOwners, t.DropOrgMembers, t.DropOrgAccounts, t.DropOrgLimits, t.DropOrgRates, t.DropOrgRerunPolicy,
			t.dropOrgCache, t.DropOrgGitHubRuns, t.SetOrgCacheOn, t.dropOrgRegistry, t.DropOrgTelemetry,
		}
		for _, drop := range drops {
			if err := drop(ctx, orgID); err != nil {
				return err
			}
		}
		if err := t.RevokeOrgTokens(ctx, gen.RevokeOrgTokensParams{OrgID: orgID, RevokedAt: micros(t.now)}); err != nil {
			return err
		}
		if _, err := t.revokeOrphans(ctx); err != nil {
			return err
		}
		n, err := t.DeleteOrg(ctx, gen.DeleteOrgParams{ID: orgID, RemovedAt: micros(t.now)})
		if err := changed(n, err, "org"); err != nil {
			return err
		}
		if err := t.told(ctx, e); err != nil {
			return err
		}
		return t.revoke(ctx, "")
	})
}

// Repos implements identity.Store.
func (s *Store) Repos(ctx context.Context, orgID string, page nimbus.PageRequest) (repos []nimbus.Repo, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.ReposPage(ctx, gen.ReposPageParams{OrgID: orgID, ID: page.Token, Limit: int32(page.Size + 1)})
		for _, row := range rows {
			repos = append(repos, repo(row))
		}
		return err
	})
	return repos, err
}

func repo(row gen.Repo) nimbus.Repo {
	return nimbus.Repo{ID: row.ID, OrgID: row.OrgID, Name: row.Name, CreatedAt: fromMicros(row.CreatedAt)}
}

// MoveRepo implements identity.Store.
func (s *Store) MoveRepo(ctx context.Context, idOrName, orgID string, e nimbus.AuditEvent) (moved nimbus.Repo, err error) {
	err = s.write(ctx, func(t *tx) error {
		row, err := t.MoveRepo(ctx, gen.MoveRepoParams{OrgID: orgID, Repo: idOrName})
		if errors.Is(err, sql.ErrNoRows) {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such repository").WithHint("one is known from its first job on")
		}
		if err != nil {
			return err
		}
		moved, e.Target = repo(row), row.ID
		return t.told(ctx, e)
	})
	return moved, err
}
