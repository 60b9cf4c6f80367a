package nimbus

import "time"

// CacheEntry is something that a job saved for later ones.
type CacheEntry struct {
	ID        int64
	Repo      string // "owner/name"; "" for what is of the org's own jobs
	Scope     string // a branch, as "refs/heads/main", or a pull request
	Key       string
	Version   string
	Bytes     int64
	CreatedAt time.Time
	UsedAt    time.Time // when it was last found, or made
}

// OwnJobs stands for the org's own jobs where a repository is named, which they
// have none of.
const OwnJobs = "-"

// CacheFilter says which entries. Empty fields mean any.
type CacheFilter struct {
	ID     int64
	Repo   string // OwnJobs for those of the org's own jobs
	Scope  string
	Key    string
	Prefix string // of keys
}

// CacheUsage is what is used of a cache, and what it was used for.
type CacheUsage struct {
	Repo              string // "" for the org's own jobs, and for the org in all
	Entries, Bytes    int64
	Quota             int64 // bytes
	OwnQuota          bool  // it is not the usual one
	Hits, Misses      int64
	BytesIn, BytesOut int64
	Evicted           int64 // entries that made room, or that nobody found for long
	EvictedBytes      int64
	Refused           int64 // blocks and uploads for which there was no room
}

// HitRatio is which part of the look-ups found something, from 0 to 1; 0 where
// there were none.
func (u CacheUsage) HitRatio() float64 {
	if u.Hits+u.Misses == 0 {
		return 0
	}
	return float64(u.Hits) / float64(u.Hits+u.Misses)
}

// CacheStats is what an org uses, in all and by its repositories, the largest
// first.
type CacheStats struct {
	Org       CacheUsage
	Repos     []CacheUsage
	Retention time.Duration // after how long entries go that nobody finds
}
