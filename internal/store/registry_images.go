package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// PutRegistryManifest implements registry.Manifests.
func (s *Store) PutRegistryManifest(ctx context.Context, p registry.Place, m registry.Manifest, tags []string, l registry.Limits) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.openRegistryRepo(ctx, p); err != nil {
			return err
		}
		if err := t.holdRegistry(ctx, "registry_links", p, m.Blobs); err != nil {
			return err
		}
		if err := t.holdRegistry(ctx, "registry_manifests", p, m.Manifests); err != nil {
			return err
		}
		isNew, err := t.putRegistryManifest(ctx, p, m)
		if err != nil {
			return err
		}
		if err := t.tagRegistry(ctx, p, m.Digest, tags); err != nil {
			return err
		}
		if !isNew {
			return nil
		}
		return t.countRegistry(ctx, p.OrgID, m.Size, l)
	})
}

// holdRegistry locks what a manifest names, in order: from now on it is not
// collected, and then the manifest names it. All of it has to be there.
func (t *tx) holdRegistry(ctx context.Context, table string, p registry.Place, digests []registry.Digest) error {
	if len(digests) == 0 {
		return nil
	}
	names := make([]string, len(digests))
	for i, d := range digests {
		names[i] = string(d)
	}
	list, err := t.dialect.list(names)
	if err != nil {
		return err
	}
	there, err := texts(t.db.QueryContext(ctx, "SELECT digest FROM "+table+" WHERE org_id = $1 AND repo = $2 AND "+t.dialect.in("digest", 3)+
		" ORDER BY digest"+t.dialect.forShare(), p.OrgID, p.Repo, list))
	if err != nil {
		return fmt.Errorf("look for what a manifest names: %w", err)
	}
	if len(there) == len(names) {
		return nil
	}
	for _, name := range names {
		if _, ok := slices.BinarySearch(there, name); !ok {
			return registry.Refuse(registry.ManifestBlobUnknown, nimbus.CodeNotFound, "the manifest names %s, which is not in the repository", name)
		}
	}
	return nil
}

// putRegistryManifest writes a manifest, or notes that one that is there is used,
// whose row is locked then.
func (t *tx) putRegistryManifest(ctx context.Context, p registry.Place, m registry.Manifest) (isNew bool, err error) {
	size, err := t.registryImageSize(ctx, p, m)
	if err != nil {
		return false, err
	}
	at, err := t.PutRegistryManifest(ctx, gen.PutRegistryManifestParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(m.Digest), MediaType: m.MediaType,
		ArtifactType: m.ArtifactType, Subject: string(m.Subject), Annotations: cmp.Or(string(m.Annotations), noAnnotations), Size: m.Size, ImageSize: size, Content: m.Content,
		Platforms: strings.Join(m.Platforms, ","), PushedAt: micros(t.now)})
	if err != nil {
		return false, fmt.Errorf("write a manifest: %w", err)
	}
	if isNew = at == micros(t.now); !isNew {
		return false, nil
	}
	refs := make([][]any, 0, len(m.Blobs)+len(m.Manifests)+len(m.Elsewhere))
	for _, d := range slices.Concat(m.Blobs, m.Manifests, m.Elsewhere) {
		refs = append(refs, []any{p.OrgID, p.Repo, string(m.Digest), string(d)})
	}
	line := pipeline{tx: t}
	line.write("write what a manifest names", bulkInsert("registry_refs", "org_id text, repo text, manifest text, digest text", "ON CONFLICT DO NOTHING"), refs)
	return true, line.run(ctx)
}

// registryImageSize is the size of an image with those that an index names, which
// are held.
func (t *tx) registryImageSize(ctx context.Context, p registry.Place, m registry.Manifest) (size int64, err error) {
	size = m.ImageSize
	if len(m.Manifests) > 0 {
		names := make([]string, len(m.Manifests))
		for i, d := range m.Manifests {
			names[i] = string(d)
		}
		list, err := t.dialect.list(names)
		if err != nil {
			return 0, err
		}
		var sum int64
		err = t.db.QueryRowContext(ctx, "SELECT CAST(COALESCE(SUM(image_size), 0) AS BIGINT) FROM registry_manifests WHERE org_id = $1 AND repo = $2 AND "+
			t.dialect.in("digest", 3), p.OrgID, p.Repo, list).Scan(&sum)
		if err != nil {
			return 0, fmt.Errorf("sum up the images of an index: %w", err)
		}
		size += sum
	}
	return min(size, registry.MaxImageSize), nil
}

