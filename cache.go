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

// CacheUpload is something that a job is saving. It is no entry yet, and holds room.
type CacheUpload struct {
	ID        int64 // becomes the entry's
	Repo      string
	Scope     string
	Key       string
	Version   string
	Bytes     int64  // that are counted for it: those that came, and some ahead
	JobID     string // "" where a person saves it
	BegunAt   time.Time
	TouchedAt time.Time // when a byte came last, to the minute or so
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

// CacheWarmState is what became of an entry that a host was asked to have.
type CacheWarmState string

// The states. What a host never tells of ends with the hour for which it is asked.
const (
	CacheAsked    CacheWarmState = "asked"
	CacheHere     CacheWarmState = "here"      // the host has it
	CacheTooLarge CacheWarmState = "too_large" // for what the host keeps at all
	CacheNoRoom   CacheWarmState = "no_room"   // without that something went that is in use
	CacheOff      CacheWarmState = "off"       // the host keeps no copies
	CacheFailed   CacheWarmState = "failed"    // it could not be fetched
	CacheGone     CacheWarmState = "gone"      // it was removed meanwhile
)

// CacheWish is an entry that a host is asked to have.
type CacheWish struct {
	OrgID   string
	EntryID int64
	Bytes   int64
	Path    string // of a signed URL, with its query, at the control plane
}

// CacheWarmed is what became of one.
type CacheWarmed struct {
	OrgID   string
	EntryID int64
	State   CacheWarmState
}

// CacheWarmth is what an org has asked of a host in the last hour, by what became
// of it.
type CacheWarmth struct {
	HostID string
	Host   string // its name
	Away   bool
	Counts []CacheWarmCount
}

// CacheWarmCount counts entries.
type CacheWarmCount struct {
	State          CacheWarmState
	Entries, Bytes int64
}

// CacheWarming says what to ask of hosts: the newest entries that a filter lets
// through.
type CacheWarming struct {
	Filter   CacheFilter
	Hosts    []string // names or ids; none: all that may get jobs now
	Entries  int      // at most; 0: 50
	MaxBytes int64    // at most, on each host; 0: 10 GiB
}
