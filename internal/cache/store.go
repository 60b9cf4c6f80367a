package cache

import (
	"context"
	"io"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Store keeps the books of caches. Its times are the database's, and each method
// is one transaction. Errors carry a nimbus.Code: not_found for an upload that
// is no more, conflict, too_large for a quota, unavailable.
type Store interface {
	Uploads
	Entries
	Keeping
	Books
	Artifacts
	Warming
}

// Artifacts is what a store does for entries that are artifacts of runs.
type Artifacts interface {
	// TypeCache notes of which type an upload is. Codes: not_found.
	TypeCache(ctx context.Context, uploadID int64, mimeType string) error
	// HoldCache makes an artifact of an entry, whose content has a SHA-256, and holds
	// it for a time. One that is an artifact stays what it is. Codes: not_found.
	HoldCache(ctx context.Context, entryID int64, sum string, keep time.Duration) (Artifact, error)
	// Artifacts are those of a scope, the newest first, up to most.
	Artifacts(ctx context.Context, of Place, most int) ([]Artifact, error)
	// ArtifactOf is the artifact that an entry is. Codes: not_found.
	ArtifactOf(ctx context.Context, entryID int64) (Artifact, error)
}

// Uploads is what a store does for entries that are being saved.
type Uploads interface {
	// ReserveCache takes a place. One that an upload has which is idle for too
	// long is taken from it. Codes: conflict, too_large, rate_limited.
	ReserveCache(ctx context.Context, p Place, jobID string, size int64, l Limits) (Upload, error)
	// ClaimCacheBytes counts bytes for an upload before they come. Where a quota
	// has no room for them, entries that nobody needs make it, the least recently
	// used first; when that is not enough, nothing is changed (code too_large).
	// The store tells of what has made room by evicted.
	ClaimCacheBytes(ctx context.Context, uploadID, bytes int64, l Limits) (p Place, evicted int, err error)
	// FreeCacheBytes gives back what was claimed and did not come. An upload that
	// is no more has given back all that it had.
	FreeCacheBytes(ctx context.Context, uploadID, bytes int64) error
	// TouchCacheUpload notes that bytes come.
	TouchCacheUpload(ctx context.Context, uploadID int64) error
	// PutCacheBlock writes a block whose content is stored, and for which some
	// bytes were claimed. loose is the name of the content that nobody needs any
	// more, "" for none: the one before, or this one where the order is fixed.
	PutCacheBlock(ctx context.Context, uploadID int64, b Block, claimed int64) (loose string, err error)
	// CacheBlocks is how many blocks of an upload came. Codes: not_found.
	CacheBlocks(ctx context.Context, uploadID int64) (int64, error)
	// ArrangeCache says which blocks are the content, in order.
	ArrangeCache(ctx context.Context, uploadID int64, blocks []string) error
	// CommitCache makes an upload an entry. loose are names of contents that are
	// not part of it, and have no row any more.
	CommitCache(ctx context.Context, uploadID, size int64) (e Entry, loose []string, err error)
	// ReplaceCache is CommitCache at another place than the upload has, where again
	// says what becomes of an entry that is there: kept tells that it stays, and
	// the upload is given up. match, unless nil, says whether the entry that is there,
	// 0 for none, may be. Codes: conflict, fenced where it may not.
	ReplaceCache(ctx context.Context, id, size int64, p Place, meta string, again Again, match func(id int64) bool) (e Entry, kept bool, loose []string, err error)
	// AbandonCache gives an upload up, be it idle or not.
	AbandonCache(ctx context.Context, id int64) error
	// CacheAt is the id of who has a place, whether an entry or an upload. Codes:
	// not_found.
	CacheAt(ctx context.Context, p Place) (id int64, err error)
	// CachePlace is where an entry or an upload is. Codes: not_found.
	CachePlace(ctx context.Context, id int64) (Place, error)
}

// Entries is what a store does for those that look for entries.
type Entries interface {
	// FindCache looks through ranges, in order, for the first that has an entry,
	// and returns its newest.
	FindCache(ctx context.Context, orgID, repo, version string, in []Range) (e Entry, ok bool, err error)
	// PinCache notes that an entry is used, and keeps it from making room for a
	// time. ok is false when it is no more.
	PinCache(ctx context.Context, entryID int64, keep time.Duration) (ok bool, err error)
	// KeepCache keeps the content of an entry that is read, be it removed or not.
	KeepCache(ctx context.Context, entryID int64, keep time.Duration) error
	// CacheEntry is an entry that can be found. Codes: not_found.
	CacheEntry(ctx context.Context, entryID int64) (Entry, error)
	// CacheSegments are those of an entry's content from the one on in which a
	// byte is; up to most.
	CacheSegments(ctx context.Context, entryID, offset int64, most int) ([]Segment, error)
}

// Keeping is what a store does to hold caches within their bounds.
type Keeping interface {
	// GiveUpCache gives uploads up that are idle, and those of jobs that have ended.
	GiveUpCache(ctx context.Context, idle time.Duration) (n int, err error)
	// ForgetUnusedCache has entries go that were not used for long: for unused, or
	// for the time of their org; and artifacts that have expired.
	ForgetUnusedCache(ctx context.Context, unused time.Duration) (n int, err error)
	// TrimCache has entries go where more is used than a bound allows, as after
	// the bound was made smaller.
	TrimCache(ctx context.Context, l Limits) (n int, err error)
	// RemovedCache are entries and uploads that are no more and that nobody reads,
	// with ids after one; up to most.
	RemovedCache(ctx context.Context, after int64, most int) ([]Removed, error)
	// CacheBlobNames are contents of one, in the order of their names; up to most.
	CacheBlobNames(ctx context.Context, id int64, most int) ([]string, error)
	// ForgetCacheBlobs forgets those up to a name.
	ForgetCacheBlobs(ctx context.Context, id int64, upTo string) error
	// ForgetCache forgets one that has no content any more.
	ForgetCache(ctx context.Context, id int64) error
	// NamedCacheBlobs are the names from first to last that an entry of an org
	// has content by.
	NamedCacheBlobs(ctx context.Context, orgID string, id int64, first, last string) ([]string, error)
}

// Books is what a store tells of caches, and people may change.
type Books interface {
	// CountCacheUse adds to what a cache was used for.
	CountCacheUse(ctx context.Context, orgID, repo string, u Use) error
	// CacheList are entries of an org that a filter lets through, the newest
	// first, with ids before one.
	CacheList(ctx context.Context, orgID, repo string, f Filter, before int64, most int) ([]Entry, error)
	// CacheUploads are uploads of an org, of a repository or of AllRepos, the newest
	// first; up to most.
	CacheUploads(ctx context.Context, orgID, repo string, most int) ([]Uploading, error)
	// CacheUsage is that of an org, in all and by its repositories, of which the
	// largest come first; up to most.
	CacheUsage(ctx context.Context, orgID string, most int) (all Usage, repos []Usage, err error)
	// CacheUsageOfOrgs are those of orgs with ids after one, by id.
	CacheUsageOfOrgs(ctx context.Context, after string, most int) ([]Usage, error)
	// RemoveCache removes an entry, used or not. Codes: not_found.
	RemoveCache(ctx context.Context, orgID string, entryID int64) error
	// RemoveCacheOf removes the newest entries that a filter lets through, used or
	// not, up to most, and tells how many they were. The event, where any was, is
	// written in the same transaction, with that. Codes: not_found for an id, or where
	// others have removed them all.
	RemoveCacheOf(ctx context.Context, orgID, repo string, f Filter, most int, e nimbus.AuditEvent) (n int, bytes int64, err error)
	// SetCacheUnused sets after how long entries of an org go that nobody finds; a
	// negative time is the usual. The event is written in the same transaction.
	SetCacheUnused(ctx context.Context, orgID string, unused time.Duration, e nimbus.AuditEvent) error
	// SetCacheQuota sets that of an org (repo AllRepos) or a repository; -1 is the
	// usual. The event is written in the same transaction. Codes: not_found for a
	// repository that is not the org's.
	SetCacheQuota(ctx context.Context, orgID, repo string, bytes int64, e nimbus.AuditEvent) error
}

// Removed is an entry or an upload that is no more.
type Removed struct {
	ID    int64
	OrgID string
}

// Block is one that was stored.
type Block struct {
	ID     string // as its client calls it, with the word of who speaks: see blockOf
	Name   string // of its content in the entry's folder
	Size   int64
	SHA256 string
}

// Range is of keys of a scope: From <= key < To, by bytes.
type Range struct{ Scope, From, To string }

// Blobs is where contents are. See blob.Store.
type Blobs interface {
	Put(ctx context.Context, key string, r io.Reader, maxBytes int64) (blob.Info, error)
	OpenRange(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix, after string, most int) ([]blob.Listed, error)
}
