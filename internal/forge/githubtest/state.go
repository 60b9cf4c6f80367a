package githubtest

import (
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/workflow"
)

// A job's way. Blocked is the double's own word for a job whose needs are not
// met: GitHub does not show it yet.
//
//	blocked ─→ queued ─→ in_progress ─→ completed
//	   └──────────┴───────── skipped, cancelled ─→ completed
const (
	blocked    = "blocked"
	queued     = "queued"
	inProgress = "in_progress"
	completed  = "completed"
)

// repository is one repository of the installation.
type repository struct {
	id          int64
	owner, name string
	lastRun     int64
	createdAt   time.Time
	branches    map[string][]string // the commits of each, the last one last
	tags        map[string]string
}

func (r *repository) fullName() string { return r.owner + "/" + r.name }

// registry is where a runner is registered: at a repository, or with an
// organisation.
type registry struct {
	repo *repository
	org  string // lower case
}

// sees tells whether the runner may be given jobs of a repository.
func (r registry) sees(repo *repository) bool {
	return r.repo == repo || r.org != "" && strings.EqualFold(r.org, repo.owner)
}

// runner is a registered self-hosted runner; all are ephemeral.
type runner struct {
	id   int64
	name string
	registry
	set     *scaleSet // that it is of; nil for none
	labels  []string
	token   string // its credential
	version string

	session     string // "" while offline
	polls       int    // polls that wait now
	onlineSince time.Time
	job         *job // assigned or running
	assignedAt  time.Time
	acquired    bool
}

// run is one attempt after the other of a workflow on a commit.
type run struct {
	id, number, attempt int64
	repo                *repository
	workflow            workflow.Workflow
	sha, ref            string
	origin              Origin
	archive             []byte // tar.gz
	jobs                []*job // of the current attempt
	createdAt           time.Time
	updatedAt           time.Time
}

// job is one job of one attempt.
type job struct {
	id      int64
	run     *run
	attempt int64
	spec    workflow.Job

	status, conclusion                string
	createdAt, startedAt, completedAt time.Time
	steps                             []step
	runnerID                          int64
	runnerName                        string
	foreign                           bool      // taken by a runner that is not the double's
	set                               *scaleSet // whose runners alone get it; nil for none
	setAcquired                       bool
	acquired                          int // how often a runner began it
	renewedAt                         time.Time
	cancelledAt                       time.Time // somebody asked for it
	cancelTold                        bool
	log                               []byte
}

// step is one step as GitHub shows it.
type step struct {
	number                 int
	name                   string
	status, conclusion     string
	startedAt, completedAt time.Time
}

// advance moves everything that can move: jobs whose needs have ended, and
// queued jobs to runners that wait. s.mu is held.
func (s *Server) advance() {
	for _, r := range s.runs {
		for changed := true; changed; {
			changed = false
			for _, j := range r.jobs {
				changed = s.unblock(j) || changed
			}
		}
	}
	s.dispatch()
	s.broadcast()
}

// unblock queues or skips a job whose needs have all ended.
func (s *Server) unblock(j *job) bool {
	if j.status != blocked {
		return false
	}
	failed := false
	for _, other := range j.run.jobs {
		if !slices.Contains(j.spec.Needs, other.spec.Key) {
			continue
		}
		if other.status != completed {
			return false
		}
		failed = failed || other.conclusion != protocol.Success
	}
	j.createdAt = s.now()
	j.startedAt = j.createdAt // GitHub's too: it is no start
	if !j.spec.If.Holds(failed, false) {
		s.complete(j, protocol.Skipped)
		return true
	}
	j.status = queued
	s.announce(j, "queued")
	return true
}

// dispatch gives queued jobs, oldest first, to runners that wait for one and
// have all labels. It is nothing to GitHub for which job a runner was made.
func (s *Server) dispatch() {
	var waiting []*job
	for _, j := range s.jobs {
		if j.status == queued && j.runnerID == 0 {
			waiting = append(waiting, j)
		}
	}
	slices.SortFunc(waiting, func(a, b *job) int { return int(a.id - b.id) })
	var idle []*runner
	for _, r := range s.runners {
		if r.session != "" && r.polls > 0 && r.job == nil {
			idle = append(idle, r)
		}
	}
	slices.SortFunc(idle, func(a, b *runner) int { return int(a.id - b.id) })
	for _, j := range waiting {
		i := slices.IndexFunc(idle, func(r *runner) bool { return r.serves(j) })
		if i < 0 {
			continue
		}
		r := idle[i]
		idle = slices.Delete(idle, i, i+1)
		r.job, r.assignedAt, r.acquired = j, s.now(), false
		j.runnerID, j.runnerName = r.id, r.name
	}
}

