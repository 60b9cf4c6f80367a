package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times of having GitHub run lost jobs again.
const (
	// rerunLook is when a run is first looked at: GitHub runs nothing again
	// before the run is over. Then ever more rarely, up to rerunLookMost.
	rerunLook, rerunLookMost = 15 * time.Second, 5 * time.Minute
	rerunGiveUp              = 48 * time.Hour // after the loss
	// rerunTaken keeps others from a run that one looks at. It is longer than
	// its calls may take together, so that who was late is known to have ended.
	rerunTaken = 3 * forgeTimeout
	// rerunJobs bounds the jobs that are counted as lost in one run.
	rerunJobs = 1000
)

// Rerunner is a Forge that can run jobs again. Errors are those of Forge, and
// conflict while the run goes on.
type Rerunner interface {
	// RunState reads how the run of a job stands.
	RunState(ctx context.Context, job nimbus.GitHubJob) (nimbus.ForgeRunState, error)
	// RerunJob runs one job again, and those that need it; RerunFailed all jobs
	// of its run that did not succeed.
	RerunJob(ctx context.Context, job nimbus.GitHubJob) error
	RerunFailed(ctx context.Context, job nimbus.GitHubJob) error
}

// RerunKey names one attempt of a workflow run.
type RerunKey struct {
	RepoID            string
	RunID, RunAttempt int64
}

// RerunState is where a rerun is in its life: waiting for the run to end, then
// asking, from before GitHub is asked on, then done; dropped from anywhere.
type RerunState string

// The states of a rerun.
const (
	RerunWaiting RerunState = "waiting"
	RerunAsking  RerunState = "asking"
	RerunDone    RerunState = "done"
	RerunDropped RerunState = "dropped"
)

// Rerun is what becomes of an attempt of a run in which jobs were lost.
type Rerun struct {
	RerunKey
	OrgID   string
	State   RerunState
	DueAt   time.Time // when to look at it; zero: never again
	Tries   int       // how often it was looked at
	MadeAt  time.Time
	AskedAt time.Time // when the intent was written; zero: never
	Why     string    // it was dropped
}

// lost keeps that a job of GitHub's was lost by a fault of its host or sandbox,
// where its org wants such jobs run again. What ended in any other way is never
// run again by itself: it may have failed on its own.
func (u *unit) lost(ctx context.Context, j *JobRecord, from nimbus.State, m Move) error {
	if j.Source != nimbus.SourceGitHub || from != nimbus.StateRunning || m.Result != nimbus.ResultLost || j.Stop.Result != "" {
		return nil
	}
	a, err := u.current(ctx, j)
	if err != nil {
		return err
	}
	if m.Reason.Code != nimbus.ReasonLeaseExpired && (a == nil || a.Outcome == nil || !hostsFault(a.Outcome.Reason.Code)) {
		return nil
	}
	policy, err := u.RerunPolicy(ctx, j.OrgID)
	if err != nil || !policy.On() {
		return err
	}
	return u.InsertRerun(ctx, rerunKey(j), j.OrgID, j.ID, u.now.Add(rerunLook))
}

func rerunKey(j *JobRecord) RerunKey {
	return RerunKey{RepoID: j.RepoID, RunID: j.GitHub.RunID, RunAttempt: max(j.GitHub.RunAttempt, 1)}
}

// rerun looks at a run in which jobs were lost, and has GitHub run these again
// once it is over. GitHub is called outside any transaction: the intent is
// committed before, and whoever finds it later sees by the run's attempt whether
// the call was made, since each begins a new one.
func (s *Service) rerun(ctx context.Context, k RerunKey) error {
	r, jobs, err := s.takeRerun(ctx, k)
	if err != nil || r == nil {
		return err
	}
	looking, cancel := context.WithTimeout(ctx, forgeTimeout)
	defer cancel()
	state, err := s.reruns.RunState(looking, jobs[0].GitHub)
	if err != nil {
		return s.rerunLater(ctx, r, jobs, err)
	}
	plan, next := r.plan(jobs, state)
	if plan == nil {
		return s.saveRerun(ctx, r, jobs, next)
	}
	asking, cancel := context.WithTimeout(ctx, forgeTimeout) // it begins before the intent, and so ends before others take it
	defer cancel()
	if may, err := s.intendRerun(ctx, r, plan); err != nil || !may {
		return err
	}
	if err := plan.ask(asking, s.reruns); err != nil {
		return s.rerunLater(ctx, r, plan.jobs, err)
	}
	return s.saveRerun(ctx, r, plan.jobs, func(time.Time) { r.end(RerunDone, "") })
}

