package store

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

const (
	// allCaches names the rows of cache_usage that are of more than a repository.
	allCaches = cache.AllRepos
	// evictPage is how many entries are looked at that may make room, and
	// mostEvicted how many do so in one transaction; roomTries is in how many of
	// them a claim may be for which many small ones have to go.
	evictPage   = 100
	mostEvicted = 200
	roomTries   = 400
	// largestOrgs is among how many orgs one is looked for that has more than its
	// share.
	largestOrgs = 20
)

// cacheRoom is what is used where something is added, as this transaction has it:
// nobody else changes it before it ends.
type cacheRoom struct {
	t                    *tx
	place                cache.Place
	total, ofOrg, ofRepo gen.CacheUsage
	before               struct{ total, ofOrg, ofRepo int64 } // bytes, without what is added
	evicted              int
}

func (t *tx) openCacheUsage(ctx context.Context, p cache.Place) error {
	for _, repo := range []string{allCaches, p.Repo} {
		if err := t.OpenCacheUsage(ctx, gen.OpenCacheUsageParams{OrgID: p.OrgID, Repo: repo}); err != nil {
			return fmt.Errorf("open the books of a cache: %w", err)
		}
	}
	return nil
}

// countCache adds to what is used, in the order in which everybody locks.
func (t *tx) countCache(ctx context.Context, p cache.Place, bytes, entries int64) (*cacheRoom, error) {
	r := &cacheRoom{t: t, place: p}
	err := r.count(ctx, p, bytes, entries)
	r.before.total, r.before.ofOrg, r.before.ofRepo = r.total.Bytes-bytes, r.ofOrg.Bytes-bytes, r.ofRepo.Bytes-bytes
	return r, err
}

func (r *cacheRoom) count(ctx context.Context, p cache.Place, bytes, entries int64) error {
	for _, level := range []struct {
		org, repo string
		into      *gen.CacheUsage // nil where it is not looked at
	}{
		{allCaches, allCaches, &r.total},
		{p.OrgID, allCaches, when(p.OrgID == r.place.OrgID, &r.ofOrg)},
		{p.OrgID, p.Repo, when(p.OrgID == r.place.OrgID && p.Repo == r.place.Repo, &r.ofRepo)},
	} {
		now, err := r.t.AddCacheUsage(ctx, gen.AddCacheUsageParams{Bytes: bytes, Entries: entries, OrgID: level.org, Repo: level.repo})
		if err != nil {
			return fmt.Errorf("count what a cache has: %w", err)
		}
		if level.into != nil {
			*level.into = now
		}
	}
	return nil
}

func when[T any](is bool, then *T) *T {
	if is {
		return then
	}
	return nil
}

// quota is the bytes that a row may have.
func quota(u *gen.CacheUsage, usual int64) int64 {
	if u.Quota >= 0 {
		return u.Quota
	}
	return usual
}

// couldHold refuses a size that would not fit even if everything made room.
func (r *cacheRoom) couldHold(size int64, l cache.Limits) error {
	switch {
	case size > quota(&r.ofRepo, l.Repo):
		return r.fullRepo(l)
	case size > quota(&r.ofOrg, l.Org):
		return r.fullOrg(l)
	case size > l.Total:
		return r.fullTotal(l)
	}
	return nil
}

// make has entries make room where a bound is passed. again tells that it has
// done much, and that there is more to do. Codes: too_large.
func (r *cacheRoom) make(ctx context.Context, l cache.Limits) (again bool, err error) {
	if err := r.evict(ctx, r.ofOrgOldest, func() bool { return r.ofOrg.Entries > l.Entries }); err != nil {
		return false, err
	}
	if r.ofOrg.Entries > l.Entries {
		return false, nimbus.Errorf(nimbus.CodeTooLarge, "the cache of the org has %d entries and uploads, which is the most", l.Entries)
	}
	repo := func() bool { return r.ofRepo.Bytes > quota(&r.ofRepo, l.Repo) }
	org := func() bool { return r.ofOrg.Bytes > quota(&r.ofOrg, l.Org) }
	if err := r.evict(ctx, r.ofRepoOldest, repo); err != nil {
		return false, err
	}
	if err := r.evict(ctx, r.ofOrgOldest, org); err != nil {
		return false, err
	}
	if err := r.share(ctx, l); err != nil {
		return false, err
	}
	over := repo() || org() || r.total.Bytes > l.Total
	switch {
	case !over:
		return false, nil
	case r.evicted >= mostEvicted:
		return true, nil
	case repo():
		return false, r.fullRepo(l)
	case org():
		return false, r.fullOrg(l)
	}
	return false, r.fullTotal(l)
}

func (r *cacheRoom) fullRepo(l cache.Limits) error {
	whose := r.place.Repo
	if whose == "" {
		whose = "the org's own jobs"
	}
	return cacheFull(whose, r.before.ofRepo, quota(&r.ofRepo, l.Repo))
}

func (r *cacheRoom) fullOrg(l cache.Limits) error {
	return cacheFull("the org", r.before.ofOrg, quota(&r.ofOrg, l.Org))
}

