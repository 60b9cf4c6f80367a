package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// registryIdlePage is how many uploads are given up in one transaction.
const registryIdlePage = 100

// GiveUpRegistryUploads implements registry.Keeping. What has ended is forgotten
// as late as it would have been given up.
func (s *Store) GiveUpRegistryUploads(ctx context.Context, idle time.Duration) (n int, err error) {
	for more := true; more && err == nil; {
		given := 0
		err = s.write(ctx, func(t *tx) error {
			given = 0
			before := micros(t.now.Add(-idle))
			rows, err := t.IdleRegistryUploads(ctx, gen.IdleRegistryUploadsParams{TouchedAt: before, Limit: registryIdlePage})
			if err != nil {
				return fmt.Errorf("look for idle uploads: %w", err)
			}
			for _, r := range rows {
				if err := t.endRegistryUpload(ctx, r.ID); err != nil {
					return err
				}
				given++
			}
			return t.ForgetRegistryUploads(ctx, before)
		})
		n += given
		more = given == registryIdlePage
	}
	return n, err
}

// LooseRegistryBlobs implements registry.Keeping.
func (s *Store) LooseRegistryBlobs(ctx context.Context, grace time.Duration, after registry.Loose, most int) (all []registry.Loose, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.LooseRegistryLinks(ctx, gen.LooseRegistryLinksParams{UsedBefore: micros(t.now.Add(-grace)), AfterUsed: after.UsedAt, AfterOrg: after.OrgID,
			AfterRepo: after.Repo, AfterDigest: string(after.Digest), Most: int32(most)})
		all = make([]registry.Loose, len(rows))
		for i, r := range rows {
			all[i] = registry.Loose{Place: registry.Place{OrgID: r.OrgID, Repo: r.Repo}, Digest: registry.Digest(r.Digest), UsedAt: r.UsedAt}
		}
		return err
	})
	return all, err
}

// CollectRegistryBlobs implements registry.Keeping. First all links are locked
// that may go, then their blobs, and what orgs use last: in that order pushes lock
// them too.
func (s *Store) CollectRegistryBlobs(ctx context.Context, grace time.Duration, loose []registry.Loose) (n int, err error) {
	loose = slices.SortedFunc(slices.Values(loose), func(a, b registry.Loose) int {
		return cmp.Or(cmp.Compare(a.OrgID, b.OrgID), cmp.Compare(a.Repo, b.Repo), cmp.Compare(a.Digest, b.Digest))
	})
	err = s.write(ctx, func(t *tx) error {
		held := make([]registry.Loose, 0, len(loose))
		for _, l := range loose {
			ok, err := t.holdLooseRegistryBlob(ctx, l, micros(t.now.Add(-grace)))
			if err != nil {
				return err
			}
			if ok {
				held = append(held, l)
			}
		}
		if n = len(held); n == 0 {
			return nil
		}
		freed := map[string]int64{}
		for _, l := range held {
			bytes, err := t.unlinkRegistryBlob(ctx, l.Place, l.Digest)
			if err != nil {
				return err
			}
			freed[l.OrgID] += bytes
		}
		for _, orgID := range slices.Sorted(maps.Keys(freed)) {
			if err := t.countRegistry(ctx, orgID, -freed[orgID], registry.Limits{}); err != nil {
				return err
			}
		}
		return t.GrowRegistryEpoch(ctx)
	})
	return n, err
}

// holdLooseRegistryBlob first locks the link, if nobody used it since, and then, by
// a look of its own, sees whether a manifest names it: one that began to do so held
// the link, and is seen; one that begins now waits, and finds it gone.
func (t *tx) holdLooseRegistryBlob(ctx context.Context, l registry.Loose, usedBefore int64) (held bool, err error) {
	n, err := t.LockLooseRegistryLink(ctx, gen.LockLooseRegistryLinkParams{OrgID: l.OrgID, Repo: l.Repo, Digest: string(l.Digest), UsedBefore: usedBefore})
	if err != nil || n == 0 {
		return false, err
	}
	named, err := t.RegistryRefsOf(ctx, gen.RegistryRefsOfParams{OrgID: l.OrgID, Repo: l.Repo, Digest: string(l.Digest)})
	return !named, err
}

// LooseRegistryManifests implements registry.Keeping.
func (s *Store) LooseRegistryManifests(ctx context.Context, unused time.Duration, after registry.Loose, most int) (all []registry.Loose, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.LooseRegistryManifests(ctx, gen.LooseRegistryManifestsParams{UsedBefore: micros(t.now.Add(-unused)), AfterUsed: after.UsedAt,
			AfterOrg: after.OrgID, AfterRepo: after.Repo, AfterDigest: string(after.Digest), Most: int32(most)})
		all = make([]registry.Loose, len(rows))
		for i, r := range rows {
			all[i] = registry.Loose{Place: registry.Place{OrgID: r.OrgID, Repo: r.Repo}, Digest: registry.Digest(r.Digest), UsedAt: r.UsedAt}
		}
		return err
	})
	return all, err
}