// takeRerun takes a rerun that is due with the jobs that were lost; nil when
// somebody else has it.
func (s *Service) takeRerun(ctx context.Context, k RerunKey) (r *Rerun, jobs []*JobRecord, err error) {
	err = s.update(ctx, func(u *unit) error {
		jobs = nil
		if r, err = u.TakeRerun(ctx, k, u.now.Add(rerunTaken)); err != nil || r == nil {
			return err
		}
		ids, err := u.RerunJobs(ctx, k, rerunJobs)
		for _, id := range ids {
			j, err := u.JobRecord(ctx, id)
			if err != nil {
				return err
			}
			jobs = append(jobs, j)
		}
		if err == nil && len(jobs) == 0 {
			r.end(RerunDropped, "no job of it is known")
			return u.SaveRerun(ctx, r)
		}
		return err
	})
	if len(jobs) == 0 {
		r = nil
	}
	return r, jobs, err
}

func (r *Rerun) end(state RerunState, why string) { r.State, r.Why, r.DueAt = state, why, time.Time{} }

// wait has it looked at later, or not at all where it was in vain for too long.
func (r *Rerun) wait(now time.Time, atLeast time.Duration) {
	if now.Sub(r.MadeAt) > rerunGiveUp {
		r.end(RerunDropped, fmt.Sprintf("the run could not be run again within %v", rerunGiveUp))
		return
	}
	r.DueAt = now.Add(max(min(rerunLook<<min(r.Tries, 10), rerunLookMost), atLeast))
}

// rerunPlan is what GitHub is to be asked for.
type rerunPlan struct {
	jobs  []*JobRecord
	all   bool             // that failed in the run: none but these did
	first nimbus.GitHubJob // of jobs, by its id in the latest attempt
	next  []*JobRecord     // that were lost, and have to wait for the next attempt
	left  []*JobRecord     // that were lost and are not run again
}

func (p *rerunPlan) ask(ctx context.Context, f Rerunner) error {
	if p.all {
		return f.RerunFailed(ctx, p.first)
	}
	return f.RerunJob(ctx, p.first)
}

// plan decides by how a run stands. Where there is nothing to ask for, next is
// what becomes of the rerun.
func (r *Rerun) plan(jobs []*JobRecord, state nimbus.ForgeRunState) (p *rerunPlan, next func(now time.Time)) {
	ends := func(s RerunState, why string) func(time.Time) { return func(time.Time) { r.end(s, why) } }
	switch {
	case state.Attempt > r.RunAttempt && r.State == RerunAsking:
		return nil, ends(RerunDone, "") // it was done, and the answer lost
	case state.Attempt > r.RunAttempt:
		return nil, ends(RerunDropped, "somebody had it run again before")
	case !state.Over, state.Attempt < r.RunAttempt: // which is yet to begin
		return nil, func(now time.Time) { r.wait(now, 0) }
	}
	failed := 0
	for _, j := range state.Jobs {
		if !j.Fine() {
			failed++
		}
	}
	p = &rerunPlan{}
	for _, j := range jobs {
		// One that somebody cancelled, or that ended well after all, is left.
		id, there, ok := state.Find(j.GitHub.JobID, j.Name)
		if !ok || !there.Failed() {
			p.left = append(p.left, j)
			continue
		}
		if len(p.jobs) == 0 {
			p.first = j.GitHub
			p.first.JobID = id
		}
		p.jobs = append(p.jobs, j)
	}
	if len(p.jobs) == 0 {
		return nil, ends(RerunDropped, "GitHub does not say that it failed")
	}
	if p.all = state.All && failed == len(p.jobs); !p.all {
		// GitHub runs one job again, or all that failed, and some failed by themselves.
		p.jobs, p.next = p.jobs[:1], p.jobs[1:]
	}
	return p, nil
}

// intendRerun commits that GitHub is about to be asked, where the org's policy
// still allows it.
func (s *Service) intendRerun(ctx context.Context, r *Rerun, p *rerunPlan) (may bool, err error) {
	before := *r
	err = s.update(ctx, func(u *unit) error {
		*r = before
		policy, err := u.LockRerunPolicy(ctx, r.OrgID)
		if err != nil {
			return err
		}
		inRun, err := u.CountRunReruns(ctx, r.RerunKey)
		if err != nil {
			return err
		}
		inHour, _, err := u.CountReruns(ctx, r.OrgID, u.now.Add(-time.Hour))
		if err != nil {
			return err
		}
		r.DueAt = u.now.Add(rerunTaken)
		switch may = true; {
		case !policy.On():
			may = false
			r.end(RerunDropped, "the org wants nothing run again any more")
		case r.State == RerunAsking: // and counted: whoever asked did not get to it
		case inRun >= policy.PerRun:
			may = false
			r.end(RerunDropped, fmt.Sprintf("the run was run again %d times before, as often as the org lets it", inRun))
		case inHour >= policy.PerHour:
			may = false
			r.wait(u.now, rerunLookMost)
		default:
			r.State, r.AskedAt = RerunAsking, u.now
		}
		if !may {
			return u.keepRerun(ctx, r, slices.Concat(p.jobs, p.next))
		}
		if err := u.keepRerun(ctx, r, p.jobs); err != nil {
			return err
		}
		return u.leaveOut(ctx, r, p)
	})
	return may, err
}