// tagRegistry gives a manifest tags, unless they may not change.
func (t *tx) tagRegistry(ctx context.Context, p registry.Place, digest registry.Digest, tags []string) error {
	if len(tags) == 0 {
		return nil
	}
	repo, err := t.RegistryRepo(ctx, gen.RegistryRepoParams{OrgID: p.OrgID, Repo: p.Repo})
	if err != nil {
		return fmt.Errorf("read a repository: %w", err)
	}
	tags = slices.Sorted(slices.Values(tags))
	for _, tag := range slices.Compact(tags) {
		n, err := t.PutRegistryTag(ctx, gen.PutRegistryTagParams{OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(tag), Digest: string(digest), Now: micros(t.now),
			Immutable: repo.Immutable})
		if err != nil {
			return fmt.Errorf("write a tag: %w", err)
		}
		if n == 0 {
			return registry.Refuse(registry.Denied, nimbus.CodeConflict, "the tag %s is there already, and tags of this repository do not change", tag)
		}
	}
	return nil
}

// RegistryManifest implements registry.Manifests.
func (s *Store) RegistryManifest(ctx context.Context, p registry.Place, digest registry.Digest) (m registry.Manifest, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.RegistryManifest(ctx, gen.RegistryManifestParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)})
		if errors.Is(err, sql.ErrNoRows) {
			return registry.NoManifest(string(digest))
		}
		m = registry.Manifest{Digest: digest, MediaType: row.MediaType, Subject: registry.Digest(row.Subject), Size: row.Size, Content: row.Content}
		return err
	})
	return m, err
}

// RegistryTag implements registry.Manifests.
func (s *Store) RegistryTag(ctx context.Context, p registry.Place, tag string) (digest registry.Digest, err error) {
	err = s.read(ctx, func(t *tx) error {
		name, err := t.RegistryTag(ctx, gen.RegistryTagParams{OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(tag)})
		if errors.Is(err, sql.ErrNoRows) {
			return registry.NoManifest(tag)
		}
		digest = registry.Digest(name)
		return err
	})
	return digest, err
}

// DropRegistryManifest implements registry.Manifests.
func (s *Store) DropRegistryManifest(ctx context.Context, p registry.Place, digest registry.Digest, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		// Nor what an index names that has one.
		err := t.mayLoseRegistryTags(ctx, p, " AND (digest = $3 OR digest IN (SELECT manifest FROM registry_refs WHERE org_id = $1 AND repo = $2 AND digest = $3))", string(digest))
		if err != nil {
			return err
		}
		if err := t.removeRegistryManifest(ctx, p, digest); err != nil {
			return err
		}
		if err := t.told(ctx, e); err != nil {
			return err
		}
		return t.GrowRegistryEpoch(ctx)
	})
}

// mayLoseRegistryTags refuses where tags of a repository are to go, and may not
// change: one that went could come back as something else. which is an SQL
// condition that says which tags these are.
func (t *tx) mayLoseRegistryTags(ctx context.Context, p registry.Place, which string, args ...any) error {
	repo, err := t.RegistryRepo(ctx, gen.RegistryRepoParams{OrgID: p.OrgID, Repo: p.Repo})
	if errors.Is(err, sql.ErrNoRows) || err == nil && !repo.Immutable {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a repository: %w", err)
	}
	var some bool
	err = t.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM registry_tags WHERE org_id = $1 AND repo = $2"+which+")", append([]any{p.OrgID, p.Repo}, args...)...).Scan(&some)
	if err != nil {
		return fmt.Errorf("look for tags: %w", err)
	}
	if some {
		return registry.TagsStay(p.Repo)
	}
	return nil
}

// removeRegistryManifest removes a manifest with its tags.
func (t *tx) removeRegistryManifest(ctx context.Context, p registry.Place, digest registry.Digest) error {
	size, err := t.DropRegistryManifest(ctx, gen.DropRegistryManifestParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)})
	if errors.Is(err, sql.ErrNoRows) {
		return registry.NoManifest(string(digest))
	}
	if err != nil {
		return fmt.Errorf("remove a manifest: %w", err)
	}
	if err := t.DropRegistryRefs(ctx, gen.DropRegistryRefsParams{OrgID: p.OrgID, Repo: p.Repo, Manifest: string(digest)}); err != nil {
		return fmt.Errorf("remove what a manifest names: %w", err)
	}
	if err := t.DropRegistryTagsOf(ctx, gen.DropRegistryTagsOfParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)}); err != nil {
		return fmt.Errorf("remove the tags of a manifest: %w", err)
	}
	return t.countRegistry(ctx, p.OrgID, -size, registry.Limits{})
}