// UnusedRegistryImages implements registry.Keeping.
func (s *Store) UnusedRegistryImages(ctx context.Context, most int) (all []registry.Loose, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.UnusedRegistryImages(ctx, gen.UnusedRegistryImagesParams{Now: micros(t.now), Day: (24 * time.Hour).Microseconds(), Most: int32(most)})
		all = make([]registry.Loose, len(rows))
		for i, r := range rows {
			all[i] = registry.Loose{Place: registry.Place{OrgID: r.OrgID, Repo: r.Repo}, Digest: registry.Digest(r.Digest), UsedAt: r.UsedAt,
				UnusedSince: r.UsedBefore}
		}
		return err
	})
	return all, err
}

// OldestRegistryImages implements registry.Keeping.
func (s *Store) OldestRegistryImages(ctx context.Context, orgID string, grace time.Duration, most int) (all []registry.Loose, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.OldestRegistryImages(ctx, gen.OldestRegistryImagesParams{OrgID: orgID, UsedBefore: micros(t.now.Add(-grace)), Most: int32(most)})
		all = make([]registry.Loose, len(rows))
		for i, r := range rows {
			all[i] = registry.Loose{Place: registry.Place{OrgID: orgID, Repo: r.Repo}, Digest: registry.Digest(r.Digest), UsedAt: r.UsedAt, Size: r.ImageSize,
				UnusedSince: micros(t.now.Add(-grace))}
		}
		return err
	})
	return all, err
}

// CollectRegistryManifest implements registry.Keeping.
func (s *Store) CollectRegistryManifest(ctx context.Context, m registry.Loose, tagged bool) (removed bool, err error) {
	err = s.write(ctx, func(t *tx) error {
		removed, err = t.collectRegistryManifest(ctx, m.Place, m.Digest, m.UsedAt+1, tagged, m.UnusedSince)
		if err != nil || !removed {
			return err
		}
		return t.GrowRegistryEpoch(ctx)
	})
	return removed, err
}

// registryChildren is how many manifests go with an index, in one transaction. What
// is left goes like others that nothing names.
const registryChildren = 500

func (t *tx) collectRegistryManifest(ctx context.Context, p registry.Place, digest registry.Digest, usedBefore int64, tagged bool, unusedSince int64) (removed bool, err error) {
	// As holdLooseRegistryBlob does: a tag or an index that comes to name it has the row.
	n, err := t.LockUnusedRegistryManifest(ctx, gen.LockUnusedRegistryManifestParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest), UsedBefore: usedBefore})
	if err != nil || n == 0 {
		return false, err
	}
	var children []string
	if tagged {
		children, err = t.RegistryChildren(ctx, gen.RegistryChildrenParams{OrgID: p.OrgID, Repo: p.Repo, Manifest: string(digest), Limit: registryChildren})
		if err != nil {
			return false, fmt.Errorf("look what an index names: %w", err)
		}
	} else {
		named, err := t.RegistryManifestIsNamed(ctx, gen.RegistryManifestIsNamedParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)})
		if err != nil || named {
			return false, err
		}
	}
	if err := t.removeRegistryManifest(ctx, p, digest); err != nil {
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			return false, nil
		}
		return false, err
	}
	for _, child := range children {
		if _, err := t.collectRegistryManifest(ctx, p, registry.Digest(child), unusedSince, false, 0); err != nil {
			return false, err
		}
	}
	return true, nil
}

// RegistryGarbage implements registry.Keeping.
func (s *Store) RegistryGarbage(ctx context.Context, since time.Duration, after registry.Garbage, most int) (all []registry.Garbage, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.RegistryGarbage(ctx, gen.RegistryGarbageParams{RemovedBefore: micros(t.now.Add(-since)), AfterRemoved: after.RemovedAt, AfterOrg: after.OrgID,
			AfterPath: after.Path, Most: int32(most)})
		all = make([]registry.Garbage, len(rows))
		for i, r := range rows {
			all[i] = registry.Garbage{OrgID: r.OrgID, Path: r.Path, RemovedAt: r.RemovedAt}
		}
		return err
	})
	return all, err
}

// ForgetRegistryGarbage implements registry.Keeping.
func (s *Store) ForgetRegistryGarbage(ctx context.Context, all []registry.Garbage) error {
	return s.write(ctx, func(t *tx) error {
		for _, g := range all {
			if err := t.ForgetRegistryGarbage(ctx, gen.ForgetRegistryGarbageParams{OrgID: g.OrgID, Path: g.Path}); err != nil {
				return fmt.Errorf("forget garbage: %w", err)
			}
		}
		return nil
	})
}

// NamedRegistryPaths implements registry.Keeping.
func (s *Store) NamedRegistryPaths(ctx context.Context, orgID, first, last string) (paths []string, err error) {
	err = s.read(ctx, func(t *tx) error {
		paths, err = t.NamedRegistryPaths(ctx, gen.NamedRegistryPathsParams{OrgID: orgID, FirstPath: first, LastPath: last})
		return err
	})
	return paths, err
}
