package nimbus

import (
	"strconv"
	"strings"
	"time"
)

// RunnerGrace is for how long after a release GitHub goes on to give jobs to
// runners that are older. Any release counts, however small.
const RunnerGrace = 30 * 24 * time.Hour

// RunnerRelease is a release of GitHub's runner.
type RunnerRelease struct {
	Version     string    `json:"version"` // "2.337.0"
	PublishedAt time.Time `json:"published_at"`
}

// RunnerReleases are the latest releases that one GitHub tells of.
type RunnerReleases struct {
	APIURL    string
	Releases  []RunnerRelease // none: a GitHub Enterprise Server, which keeps them to itself
	CheckedAt time.Time       // when it told last; zero: never
	Trouble   string          // why it did not when it was asked last; "" where it did
}

// RunnerStanding is how a version of GitHub's runner stands against the releases.
type RunnerStanding struct {
	Latest     string    // "" where no release is known
	NewerSince time.Time // when the first newer one came out; zero: it is the latest
	RefusedAt  time.Time // from when on GitHub gives it no jobs; zero: not yet known
}

// Standing is how a version stands. A version that can't be compared stands
// nowhere: zero but for Latest.
func (r RunnerReleases) Standing(version string) RunnerStanding {
	var s RunnerStanding
	own, ok := runnerVersion(version)
	latest := [3]int{}
	for _, release := range r.Releases {
		v, fine := runnerVersion(release.Version)
		if !fine {
			continue
		}
		if s.Latest == "" || less(latest, v) {
			s.Latest, latest = release.Version, v
		}
		if ok && less(own, v) && (s.NewerSince.IsZero() || release.PublishedAt.Before(s.NewerSince)) {
			s.NewerSince = release.PublishedAt
		}
	}
	if !s.NewerSince.IsZero() {
		s.RefusedAt = s.NewerSince.Add(RunnerGrace)
	}
	return s
}

// WorstRunnerStanding is the standing of a version where it is refused first.
func WorstRunnerStanding(version string, all []RunnerReleases) (worst RunnerStanding) {
	for _, r := range all {
		s := r.Standing(version)
		if worst.Latest == "" || !s.RefusedAt.IsZero() && (worst.RefusedAt.IsZero() || s.RefusedAt.Before(worst.RefusedAt)) {
			worst = s
		}
	}
	return worst
}

// runnerVersion reads "2.337.0". What else there may be (a suffix, another
// number of parts) can't be compared.
func runnerVersion(s string) (v [3]int, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != len(v) {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return v, false
		}
		v[i] = int(n)
	}
	return v, true
}

func less(a, b [3]int) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// Says is how it stands at a time, in a few words; "" for the latest, and for
// what is not known.
func (s RunnerStanding) Says(now time.Time) string {
	if s.NewerSince.IsZero() {
		return ""
	}
	since := "a newer one is out since " + days(now.Sub(s.NewerSince))
	if !now.Before(s.RefusedAt) {
		return since + ", and GitHub gives it no jobs any more"
	}
	return since + ", and GitHub gives it no jobs in " + days(s.RefusedAt.Sub(now)) + ", from " + s.RefusedAt.UTC().Format(time.DateOnly) + " on"
}

func days(d time.Duration) string {
	switch n := int(d / (24 * time.Hour)); n {
	case 0:
		return "less than a day"
	case 1:
		return "1 day"
	default:
		return strconv.Itoa(n) + " days"
	}
}
