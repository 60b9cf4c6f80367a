package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Pacer is a Forge that knows for how long it would be in vain to register a
// job's runner, because the budget for asking GitHub is used up. Jobs are kept
// until then, instead of being given to hosts that could only wait.
type Pacer interface {
	RunnerWait(job nimbus.GitHubJob) time.Duration
}

// worthWaiting is up to when a host waits with its sandbox for a runner. A job
// whose turn at GitHub comes later goes back to the queue.
const worthWaiting = 30 * time.Second

// budgetWait is for how long a job has to be kept; 0 for no time.
func (b *batch) budgetWait(j *JobRecord) time.Duration { return budgetWait(b.pacer, &j.Job) }

func budgetWait(p Pacer, j *nimbus.Job) time.Duration {
	if j.Source != nimbus.SourceGitHub || p == nil {
		return 0
	}
	return p.RunnerWait(j.GitHub)
}

// registered registers the runner of an attempt. One of that name that is there
// already is ours, since the name is the attempt's: an earlier request was done
// and its answer lost. It never got a job, or else it can't be removed.
func (s *Service) registered(ctx context.Context, job *nimbus.Job, name string, before nimbus.Runner) (r nimbus.Runner, jit string, err error) {
	if before.Name != "" { // and with the answer its configuration
		if err := s.forge.RemoveRunner(ctx, job.GitHub, before); err != nil {
			return nimbus.Runner{}, "", err
		}
	}
	r, jit, err = s.forge.CreateRunner(ctx, job.GitHub, name, job.Labels)
	if nimbus.ErrorCode(err) != nimbus.CodeConflict {
		return r, jit, err
	}
	if removed := s.forge.RemoveRunner(ctx, job.GitHub, nimbus.Runner{Name: name, Org: s.runnerOrg(job)}); removed != nil {
		return nimbus.Runner{}, "", removed
	}
	return s.forge.CreateRunner(ctx, job.GitHub, name, job.Labels)
}

// runnerLater ends an attempt for which there is no budget for long: its job
// goes back to the queue, and it was no attempt.
func (s *Service) runnerLater(ctx context.Context, hostID string, l nimbus.Lease, cause error) error {
	err := s.update(ctx, func(u *unit) error {
		j, a, err := u.wantsRunner(ctx, hostID, l)
		if err != nil {
			return err
		}
		if err := u.endAttempt(ctx, a, nil, false); err != nil {
			return err
		}
		j.AttemptCount--
		return u.again(ctx, j, nimbus.Reason{Code: nimbus.ReasonForgeAway, Message: clip(cause.Error())}, actorGitHub)
	})
	if err != nil {
		return err
	}
	return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "GitHub registers no runner now; the job is offered anew",
		RetryAfter: nimbus.ErrorRetryAfter(cause), Err: cause}
}
