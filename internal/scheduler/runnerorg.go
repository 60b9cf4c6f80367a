package scheduler

import (
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Registrar is a Forge that may register runners with an organisation instead
// of with the job's repository.
type Registrar interface {
	// RunnerOrg is with which it would register that of a job; "" for the
	// repository.
	RunnerOrg(job nimbus.GitHubJob, labels []string) string
}

func (s *Service) runnerOrg(j *nimbus.Job) string {
	if r, ok := s.forge.(Registrar); ok {
		return r.RunnerOrg(j.GitHub, j.Labels)
	}
	return ""
}

// mayRun tells whether what was made for holder's job may run another one that
// GitHub gave to its runner. A runner of an organisation is given jobs of any of
// its repositories; which org of ours they are of is for us to say, and a
// sandbox never changes that. What it holds of its first job is inert until the
// binding is proved, and then is that of the job that runs.
func (a *Attempt) mayRun(holder, j *JobRecord) bool {
	if holder.OrgID != j.OrgID {
		return false
	}
	return holder.RepoID == j.RepoID || a.Runner.Org != "" && strings.EqualFold(a.Runner.Org, j.GitHub.Owner)
}

// fits tells whether an attempt that was made for a job can be another one's:
// their sandboxes are the same, and GitHub may give that one to the runner.
func (a *Attempt) fits(madeFor, j *JobRecord) bool {
	if madeFor.OrgID != j.OrgID || madeFor.Class.ID() != j.Class.ID() {
		return false
	}
	if a.Runner.Name == "" { // it will be registered for j
		return true
	}
	return a.mayRun(madeFor, j) && !slices.ContainsFunc(j.Labels, func(want string) bool {
		return !slices.ContainsFunc(madeFor.Labels, func(have string) bool { return strings.EqualFold(have, want) })
	})
}
