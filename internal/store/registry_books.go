package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

func registryUsage(r *gen.RegistryUsage) nimbus.ImageUsage {
	return nimbus.ImageUsage{OrgID: r.OrgID, Bytes: r.Bytes, Quota: r.Quota, OwnQuota: r.Quota >= 0}
}

// RegistryUsage implements registry.Books.
func (s *Store) RegistryUsage(ctx context.Context, orgID string) (u nimbus.ImageUsage, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.RegistryUsage(ctx, orgID)
		if errors.Is(err, sql.ErrNoRows) {
			u = nimbus.ImageUsage{OrgID: orgID}
			return nil
		}
		u = registryUsage(&row)
		return err
	})
	return u, err
}

// RegistryUsageOfOrgs implements registry.Books.
func (s *Store) RegistryUsageOfOrgs(ctx context.Context, after string, most int) (all []nimbus.ImageUsage, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.RegistryUsageOfOrgs(ctx, gen.RegistryUsageOfOrgsParams{OrgID: after, Limit: int32(most)})
		all = make([]nimbus.ImageUsage, len(rows))
		for i := range rows {
			all[i] = registryUsage(&rows[i])
		}
		return err
	})
	return all, err
}

// SetRegistryQuota implements registry.Books.
func (s *Store) SetRegistryQuota(ctx context.Context, orgID string, bytes int64, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.SetRegistryQuota(ctx, gen.SetRegistryQuotaParams{OrgID: orgID, Quota: bytes}); err != nil {
			return fmt.Errorf("set a quota: %w", err)
		}
		return t.told(ctx, e)
	})
}

// RegistryRepos implements registry.Books.
func (s *Store) RegistryRepos(ctx context.Context, orgID, after string, most int) (repos []nimbus.ImageRepo, err error) {
	err = s.read(ctx, func(t *tx) error {
		repos = nil
		rows, err := t.RegistryRepos(ctx, gen.RegistryReposParams{OrgID: orgID, Repo: after, Limit: int32(most)})
		if err != nil {
			return err
		}
		for i := range rows {
			r, err := t.filledRegistryRepo(ctx, &rows[i])
			if err != nil {
				return err
			}
			repos = append(repos, r)
		}
		return nil
	})
	return repos, err
}

// RegistryRepo implements registry.Books.
func (s *Store) RegistryRepo(ctx context.Context, p registry.Place) (r nimbus.ImageRepo, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.registryRepo(ctx, p)
		if err != nil {
			return err
		}
		r, err = t.filledRegistryRepo(ctx, &row)
		return err
	})
	return r, err
}

// filledRegistryRepo is a repository with what is in it.
func (t *tx) filledRegistryRepo(ctx context.Context, row *gen.RegistryRepo) (nimbus.ImageRepo, error) {
	sums, err := t.RegistryTotals(ctx, gen.RegistryTotalsParams{OrgID: row.OrgID, Repo: row.Repo})
	if err != nil {
		return nimbus.ImageRepo{}, fmt.Errorf("count what is in a repository: %w", err)
	}
	rules, err := registryRules(row)
	if err != nil {
		return nimbus.ImageRepo{}, err
	}
	return nimbus.ImageRepo{Name: row.Repo, ImageRules: rules,
		CreatedAt: fromMicros(row.CreatedAt), Tags: sums.Tags, Manifests: sums.Manifests, Bytes: sums.Bytes, PulledAt: fromMicros(sums.PulledAt)}, nil
}

func registryRules(row *gen.RegistryRepo) (nimbus.ImageRules, error) {
	r := nimbus.ImageRules{Immutable: row.Immutable, KeepDays: int(row.KeepDays), Evict: row.Evict}
	if err := json.Unmarshal([]byte(row.PushFrom), &r.PushFrom); err != nil {
		return r, fmt.Errorf("read whose jobs may push to a repository: %w", err)
	}
	return r, nil
}

// RegistryRules implements registry.Books.
func (s *Store) RegistryRules(ctx context.Context, p registry.Place) (r nimbus.ImageRules, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.registryRepo(ctx, p)
		if err != nil {
			return err
		}
		r, err = registryRules(&row)
		return err
	})
	return r, err
}

// referrersTold is how many referrers are told of each image.
const referrersTold = 20

// RegistryImages implements registry.Books.
func (s *Store) RegistryImages(ctx context.Context, p registry.Place, after string, most int) (images []nimbus.Image, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.RegistryTagRows(ctx, gen.RegistryTagRowsParams{OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(after), Limit: int32(most)})
		if err != nil {
			return err
		}
		images = make([]nimbus.Image, len(rows))
		for i, r := range rows {
			images[i] = nimbus.Image{Tag: string(r.Tag), Digest: r.Digest, MediaType: r.MediaType, ArtifactType: r.ArtifactType, Bytes: r.ImageSize,
				PushedAt: fromMicros(r.PushedAt), PulledAt: fromMicros(r.PulledAt), Platforms: platformsOf(r.Platforms)}
			about, err := t.registryReferrerHeads(ctx, p, registry.Digest(r.Digest), "", "", referrersTold)
			if err != nil {
				return err
			}
			for _, m := range about {
				images[i].Referrers = append(images[i].Referrers, nimbus.ImageReferrer{Digest: m.Digest, ArtifactType: m.ArtifactType, Bytes: m.Size})
			}
		}
		return nil
	})
	return images, err
}

