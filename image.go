package nimbus

import (
	"strings"
	"time"
)

// ImageRepo is a repository of images of an org, with what is in it.
type ImageRepo struct {
	Name string // within the org
	ImageRules
	CreatedAt time.Time
	Tags      int64
	Manifests int64
	Bytes     int64     // of its blobs, also of those that other repositories have too
	PulledAt  time.Time // zero for never
}

// ImageRules are those of a repository.
type ImageRules struct {
	Immutable bool // a tag that is there stays what it is
	KeepDays  int  // images that nobody pulled or pushed for so long go; 0: none do
	Evict     bool // its images make room when the org's quota is nearly used
	// PushFrom are the repositories at GitHub, as "owner/name", whose jobs may push
	// here besides those of the one that it is called after; OwnJobs for the org's
	// own jobs, AllJobs for all of the org.
	PushFrom []string
}

// AllJobs stands for all jobs of an org where a repository is named.
const AllJobs = "*"

// MaxPushFrom is how many repositories' jobs may push to one.
const MaxPushFrom = 100

// Image is what a tag stands for.
type Image struct {
	Tag          string
	Digest       string
	MediaType    string
	ArtifactType string
	Bytes        int64 // with all that it names
	// Platforms are those that it is for, as "linux/arm64/v8"; up to 50, none where
	// it does not say so.
	Platforms []string
	PushedAt  time.Time
	PulledAt  time.Time // zero for never
	Referrers []ImageReferrer
}

// ImageReferrer says something about an image, as a signature or an SBOM does.
type ImageReferrer struct {
	Digest       string
	ArtifactType string
	Bytes        int64
}

// ImageUsage is how much an org has.
type ImageUsage struct {
	OrgID    string
	Bytes    int64 // of blobs, each once, of manifests and of uploads
	Quota    int64
	OwnQuota bool // it is not the usual one
}

// ImagesSwept is what a collection of garbage has removed.
type ImagesSwept struct {
	Uploads, Images, Manifests, Blobs, Contents, Orphans int
}

// ImageMirror is another registry whose images an org has by way of its own: what
// is asked for at ORG/NAME/… and is not here is fetched there.
type ImageMirror struct {
	Name     string   // the first word of its repositories, as docker.io
	Upstream string   // https://registry-1.docker.io
	Username string   // "" for nobody; the password is never told
	Allow    []string // which repositories may be had, * stands for anything; none: nothing
	SetAt    time.Time
	SetBy    string // what people call who did

	// How it does. Failure is why it could not be asked the last time, "" where it
	// answered; it is not asked before LimitedUntil.
	Failure      string
	FailedAt     time.Time
	LimitedUntil time.Time
	// What is here of it, and the room that all mirrors of the org have together.
	Repos, Bytes, Quota int64
}

// ImageMirrorChange sets a mirror, all of it.
type ImageMirrorChange struct {
	Name     string
	Upstream string // "" for the usual of that name
	Username string
	// Password is the one of the username. "" leaves the one that is there, where
	// upstream and username are what they were.
	Password string
	Allow    []string
}

// FitsImage tells whether the name of an image or of its repository is of a pattern, in
// which a star stands for anything, slashes too.
func FitsImage(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	name, ok := strings.CutPrefix(name, first)
	if !ok || !star {
		return ok && name == ""
	}
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], more
	}
}
