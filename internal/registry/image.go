package registry

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// manifestShares are how many large manifests come at once: each is in memory, and
// who sends it may take his time.
var manifestShares = shares{ofMirror: 4, ofOrg: 4, all: 16, spared: 4}

// mostAwaiting bounds who waits for that.
const mostAwaiting = 256

// AwaitManifest waits until a large manifest may come, whose sender calls leave once
// it is kept or refused. Codes: rate_limited.
func (s *Service) AwaitManifest(ctx context.Context, p Place) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Turn)
	defer cancel()
	if s.manifests.acquireUpTo(ctx, p.OrgID, "", mostAwaiting) != noBound {
		err := nimbus.Errorf(nimbus.CodeRateLimited, "too many large manifests come at once")
		err.RetryAfter = 5 * time.Second
		return nil, &RefusalError{TooManyRequests, err}
	}
	return sync.OnceFunc(func() { s.manifests.release(p.OrgID, "") }), nil
}

// PutManifest keeps a manifest, all of whose parts have to be there, and gives it
// tags. Codes: invalid, not_found, conflict for a tag that does not change,
// too_large.
func (s *Service) PutManifest(ctx context.Context, p Place, m Manifest, tags []string) error {
	if len(tags) > MaxTags {
		return Refuse(ManifestInvalid, nimbus.CodeTooLarge, "%d tags at once are too many, %d is the most", len(tags), MaxTags)
	}
	for _, tag := range tags {
		if err := CheckTag(tag); err != nil {
			return err
		}
	}
	if err := s.spare(m.Size); err != nil {
		return err
	}
	s.readPlatform(ctx, p, &m)
	if err := s.store.PutRegistryManifest(ctx, p, m, tags, s.limits); err != nil {
		return fmt.Errorf("keep a manifest: %w", err)
	}
	return nil
}

// spare looks whether a disk has room for what goes to the database.
func (s *Service) spare(n int64) error {
	if disk, ok := s.blobs.(spares); ok {
		return disk.Spare(n) //nolint:wrapcheck // it is told as it is
	}
	return nil
}

// Manifest is a manifest by its digest or a tag. Codes: not_found, invalid.
func (s *Service) Manifest(ctx context.Context, p Place, reference string) (Manifest, error) {
	digest, err := s.digestOf(ctx, p, reference)
	if err != nil {
		return Manifest{}, err
	}
	m, ok, generation := s.known.manifest(ctx, s, named{p, digest})
	if ok {
		return m, nil
	}
	if m, err = s.store.RegistryManifest(ctx, p, digest); err != nil {
		return Manifest{}, fmt.Errorf("read a manifest: %w", err)
	}
	s.known.addManifest(named{p, digest}, m, generation)
	return m, nil
}

// digestOf is the digest that a reference is, or that the tag stands for now.
func (s *Service) digestOf(ctx context.Context, p Place, reference string) (Digest, error) {
	if strings.Contains(reference, ":") {
		return ParseDigest(reference)
	}
	if err := CheckTag(reference); err != nil {
		return "", err
	}
	digest, err := s.store.RegistryTag(ctx, p, reference)
	if err != nil {
		return "", fmt.Errorf("look up a tag: %w", err)
	}
	return digest, nil
}

// RemoveManifest removes a manifest with its tags, or, by a tag, that tag alone.
// Codes: not_found, invalid, conflict where tags of the repository do not change.
func (s *Service) RemoveManifest(ctx context.Context, who nimbus.Principal, p Place, reference string) error {
	e := event(who, p.OrgID, "registry.remove", p.Repo, map[string]string{"reference": reference})
	if !strings.Contains(reference, ":") {
		if err := CheckTag(reference); err != nil {
			return err
		}
		if err := s.store.DropRegistryTag(ctx, p, reference, e); err != nil {
			return fmt.Errorf("remove a tag: %w", err)
		}
		return nil
	}
	digest, err := ParseDigest(reference)
	if err != nil {
		return err
	}
	err = s.store.DropRegistryManifest(ctx, p, digest, e)
	s.known.forget()
	if err != nil {
		return fmt.Errorf("remove a manifest: %w", err)
	}
	return nil
}

// TagsStay is the refusal to remove tags that may not change.
func TagsStay(repo string) error {
	return &RefusalError{Denied, nimbus.Errorf(nimbus.CodeConflict, "tags of the repository %s do not change, and so neither they nor what they stand for is removed", repo).
		WithHint("take that rule away first: nimbus registry rules %s, with its other rules and without --immutable", repo)}
}

// NoManifest is the refusal of a manifest or a tag that is not there.
func NoManifest(reference string) error {
	return Refuse(ManifestUnknown, nimbus.CodeNotFound, "there is no manifest %.160s in this repository", reference)
}

// Tags are the tags of a repository behind one, up to most; more tells whether
// there are others. Codes: not_found, invalid.
func (s *Service) Tags(ctx context.Context, p Place, after string, most int) (tags []string, more bool, err error) {
	most = max(0, min(most, MaxPage))
	tags, err = s.store.RegistryTags(ctx, p, after, most+1)
	if err != nil {
		return nil, false, fmt.Errorf("list tags: %w", err)
	}
	if more = len(tags) > most; more {
		tags = tags[:most]
	}
	return tags, more, nil
}

// Referrers are the manifests about another, behind one; of an artifact type, ""
// for any. next is where the page after begins, "" for none.
func (s *Service) Referrers(ctx context.Context, p Place, subject Digest, artifactType string, after Digest) (all []Manifest, next Digest, err error) {
	all, more, err := s.store.RegistryReferrers(ctx, p, subject, artifactType, after, referrersAtOnce)
	if err != nil {
		return nil, "", fmt.Errorf("list referrers: %w", err)
	}
	if more && len(all) > 0 {
		next = all[len(all)-1].Digest
	}
	return all, next, nil
}

// referrersAtOnce is how many referrers are on a page.
const referrersAtOnce = 100

// Pulled notes that a manifest was pulled. It is written down later.
func (s *Service) Pulled(p Place, digest Digest) { s.uses.add(named{p, digest}, s.clock.Now()) }

// mostUses is of how many manifests it is noted until they are written; more are
// not.
const mostUses = 20_000

// uses is when manifests were pulled since the last time that was written.
type uses struct {
	mu sync.Mutex
	at map[named]time.Time
}

func (u *uses) add(n named, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.at[n]; ok || len(u.at) < mostUses {
		u.at[n] = now
	}
}

func (u *uses) take() map[named]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.at
	u.at = map[named]time.Time{}
	return all
}

// Flush writes down what was pulled; Run does it each ten seconds.
func (s *Service) Flush(ctx context.Context) error {
	all, now := s.uses.take(), s.clock.Now()
	used := make([]Use, 0, len(all))
	for n, at := range all {
		used = append(used, Use{n.Place, n.digest, now.Sub(at)})
	}
	if len(used) == 0 {
		return nil
	}
	if err := s.store.UsedRegistryManifests(ctx, used); err != nil {
		return fmt.Errorf("note what was pulled: %w", err)
	}
	return nil
}