// leaveOut is for jobs that were lost and are not run again with the others:
// those that failed wait for the attempt that is about to begin to end. GitHub
// runs one job of a run again, or all that failed.
func (u *unit) leaveOut(ctx context.Context, r *Rerun, p *rerunPlan) error {
	for _, j := range p.left {
		if err := u.DropRerunJob(ctx, j.ID); err != nil {
			return err
		}
		if err := u.noteRerunOf(ctx, j.ID, kindRerunDropped, "GitHub does not say that it failed"); err != nil {
			return err
		}
	}
	for _, j := range p.next {
		if err := u.DropRerunJob(ctx, j.ID); err != nil {
			return err
		}
		if err := u.InsertRerun(ctx, r.following(), r.OrgID, j.ID, u.now.Add(rerunLook)); err != nil {
			return err
		}
	}
	return nil
}

// following names the attempt that begins when this one is run again.
func (r *Rerun) following() RerunKey {
	k := r.RerunKey
	k.RunAttempt++
	return k
}

// dropFollowing is for jobs that wait for an attempt that will never begin.
func (u *unit) dropFollowing(ctx context.Context, r *Rerun) error {
	ids, err := u.RerunJobs(ctx, r.following(), rerunJobs)
	if err != nil || len(ids) == 0 {
		return err
	}
	if err := u.CancelRerun(ctx, r.following(), r.Why); err != nil {
		return err
	}
	for _, id := range ids {
		if err := u.noteRerunOf(ctx, id, kindRerunDropped, r.Why); err != nil {
			return err
		}
	}
	return nil
}

// rerunLater is for a call that failed.
func (s *Service) rerunLater(ctx context.Context, r *Rerun, jobs []*JobRecord, cause error) error {
	return s.saveRerun(ctx, r, jobs, func(now time.Time) {
		switch nimbus.ErrorCode(cause) {
		case nimbus.CodeConflict: // the run goes on: somebody else was faster, or GitHub was behind
			r.wait(now, 0)
		case nimbus.CodeForbidden, nimbus.CodeNotFound, nimbus.CodeInvalid:
			r.end(RerunDropped, clip(withHint(cause)))
		default: // it may have been done: then the run's attempt tells, once reads have caught up
			r.wait(now, max(rerunTaken, nimbus.ErrorRetryAfter(cause)))
		}
	})
}

func withHint(err error) string {
	if hint := nimbus.ErrorHint(err); hint != "" {
		return err.Error() + " (" + hint + ")"
	}
	return err.Error()
}

// saveRerun saves what became of a rerun, and tells it where it is over.
func (s *Service) saveRerun(ctx context.Context, r *Rerun, jobs []*JobRecord, next func(now time.Time)) error {
	before := *r
	return s.update(ctx, func(u *unit) error {
		*r = before
		next(u.now)
		return u.keepRerun(ctx, r, jobs)
	})
}

// kindRerunDropped is the history's word for a loss that is not run again.
const kindRerunDropped = "not_rerun"

func (u *unit) keepRerun(ctx context.Context, r *Rerun, jobs []*JobRecord) error {
	if err := u.SaveRerun(ctx, r); err != nil {
		return err
	}
	kind, detail := kindRerunDropped, r.Why
	switch r.State {
	case RerunWaiting, RerunAsking:
		return nil
	case RerunDone:
		kind, detail = kindRerun, fmt.Sprintf("GitHub runs it again, as attempt %d of run %d", r.RunAttempt+1, r.RunID)
		u.tally.Reruns++
	case RerunDropped:
		u.tally.RerunsDropped++
		if !r.AskedAt.IsZero() { // in vain
			if err := u.dropFollowing(ctx, r); err != nil {
				return err
			}
		}
	}
	for _, j := range jobs {
		if err := u.noteRerunOf(ctx, j.ID, kind, detail); err != nil {
			return err
		}
	}
	return nil
}

// noteRerunOf writes into the history of a job what becomes of its loss, and has
// the person who pushed told.
func (u *unit) noteRerunOf(ctx context.Context, jobID, kind, detail string) error {
	j, err := u.LockJob(ctx, jobID)
	if err != nil {
		return err
	}
	if err := u.note(ctx, j, kind, j.AttemptID, actorSystem, detail); err != nil {
		return err
	}
	return u.ScheduleNotice(ctx, j.ID, u.now)
}
