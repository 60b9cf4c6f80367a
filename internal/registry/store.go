package registry

import (
	"context"
	"io"
	"math"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Store keeps the books of registries. Its times are the database's, and each
// method is one transaction. Errors carry a nimbus.Code; those that clients hear
// of are a RefusalError.
type Store interface {
	Uploads
	Contents
	Manifests
	Keeping
	Books
	Mirrors
}

// Mirrors is what a store does for mirrors. What is kept of them is that of the
// account of an org, see MirrorAccount.
type Mirrors interface {
	// RegistryMirrors are those of an org, by name, up to most.
	RegistryMirrors(ctx context.Context, orgID string, most int) ([]MirrorRow, error)
	// SetRegistryMirror sets one. Where it leads somewhere else now, what is here of
	// it is removed; until it is, also where that was broken off, it is Clearing. Repositories below its name that have no images go. Codes:
	// conflict where the org has pushed below its name.
	SetRegistryMirror(ctx context.Context, row MirrorRow, e nimbus.AuditEvent) error
	// DropRegistryMirror removes one with what is here of it, and tells the name of
	// its password, which is not named any more then, also where the removal was broken
	// off; then it is Clearing. Codes: not_found, conflict where it was set meanwhile.
	DropRegistryMirror(ctx context.Context, orgID, name string, e nimbus.AuditEvent) (secret string, err error)
	// NoteRegistryMirror notes how one does, if it is what it was. When it began to fail
	// stays while it does, and pauses only get longer.
	NoteRegistryMirror(ctx context.Context, key MirrorKey, note MirrorNote) error
	// RegistryMirrorTotals are how many repositories are here of one, and the bytes
	// of their blobs.
	RegistryMirrorTotals(ctx context.Context, orgID, name string) (repos, bytes int64, err error)
	// RegistryMirrorTag is what a tag stood for when that was last asked, and how long
	// ago that was. Codes: not_found.
	RegistryMirrorTag(ctx context.Context, p Place, tag string) (digest Digest, age time.Duration, err error)
	// RenewRegistryMirrorTag notes that a tag stands for what it did.
	RenewRegistryMirrorTag(ctx context.Context, p Place, tag string, digest Digest) error
	// RegistryMirrorTags are the tags that are here of a repository behind one.
	RegistryMirrorTags(ctx context.Context, p Place, after string, most int) ([]string, error)
	// PutRegistryMirrored keeps a manifest, whose parts need not be here, and gives it
	// tags, if the mirror is what it was. Codes: conflict where it is not, too_large.
	PutRegistryMirrored(ctx context.Context, key MirrorKey, p Place, m Manifest, tags []string, l Limits) error
	// OldestRegistryMirrored are blobs and manifests of an account, the least
	// recently used first.
	OldestRegistryMirrored(ctx context.Context, account string, most int) (blobs, manifests []Loose, err error)
	// EvictRegistryBlobs removes those of them that were not used since, whatever names
	// them. Freed are their bytes.
	EvictRegistryBlobs(ctx context.Context, blobs []Loose) (n int, freed int64, err error)
	// UnusedRegistryMirrored are tagged manifests of mirrors that nobody pulled for so
	// long; up to most.
	UnusedRegistryMirrored(ctx context.Context, unused time.Duration, most int) ([]Loose, error)
}

// Uploads is what a store does for blobs that come.
type Uploads interface {
	// RegistryUpload is one that has begun, and whether it has ended. Codes:
	// not_found.
	RegistryUpload(ctx context.Context, id string) (u Upload, ended bool, err error)
	// GrowRegistryUpload adds a segment to an upload, and its bytes to the books. u
	// is the upload with it; its first one begins the upload. Codes: conflict where
	// somebody else has grown it, not_found for one that has ended, too_large,
	// rate_limited.
	GrowRegistryUpload(ctx context.Context, u Upload, s Segment, l Limits) error
	// EndRegistryUpload gives an upload up, also one that never began.
	EndRegistryUpload(ctx context.Context, u Upload) error
	// CommitRegistryUpload makes a blob of an upload, unless the org has it: then
	// what came is garbage. Codes: not_found, conflict where it has grown.
	CommitRegistryUpload(ctx context.Context, u Upload, digest Digest) error
	// PutRegistryBlob makes a blob of content that is stored. kept is false where
	// the org has the blob: then nothing names this content. Codes: too_large.
	PutRegistryBlob(ctx context.Context, p Place, b Blob, l Limits) (kept bool, err error)
}

// Contents is what a store does for those that read blobs.
type Contents interface {
	// RegistryBlob is a blob of a repository, with the time that it is. Codes:
	// not_found.
	RegistryBlob(ctx context.Context, p Place, digest Digest) (b Blob, now time.Time, err error)
	// TouchRegistryBlob notes that a blob is used. Codes: not_found.
	TouchRegistryBlob(ctx context.Context, p Place, digest Digest) error
	// MountRegistryBlob makes a blob of one repository one of another. Codes:
	// not_found.
	MountRegistryBlob(ctx context.Context, from, to Place, digest Digest) error
	// DropRegistryBlob takes a blob from a repository. Codes: not_found; conflict
	// where a manifest names it.
	DropRegistryBlob(ctx context.Context, p Place, digest Digest) error
	// LoseRegistryBlob forgets a blob of an org whose content is missing, everywhere.
	LoseRegistryBlob(ctx context.Context, orgID string, b Blob) error
	// RegistrySegments are those of a content from the one on in which a byte is; up
	// to most.
	RegistrySegments(ctx context.Context, content string, offset int64, most int) ([]Segment, error)
}

// Manifests is what a store does for manifests and tags.
type Manifests interface {
	// PutRegistryManifest keeps a manifest whose blobs and manifests are all there,
	// and gives it tags. Codes: not_found for what it names, conflict for a tag that
	// does not change, too_large.
	PutRegistryManifest(ctx context.Context, p Place, m Manifest, tags []string, l Limits) error
	// RegistryManifest is a manifest by its digest. Codes: not_found.
	RegistryManifest(ctx context.Context, p Place, digest Digest) (Manifest, error)
	// RegistryTag is the digest that a tag stands for. Codes: not_found.
	RegistryTag(ctx context.Context, p Place, tag string) (Digest, error)
	// DropRegistryManifest removes a manifest with its tags. Codes:
	// not_found, conflict where its tags do not change.
	DropRegistryManifest(ctx context.Context, p Place, digest Digest, e nimbus.AuditEvent) error
	// DropRegistryTag removes a tag. Codes: not_found, conflict where it does
	// not change.
	DropRegistryTag(ctx context.Context, p Place, tag string, e nimbus.AuditEvent) error
	// RegistryTags are the tags of a repository behind one, in the order of their
	// bytes; up to most. Codes: not_found for a repository that is not there.
	RegistryTags(ctx context.Context, p Place, after string, most int) ([]string, error)
	// RegistryReferrers are the manifests about another, by digest, behind one; of an
	// artifact type, "" for any; up to most, and of them no more than are together as
	// large as one manifest may be, since all their annotations are told; more tells whether there are
	// others. The first is told however large it is.
	RegistryReferrers(ctx context.Context, p Place, subject Digest, artifactType string, after Digest, most int) (all []Manifest, more bool, err error)
	// RegistryEpoch grows with all that is removed.
	RegistryEpoch(ctx context.Context) (int64, error)
	// UsedRegistryManifests notes when manifests were pulled.
	UsedRegistryManifests(ctx context.Context, used []Use) error
}

// Use is that a manifest was pulled, so long ago.
type Use struct {
	Place

	Digest Digest
	Ago    time.Duration
}

// Keeping is what a store does to remove what nobody needs.
type Keeping interface {
	// GiveUpRegistryUploads gives up those that got nothing for so long.
	GiveUpRegistryUploads(ctx context.Context, idle time.Duration) (n int, err error)
	// LooseRegistryBlobs are those that no manifest names, and that were not used
	// for the grace, behind one; up to most.
	LooseRegistryBlobs(ctx context.Context, grace time.Duration, after Loose, most int) ([]Loose, error)
	// CollectRegistryBlobs removes those of them that still are; those that came
	// into use since stay.
	CollectRegistryBlobs(ctx context.Context, grace time.Duration, loose []Loose) (n int, err error)
	// LooseRegistryManifests are those that have no tag, that no index names, that
	// are about nothing that is there, and were not used for so long, behind one; up
	// to most.
	LooseRegistryManifests(ctx context.Context, unused time.Duration, after Loose, most int) ([]Loose, error)
	// UnusedRegistryImages are tagged manifests that the rules of their repositories
	// have go; up to most.
	UnusedRegistryImages(ctx context.Context, most int) ([]Loose, error)
	// OldestRegistryImages are those of an org that may make room, the least
	// recently used first.
	OldestRegistryImages(ctx context.Context, orgID string, grace time.Duration, most int) ([]Loose, error)
	// CollectRegistryManifest removes one if it was not used since, with its tags
	// where tagged is set; else only if it has none, and no index names it. Of a
	// tagged index the manifests go too that nothing else names, and that nobody used
	// since UnusedSince: the image of each platform.
	CollectRegistryManifest(ctx context.Context, m Loose, tagged bool) (removed bool, err error)
	// RegistryGarbage are contents that nothing names since so long, behind one; up
	// to most.
	RegistryGarbage(ctx context.Context, since time.Duration, after Garbage, most int) ([]Garbage, error)
	// ForgetRegistryGarbage forgets those whose content is removed.
	ForgetRegistryGarbage(ctx context.Context, all []Garbage) error
	// NamedRegistryPaths are the contents of an org from first to last that
	// something names.
	NamedRegistryPaths(ctx context.Context, orgID, first, last string) ([]string, error)
}

// Loose is something that may be removed.
type Loose struct {
	Place

	Digest Digest
	UsedAt int64 // as the store has it: microseconds
	Size   int64 // of an image
	// UnusedSince is since when nobody may have used what goes with an image.
	UnusedSince int64
}

// WheneverUsed is when something was used that goes whenever that was.
const WheneverUsed = math.MaxInt64 - 1

// Garbage is content that nothing names.
type Garbage struct {
	OrgID, Path string
	RemovedAt   int64 // as the store has it: microseconds
}

// Books is what a store tells of registries, and people may change.
type Books interface {
	// RegistryUsage is that of an org.
	RegistryUsage(ctx context.Context, orgID string) (nimbus.ImageUsage, error)
	// RegistryUsageOfOrgs are those of orgs with ids after one, by id.
	RegistryUsageOfOrgs(ctx context.Context, after string, most int) ([]nimbus.ImageUsage, error)
	// SetRegistryQuota sets that of an org; -1 is the usual. The event is written in
	// the same transaction.
	SetRegistryQuota(ctx context.Context, orgID string, bytes int64, e nimbus.AuditEvent) error
	// RegistryRepos are the repositories of an org behind one, by name.
	RegistryRepos(ctx context.Context, orgID, after string, most int) ([]nimbus.ImageRepo, error)
	// RegistryRepo is one. Codes: not_found.
	RegistryRepo(ctx context.Context, p Place) (nimbus.ImageRepo, error)
	// RegistryImages are the tags of a repository behind one, with what they are.
	RegistryImages(ctx context.Context, p Place, after string, most int) ([]nimbus.Image, error)
	// RegistryRules are those of a repository. Codes: not_found.
	RegistryRules(ctx context.Context, p Place) (nimbus.ImageRules, error)
	// SetRegistryRules sets those of a repository, which is made for that where it is
	// not there.
	SetRegistryRules(ctx context.Context, p Place, r nimbus.ImageRules, e nimbus.AuditEvent) error
	// DropRegistryRepo removes a repository with all that is in it. Codes:
	// not_found, conflict where it has tags that do not change.
	DropRegistryRepo(ctx context.Context, p Place, e nimbus.AuditEvent) error
}

// Blobs is where contents are. See blob.Store.
type Blobs interface {
	Put(ctx context.Context, key string, r io.Reader, maxBytes int64) (blob.Info, error)
	OpenRange(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix, after string, most int) ([]blob.Listed, error)
}

// spares is what Blobs may be, too: on a disk that it leaves a part of free, which
// manifests would take that are in the database beside it.
type spares interface {
	// Spare counts bytes that are about to be written there. Codes: unavailable, as of a
	// disk that is full.
	Spare(n int64) error
}