// DropRegistryTag implements registry.Manifests.
func (s *Store) DropRegistryTag(ctx context.Context, p registry.Place, tag string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.mayLoseRegistryTags(ctx, p, " AND tag = $3", []byte(tag)); err != nil {
			return err
		}
		n, err := t.DropRegistryTag(ctx, gen.DropRegistryTagParams{OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(tag)})
		if err == nil && n == 0 {
			return registry.NoManifest(tag)
		}
		if err != nil {
			return fmt.Errorf("remove a tag: %w", err)
		}
		return t.told(ctx, e)
	})
}

// RegistryTags implements registry.Manifests.
func (s *Store) RegistryTags(ctx context.Context, p registry.Place, after string, most int) (tags []string, err error) {
	err = s.read(ctx, func(t *tx) error {
		if _, err := t.registryRepo(ctx, p); err != nil {
			return err
		}
		rows, err := t.RegistryTags(ctx, gen.RegistryTagsParams{OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(after), Limit: int32(most)})
		tags = make([]string, len(rows))
		for i, tag := range rows {
			tags[i] = string(tag)
		}
		return err
	})
	return tags, err
}

func (t *tx) registryRepo(ctx context.Context, p registry.Place) (gen.RegistryRepo, error) {
	row, err := t.RegistryRepo(ctx, gen.RegistryRepoParams{OrgID: p.OrgID, Repo: p.Repo})
	if errors.Is(err, sql.ErrNoRows) {
		return row, &registry.RefusalError{Reason: registry.NameUnknown, Err: nimbus.Errorf(nimbus.CodeNotFound, "there is no repository %s", p.Repo).
			WithHint("nimbus registry ls shows which there are; their names are without the org")}
	}
	return row, err
}

// RegistryReferrers implements registry.Manifests.
func (s *Store) RegistryReferrers(ctx context.Context, p registry.Place, subject registry.Digest, artifactType string, after registry.Digest, most int) (all []registry.Manifest, more bool, err error) {
	err = s.read(ctx, func(t *tx) error {
		heads, err := t.registryReferrerHeads(ctx, p, subject, artifactType, after, most+1)
		if err != nil {
			return err
		}
		fit := fitting(heads, most)
		more = fit < len(heads)
		rows, err := t.RegistryReferrers(ctx, gen.RegistryReferrersParams{OrgID: p.OrgID, Repo: p.Repo, Subject: string(subject), After: string(after),
			AnyType: artifactType == "", ArtifactType: artifactType, Most: int32(fit)})
		if err != nil {
			return err
		}
		all = make([]registry.Manifest, len(rows))
		for i, r := range rows {
			all[i] = registry.Manifest{Digest: registry.Digest(r.Digest), MediaType: r.MediaType, ArtifactType: r.ArtifactType, Subject: subject, Size: r.Size}
			if r.Annotations != noAnnotations {
				all[i].Annotations = json.RawMessage(r.Annotations)
			}
		}
		return nil
	})
	return all, more, err
}

// noAnnotations is what the row of a manifest has that has none.
const noAnnotations = "{}"

// fitting is how many of some manifests, up to most, are told at once. Their
// annotations are a part of them, and no manifest has others.
func fitting(heads []gen.RegistryReferrerHeadsRow, most int) (n int) {
	var bytes int64
	for n < len(heads) && n < most {
		if bytes += heads[n].Size; bytes > registry.MaxManifest && n > 0 {
			break
		}
		n++
	}
	return n
}

// registryReferrerHeads are manifests about another without their annotations.
func (t *tx) registryReferrerHeads(ctx context.Context, p registry.Place, subject registry.Digest, artifactType string, after registry.Digest, most int) ([]gen.RegistryReferrerHeadsRow, error) {
	return t.RegistryReferrerHeads(ctx, gen.RegistryReferrerHeadsParams{OrgID: p.OrgID, Repo: p.Repo, Subject: string(subject), After: string(after),
		AnyType: artifactType == "", ArtifactType: artifactType, Most: int32(most)})
}

// RegistryEpoch implements registry.Manifests.
func (s *Store) RegistryEpoch(ctx context.Context) (epoch int64, err error) {
	err = s.read(ctx, func(t *tx) error {
		epoch, err = t.RegistryEpoch(ctx)
		return err
	})
	return epoch, err
}

// UsedRegistryManifests implements registry.Manifests.
func (s *Store) UsedRegistryManifests(ctx context.Context, used []registry.Use) error {
	for part := range slices.Chunk(used, 500) { // a transaction that others wait for
		err := s.write(ctx, func(t *tx) error {
			for _, u := range part {
				err := t.UsedRegistryManifest(ctx, gen.UsedRegistryManifestParams{At: micros(t.now.Add(-u.Ago)), OrgID: u.OrgID, Repo: u.Repo, Digest: string(u.Digest)})
				if err != nil {
					return fmt.Errorf("note a pull: %w", err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