func (r *cacheRoom) fullTotal(l cache.Limits) error {
	return cacheFull("this installation", r.before.total, l.Total)
}

// cacheFull tells which quota is used up. GitHub's clients know it by its first
// words.
func cacheFull(whose string, used, most int64) error {
	return nimbus.Errorf(nimbus.CodeTooLarge, "insufficient usage: the cache of %s has %d of %d bytes, and not enough of it can make room", whose, used, most).
		WithHint("`nimbus cache ls` tells what is in it; what is being saved holds room too, until it is done or nothing has come for minutes, and entries that are being read stay")
}

// victim is an entry that may make room.
type victim struct {
	id        int64
	org, repo string
	size      int64
}

func (r *cacheRoom) ofOrgOldest(ctx context.Context) ([]victim, error) {
	return r.oldest(ctx, r.place.OrgID)
}

func (r *cacheRoom) oldest(ctx context.Context, orgID string) (victims []victim, err error) {
	rows, err := r.t.OldestCacheOfOrg(ctx, gen.OldestCacheOfOrgParams{OrgID: orgID, Now: micros(r.t.now), Most: evictPage})
	for _, row := range rows {
		victims = append(victims, victim{row.ID, row.OrgID, row.Repo, row.Size})
	}
	return victims, err
}

func (r *cacheRoom) ofRepoOldest(ctx context.Context) (victims []victim, err error) {
	rows, err := r.t.OldestCacheOfRepo(ctx, gen.OldestCacheOfRepoParams{OrgID: r.place.OrgID, Repo: r.place.Repo, Now: micros(r.t.now), Most: evictPage})
	for _, row := range rows {
		victims = append(victims, victim{row.ID, row.OrgID, row.Repo, row.Size})
	}
	return victims, err
}

// evict has the oldest entries make room while a bound is passed, and there are
// any.
func (r *cacheRoom) evict(ctx context.Context, oldest func(context.Context) ([]victim, error), over func() bool) error {
	for over() && r.evicted < mostEvicted {
		victims, err := oldest(ctx)
		if err != nil {
			return fmt.Errorf("look for what can make room: %w", err)
		}
		before := r.evicted
		for _, v := range victims {
			if !over() {
				return nil
			}
			if err := r.evictOne(ctx, v); err != nil {
				return err
			}
		}
		if r.evicted == before {
			return nil
		}
	}
	return nil
}

func (r *cacheRoom) evictOne(ctx context.Context, v victim) error {
	n, err := r.t.EvictCacheEntry(ctx, gen.EvictCacheEntryParams{Now: micros(r.t.now), ID: v.id})
	if err != nil {
		return fmt.Errorf("evict an entry: %w", err)
	}
	if n == 0 { // somebody uses it now
		return nil
	}
	r.evicted++
	if err := r.count(ctx, cache.Place{OrgID: v.org, Repo: v.repo}, -v.size, -1); err != nil {
		return err
	}
	for _, repo := range []string{allCaches, v.repo} {
		if err := r.t.CountEvicted(ctx, gen.CountEvictedParams{Entries: 1, Bytes: v.size, OrgID: v.org, Repo: repo}); err != nil {
			return fmt.Errorf("count an eviction: %w", err)
		}
	}
	return nil
}

// share has orgs make room that have more than an equal share of what there is,
// the one with the most first; then the org itself that needs it.
func (r *cacheRoom) share(ctx context.Context, l cache.Limits) error {
	stuck := map[string]bool{}
	for r.total.Bytes > l.Total && r.evicted < mostEvicted {
		org, down, err := r.furthestOver(ctx, l, stuck)
		if err != nil || org == "" {
			return err
		}
		left, before := int64(0), r.evicted
		victims, err := r.oldest(ctx, org)
		if err != nil {
			return fmt.Errorf("look for what can make room: %w", err)
		}
		for i, v := range victims {
			// At least one, so that of two with as much one begins.
			if r.total.Bytes <= l.Total || i > 0 && left >= down {
				break
			}
			if err := r.evictOne(ctx, v); err != nil {
				return err
			}
			left += v.size
		}
		stuck[org] = r.evicted == before
	}
	return nil
}

// furthestOver is the org with the most bytes that has more than its share, and
// by how many bytes it may go down before it is another's turn. "" for none.
func (r *cacheRoom) furthestOver(ctx context.Context, l cache.Limits, stuck map[string]bool) (orgID string, down int64, err error) {
	orgs, err := r.t.CountCaches(ctx)
	if err != nil {
		return "", 0, fmt.Errorf("count orgs: %w", err)
	}
	largest, err := r.t.LargestCaches(ctx, largestOrgs)
	if err != nil {
		return "", 0, fmt.Errorf("look who has the most: %w", err)
	}
	share := l.Total / max(orgs, 1)
	for _, u := range largest {
		switch {
		case stuck[u.OrgID]:
		case orgID != "":
			return orgID, down - max(u.Bytes, share), nil
		case u.Bytes > share:
			orgID, down = u.OrgID, u.Bytes
		}
	}
	if orgID == "" && !stuck[r.place.OrgID] {
		return r.place.OrgID, r.ofOrg.Bytes, nil
	}
	return orgID, down - share, nil
}