// serves tells whether the runner has all labels of the job, without case.
func (r *runner) serves(j *job) bool {
	return r.sees(j.run.repo) && r.set == j.set && (j.set == nil || j.setAcquired) && !slices.ContainsFunc(j.spec.RunsOn, func(want string) bool {
		return !slices.ContainsFunc(r.labels, func(have string) bool { return strings.EqualFold(have, want) })
	})
}

// start makes a job in_progress at its runner.
func (s *Server) start(j *job) {
	j.status = inProgress
	j.startedAt = s.now()
	j.renewedAt = j.startedAt
	s.announce(j, inProgress)
}

// complete ends a job, whatever its state, and its runner with it.
func (s *Server) complete(j *job, conclusion string) {
	if j.status == completed {
		return
	}
	j.status, j.conclusion, j.completedAt = completed, conclusion, s.now()
	for i := range j.steps {
		if j.steps[i].status != completed {
			j.steps[i].status, j.steps[i].conclusion, j.steps[i].completedAt = completed, protocol.Cancelled, j.completedAt
		}
	}
	if r := s.runners[j.runnerID]; r != nil && r.job == j {
		delete(s.runners, r.id) // ephemeral
	}
	s.announce(j, completed)
}

// cancel asks for a job's end: at once when no runner has it.
func (s *Server) cancel(j *job) {
	switch {
	case j.status == completed || !j.cancelledAt.IsZero():
	case j.status == inProgress && !j.foreign:
		j.cancelledAt = s.now()
	default:
		if r := s.runners[j.runnerID]; r != nil && !r.acquired {
			r.job = nil
		}
		if j.createdAt.IsZero() {
			j.createdAt = s.now()
			j.startedAt = j.createdAt
		}
		s.complete(j, protocol.Cancelled)
	}
}

// Sweep ends what has waited too long by the double's clock. It runs several
// times a second by itself; a test that moves its clock may call it.
func (s *Server) Sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, changed := s.now(), false
	s.postLate()
	for _, r := range s.runners {
		if r.job != nil && !r.acquired && now.Sub(r.assignedAt) > assignTimeout {
			r.job.runnerID, r.job.runnerName = 0, ""
			delete(s.runners, r.id) // it was online and did not answer
			changed = true
		}
		if r.job == nil && r.session != "" && now.Sub(r.onlineSince) > s.cfg.IdleLimit {
			delete(s.runners, r.id)
			changed = true
		}
	}
	for _, j := range s.jobs {
		if j.status != inProgress || j.foreign {
			continue
		}
		if now.Sub(j.renewedAt) > s.cfg.JobLease {
			j.appendLog([]byte("The self-hosted runner lost communication with the server.\n"))
			s.complete(j, protocol.Failure)
			changed = true
		} else if !j.cancelledAt.IsZero() && now.Sub(j.cancelledAt) > cancelTimeout {
			s.complete(j, protocol.Cancelled)
			changed = true
		}
	}
	if changed {
		s.advance()
	}
}

// appendLog keeps the beginning of an endless log.
func (j *job) appendLog(b []byte) {
	j.log = append(j.log, b[:min(len(b), maxLogBytes-len(j.log))]...)
}

// over tells whether all jobs of the current attempt have ended.
func (r *run) over() bool {
	return !slices.ContainsFunc(r.jobs, func(j *job) bool { return j.status != completed })
}

// conclusion is that of the run once it is over.
func (r *run) conclusion() string {
	out := protocol.Success
	for _, j := range r.jobs {
		switch j.conclusion {
		case protocol.Failure, protocol.TimedOut:
			return protocol.Failure
		case protocol.Cancelled:
			out = protocol.Cancelled
		}
	}
	return out
}

func (r *run) status() string {
	if r.over() {
		return completed
	}
	if slices.ContainsFunc(r.jobs, func(j *job) bool { return j.status == inProgress || j.status == completed }) {
		return inProgress
	}
	return queued
}