// platformsOf are those of an image, as its row has them.
func platformsOf(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// SetRegistryRules implements registry.Books.
func (s *Store) SetRegistryRules(ctx context.Context, p registry.Place, r nimbus.ImageRules, e nimbus.AuditEvent) error {
	from, err := json.Marshal(append([]string{}, r.PushFrom...))
	if err != nil {
		return fmt.Errorf("write whose jobs may push: %w", err)
	}
	return s.write(ctx, func(t *tx) error {
		if err := t.openRegistryRepo(ctx, p); err != nil {
			return err
		}
		_, err := t.SetRegistryRepo(ctx, gen.SetRegistryRepoParams{OrgID: p.OrgID, Repo: p.Repo, Immutable: r.Immutable, KeepDays: int64(r.KeepDays), Evict: r.Evict,
			PushFrom: string(from)})
		if err != nil {
			return fmt.Errorf("write rules: %w", err)
		}
		return t.told(ctx, e)
	})
}

// registryDropPage is how many manifests are removed in one transaction.
const registryDropPage = 200

// DropRegistryRepo implements registry.Books. Its blobs go with the next sweep.
func (s *Store) DropRegistryRepo(ctx context.Context, p registry.Place, e nimbus.AuditEvent) error {
	for last := false; !last; {
		err := s.write(ctx, func(t *tx) error {
			if _, err := t.registryRepo(ctx, p); err != nil {
				return err
			}
			if err := t.mayLoseRegistryTags(ctx, p, ""); err != nil {
				return err
			}
			digests, err := t.RegistryManifestsOf(ctx, gen.RegistryManifestsOfParams{OrgID: p.OrgID, Repo: p.Repo, Limit: registryDropPage})
			if err != nil {
				return fmt.Errorf("list manifests: %w", err)
			}
			for _, digest := range digests {
				if err := t.removeRegistryManifest(ctx, p, registry.Digest(digest)); err != nil {
					return err
				}
			}
			if last = len(digests) < registryDropPage; last {
				if err := t.forgetRegistryRepo(ctx, p); err != nil {
					return err
				}
				if err := t.told(ctx, e); err != nil {
					return err
				}
			}
			return t.GrowRegistryEpoch(ctx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) forgetRegistryRepo(ctx context.Context, p registry.Place) error {
	if err := t.AgeRegistryLinks(ctx, gen.AgeRegistryLinksParams{OrgID: p.OrgID, Repo: p.Repo}); err != nil {
		return fmt.Errorf("let blobs go: %w", err)
	}
	if _, err := t.DropRegistryRepo(ctx, gen.DropRegistryRepoParams{OrgID: p.OrgID, Repo: p.Repo}); err != nil {
		return fmt.Errorf("remove a repository: %w", err)
	}
	return nil
}

// dropOrgRegistry removes all images of an org, its mirrors, and what is here of
// them. Their contents are garbage then.
func (t *tx) dropOrgRegistry(ctx context.Context, orgID string) error {
	for _, drop := range []func(context.Context, string) error{t.DropOrgRegistryMirrors, t.DropOrgMirrorSecrets} {
		if err := drop(ctx, orgID); err != nil {
			return fmt.Errorf("remove the mirrors of an org: %w", err)
		}
	}
	if err := t.dropRegistryAccount(ctx, registry.MirrorAccount(orgID)); err != nil {
		return err
	}
	return t.dropRegistryAccount(ctx, orgID)
}

func (t *tx) dropRegistryAccount(ctx context.Context, orgID string) error {
	if err := t.WasteOrgRegistryBlobs(ctx, gen.WasteOrgRegistryBlobsParams{Now: micros(t.now), OrgID: orgID}); err != nil {
		return fmt.Errorf("write garbage: %w", err)
	}
	if err := t.WasteOrgRegistrySegments(ctx, gen.WasteOrgRegistrySegmentsParams{Now: micros(t.now), OrgID: orgID}); err != nil {
		return fmt.Errorf("write garbage: %w", err)
	}
	for _, drop := range []func(context.Context, string) error{
		t.DropOrgRegistryUploads, t.DropOrgRegistrySegments, t.DropOrgRegistryLinks, t.DropOrgRegistryBlobs, t.DropOrgRegistryRefs, t.DropOrgRegistryTags,
		t.DropOrgRegistryManifests, t.DropOrgRegistryRepos, t.DropOrgRegistryUsage,
	} {
		if err := drop(ctx, orgID); err != nil {
			return fmt.Errorf("remove images of an org: %w", err)
		}
	}
	return t.GrowRegistryEpoch(ctx)
}
