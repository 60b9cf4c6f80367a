package cache

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// AllRepos stands for all repositories of an org, and its own jobs.
const AllRepos = "*"

// Filter says which entries to list. Empty fields mean any.
type Filter struct {
	ID     int64  // of one
	Key    string // exactly
	Prefix string // that keys begin with; without Key
	Scope  string
}

// Keys is the range of keys that a filter lets through.
func (f Filter) Keys() Range {
	if f.Key != "" {
		return exactly(f.Key)
	}
	return Beginning(f.Prefix)
}

func (f Filter) check() error {
	for what, text := range map[string]string{"key": f.Key, "prefix": f.Prefix, "scope": f.Scope} {
		if text == "" {
			continue
		}
		if err := checkText(what, text, MaxKey); err != nil {
			return err
		}
	}
	return nil
}

// Use is what a cache was used for.
type Use struct {
	Hits, Misses      int64
	BytesIn, BytesOut int64 // of blocks that came, and of contents that were read
	Refused           int64 // blocks for which there was no room
}

func (u Use) plus(v Use) Use {
	return Use{u.Hits + v.Hits, u.Misses + v.Misses, u.BytesIn + v.BytesIn, u.BytesOut + v.BytesOut, u.Refused + v.Refused}
}

// Usage is what is used of a cache.
type Usage struct {
	OrgID    string
	Repo     string // AllRepos: of the org
	Entries  int64  // and uploads
	Bytes    int64  // with those that uploads have reserved
	Quota    int64  // bytes
	OwnQuota bool   // it is not the usual one
	Use
	Evicted      int64 // entries that made room, or were not used for long
	EvictedBytes int64
	Unused       time.Duration // after how long entries go that nobody finds; of an org
	OwnUnused    bool          // it is not the usual one
}

// Stats is what an org uses, in all and by its repositories, the largest first.
type Stats struct {
	Usage

	Repos []Usage
}

// mostRepos is how many repositories are told of.
const mostRepos = 1000

// List is a page of an org's entries, the newest first; of a repository, or of
// all when repo is AllRepos. next is the token of the page after, "" after the
// last. Codes: invalid.
func (s *Service) List(ctx context.Context, orgID, repo string, f Filter, page nimbus.PageRequest) (entries []Entry, next string, err error) {
	page = page.Bounded()
	before := int64(1) << 62
	if page.Token != "" {
		if before, err = strconv.ParseInt(page.Token, 10, 64); err != nil || before <= 0 {
			return nil, "", nimbus.Errorf(nimbus.CodeInvalid, "%.80q is no token of a page", page.Token)
		}
	}
	if err := f.check(); err != nil {
		return nil, "", err
	}
	if f.ID != 0 {
		e, err := s.Entry(ctx, f.ID)
		switch {
		case nimbus.ErrorCode(err) == nimbus.CodeNotFound, err == nil && e.OrgID != orgID: // told alike
			return nil, "", nil
		case err != nil:
			return nil, "", err
		}
		return []Entry{e}, "", nil
	}
	entries, err = s.store.CacheList(ctx, orgID, repo, f, before, page.Size+1)
	if err != nil {
		return nil, "", fmt.Errorf("list entries: %w", err)
	}
	if len(entries) > page.Size {
		entries = entries[:page.Size]
		next = strconv.FormatInt(entries[page.Size-1].ID, 10)
	}
	return entries, next, nil
}

// Uploading is an upload as people look at it: at the place that it is to have.
type Uploading struct {
	Upload

	Bytes     int64 // that are counted for it
	JobID     string
	TouchedAt time.Time // when a byte came last, to the minute or so
}

const (
	// uploadsSeen is how many uploads of an org are looked at: as many as one may have
	// at once, unless the operator set more. uploadsTold is how many are told of.
	uploadsSeen = 1000
	uploadsTold = 200
)

// Uploads are what an org is saving, the newest first; of a repository, or of all
// when repo is AllRepos. Codes: invalid.
func (s *Service) Uploads(ctx context.Context, orgID, repo string, f Filter) ([]Uploading, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	all, err := s.store.CacheUploads(ctx, orgID, repo, uploadsSeen)
	if err != nil {
		return nil, fmt.Errorf("list uploads: %w", err)
	}
	found := all[:0]
	for _, u := range all {
		u.Place = toBe(u.Place)
		if f.lets(u.ID, u.Place) && len(found) < uploadsTold {
			found = append(found, u)
		}
	}
	return found, nil
}

// lets tells whether a filter lets something through.
func (f Filter) lets(id int64, p Place) bool {
	return (f.ID == 0 || f.ID == id) && (f.Scope == "" || f.Scope == p.Scope) && (f.Key == "" || f.Key == p.Key) && strings.HasPrefix(p.Key, f.Prefix)
}

