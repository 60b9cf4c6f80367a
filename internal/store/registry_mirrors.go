package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

func registryMirror(r *gen.RegistryMirror) (registry.MirrorRow, error) {
	row := registry.MirrorRow{MirrorKey: registry.MirrorKey{OrgID: r.OrgID, Mirror: r.Name, Since: r.Since}, Secret: r.Secret, Changed: r.ChangedAt,
		Limited: fromMicros(r.LimitedUntil), Spent: fromMicros(r.SpentUntil), Clearing: r.Clearing,
		ImageMirror: nimbus.ImageMirror{Name: r.Name, Upstream: r.Upstream, Username: r.Username, SetAt: fromMicros(r.ChangedAt), SetBy: r.ChangedBy,
			Failure: r.Failure, FailedAt: fromMicros(r.FailedAt), LimitedUntil: fromMicros(max(r.LimitedUntil, r.SpentUntil))}}
	if err := json.Unmarshal([]byte(r.Allowed), &row.Allow); err != nil {
		return row, fmt.Errorf("read what a mirror allows: %w", err)
	}
	return row, nil
}

// RegistryMirrors implements registry.Mirrors.
func (s *Store) RegistryMirrors(ctx context.Context, orgID string, most int) (all []registry.MirrorRow, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.RegistryMirrors(ctx, gen.RegistryMirrorsParams{OrgID: orgID, Limit: int32(most)})
		if err != nil {
			return err
		}
		all = make([]registry.MirrorRow, len(rows))
		for i := range rows {
			if all[i], err = registryMirror(&rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// lockRegistryMirror is a mirror whose row is held.
func (t *tx) lockRegistryMirror(ctx context.Context, orgID, name string) (r gen.RegistryMirror, there bool, err error) {
	r, err = t.LockRegistryMirror(ctx, gen.LockRegistryMirrorParams{OrgID: orgID, Name: name})
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("lock a mirror: %w", err)
	}
	return r, true, nil
}

// SetRegistryMirror implements registry.Mirrors. Until what is here of before is
// removed nothing of the mirror is given: a change that was broken off is seen, and
// the next one goes on with it.
func (s *Store) SetRegistryMirror(ctx context.Context, row registry.MirrorRow, e nimbus.AuditEvent) error {
	allowed, err := json.Marshal(append([]string{}, row.Allow...))
	if err != nil {
		return fmt.Errorf("write what a mirror allows: %w", err)
	}
	clearing := false
	err = s.write(ctx, func(t *tx) error {
		before, there, err := t.lockRegistryMirror(ctx, row.OrgID, row.Name)
		if err != nil {
			return err
		}
		if !there {
			if err := t.takeRegistryReposBelow(ctx, row.OrgID, row.Name); err != nil {
				return err
			}
		}
		// A time of a row grows, also where clocks do not.
		changed := max(micros(t.now), before.ChangedAt+1)
		row.Since = before.Since
		if !there || before.Upstream != row.Upstream {
			row.Since, clearing = changed, true
		}
		clearing = clearing || before.Clearing
		err = t.PutRegistryMirror(ctx, gen.PutRegistryMirrorParams{OrgID: row.OrgID, Name: row.Name, Upstream: row.Upstream, Username: row.Username,
			Secret: row.Secret, Allowed: string(allowed), Since: row.Since, ChangedAt: changed, ChangedBy: row.SetBy, Clearing: clearing})
		if err != nil {
			return fmt.Errorf("write a mirror: %w", err)
		}
		return t.told(ctx, e)
	})
	if err != nil || !clearing {
		return err
	}
	if err := s.clearRegistryMirror(ctx, row.OrgID, row.Name); err != nil {
		return err
	}
	return s.write(ctx, func(t *tx) error {
		err := t.RegistryMirrorCleared(ctx, gen.RegistryMirrorClearedParams{OrgID: row.OrgID, Name: row.Name, Since: row.Since})
		if err != nil {
			return fmt.Errorf("note that a mirror is empty: %w", err)
		}
		return nil
	})
}

// takeRegistryReposBelow has no repositories of an org's own be where a mirror's are
// to be. Those in which no image is have rules at most, which would do nothing.
func (t *tx) takeRegistryReposBelow(ctx context.Context, orgID, name string) error {
	length, prefix := int32(len(name)+1), name+"/"
	pushed, err := t.RegistryImagesBelow(ctx, gen.RegistryImagesBelowParams{OrgID: orgID, Length: length, Prefix: prefix})
	if err != nil {
		return fmt.Errorf("look what was pushed: %w", err)
	}
	if pushed {
		return nimbus.Errorf(nimbus.CodeConflict, "images were pushed to repositories that begin with %s/, where the mirror's would be", name).
			WithHint("remove them first: nimbus registry ls, nimbus registry rm REPO --whole")
	}
	if err := t.DropRegistryReposBelow(ctx, gen.DropRegistryReposBelowParams{OrgID: orgID, Length: length, Prefix: prefix}); err != nil {
		return fmt.Errorf("remove empty repositories: %w", err)
	}
	return nil
}

// DropRegistryMirror implements registry.Mirrors. Its row goes last: one that was
// broken off can be done again.
func (s *Store) DropRegistryMirror(ctx context.Context, orgID, name string, e nimbus.AuditEvent) (secret string, err error) {
	var since int64
	err = s.write(ctx, func(t *tx) error {
		row, there, err := t.lockRegistryMirror(ctx, orgID, name)
		if err != nil {
			return err
		}
		if !there {
			return registry.NoMirror(name)
		}
		secret, since = row.Secret, max(micros(t.now), row.ChangedAt+1)
		err = t.PutRegistryMirror(ctx, gen.PutRegistryMirrorParams{OrgID: orgID, Name: name, Upstream: row.Upstream, Allowed: row.Allowed,
			Since: since, ChangedAt: since, ChangedBy: row.ChangedBy, Clearing: true})
		if err != nil {
			return fmt.Errorf("write that a mirror goes: %w", err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if err := s.clearRegistryMirror(ctx, orgID, name); err != nil {
		return secret, err
	}
	return secret, s.write(ctx, func(t *tx) error {
		row, there, err := t.lockRegistryMirror(ctx, orgID, name)
		if err != nil {
			return err
		}
		if !there || row.ChangedAt != since {
			return registry.MirrorChanged()
		}
		if err := t.DropRegistryMirror(ctx, gen.DropRegistryMirrorParams{OrgID: orgID, Name: name}); err != nil {
			return fmt.Errorf("remove a mirror: %w", err)
		}
		return t.told(ctx, e)
	})
}

// clearRegistryMirror removes what is here of a mirror: at once, so that nothing of
// it is given, or kept by being asked for. Its contents are garbage then.
func (s *Store) clearRegistryMirror(ctx context.Context, orgID, name string) error {
	account, prefix := registry.MirrorAccount(orgID), name+"/"
	for last := false; !last; {
		err := s.write(ctx, func(t *tx) error {
			rows, err := t.RegistryManifestsBelow(ctx, gen.RegistryManifestsBelowParams{OrgID: account, Length: int32(len(prefix)), Prefix: prefix, Most: registryDropPage})
			if err != nil {
				return fmt.Errorf("list manifests: %w", err)
			}
			for _, r := range rows {
				if err := t.removeRegistryManifest(ctx, registry.Place{OrgID: account, Repo: r.Repo}, registry.Digest(r.Digest)); err != nil {
					return err
				}
			}
			last = len(rows) < registryDropPage
			return t.GrowRegistryEpoch(ctx)
		})
		if err != nil {
			return err
		}
	}
	for {
		var blobs []registry.Loose
		err := s.read(ctx, func(t *tx) error {
			rows, err := t.RegistryLinksBelow(ctx, gen.RegistryLinksBelowParams{OrgID: account, Length: int32(len(prefix)), Prefix: prefix, Most: registryDropPage})
			blobs = make([]registry.Loose, len(rows))
			for i, r := range rows {
				blobs[i] = registry.Loose{Place: registry.Place{OrgID: account, Repo: r.Repo}, Digest: registry.Digest(r.Digest), UsedAt: registry.WheneverUsed}
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		if len(blobs) == 0 {
			return nil
		}
		if _, _, err := s.EvictRegistryBlobs(ctx, blobs); err != nil {
			return fmt.Errorf("remove the blobs of a mirror: %w", err)
		}
	}
}

// NoteRegistryMirror implements registry.Mirrors.
func (s *Store) NoteRegistryMirror(ctx context.Context, key registry.MirrorKey, note registry.MirrorNote) error {
	return s.write(ctx, func(t *tx) error {
		p := gen.NoteRegistryMirrorParams{Failure: note.Failure, OrgID: key.OrgID, Name: key.Mirror, Since: key.Since}
		if note.Failure != "" {
			p.FailedAt = micros(t.now)
		}
		if note.Limited > 0 {
			p.LimitedUntil = micros(t.now.Add(note.Limited))
		}
		if note.Spent > 0 {
			p.SpentUntil = micros(t.now.Add(note.Spent))
		}
		return t.NoteRegistryMirror(ctx, p)
	})
}

// RegistryMirrorTotals implements registry.Mirrors.
func (s *Store) RegistryMirrorTotals(ctx context.Context, orgID, name string) (repos, bytes int64, err error) {
	account, length, prefix := registry.MirrorAccount(orgID), int32(len(name)+1), name+"/"
	err = s.read(ctx, func(t *tx) error {
		if repos, err = t.RegistryMirrorRepos(ctx, gen.RegistryMirrorReposParams{OrgID: account, Length: length, Prefix: prefix}); err != nil {
			return err
		}
		bytes, err = t.RegistryMirrorBytes(ctx, gen.RegistryMirrorBytesParams{OrgID: account, Length: length, Prefix: prefix})
		return err
	})
	return repos, bytes, err
}

// RegistryMirrorTag implements registry.Mirrors.
func (s *Store) RegistryMirrorTag(ctx context.Context, p registry.Place, tag string) (digest registry.Digest, age time.Duration, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.RegistryMirrorTag(ctx, gen.RegistryMirrorTagParams{OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(tag)})
		if errors.Is(err, sql.ErrNoRows) {
			return registry.NoManifest(tag)
		}
		digest, age = registry.Digest(row.Digest), t.now.Sub(fromMicros(row.UpdatedAt))
		return err
	})
	return digest, age, err
}

// RenewRegistryMirrorTag implements registry.Mirrors.
func (s *Store) RenewRegistryMirrorTag(ctx context.Context, p registry.Place, tag string, digest registry.Digest) error {
	return s.write(ctx, func(t *tx) error {
		return t.RenewRegistryTag(ctx, gen.RenewRegistryTagParams{Now: micros(t.now), OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(tag), Digest: string(digest)})
	})
}

// RegistryMirrorTags implements registry.Mirrors.
func (s *Store) RegistryMirrorTags(ctx context.Context, p registry.Place, after string, most int) (tags []string, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.RegistryTags(ctx, gen.RegistryTagsParams{OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(after), Limit: int32(most)})
		tags = make([]string, len(rows))
		for i, tag := range rows {
			tags[i] = string(tag)
		}
		return err
	})
	return tags, err
}

// PutRegistryMirrored implements registry.Mirrors.
func (s *Store) PutRegistryMirrored(ctx context.Context, key registry.MirrorKey, p registry.Place, m registry.Manifest, tags []string, l registry.Limits) error {
	return s.write(ctx, func(t *tx) error {
		row, there, err := t.lockRegistryMirror(ctx, key.OrgID, key.Mirror)
		if err != nil {
			return err
		}
		if !there || row.Since != key.Since {
			return registry.MirrorChanged()
		}
		isNew, err := t.putRegistryManifest(ctx, p, m)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			_, err := t.PutRegistryTag(ctx, gen.PutRegistryTagParams{OrgID: p.OrgID, Repo: p.Repo, Tag: []byte(tag), Digest: string(m.Digest), Now: micros(t.now)})
			if err != nil {
				return fmt.Errorf("write a tag: %w", err)
			}
		}
		if !isNew {
			return nil
		}
		return t.countRegistry(ctx, p.OrgID, m.Size, l)
	})
}

// OldestRegistryMirrored implements registry.Mirrors.
func (s *Store) OldestRegistryMirrored(ctx context.Context, account string, most int) (blobs, manifests []registry.Loose, err error) {
	err = s.read(ctx, func(t *tx) error {
		links, err := t.OldestRegistryLinks(ctx, gen.OldestRegistryLinksParams{OrgID: account, Limit: int32(most)})
		if err != nil {
			return fmt.Errorf("look for blobs: %w", err)
		}
		blobs = make([]registry.Loose, len(links))
		for i, r := range links {
			blobs[i] = registry.Loose{Place: registry.Place{OrgID: account, Repo: r.Repo}, Digest: registry.Digest(r.Digest), UsedAt: r.UsedAt, Size: r.Size}
		}
		rows, err := t.OldestRegistryManifests(ctx, gen.OldestRegistryManifestsParams{OrgID: account, Limit: int32(most)})
		manifests = make([]registry.Loose, len(rows))
		for i, r := range rows {
			manifests[i] = registry.Loose{Place: registry.Place{OrgID: account, Repo: r.Repo}, Digest: registry.Digest(r.Digest), UsedAt: r.UsedAt, Size: r.Size}
		}
		return err
	})
	return blobs, manifests, err
}

// EvictRegistryBlobs implements registry.Mirrors. It locks in the order in which
// CollectRegistryBlobs does.
func (s *Store) EvictRegistryBlobs(ctx context.Context, blobs []registry.Loose) (n int, freed int64, err error) {
	blobs = slices.SortedFunc(slices.Values(blobs), func(a, b registry.Loose) int {
		return cmp.Or(cmp.Compare(a.Repo, b.Repo), cmp.Compare(a.Digest, b.Digest))
	})
	err = s.write(ctx, func(t *tx) error {
		freed = 0
		held := make([]registry.Loose, 0, len(blobs))
		for _, b := range blobs {
			n, err := t.LockLooseRegistryLink(ctx, gen.LockLooseRegistryLinkParams{OrgID: b.OrgID, Repo: b.Repo, Digest: string(b.Digest), UsedBefore: b.UsedAt + 1})
			if err != nil {
				return fmt.Errorf("lock a blob: %w", err)
			}
			if n > 0 {
				held = append(held, b)
			}
		}
		if n = len(held); n == 0 {
			return nil
		}
		for _, b := range held {
			bytes, err := t.unlinkRegistryBlob(ctx, b.Place, b.Digest)
			if err != nil {
				return err
			}
			freed += bytes
		}
		if err := t.countRegistry(ctx, held[0].OrgID, -freed, registry.Limits{}); err != nil {
			return err
		}
		return t.GrowRegistryEpoch(ctx)
	})
	return n, freed, err
}

// UnusedRegistryMirrored implements registry.Mirrors.
func (s *Store) UnusedRegistryMirrored(ctx context.Context, unused time.Duration, most int) (all []registry.Loose, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.UnusedRegistryMirrored(ctx, gen.UnusedRegistryMirroredParams{UsedBefore: micros(t.now.Add(-unused)), Most: int32(most)})
		all = make([]registry.Loose, len(rows))
		for i, r := range rows {
			all[i] = registry.Loose{Place: registry.Place{OrgID: r.OrgID, Repo: r.Repo}, Digest: registry.Digest(r.Digest), UsedAt: r.UsedAt}
		}
		return err
	})
	return all, err
}