// Stats is what an org uses, all zero where it never did.
func (s *Service) Stats(ctx context.Context, orgID string) (Stats, error) {
	all, repos, err := s.store.CacheUsage(ctx, orgID, mostRepos)
	if err != nil {
		return Stats{}, fmt.Errorf("read what a cache uses: %w", err)
	}
	all.OrgID, all.Repo = orgID, AllRepos
	st := Stats{Usage: s.WithUsual(all), Repos: make([]Usage, len(repos))}
	for i, u := range repos {
		st.Repos[i] = s.WithUsual(u)
	}
	return st, nil
}

// WithUsual sets the quota, and how long entries stay, of one that has none of its
// own.
func (s *Service) WithUsual(u Usage) Usage {
	if !u.OwnQuota {
		u.Quota = s.limits.Repo
		if u.Repo == AllRepos {
			u.Quota = s.limits.Org
		}
	}
	if !u.OwnUnused {
		u.Unused = s.limits.Unused
	}
	return u
}

// Usage is what each org uses, for metrics; in pages, after an org's id.
func (s *Service) Usage(ctx context.Context, after string) ([]Usage, error) {
	all, err := s.store.CacheUsageOfOrgs(ctx, after, mostRepos)
	if err != nil {
		return nil, fmt.Errorf("read what caches use: %w", err)
	}
	for i, u := range all {
		all[i] = s.WithUsual(u)
	}
	return all, nil
}

// Remove removes an entry of an org: it is not found from now on. Who reads it
// goes on. Codes: not_found.
func (s *Service) Remove(ctx context.Context, orgID string, entryID int64) error {
	if err := s.store.RemoveCache(ctx, orgID, entryID); err != nil {
		return fmt.Errorf("remove an entry: %w", err)
	}
	s.removed()
	return nil
}

// targetOf is what is written down of a change to a repository's cache, or an org's.
func targetOf(orgID, repo string) string {
	switch repo {
	case AllRepos:
		return orgID
	case "":
		return nimbus.OwnJobs
	}
	return repo
}

// removedAtATime is how many entries RemoveOf removes at most.
const removedAtATime = 500

// RemoveOf removes the newest entries of an org that a filter lets through, of a
// repository or of all, and tells of what; more is set where there are others. Who
// reads one of them goes on. Codes: invalid.
func (s *Service) RemoveOf(ctx context.Context, p nimbus.Principal, orgID, repo string, f Filter) (n int, bytes int64, more bool, err error) {
	if err := f.check(); err != nil {
		return 0, 0, false, err
	}
	e := nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "cache.remove", Target: targetOf(orgID, repo), Outcome: nimbus.AuditAllowed,
		Detail: map[string]string{"key": f.Key, "prefix": f.Prefix, "scope": f.Scope}}
	if f.ID != 0 {
		e.Target = strconv.FormatInt(f.ID, 10)
	}
	n, bytes, err = s.store.RemoveCacheOf(ctx, orgID, repo, f, removedAtATime, e)
	if err != nil {
		return 0, 0, false, fmt.Errorf("remove entries: %w", err)
	}
	s.removed()
	return n, bytes, n == removedAtATime, nil
}

// SetUnused sets after how long entries of an org go that nobody finds; a negative
// time means the usual. Codes: invalid.
func (s *Service) SetUnused(ctx context.Context, p nimbus.Principal, orgID string, unused time.Duration) error {
	switch {
	case unused < 0:
		unused = -1
	case unused < leastUnused || unused > mostUnused:
		return nimbus.Errorf(nimbus.CodeInvalid, "entries can stay unused for an hour to a year, not for %s", unused)
	}
	e := nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "cache.set_retention", Target: orgID, Outcome: nimbus.AuditAllowed,
		Detail: map[string]string{"unused": unused.String()}}
	if err := s.store.SetCacheUnused(ctx, orgID, unused, e); err != nil {
		return fmt.Errorf("set how long entries stay: %w", err)
	}
	return nil
}

const (
	leastUnused = time.Hour
	mostUnused  = 366 * 24 * time.Hour
)

// SetQuota sets how many bytes an org may have (repo AllRepos), or one of its
// repositories; a negative number means the usual. The next sweep has entries go
// that are over it. Codes: invalid, not_found.
func (s *Service) SetQuota(ctx context.Context, p nimbus.Principal, orgID, repo string, bytes int64) error {
	if repo != AllRepos {
		if err := (Caller{OrgID: orgID, Repo: repo}).check(); err != nil {
			return err
		}
	}
	bytes = max(bytes, -1)
	e := nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "cache.set_quota", Target: targetOf(orgID, repo), Outcome: nimbus.AuditAllowed,
		Detail: map[string]string{"bytes": strconv.FormatInt(bytes, 10)}}
	if err := s.store.SetCacheQuota(ctx, orgID, repo, bytes, e); err != nil {
		return fmt.Errorf("set the quota of a cache: %w", err)
	}
	return nil
}
